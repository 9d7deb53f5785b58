"""The answers to orders that want one, each awaited by whoever gave the order."""

from dataclasses import dataclass, field

import trio

from cortex.harness import orders
from cortex.harness.base import EngineFacts, Memory
from cortex.harness.hosts import Host


@dataclass(slots=True)
class Reply:
    """The answer to one order, once it is there. Reading it raises what the order came to."""

    ticket: int
    host: Host
    loads: str | None = None  # the model that the order brings
    done: trio.Event = field(default_factory=trio.Event)
    word: orders.Done | orders.Undone | None = None

    def hear(self, word: orders.Done | orders.Undone) -> "Reply":
        self.word = word
        self.done.set()
        return self

    def facts(self) -> EngineFacts:
        answer = self._answer()
        if not isinstance(answer, EngineFacts):
            raise self._wrong(answer)
        return answer

    def ids(self) -> tuple[int, ...]:
        answer = self._answer()
        if not isinstance(answer, tuple):
            raise self._wrong(answer)
        return answer

    def text(self) -> str:
        answer = self._answer()
        if not isinstance(answer, str):
            raise self._wrong(answer)
        return answer

    def memory(self) -> Memory:
        answer = self._answer()
        if not isinstance(answer, Memory):
            raise self._wrong(answer)
        return answer

    def _answer(self) -> orders.Answer:
        match self.word:
            case orders.Done(_, answer):
                return answer
            case orders.Undone(_, error):
                raise error
        raise RuntimeError("nothing was answered yet")

    def _wrong(self, answer: orders.Answer) -> RuntimeError:
        return RuntimeError(f"the order was answered with {type(answer).__name__}")
