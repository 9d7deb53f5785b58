"""How far each load of the fleet has come, and when it will be there.

Fed with each report of a neuron; a load may be ours, another gateway's or the neuron's own.
What is left is told by the pace of the bytes, else by what the model's last load took, else by
the rate at which the neuron usually loads. Nothing is made up: without any of the three it is None.
"""

from dataclasses import dataclass
from typing import Final

from cortex.gateway.member import Neuron
from cortex.ledger import Ledger
from cortex.ledger.outlook import Outlook
from cortex.places import Resident
from cortex.wire.fleet import FleetLoad
from cortex.wire.neuron import ResidentReport

# Who comes again sooner asks for nothing.
LEAST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Stand:
    """One load at the moment. `phase` is the neuron's word, and the bytes are those of that phase;
    "" and 0 while it has not told."""

    model: str
    neuron: str
    phase: str
    running_s: float
    done_bytes: int
    total_bytes: int
    left_s: float | None


@dataclass(slots=True)
class _Track:
    """The reports of one load: the first of its phase, and the last."""

    phase: str
    since: float
    from_bytes: int
    at: float
    done_bytes: int
    total_bytes: int

    def pace(self, began: float) -> float:
        """Bytes a second, 0 while nothing shows it. Until a second report tells more than the first,
        the phase counts as begun with its load: no earlier can it be."""
        if self.done_bytes > self.from_bytes and self.at > self.since:
            return (self.done_bytes - self.from_bytes) / (self.at - self.since)
        return self.done_bytes / (self.at - began) if self.at > began else 0.0


class Headway:
    """One for each gateway."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tracks: dict[str, dict[str, _Track]] = {}  # by neuron, then by model
        self._rates: dict[str, float] = {}  # bytes a second, by neuron
        ledger.outlook = self.outlook

    def reported(self, neuron: Neuron) -> None:
        """Take note of the neuron's last report."""
        rows = {row.id: row for row in neuron.residents.models if row.state == "loading"}
        before = self._tracks.get(neuron.name, {})
        self._tracks[neuron.name] = {
            model: _tracked(before.get(model), row, neuron.seen_at) for model, row in rows.items()
        }
        loads = [(sum(row.bytes.values()), row.load_s) for row in neuron.residents.models if row.load_s > 0]
        if (size := sum(size for size, _ in loads)) > 0:
            self._rates[neuron.name] = size / sum(seconds for size, seconds in loads if size)

    def forget(self, name: str, *, for_good: bool = False) -> None:
        """The neuron is away: what it loaded it does not load any more. Gone `for_good`, it is unknown."""
        self._tracks.pop(name, None)
        if for_good:
            self._rates.pop(name, None)

    def of(self, model: str) -> Stand | None:
        """The load of `model` that is under way, if there is one."""
        holders = self._ledger.holders(model)
        return next((self._stand(place.name, one) for place, one in holders if one.phase == "loading"), None)

    def loads(self) -> list[FleetLoad]:
        """All that are under way, as GET /fleet lists them."""
        residents = [(place.name, one) for place in self._ledger for one in place if one.phase == "loading"]
        return [self._listed(self._stand(name, resident), resident) for name, resident in residents]

    def outlook(self, model: str) -> Outlook:
        """The same as the ledger tells it to those whose patience ends."""
        stand = self.of(model)
        if stand is None:
            return Outlook()
        return Outlook(stand.phase, stand.done_bytes, stand.total_bytes, stand.left_s)

    def _stand(self, name: str, resident: Resident) -> Stand:
        track = self._tracks.get(name, {}).get(resident.model)
        running_s = max(0.0, self._ledger.clock() - resident.loaded_at)
        return Stand(
            resident.model,
            name,
            phase="" if track is None else track.phase,
            running_s=running_s,
            done_bytes=0 if track is None else track.done_bytes,
            total_bytes=0 if track is None else track.total_bytes,
            left_s=self._left_s(resident.model, name, running_s, resident.bytes),
        )

    def _listed(self, stand: Stand, resident: Resident) -> FleetLoad:
        return FleetLoad(
            model=stand.model,
            neuron=stand.neuron,
            running_s=stand.running_s,
            waiting=self._ledger.waiting_for(stand.model),
            phase=stand.phase or None,
            done_bytes=stand.done_bytes,
            total_bytes=stand.total_bytes or resident.bytes,
            eta_s=None if stand.left_s is None else round(stand.left_s, 1),
        )

    def _left_s(self, model: str, name: str, running_s: float, size: int) -> float | None:
        now, track = self._ledger.clock(), self._tracks.get(name, {}).get(model)
        loading = track is not None and track.phase in ("load", "")
        if track is not None and track.total_bytes and (pace := track.pace(now - running_s)) > 0:
            left = (track.total_bytes - track.done_bytes) / pace - (now - track.at)
            whole_s = 0.0 if loading else self._whole_s(model, name, size) or 0.0
            return max(LEAST_S, left + whole_s)
        if track is not None and loading:
            size = track.total_bytes or size
        whole = self._whole_s(model, name, size)
        # One that takes longer than it should is no more known than one that nobody has seen.
        return whole - running_s if whole is not None and whole - running_s >= LEAST_S else None

    def _whole_s(self, model: str, name: str, size: int) -> float | None:
        """What the loading itself takes, downloads aside."""
        usual, rate = self._ledger.usual_load_s(model), self._rates.get(name)
        if usual is not None:
            return usual
        return size / rate if rate and size else None


def _tracked(before: _Track | None, row: ResidentReport, at: float) -> _Track:
    phase = row.phase or ""
    if before is None or before.phase != phase or row.done_bytes < before.done_bytes:
        return _Track(phase, at, row.done_bytes, at, row.done_bytes, row.total_bytes)
    return _Track(phase, before.since, before.from_bytes, at, row.done_bytes, row.total_bytes)
