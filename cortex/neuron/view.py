"""What a neuron tells about itself: pure reads of what is in memory.

No file, no device and no lock is touched here, so that health answers in
milliseconds while every device is busy.
"""

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from typing import Final, Literal

import trio

from cortex import __version__
from cortex.ask import Json
from cortex.config.network import Address
from cortex.ledger import Ledger
from cortex.neuron import upstreams
from cortex.neuron.devices import Devices
from cortex.neuron.residents import Residents
from cortex.neuron.speech import Speech
from cortex.neuron.spending import Spending
from cortex.neuron.state import State
from cortex.neuron.upkeep import Upkeep
from cortex.neuron.upstreams import Upstreams
from cortex.neuron.vigil import Vigil
from cortex.places import Phase, Place, Resident, Room
from cortex.translator.dialects import DIALECTS
from cortex.wire import neuron as wire
from cortex.wire.briefs import NeuronVersion

# The words of GET /v1/models for a resident's phase.
_STATES: Final[dict[Phase, str]] = {
    "loading": "loading",
    "loaded": "loaded",
    "leaving": "unloaded",
    "recovering": "recovering",
}


@dataclass(slots=True)
class Activation:
    """The default models at start, as they come in."""

    state: Literal["activating", "ready", "stopping"] = "activating"
    pending: list[str] = field(default_factory=list)
    in_progress: str | None = None
    completed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Endpoint:
    """Where the API is, from the moment it listens."""

    url: str = ""

    def listens(self, host: str, port: int, name: str) -> None:
        """An address that means all of the host's is told by the host's `name`."""
        bound = ip_address(host)
        self.url = f"http://{Address(name if bound.is_unspecified else host, port)}"


@dataclass(frozen=True, slots=True)
class View:
    """One neuron. `started_at` is trio time, `born` the same moment in Unix seconds, `boot_id`
    changes with every start."""

    name: str
    boot_id: str
    started_at: float
    born: int
    ledger: Ledger
    devices: Devices
    residents: Residents
    speech: Speech
    spending: Spending
    at: Endpoint
    activation: Activation
    state: State
    upstreams: Upstreams
    upkeep: Upkeep
    vigil: Vigil
    warnings: tuple[str, ...] = ()
    # Numbers the reports of this boot, so that an old one is known when it comes late.
    reports: Iterator[int] = field(default_factory=lambda: count(1))

    def discovery(self) -> wire.Discovery:
        """GET /discovery."""
        host, driver, engines = self.devices.host, self.devices.driver, self.residents.engines
        return wire.Discovery(
            name=self.name,
            hostname=host.hostname,
            os=host.os,
            kernel=host.kernel,
            driver=driver.version,
            cuda=driver.cuda,
            cuda_why_not=driver.why_not,
            devices=self.devices.report(),
            harnesses=[
                wire.HarnessReport(
                    name=name,
                    available=why is None,
                    version=engines.versions[name],
                    code=None if why is None else why.code,
                    why_not=None if why is None else str(why),
                )
                for name, why in engines.why_not.items()
            ],
            dialects=[dialect.name for dialect in DIALECTS],
            boot_id=self.boot_id,
            last_crash=self.residents.crashes.last,
            quarantined=self.residents.crashes.quarantined(),
        )

    def health(self) -> wire.Health:
        """GET /health."""
        activation = self.activation
        return wire.Health(
            status=self.status(),
            name=self.name,
            boot_id=self.boot_id,
            seq=next(self.reports),
            uptime_s=trio.current_time() - self.started_at,
            devices=[
                self._device(place, room)
                for place in self.ledger
                for room in place.rooms.values()
                if place.name != upstreams.PLACE  # whose room is not of this host
            ],
            activation=wire.Activation(
                state=activation.state,
                pending=list(activation.pending),
                in_progress=activation.in_progress,
                completed=list(activation.completed),
                failed=dict(activation.failed),
            ),
            models=[self._load(resident) for place in self.ledger for resident in place],
            warnings=[
                *self.warnings,
                *self.state.warnings,
                *self.devices.warnings(),
                *self.upstreams.warnings(),
                *self.upkeep.warnings,
            ],
            key_tokens=self.spending.report(),
            quarantined=self.residents.crashes.quarantined(),
        )

    def status(self) -> Literal["ok", "degraded", "impaired"]:
        """`impaired`: something cannot be served, or nothing moves. `degraded`: something is amiss."""
        faulty = any(resident.fault for place in self.ledger for resident in place)
        if faulty or self.activation.failed or self.vigil.sick() is not None:
            return "impaired"
        poisoned = any(self.vigil.poisoned(place.name) is not None for place in self.ledger)
        absent = any(self.devices.absent(name) is not None for place in self.ledger for name in place.rooms)
        return "degraded" if poisoned or absent or self.residents.crashes.quarantined() else "ok"

    def ready(self) -> bool:
        """Whether a request has a chance: some device serves, and whoever waits does not for ever."""
        return self.activation.state == "ready" and self.vigil.sick() is None

    def models(self) -> wire.Residents:
        """GET /models."""
        return wire.Residents(
            boot_id=self.boot_id,
            seq=next(self.reports),
            models=[self.resident(resident) for place in self.ledger for resident in place],
            known=sorted(self.residents.found.known()),
            pinned=list(self.residents.pins),
        )

    def resident(self, resident: Resident) -> wire.ResidentReport:
        """One row of GET /models."""
        now, living = trio.current_time(), self.residents.living(resident.model)
        progress = self.residents.progress(resident.model)
        host = None if living is None else living.worker.host(resident.model)
        return wire.ResidentReport(
            id=resident.model,
            harness="" if living is None else living.harness,
            state=resident.phase,
            devices=sorted(resident.room_bytes),
            bytes=dict(resident.room_bytes),
            weights_bytes=None if living is None else living.facts.memory.weights_bytes,
            cache_bytes=None if living is None else living.facts.memory.cache_bytes,
            overhead_bytes=None if living is None else living.facts.memory.overhead_bytes,
            isolation="" if host is None else host.isolation,
            pid=None if host is None else host.pid,
            context_length=None if living is None else living.facts.context or None,
            slots=resident.slots,
            queue=self.ledger.policy.queue,
            capabilities=[] if living is None else list(living.capabilities),
            servable=wire.Servable(ok=resident.servable, reason=resident.fault),
            idle_s=0.0 if resident.seats else now - resident.last_used,
            age_s=now - resident.loaded_at,
            load_s=0.0 if resident.phase == "loading" else resident.load_s,  # an estimate until then
            pinned=resident.pinned,
            priority=resident.priority,
            idle_unload_s=resident.idle_unload_s,
            phase=None if progress is None else progress.phase,
            done_bytes=0 if progress is None else progress.done_bytes,
            total_bytes=0 if progress is None else progress.total_bytes,
        )

    def entries(self) -> list[dict[str, Json]]:
        """GET /v1/models: what is resident, and what could be."""
        return [self.entry(model) for model in self.ids()]

    def ids(self) -> list[str]:
        """Every model that this neuron has or knows."""
        here: Iterable[str] = (resident.model for place in self.ledger for resident in place)
        return sorted({*self.residents.found.known(), *here})

    def entry(self, model: str) -> dict[str, Json]:
        """One model as GET /v1/models lists it. What is not known is absent."""
        holders = self.ledger.holders(model)
        locations: list[Json] = [
            {
                "neuron": self.name,
                "devices": list(resident.room_bytes),
                "state": resident.phase,
                "bytes": resident.bytes,
            }
            for _, resident in holders
        ]
        state = next(("recovering" if at.fault else _STATES[at.phase] for _, at in holders), "unloaded")
        return {
            "id": model,
            "object": "model",
            "created": self.born,
            "owned_by": "cortex",
            "state": state,
            "locations": locations,
            **self._facts(model),
        }

    def version(self) -> NeuronVersion:
        """GET /version."""
        return NeuronVersion(
            version=__version__,
            name=self.name,
            python=platform.python_version(),
            engines=dict(self.residents.engines.versions),
        )

    def _facts(self, model: str) -> dict[str, Json]:
        """Live facts first, then those of the catalogue."""
        spec, living = self.residents.found.spec(model), self.residents.living(model)
        facts: dict[str, Json] = {}
        context = living.facts.context if living is not None else spec.context if spec is not None else None
        if context:
            facts["context_length"] = facts["max_model_len"] = context
        known = living.capabilities if living is not None else spec.able if spec is not None else ()
        if known:
            facts["capabilities"] = list(known)
            facts["tool_call"], facts["reasoning"] = "tools" in known, "reasoning" in known
            facts["vision"] = "vision" in known
        aliases = self.residents.found.catalogue.names(spec) if spec is not None else ()
        return {**facts, "aliases": list(aliases)}

    def _device(self, place: Place, room: Room) -> wire.DeviceHealth:
        """Memory as models may use it: what is left of the limit and of the host's own."""
        free = max(0, place.free(room.name))
        reading = self.devices.readings.get(room.name)
        return wire.DeviceHealth(
            name=room.name,
            place=place.name,
            memory_total=room.total_bytes,
            memory_used=room.total_bytes - free,
            memory_free=free,
            utilization=None if reading is None else reading.utilization,
            temperature=None if reading is None else reading.temperature,
            heartbeat_age_s=self.residents.heartbeat_age_s(place.name),
            late=self.devices.late(room.name),
            absent=self.devices.absent(room.name) is not None,
            poisoned=(why := self.vigil.poisoned(place.name)) is not None,
            poisoned_why=why,
        )

    def _load(self, resident: Resident) -> wire.ModelLoad:
        prefill, decode = self.speech.rates(resident.model)
        living = self.residents.living(resident.model)
        if living is not None and living.facts.chats:
            living = None  # whose cache is its upstream's
        return wire.ModelLoad(
            id=resident.model,
            in_flight=resident.seats,
            queue=self.ledger.waiting_for(resident.model),
            slots=resident.slots or 0,
            rejected=self.speech.rejected.get(resident.model, {}),
            tok_s_prefill=prefill,
            tok_s_decode=decode,
            kv_tokens_used=0 if living is None else living.worker.kv_tokens(resident.model),
            kv_tokens_total=0 if living is None else living.facts.kv_tokens_total,
        )
