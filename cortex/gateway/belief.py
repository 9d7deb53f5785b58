"""What a neuron's reports come to: its devices as rooms, who lives there, whether it can serve.

Pure: when a report is believed is the fleet's to decide, here is only what it says. A device that
is lost stays a room, since it may be back, but nothing fits there; a neuron that is
stopping counts as empty.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from cortex.gateway.member import Neuron
from cortex.metrics import Disbelief
from cortex.places import Phase, Resident, Room
from cortex.wire import neuron as wire

# More than any device has: what a lost one is short of, whoever would leave it.
BEYOND_BYTES: Final = 2**62
# Its engines are elsewhere: it serves without any device of this host.
ELSEWHERE: Final = "upstream"
Doubt: TypeAlias = tuple[Disbelief, str]
_PHASES: Final[dict[str, Phase]] = {"loaded": "loaded", "loading": "loading", "leaving": "leaving"}


def rooms(neuron: Neuron) -> list[Room]:
    """The devices; and where it has upstreams, room for their models, which take none."""
    found = []
    harnesses = neuron.discovery.harnesses if neuron.discovery is not None else []
    if any(harness.name == ELSEWHERE and harness.available for harness in harnesses):
        found.append(Room(ELSEWHERE, 0))
    for device in neuron.health.devices:
        ours = sum(report.bytes.get(device.name, 0) for report in neuron.residents.models)
        lost = _lost(device)
        others = BEYOND_BYTES if lost else device.memory_total - device.memory_free - ours
        found.append(Room(device.name, device.memory_total, others, device.place, lost))
    return found


def told(neuron: Neuron) -> list[Resident]:
    """Who lives there. Nobody once it is stopping: it takes no one new, and a copy may begin elsewhere."""
    if neuron.stopping:
        return []
    loads = {load.id: load for load in neuron.health.models}
    return [_resident(report, loads.get(report.id), neuron.asked_at) for report in neuron.residents.models]


def seats(report: wire.ResidentReport) -> int | None:
    """How many requests the neuron takes for a resident: what it computes at once and what it
    lets wait. Beyond that they wait here, rather than be refused there."""
    return None if report.slots is None else report.slots + report.queue


def unfit(neuron: Neuron) -> str:
    """Why a neuron that answers has nothing to serve with; "" when it has, or is away."""
    if any(report.servable.ok and report.state == "loaded" for report in neuron.residents.models):
        return ""
    return next(filter(None, _hindrances(neuron)), "")


def engineless(neuron: Neuron) -> str:
    """Why it cannot load anything as long as its process lives: none of its engines is available."""
    harnesses = neuron.discovery.harnesses if neuron.discovery is not None else []
    if not harnesses or any(harness.available for harness in harnesses):
        return ""
    return "none of its engines is available: " + "; ".join(
        f"{harness.name}: {harness.why_not or harness.code or 'it does not say why'}" for harness in harnesses
    )


def doubt(
    neuron: Neuron, health: wire.Health, residents: wire.Residents, twin: Neuron | None
) -> Doubt | None:
    """Why a report of `neuron` is not believed, rows 25 and 26 of the fault matrix; None when it is.
    `twin` has its boot id already; of two names of one neuron the one that is dismissed drains."""
    boot_id, first = health.boot_id, min(health.seq, residents.seq)
    renamed = twin is not None and (neuron.dismissed or twin.dismissed)
    if twin is not None and twin is not neuron and not renamed:
        at = neuron.ref.endpoint
        return "duplicate", f"the neuron at {at} is '{twin.name}' under another address (boot {boot_id})"
    if boot_id in neuron.boots:
        both = f"boot {boot_id} and boot {neuron.boot_id}"
        return "duplicate", f"two processes answer at {neuron.ref.endpoint}: {both}"
    if boot_id == neuron.boot_id and 0 < first <= neuron.seq:
        return "stale", f"its report is older than another one: number {first}, after number {neuron.seq}"
    return None


def _hindrances(neuron: Neuron) -> Iterator[str]:
    if neuron.discovery is None:
        return
    yield engineless(neuron)
    devices, activation = neuron.health.devices, neuron.health.activation
    elsewhere = any(each.available and each.name == ELSEWHERE for each in neuron.discovery.harnesses)
    if devices and all(map(_lost, devices)) and not elsewhere:
        yield "none of its devices computes: " + ", ".join(
            f"{device.name} is {_lost(device)}" for device in devices
        )
    tried = activation.completed or activation.pending or activation.in_progress
    if activation.state == "ready" and activation.failed and not tried and not neuron.residents.models:
        causes = "; ".join(f"{model}: {why}" for model, why in activation.failed.items())
        yield f"none of its default models could be loaded: {causes}"


def _lost(device: wire.DeviceHealth) -> str:
    """What became of a device that computes no more."""
    return "poisoned" if device.poisoned else "absent" if device.absent else ""


def _resident(report: wire.ResidentReport, load: wire.ModelLoad | None, now: float) -> Resident:
    return Resident(
        report.id,
        _PHASES.get(report.state, "recovering"),
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
