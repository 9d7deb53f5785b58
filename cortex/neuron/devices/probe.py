"""How a device is looked at, whatever kind it is.

A look is a blocking question to a driver or to the kernel; only the thread that `watch` keeps
for the device asks it. What it answers is a plain value.
"""

from dataclasses import dataclass
from typing import Protocol


class Absent(Exception):
    """The device is not there any more: it fell off its bus, or its driver is gone."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a device. `available_bytes` could be had by somebody without anybody losing
    anything. `ours_bytes` are those of the rest that this process and its children hold; None
    where the device cannot tell whose they are. `utilization` is a ratio, `temperature` in
    degrees Celsius; None when not known. `at` is monotonic."""

    total_bytes: int
    available_bytes: int
    utilization: float | None = None
    at: float = 0.0
    temperature: float | None = None
    ours_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        return max(0, self.total_bytes - self.available_bytes)


class Probe(Protocol):
    """A device, as a thread looks at it. `look` may block; Absent when it is gone for good,
    anything else when it only could not be looked at.

    `name` is its name in `[devices] use`, `model` what it is sold as, `compute` its compute
    capability and `uuid` what tells it from every other; None where there is no such thing.
    """

    name: str
    kind: str
    model: str
    compute: str | None
    uuid: str | None

    def look(self) -> Reading: ...
