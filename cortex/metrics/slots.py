"""Numbers that are counted on the loop, and put into words at a scrape.

To count is an addition, without a lock: each number has one thread that adds to it. The page is made in
another one, which reads what is there at that moment, so that of a request it may meet one half counted;
here, and only here, are numbers read. Which label values there may be is decided by who counts.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels: TypeAlias = tuple[str, ...]
T = TypeVar("T")


class Slot:
    """One number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0.0

    def inc(self, by: float = 1) -> None:
        """So much more."""
        self.value += by

    def dec(self) -> None:
        """One less."""
        self.value -= 1


class Heap:
    """One histogram: what was observed, by bounds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """That was seen, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def into(self, family: HistogramMetricFamily, labels: Labels) -> None:
        """All of it is in `family`."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum)


class _Kept(Collector, Generic[T]):
    """What one metric counts, by its label values: finding it anew costs more than counting."""

    def __init__(self, name: str, text: str, labels: Labels, make: Callable[[], T]) -> None:
        self._name, self._text, self._labels, self._make = f"cortex_{name}", text, labels, make
        self._kept: dict[Labels, T] = {}

    def at(self, *values: str) -> T:
        """That of these values, in the metric's order."""
        found = self._kept.get(values)
        if found is None:
            found = self._kept[values] = self._make()
        return found

    def begin(self, values: Iterable[str]) -> None:
        """Each of these values of the only label reads zero from the start: of a series that begins
        with its first happening, Prometheus sees no increase."""
        for value in values:
            self.at(value)

    def forget(self, position: int, value: str) -> None:
        """What has `value` for the label at `position` is not shown any more."""
        for values in [values for values in self._kept if values[position] == value]:
            del self._kept[values]


Kind: TypeAlias = Literal["counter", "gauge"]
_FAMILIES: Final[dict[Kind, type[CounterMetricFamily | GaugeMetricFamily]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


class Slots(_Kept[Slot]):
    """The numbers of one metric."""

    def __init__(self, name: str, text: str, labels: Labels, kind: Kind = "counter") -> None:
        super().__init__(name, text, labels, Slot)
        self._kind: Kind = kind

    def collect(self) -> Iterable[Metric]:
        """The metric as it stands."""
        family = _FAMILIES[self._kind](self._name, self._text, labels=self._labels)
        for values, slot in self._kept.copy().items():
            family.add_metric(values, slot.value)
        yield family


class Heaps(_Kept[Heap]):
    """The histograms of one metric."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        super().__init__(name, text, labels, lambda: Heap(bounds))

    def collect(self) -> Iterable[Metric]:
        """The metric as it stands."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, heap in self._kept.copy().items():
            heap.into(family, values)
        yield family
