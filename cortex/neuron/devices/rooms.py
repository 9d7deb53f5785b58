"""Devices as places of the ledger: which belong together, and how much of each models may have.

A device is one place, or all devices of a group are. Of each, models may have what is left of
its memory, or of `memory_limit`, once the headroom and what others hold are taken off. Others are
whoever is not a resident: other processes, and of this one what no model needs.

What others hold is what is used less what the residents hold. The ledger counts a resident
whole, so nothing of it may be in both figures. On the CPU, mapped weights are page cache, which
the kernel does not count as used, and the rest is measured as our own anonymous memory: that is
taken off, and no more than the residents claim. On a GPU nobody can be told apart for certain,
so the residents' measured bytes are taken off; CUDA's own context stays with the others, since
no eviction gives it back.

A reading may be older than the last unload, and memory flutters. So a figure is believed once
two looks in a row agree on its direction, a fall only beyond `BAND`, and none while a model comes
or goes there, when nobody can say how much of it is in yet.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from cortex.config.neuron import Devices as DevicesConfig
from cortex.ledger import Ledger
from cortex.neuron.devices.watch import Devices
from cortex.places import Place, Room

# Of a device's memory: less than that is not worth a look at everybody who waits.
BAND: Final = 1 / 128


def layout(config: DevicesConfig, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The places by name, with the devices of each, in the order of `names`."""
    places: dict[str, tuple[str, ...]] = {}
    for name in names:
        group = next((group for group in config.groups if name in group), (name,))
        here = tuple(device for device in group if device in names)
        places["+".join(here)] = here
    return places


def thread_name(devices: Sequence[str]) -> str:
    """The name of the thread that drives a place: that of its first device."""
    kind, _, number = devices[0].partition(":")
    return f"{kind}-dev-{number or 0}"


class Rooms:
    """Keeps the ledger's rooms in step with the readings of `devices`."""

    def __init__(self, config: DevicesConfig, devices: Devices, ledger: Ledger) -> None:
        self._config, self._devices, self._ledger = config, devices, ledger
        self.places: Mapping[str, tuple[str, ...]] = layout(config, devices.names)
        self._place_of = {device: place for place, here in self.places.items() for device in here}
        # What others hold of each device: as believed, and as the last look has it.
        self._believed: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def open(self) -> None:
        """The ledger has every place, and is told of all that changes there from here on."""
        for name, devices in self.places.items():
            for device in devices:
                self._believed[device] = self._last[device] = self._devices.reading(device).used_bytes
            self._ledger.open(name, [self._room(name, device) for device in devices])
        self._devices.on_look = self._looked

    def _looked(self, device: str) -> None:
        place = self._ledger.place(self._place_of[device])
        if place is None:
            return
        if (why := self._devices.absent(device)) is not None:
            self._ledger.shut(place.name, f"device {device} is absent: {why}")
            return
        last, others = self._last[device], self._others(place, device)
        self._last[device], believed = others, self._believed[device]
        low, high = min(last, others), max(last, others)
        moving = any(resident.phase in ("loading", "leaving") for resident in place)
        if low > believed:
            self._believed[device] = low
        elif high < believed - BAND * self._devices.reading(device).total_bytes and not moving:
            self._believed[device] = high
        if self._believed[device] != believed:
            self._ledger.rooms(place.name, [self._room(place.name, room) for room in place.rooms])

    def _others(self, place: Place, device: str) -> int:
        reading = self._devices.reading(device)
        ours = sum(resident.room_bytes.get(device, 0) for resident in place)
        if reading.ours_bytes is not None:
            ours = min(ours, reading.ours_bytes)
        return max(0, reading.used_bytes - ours)

    def _room(self, place: str, device: str) -> Room:
        """The headroom stays with the host; the limit is a cap on what is left."""
        total = max(0, self._devices.reading(device).total_bytes - self._config.memory_headroom)
        left = max(0, total - self._believed[device])
        if self._config.memory_limit is not None:
            total = min(total, self._config.memory_limit)
        return Room(device, total, other_bytes=total - min(total, left), group=place)
