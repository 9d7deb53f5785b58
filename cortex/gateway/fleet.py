"""The neurons as places: asked every few seconds, believed until the next answer.

Owns the last reports and who is away. Each neuron has its own polling task, so that one
that hangs delays nobody. A neuron whose connection is refused is away at once; one that
is slow is away after `failures` misses. A new boot id drops all belief of the old boot.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from urllib.parse import urlsplit

import httpx
import trio

from cortex.config.gateway import NeuronRef, Poll
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, Unreachable, UpstreamFailed
from cortex.gateway.remote import Remote
from cortex.metrics import Metrics
from cortex.places import Phase, Resident, Room
from cortex.web.pool import Pool
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Neuron:
    """One neuron as this gateway knows it. `seen_at` is trio time, -inf before the first report."""

    ref: NeuronRef
    remote: Remote
    pool: Pool
    discovery: wire.Discovery | None = None
    health: wire.Health = field(default_factory=wire.Health)
    residents: wire.Residents = field(default_factory=wire.Residents)
    failures: int = 0
    why: str = ""
    seen_at: float = -inf
    look_now: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def up(self) -> bool:
        """Whether its last report counts."""
        return self.discovery is not None

    @property
    def stopping(self) -> bool:
        return self.health.activation.state == "stopping"


class Fleet:
    """All neurons of one gateway."""

    def __init__(
        self,
        refs: tuple[NeuronRef, ...],
        client: httpx.AsyncClient,
        poll: Poll,
        dispatch: Dispatch,
        metrics: Metrics,
    ) -> None:
        self._poll, self._dispatch, self._metrics = poll, dispatch, metrics
        self._neurons = {ref.name: Neuron(ref, Remote(ref, client), _pool(ref)) for ref in refs}

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self._neurons.values())

    def __getitem__(self, name: str) -> Neuron:
        return self._neurons[name]

    def knowers(self, model: str) -> frozenset[str]:
        """Neurons that can load `model` from a catalogue of their own."""
        return frozenset(neuron.name for neuron in self if neuron.up and model in neuron.residents.known)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll until cancelled. Started once each neuron has reported or is marked away."""
        try:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as first:
                    for neuron in self:
                        self._dispatch.ledger.open(neuron.name, ())
                        self._dispatch.ledger.shut(neuron.name, "it has not reported yet")
                        first.start_soon(self._look, neuron)
                task_status.started()
                for neuron in self:
                    nursery.start_soon(self._watch, neuron, name=f"poll {neuron.name}")
        finally:
            for neuron in self:
                neuron.pool.close()

    def suspect(self, name: str, error: CortexError) -> None:
        """A request failed on a neuron that may be gone with all it had. Nobody is sent there
        until the next look, which follows at once, has told."""
        neuron = self._neurons[name]
        if not neuron.up or not isinstance(error, UpstreamFailed):
            return
        self._dispatch.ledger.doubt(name, error.message)
        neuron.look_now.set()

    async def _watch(self, neuron: Neuron) -> None:
        while True:
            with trio.move_on_after(self._poll.interval_s):
                await neuron.look_now.wait()
            neuron.look_now = trio.Event()
            await self._look(neuron)

    async def _look(self, neuron: Neuron) -> None:
        """One round of questions; a failed one is counted. Cancelled, nothing is believed."""
        asked = trio.current_time()
        try:
            with trio.fail_after(self._poll.timeout_s):
                health = await neuron.remote.health()
                residents = await neuron.remote.models()
                known = neuron.discovery
                if known is None or known.boot_id != health.boot_id:
                    known = await neuron.remote.discovery()
        except trio.TooSlowError:
            self._missed(neuron, f"it did not answer within {self._poll.timeout_s:g} s", at_once=False)
        except CortexError as error:
            self._missed(neuron, error.message, at_once=isinstance(error, Unreachable))
        else:
            self._believe(neuron, known, health, residents, asked)

    def _missed(self, neuron: Neuron, why: str, *, at_once: bool) -> None:
        neuron.failures += 1
        neuron.why = why
        place = self._dispatch.ledger.place(neuron.name)
        doubted = place is not None and place.doubt
        if neuron.up and (at_once or doubted or neuron.failures >= self._poll.failures):
            self._away(neuron, why)
        elif not neuron.up and neuron.failures == 1:
            log.warning("neuron.away neuron=%s why=%s", neuron.name, why)
            self._metrics.neuron_away(neuron.name)

    def _away(self, neuron: Neuron, why: str) -> None:
        log.warning("neuron.lost neuron=%s why=%s", neuron.name, why)
        neuron.discovery, neuron.why = None, why
        self._metrics.neuron_away(neuron.name)
        self._dispatch.abandon(self._dispatch.ledger.lost(neuron.name, why))
        self._dispatch.wake()

    def _believe(
        self,
        neuron: Neuron,
        discovery: wire.Discovery,
        health: wire.Health,
        residents: wire.Residents,
        asked: float,
    ) -> None:
        if neuron.discovery is not None and neuron.discovery.boot_id != discovery.boot_id:
            self._away(neuron, "it was restarted")
        if neuron.discovery is None:
            log.info(
                "neuron.up neuron=%s boot=%s models=%d", neuron.name, discovery.boot_id, len(residents.models)
            )
        neuron.discovery, neuron.health, neuron.residents = discovery, health, residents
        neuron.failures, neuron.why, neuron.seen_at = 0, "", trio.current_time()
        ledger = self._dispatch.ledger
        loads = {load.id: load for load in health.models}
        told = [_resident(report, loads.get(report.id), asked) for report in residents.models]
        ledger.report(neuron.name, _rooms(health, residents), told, asked)
        if neuron.stopping:
            ledger.shut(neuron.name, "it is shutting down")
        self._metrics.neuron_reported(
            neuron.name,
            health.devices,
            {report.id: sum(report.bytes.values()) for report in residents.models},
        )
        self._dispatch.wake()


def _pool(ref: NeuronRef) -> Pool:
    parts = urlsplit(ref.endpoint)
    return Pool(parts.hostname or "", parts.port or 80)


def _rooms(health: wire.Health, residents: wire.Residents) -> list[Room]:
    rooms = []
    for device in health.devices:
        if not device.poisoned:
            ours = sum(report.bytes.get(device.name, 0) for report in residents.models)
            rooms.append(
                Room(device.name, device.memory_total, device.memory_total - device.memory_free - ours)
            )
    return rooms


def _resident(report: wire.ResidentReport, load: wire.ModelLoad | None, now: float) -> Resident:
    phases: dict[str, Phase] = {"loaded": "loaded", "loading": "loading", "leaving": "leaving"}
    return Resident(
        report.id,
        phases.get(report.state, "recovering"),
        dict(report.bytes),
        priority=report.priority,
        pinned=report.pinned,
        slots=seats(report),
        elsewhere=0 if load is None else load.in_flight + load.queue,
        loaded_at=now - report.age_s,
        last_used=now - report.idle_s,
        load_s=report.load_s,
        fault=None if report.servable.ok else report.servable.reason or "it says so",
    )


def seats(report: wire.ResidentReport) -> int | None:
    """How many requests the neuron takes for a resident: what it computes at once and what it
    lets wait. Beyond that they wait here, rather than be refused there."""
    return None if report.slots is None else report.slots + report.queue
