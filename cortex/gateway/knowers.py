"""Which neurons can load which models from catalogues of their own.

An index beside the fleet, kept where reports are believed: a request for a model that the gateway's file
does not have asks it, and no neuron.
"""

from collections.abc import Iterable, Iterator


class Knowers:
    """Models by neuron, and neurons by model."""

    def __init__(self) -> None:
        self._models: dict[str, frozenset[str]] = {}
        self._neurons: dict[str, set[str]] = {}
        self._sorted: dict[str, tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[str]:
        """All models that some neuron knows."""
        return iter(self._neurons)

    def learn(self, neuron: str, models: Iterable[str]) -> None:
        """It knows these, and no others any more."""
        after, before = frozenset(models), self._models.get(neuron, frozenset())
        self._models[neuron] = after
        for model in after - before:
            self._neurons.setdefault(model, set()).add(neuron)
        for model in before - after:
            self._neurons[model].discard(neuron)
            if not self._neurons[model]:
                del self._neurons[model]
        for model in after ^ before:
            self._sorted.pop(model, None)

    def forget(self, neuron: str) -> None:
        """There is no such neuron any more."""
        self.learn(neuron, ())
        self._models.pop(neuron)

    def of(self, model: str) -> tuple[str, ...]:
        """By name; the same object for as long as they are the same."""
        if model not in self._sorted and model in self._neurons:
            self._sorted[model] = tuple(sorted(self._neurons[model]))
        return self._sorted.get(model, ())
