"""What a neuron tells about itself: pure reads of what is in memory.

No file, no device and no lock is touched here, so that health answers in
milliseconds while every device is busy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from cortex.ask import Json
from cortex.ledger import Ledger
from cortex.neuron.devices import Devices
from cortex.neuron.residents import Residents
from cortex.neuron.speech import Speech
from cortex.places import Place, Resident
from cortex.wire import neuron as wire

DIALECTS: Final = ("openai_chat", "openai_text")


@dataclass(slots=True)
class Activation:
    """The default models at start, as they come in."""

    state: Literal["activating", "ready", "stopping"] = "activating"
    pending: list[str] = field(default_factory=list)
    in_progress: str | None = None
    completed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """One neuron. `started_at` is trio time, `boot_id` changes with every start."""

    name: str
    boot_id: str
    started_at: float
    ledger: Ledger
    devices: Devices
    residents: Residents
    speech: Speech
    activation: Activation
    warnings: tuple[str, ...] = ()

    def discovery(self) -> wire.Discovery:
        """GET /discovery."""
        host = self.devices.host
        return wire.Discovery(
            name=self.name,
            hostname=host.hostname,
            os=host.os,
            kernel=host.kernel,
            devices=self.devices.list(),
            harnesses=[
                wire.HarnessReport(name=harness.name, available=why is None, why_not=why)
                for harness in self.residents.harnesses.values()
                for why in (harness.unavailable(),)
            ],
            dialects=list(DIALECTS),
            boot_id=self.boot_id,
        )

    def health(self) -> wire.Health:
        """GET /health."""
        activation = self.activation
        faulty = [resident.model for place in self.ledger for resident in place if resident.fault]
        return wire.Health(
            status="impaired" if faulty or activation.failed else "ok",
            name=self.name,
            boot_id=self.boot_id,
            uptime_s=trio.current_time() - self.started_at,
            devices=[self._device(place) for place in self.ledger],
            activation=wire.Activation(
                state=activation.state,
                pending=list(activation.pending),
                in_progress=activation.in_progress,
                completed=list(activation.completed),
                failed=dict(activation.failed),
            ),
            models=[self._load(resident) for place in self.ledger for resident in place],
            warnings=list(self.warnings),
        )

    def models(self) -> wire.Residents:
        """GET /models."""
        return wire.Residents(
            boot_id=self.boot_id,
            models=[self.resident(place, resident) for place in self.ledger for resident in place],
            known=sorted(self.residents.found.known()),
        )

    def resident(self, place: Place, resident: Resident) -> wire.ResidentReport:
        """One row of GET /models."""
        now, living = trio.current_time(), self.residents.living(resident.model)
        return wire.ResidentReport(
            id=resident.model,
            harness="" if living is None else living.harness,
            state=resident.phase,
            devices=sorted(resident.room_bytes),
            bytes=dict(resident.room_bytes),
            context_length=None if living is None else living.facts.context,
            slots=resident.slots,
            queue=self.ledger.policy.queue,
            capabilities=[] if living is None else list(living.capabilities),
            servable=wire.Servable(ok=resident.servable, reason=resident.fault),
            idle_s=0.0 if resident.seats else now - resident.last_used,
            age_s=now - resident.loaded_at,
            load_s=resident.load_s,
            pinned=resident.pinned,
            priority=resident.priority,
        )

    def entries(self) -> list[dict[str, Json]]:
        """GET /v1/models: what is resident, and what could be."""
        return [self.entry(model) for model in self.ids()]

    def ids(self) -> list[str]:
        """Every model that this neuron has or knows."""
        here: Iterable[str] = (resident.model for place in self.ledger for resident in place)
        return sorted({*self.residents.found.known(), *here})

    def entry(self, model: str) -> dict[str, Json]:
        """One model as GET /v1/models lists it."""
        entry: dict[str, Json] = {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "cortex",
            "state": "unloaded",
            "locations": [],
        }
        for place, resident in self.ledger.holders(model):
            entry["state"] = resident.phase if resident.fault is None else "recovering"
            entry["locations"] = [
                {
                    "neuron": self.name,
                    "devices": [place.name],
                    "state": resident.phase,
                    "bytes": resident.bytes,
                }
            ]
        living = self.residents.living(model)
        if living is not None:
            entry["context_length"] = entry["max_model_len"] = living.facts.context
            entry["capabilities"] = list(living.capabilities)
            entry["tool_call"] = "tools" in living.capabilities
            entry["reasoning"] = "reasoning" in living.capabilities
        return entry

    def _device(self, place: Place) -> wire.DeviceHealth:
        """Memory as models may use it: what is left of the limit and of the host's own."""
        total = sum(room.total_bytes for room in place.rooms.values())
        free = max(0, place.free_bytes)
        reading = self.devices.reading(place.name)
        return wire.DeviceHealth(
            name=place.name,
            memory_total=total,
            memory_used=total - free,
            memory_free=free,
            utilization=reading.utilization,
            heartbeat_age_s=self.residents.heartbeat_age_s(place.name),
        )

    def _load(self, resident: Resident) -> wire.ModelLoad:
        prefill, decode = self.speech.rates(resident.model)
        return wire.ModelLoad(
            id=resident.model,
            in_flight=resident.seats,
            queue=self.ledger.waiting_for(resident.model),
            slots=resident.slots or 0,
            rejected=self.speech.rejected.get(resident.model, {}),
            tok_s_prefill=prefill,
            tok_s_decode=decode,
        )
