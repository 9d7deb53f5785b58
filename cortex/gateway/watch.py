"""What changed in the fleet from one report to the next, as events.

Looks at what the ledger believes once a report is in, which knows stale reports from
fresh ones, and remembers what it saw. Loads of this gateway are told by who carries
them out, with their cause; of others' loads the reports tell.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from cortex.errors import CortexError
from cortex.gateway.happenings import Happenings
from cortex.gateway.headway import Headway, Stand
from cortex.gateway.member import Neuron
from cortex.ledger import Ledger, Load
from cortex.places import Phase, Resident
from cortex.wire import happenings as told
from cortex.wire.neuron import DeviceHealth

Reason: TypeAlias = Literal["room", "order"]
STOPPING: Final = "it is shutting down"


@dataclass(slots=True)
class _Seen:
    """One neuron as it was at the last look; `boot_id` is "" while it takes nobody."""

    boot_id: str = ""
    phases: dict[str, Phase] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    done: dict[str, tuple[str, int]] = field(default_factory=dict)
    # Why somebody leaves who is there yet.
    reasons: dict[str, Reason] = field(default_factory=dict)


class Watch:
    """One for each gateway."""

    def __init__(self, ledger: Ledger, headway: Headway, happenings: Happenings) -> None:
        self._ledger, self._headway, self.happenings = ledger, headway, happenings
        self._seen: dict[str, _Seen] = {}

    # -- what reports tell

    def noticed(self, neuron: Neuron) -> None:
        """The neuron was looked at, or dismissed."""
        if neuron.dismissed:
            if self._seen.pop(neuron.name, None) is not None:
                self._headway.forget(neuron.name, for_good=True)
                self.happenings.tell(told.NeuronDismissed(neuron=neuron.name))
            return
        seen = self._seen.get(neuron.name)
        known = neuron.discovery
        boot_id = "" if known is None or neuron.stopping else known.boot_id
        if seen is not None and seen.boot_id and boot_id != seen.boot_id:
            self._lost(neuron, restarted=bool(boot_id))
            seen = self._seen[neuron.name] = _Seen()
        if not boot_id:
            return
        self._headway.reported(neuron)
        if seen is not None and seen.boot_id:
            self._residents(neuron.name, seen)
            self._devices(neuron, seen)
            return
        kind = told.NeuronNew if seen is None else told.NeuronBack
        self.happenings.tell(kind(neuron=neuron.name))
        self._seen[neuron.name] = _Seen(boot_id, self._phases(neuron.name), _states(neuron.health.devices))

    def _lost(self, neuron: Neuron, *, restarted: bool) -> None:
        self._headway.forget(neuron.name)
        why = "it was restarted" if restarted else neuron.why or STOPPING
        self.happenings.tell(told.NeuronLost(neuron=neuron.name, why=why))

    def _residents(self, name: str, seen: _Seen) -> None:
        before = seen.phases
        ours = {model for model, load in self._ledger.loads.items() if load.place.name == name}
        # One of ours that a report shows as there is told when its order is answered.
        after: dict[str, Phase] = {
            model: "loading" if model in ours else phase for model, phase in self._phases(name).items()
        }
        seen.phases = after
        for model, phase in after.items():
            if phase == "loading":
                if before.get(model) != "loading" and model not in ours:
                    self.happenings.tell(told.LoadStarted(model=model, neuron=name))
                self._progress(model, name, seen)
            elif model not in before or before[model] == "loading":
                self._done(self._ledger_resident(name, model), name)
        for model in before.keys() - after.keys():
            self._gone(model, name, seen, was=before[model])
        seen.done = {model: done for model, done in seen.done.items() if after.get(model) == "loading"}

    def _progress(self, model: str, name: str, seen: _Seen) -> None:
        stand = self._headway.of(model)
        if stand is None or stand.neuron != name or not stand.total_bytes:
            return
        done = stand.phase, stand.done_bytes
        if seen.done.get(model) != done:
            seen.done[model] = done
            self.happenings.tell(progress_of(stand, self._ledger.waiting_for(model)))

    def _done(self, resident: Resident, name: str) -> None:
        seconds = round(resident.load_s, 3) or None
        event = told.LoadDone(model=resident.model, neuron=name, bytes=resident.bytes, seconds=seconds)
        self.happenings.tell(event)

    def _gone(self, model: str, name: str, seen: _Seen, *, was: Phase) -> None:
        if was == "loading":
            message = "It is not loaded any more: something else needed its room, or see the neuron's log"
            self.happenings.tell(told.LoadFailed(model=model, neuron=name, message=message))
        else:
            # A neuron makes room as a load begins, and tells whom it sent away at its end.
            victims = (load.victims for load in self._ledger.loads.values() if load.place.name == name)
            makes_room: Reason | None = "room" if any(model in leave for leave in victims) else None
            reason = seen.reasons.pop(model, makes_room)
            self.happenings.tell(told.Evicted(model=model, neuron=name, reason=reason))

    def _devices(self, neuron: Neuron, seen: _Seen) -> None:
        before, seen.devices = seen.devices, _states(neuron.health.devices)
        why = {device.name: device.poisoned_why or "" for device in neuron.health.devices}
        for device, state in seen.devices.items():
            if state != before.get(device, "ok"):
                event = told.DeviceChanged(
                    neuron=neuron.name,
                    device=device,
                    state=state,  # type: ignore[arg-type]
                    why=why[device] if state == "poisoned" else "",
                )
                self.happenings.tell(event)

    def _phases(self, name: str) -> dict[str, Phase]:
        place = self._ledger.place(name)
        return {} if place is None else {resident.model: resident.phase for resident in place}

    def _ledger_resident(self, name: str, model: str) -> Resident:
        place = self._ledger.place(name)
        assert place is not None  # noqa: S101 - its phases were just read
        return place.residents[model]

    # -- what this gateway does

    def load_began(self, load: Load) -> None:
        """One of our loads is under way."""
        model, name = load.want.model, load.place.name
        seen = self._at(name)
        seen.phases[model] = "loading"
        seen.reasons.pop(model, None)  # it left, and no report showed it
        total = load.resident.bytes or None
        self.happenings.tell(told.LoadStarted(model=model, neuron=name, total_bytes=total))

    def load_done(self, load: Load, resident: Resident, seconds: float, evicted: Iterable[str]) -> None:
        """It is in; the neuron says whom it sent away."""
        name, seen = load.place.name, self._at(load.place.name)
        seen.phases[resident.model] = "loaded"
        # Of others a report has told meanwhile, and the next time that they leave is another matter.
        seen.reasons.update((model, "room") for model in evicted if model in seen.phases)
        self.happenings.tell(
            told.LoadDone(model=resident.model, neuron=name, bytes=resident.bytes, seconds=round(seconds, 3))
        )

    def load_failed(self, load: Load, error: CortexError) -> None:
        """It did not come in."""
        model, name = load.want.model, load.place.name
        self._at(name).phases.pop(model, None)
        self.happenings.tell(
            told.LoadFailed(model=model, neuron=name, code=error.code, message=error.message)
        )

    @contextmanager
    def ordered_off(self, name: str, model: str) -> Iterator[None]:
        """It is told to go in the block, and a report may show that it went before the block ends. One
        that fails sent nobody away."""
        seen = self._at(name)
        if model in seen.phases:
            seen.reasons[model] = "order"
        try:
            yield
        except CortexError:
            seen.reasons.pop(model, None)
            raise

    def _at(self, name: str) -> _Seen:
        # A neuron that went away during a load is nobody's here: what is said of it is forgotten.
        return self._seen.get(name) or _Seen()


def progress_of(stand: Stand, waiting: int) -> told.LoadProgress:
    """A load as an event."""
    return told.LoadProgress(
        model=stand.model,
        neuron=stand.neuron,
        phase=stand.phase or None,
        done_bytes=stand.done_bytes,
        total_bytes=stand.total_bytes,
        running_s=round(stand.running_s, 3),
        eta_s=None if stand.left_s is None else round(stand.left_s, 1),
        waiting=waiting,
    )


def _states(devices: Iterable[DeviceHealth]) -> dict[str, str]:
    return {
        device.name: "poisoned" if device.poisoned else "absent" if device.absent else "ok"
        for device in devices
    }
