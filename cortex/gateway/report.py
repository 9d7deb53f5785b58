"""The whole state of a gateway, for `cortex status` and GET /health."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import trio

from cortex import __version__
from cortex.gateway import belief
from cortex.gateway.fleet import CLASH_S, Fleet, Neuron
from cortex.gateway.listing import Listing
from cortex.ledger import Ledger
from cortex.units import counted
from cortex.wire.briefs import GatewayHealth, Reporting
from cortex.wire.fleet import (
    CatalogueModel,
    FleetLoad,
    FleetModel,
    FleetNeuron,
    FleetReport,
    FleetStatus,
    GatewayReport,
    NeuronState,
)
from cortex.wire.neuron import ModelLoad, ResidentReport

# A waiter gives up by its own clock; one that stands in line for so long beyond is proof that
# nothing moves.
STUCK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What the other workers of this gateway told last: who waits there, by model, and whether nothing moves
    somewhere. `missing` of them told nothing."""

    waiting: Mapping[str, int] = field(default_factory=dict)
    stuck: bool = False
    missing: int = 0

    def told(self) -> list[str]:
        """What is wrong with them."""
        return [f"{counted(self.missing, 'worker')} of this gateway does not serve"] if self.missing else []


@dataclass(slots=True)
class Report:
    """Pure reads. `started_at` is trio time, `patience_s` the longest that anybody may wait;
    `models_file` and its digest are of the catalogue in force, "" without one; `loads` are those
    under way."""

    boot_id: str
    started_at: float
    ledger: Ledger
    fleet: Fleet
    listing: Listing
    patience_s: float
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    stopping: bool = False
    models_file: str = ""
    models_sha256: str = ""
    loads: Callable[[], list[FleetLoad]] = list
    elsewhere: Elsewhere = Elsewhere()

    def status(self, unservable: list[str]) -> FleetStatus:
        """`impaired`: some model cannot be served, or nothing moves. `degraded`: all can, but
        something is missing, or the files have faults and the values of before are in force."""
        if unservable or self.elsewhere.stuck or not self.moving():
            return "impaired"
        missing = any(not neuron.up or belief.unfit(neuron) for neuron in self.fleet if not neuron.dismissed)
        devices = (device for neuron in self.fleet if neuron.up for device in neuron.health.devices)
        hurt = any(device.poisoned or device.absent for device in devices)
        return "degraded" if missing or hurt or self.faults or self.elsewhere.missing else "ok"

    def unservable(self) -> list[str]:
        """Models of the catalogue that nobody could serve at present."""
        return self.listing.unservable()

    def ready(self) -> bool:
        """Whether a request has a chance: some neuron takes requests, and the line moves."""
        usable = any(neuron.up and not neuron.stopping and not belief.unfit(neuron) for neuron in self.fleet)
        return usable and self.moving() and not self.stopping

    def moving(self) -> bool:
        """Whether everybody who waits does so within his patience."""
        oldest = self.ledger.oldest
        return oldest is None or trio.current_time() - oldest <= self.patience_s + STUCK_S

    def told(self, *, governs: bool) -> list[str]:
        """What is wrong. What the files say is told to the operator, to others only that it stands."""
        known = [*self.warnings, *filter(None, [self.fleet.trouble]), *self.elsewhere.told()]
        if not self.faults or governs:
            return [*known, *self.faults]
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "a fault"
        return [*known, f"the files were not taken over: {count}, told to the scope admin only"]

    def health(self, *, governs: bool, named: Callable[[list[str]], list[str]]) -> GatewayHealth:
        """GET /health, for a caller that governs here or not, and to whom models are `named` so."""
        neurons, unservable = list(self.fleet), self.unservable()
        return GatewayHealth(
            status=self.status(unservable),
            neurons=Reporting(healthy=sum(neuron.up for neuron in neurons), total=len(neurons)),
            unservable=named(unservable),
            warnings=self.told(governs=governs),
        )

    def fleet_report(self, *, governs: bool) -> FleetReport:
        """GET /fleet, for a caller that governs here or not."""
        now, there = trio.current_time(), self.elsewhere.waiting
        models = [_with(row, there.get(row.id, 0)) for row in self.listing.models()]
        return FleetReport(
            status=self.status(self.listing.hurt((row.id, row.state) for row in models)),
            gateway=GatewayReport(
                version=__version__,
                boot_id=self.boot_id,
                uptime_s=now - self.started_at,
                models_file=self.models_file if governs else "",
                models_sha256=self.models_sha256 if governs else "",
                withheld=not governs,
            ),
            neurons=[self._neuron(neuron, now) for neuron in self.fleet],
            models=models,
            waiting=self.ledger.waiting + sum(there.values()),
            loads=[_with(row, there.get(row.model, 0)) for row in self.loads()],
            warnings=self.told(governs=governs),
        )

    def _neuron(self, neuron: Neuron, now: float) -> FleetNeuron:
        loads = {load.id: load for load in neuron.health.models}
        state, why = self._standing(neuron, now)
        models = [_model(report, loads.get(report.id)) for report in neuron.residents.models]
        return FleetNeuron(
            name=neuron.name,
            endpoint=neuron.ref.endpoint,
            state=state,
            why=why,
            report_age_s=now - neuron.seen_at if neuron.heard else None,
            devices=neuron.health.devices if neuron.up else [],
            models=models if neuron.up else [],
            warnings=neuron.health.warnings if neuron.up else [],
        )

    def _standing(self, neuron: Neuron, now: float) -> tuple[NeuronState, str]:
        """What counts most of all that can be said of a neuron, and why."""
        if not neuron.up:
            return "away" if neuron.why else "new", neuron.dismissed or neuron.why
        if neuron.stopping or neuron.dismissed:
            return "stopping", neuron.dismissed
        if why := belief.unfit(neuron):
            return "unfit", why
        clash, seen_at = neuron.clash
        odd = clash if now - seen_at < CLASH_S else ""
        probation = self.fleet.probation
        standing = probation.standing(neuron.name)
        return "ok" if standing == "trusted" else standing, odd or probation.why(neuron.name)


def _model(report: ResidentReport, load: ModelLoad | None) -> FleetModel:
    load = load or ModelLoad(id=report.id)
    return FleetModel(
        id=report.id,
        state=report.state if report.servable.ok else "recovering",
        devices=report.devices,
        bytes=report.bytes,
        in_flight=load.in_flight,
        queue=load.queue,
        slots=report.slots,
        tok_s=load.tok_s_decode,
        tok_s_prefill=load.tok_s_prefill,
        pinned=report.pinned,
        idle_s=report.idle_s,
    )


_Row = TypeVar("_Row", CatalogueModel, FleetLoad)


def _with(row: _Row, more: int) -> _Row:
    """`row` with those who wait for it elsewhere."""
    return msgspec.structs.replace(row, waiting=row.waiting + more) if more else row
