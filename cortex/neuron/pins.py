"""Which models the operator wants to stay, whatever else needs room.

A pin is kept in the state folder, so that it outlasts a restart. It loads nothing: a model that
is not resident is pinned from the moment it comes. What models.toml pins with `pinned_on` is not
in this book, and cannot be unpinned here.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from cortex.neuron.state import State

FILE: Final = "pins.json"


class Pins:
    """The models that were pinned by order."""

    def __init__(self, state: State, models: Iterable[str] = ()) -> None:
        self._state, self._models = state, set(models)

    @classmethod
    async def remembered(cls, state: State) -> "Pins":
        """As they were when the neuron stopped."""
        kept: list[str] | None = await state.recall(FILE, list[str])
        return cls(state, kept or ())

    def __contains__(self, model: str) -> bool:
        return model in self._models

    def __iter__(self) -> Iterator[str]:
        """By name."""
        return iter(sorted(self._models))

    async def put(self, model: str, *, pinned: bool) -> None:
        """It is so at once, and on disk when this returns. Cancelled, it may be forgotten at the
        next start."""
        (self._models.add if pinned else self._models.discard)(model)
        await self._state.keep(FILE, list(self))
