"""Where models could be held: neurons that are up, as if they were empty.

Owns the answers for a whole catalogue: a model is compared with what each neuron could hold at most,
which is looked up once for all models that ask for the same devices, and again only when a neuron comes,
goes or has other devices. So a list of thousands of models weighs no neuron for each of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cortex import router
from cortex.catalogue import ModelSpec
from cortex.ledger import Ledger

# What devices a model asks for, and where it may be: all but its bytes.
_Demand: TypeAlias = tuple[str | None, int, int, tuple[str, ...]]


@dataclass(slots=True)
class _Able:
    """The neurons that could hold something, by what they could at most: the least first. `names` are
    answers that were given, by how many of the first are too small."""

    most: list[int]
    order: list[tuple[int, str]]
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def at_least(self, need: int) -> tuple[str, ...]:
        short = bisect_left(self.most, need)
        if short not in self.names:
            self.names[short] = tuple(name for _, name in sorted(self.order[short:]))
        return self.names[short]


class Feasible:
    """`up` says whether a neuron's reports count, and `comings` changes with any such answer."""

    def __init__(self, ledger: Ledger, up: Callable[[str], bool], comings: Callable[[], int]) -> None:
        self._ledger, self._up, self._comings = ledger, up, comings
        self._as_of = (-1, -1)
        self._able: dict[_Demand, _Able] = {}

    def names(self, spec: ModelSpec) -> Sequence[str]:
        """The neurons that could hold it, in the ledger's order."""
        as_of = (self._ledger.layout, self._comings())
        if as_of != self._as_of:
            self._as_of = as_of
            self._able.clear()
        demand = (spec.kind, spec.min_devices, spec.min_device_memory, spec.pinned_on)
        if demand not in self._able:
            self._able[demand] = _weighed(self._most(spec))
        return self._able[demand].at_least(spec.footprint or 0)

    def _most(self, spec: ModelSpec) -> Iterator[tuple[int, int, str]]:
        """Of each neuron that could hold such a model, how large that could be."""
        for number, place in enumerate(self._ledger):
            if spec.pinned_on and place.name not in spec.pinned_on:
                continue
            most = router.most_bytes(spec, place)
            if most is not None and self._up(place.name):
                yield most, number, place.name


def _weighed(found: Iterator[tuple[int, int, str]]) -> _Able:
    rows = sorted(found)
    return _Able([most for most, _, _ in rows], [(number, name) for _, number, name in rows])
