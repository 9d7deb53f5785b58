"""What a process that serves knows of the others that serve with it.

A `Crew` as it is has nobody else in it, and costs nothing: what is asked of the others has no answers.
`Worker` is one of several, and speaks to them through its supervisor. Nobody waits for longer than the
supervisor has the others answer, nor for one that hangs itself.
"""

import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from cortex.workers import words
from cortex.workers.line import Line

log = logging.getLogger(__name__)

Answer: TypeAlias = Callable[[bytes], Awaitable[bytes]]
Hear: TypeAlias = Callable[[bytes], None]
# The supervisor answers within a second, unless it hangs.
ANSWER_S: Final = 3.0
# It reads at once.
FAREWELL_S: Final = 1.0


class Crew:
    """A process that serves by itself. `answers` and `hears` are by topic."""

    def __init__(self, index: int = 0, workers: int = 1) -> None:
        self.index, self.workers = index, workers
        # Whether only this process is to go, once it is told to.
        self.alone = False
        self.answers: dict[str, Answer] = {}
        self.hears: dict[str, Hear] = {}

    async def gather(self, topic: str, body: bytes = b"") -> list[bytes]:
        """What each of the others answers, those who do in time; nothing when the supervisor hangs."""
        return []

    def note(self, topic: str, body: bytes) -> None:
        """The others know."""

    async def claim(self, name: str, word: str) -> str:
        """`name` is ours for `word`; or else the other word for which another one has it."""
        return word

    def release(self, name: str) -> None:
        """Whoever wants `name` may have it."""

    async def farewell(self, page: Callable[[], bytes]) -> None:
        """What this process has counted, for it goes."""


class Worker(Crew):
    """One of several. `run` it. `stopped` is set when it is to drain and end, which it does `alone` while
    the others serve on."""

    def __init__(self, line: Line, index: int, workers: int) -> None:
        super().__init__(index, workers)
        self._line = line
        self._ids = itertools.count()
        self._asked: dict[int, trio.MemorySendChannel[words.Answers | words.Claimed]] = {}
        self.stopped = trio.Event()

    async def run(self) -> None:
        """Hear the supervisor, until it is gone."""
        async with trio.open_nursery() as nursery:

            def hear(word: words.Word) -> None:
                match word:
                    case words.Answers() | words.Claimed():
                        if (asked := self._asked.pop(word.id, None)) is not None:
                            asked.send_nowait(word)
                    case words.Tell():
                        nursery.start_soon(self._tell, word)
                    case words.Note():
                        if (known := self.hears.get(word.topic)) is not None:
                            known(word.body)
                    case words.Stop(alone=alone):
                        self.alone = alone and not self.stopped.is_set()
                        self.stopped.set()

            await self._line.run(hear)
            nursery.cancel_scope.cancel()

    async def gather(self, topic: str, body: bytes = b"") -> list[bytes]:
        answer = await self._ask(lambda id: words.Ask(id, topic, body))
        return answer.bodies if isinstance(answer, words.Answers) else []

    def note(self, topic: str, body: bytes) -> None:
        self._line.say(words.Note(topic, body))

    async def claim(self, name: str, word: str) -> str:
        answer = await self._ask(lambda id: words.Claim(id, name, word))
        return answer.word if isinstance(answer, words.Claimed) else word

    def release(self, name: str) -> None:
        self._line.say(words.Release(name))

    def say(self, *lines: str) -> None:
        """What a service manager would be told of this process."""
        self._line.say(words.State(list(lines)))

    def wanted_away(self) -> None:
        """Somebody wants this process to go. `stopped` follows."""
        self._line.say(words.Leave())

    async def farewell(self, page: Callable[[], bytes]) -> None:
        self._line.say(words.Page(page()))
        await self._line.flush(FAREWELL_S)

    async def _ask(self, form: Callable[[int], words.Word]) -> words.Answers | words.Claimed | None:
        id = next(self._ids)
        send, receive = trio.open_memory_channel[words.Answers | words.Claimed](1)  # one answer, at once
        self._asked[id] = send
        try:
            self._line.say(form(id))
            with trio.move_on_after(ANSWER_S):
                return await receive.receive()
            return None
        finally:
            self._asked.pop(id, None)

    async def _tell(self, word: words.Tell) -> None:
        try:
            answer = self.answers.get(word.topic)
            self._line.say(words.Told(word.id, b"" if answer is None else await answer(word.body)))
        except Exception:
            log.exception("worker.speechless topic=%s", word.topic)
