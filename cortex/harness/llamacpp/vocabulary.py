"""The tokens of a GGUF without its weights, from llama.cpp itself.

What a text comes to is for the engine to say, which has a dozen kinds of vocabularies: so it gets
one of a model's with next to no model around it, and is asked as an engine that serves is. Lives in
a child: native code reads what anybody may have made.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cortex.errors import Unfit
from cortex.harness.base import Apart, Engine, Harness, LoadOrder, Preflight, Progress, Unavailable
from cortex.harness.folders import Folder
from cortex.weights import digest, write_vocabulary

CONTEXT: Final = 256  # it reads no prompt but the first token on trial


class LlamaCppVocabulary:
    """Loads, by `harness`, models whose answers are noise and whose tokens are those of the order's file."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.name = harness.name
        self.apart: Apart | None = Apart("cortex.harness.llamacpp:vocabulary_in_child")

    def unavailable(self) -> Unavailable | None:
        return self._harness.unavailable()

    def preflight(self, order: LoadOrder) -> Preflight:
        return self._harness.preflight(order)

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> Engine:
        """Raises Unfit, too, when the file is not that of the order's digest any more."""
        folder = Folder.made("cortex-vocabulary-")
        try:
            small = folder.path / "vocabulary.gguf"
            write_vocabulary(order.path, small)
            if order.digest and digest(order.path) != order.digest:
                raise Unfit(f"{order.path}: changed while its vocabulary was read; ask again")
            slight = replace(
                order, path=small, context=CONTEXT, slots=1, cache="fp16", options={"threads": 1}
            )
            return self._harness.load(slight, progress, ring)
        finally:
            # The engine has it mapped, for which no name is needed.
            folder.remove()
