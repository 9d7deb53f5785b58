"""The tokens of a folder of safetensors without its weights: no device, no torch, no exllamav2.

The vocabulary is the one that the loaded model has, read by the same code.
"""

from collections.abc import Callable, Sequence

from cortex.errors import Unfit
from cortex.harness.base import (
    Apart,
    EngineFacts,
    Job,
    LoadOrder,
    Memory,
    Preflight,
    Progress,
    Said,
    Unavailable,
)
from cortex.harness.exllamav2 import guards
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.weights import digest


class ExLlamaV2Vocabulary:
    """Loads what answers questions about tokens alone."""

    def __init__(self) -> None:
        self.name = "exllamav2"
        self.apart: Apart | None = Apart("cortex.harness.exllamav2:vocabulary_in_child")

    def unavailable(self) -> Unavailable | None:
        return None

    def preflight(self, order: LoadOrder) -> Preflight:
        return guards.preflight(order)

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> "Words":
        """Raises Unfit when the folder is not that of the order's digest any more."""
        vocabulary = Vocabulary.read(order.path)
        if order.digest and digest(order.path) != order.digest:
            raise Unfit(f"{order.path}: changed while its vocabulary was read; ask again")
        return Words(vocabulary)


class Words:
    """An engine that takes no jobs."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(Memory(0), context=0, slots=0)

    def submit(self, job: Job) -> None:
        raise RuntimeError("a job for a vocabulary")

    def cancel(self, job_id: int) -> None:
        pass  # there are none

    def restless(self) -> bool:
        return False

    def turn(self) -> Sequence[Said]:
        return ()

    def tokenise(self, text: str) -> tuple[int, ...]:
        return self._vocabulary.encode(text)

    def detokenise(self, ids: Sequence[int]) -> str:
        return self._vocabulary.text(ids)

    def memory(self) -> Memory:
        return Memory(0)

    def unload(self) -> None:
        pass  # it goes with its process


def vocabulary_in_child() -> ExLlamaV2Vocabulary:
    """The one of a process that tokenises for one model."""
    return ExLlamaV2Vocabulary()
