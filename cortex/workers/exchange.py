"""Passes words between workers, and keeps what they have counted.

Whoever asks the others has their answers within GATHER_S, from those who gave one by then. Of what workers
counted the last pages are kept, so that one that hangs or is gone takes nothing back: no sum falls. A claim
ends with its worker.
"""

import itertools
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import trio

from cortex.workers import words
from cortex.workers.line import Line
from cortex.workers.pages import kept

# A page of a big fleet takes tens of milliseconds; who does not answer in this time is busy or hangs.
GATHER_S: Final = 0.5


@dataclass(eq=False)
class Member:
    """One worker, in one of its lives. `takes_s` is how long it wants to end, once it has said so."""

    index: int
    process: "subprocess.Popen[bytes]"
    line: Line
    began: float
    ready: bool = False
    # When it began to read the files that it told of last, by the host's clock.
    read_us: int = 0
    # For how long it has owed an answer.
    silent_s: float = 0.0
    # Somebody asked it to go, or we did.
    leaving: bool = False
    takes_s: float | None = None
    page: bytes = b""
    # It has told its last page; one that a thread of it had under way is older.
    counted: bool = False
    # What it was asked and has not answered, by the number of the question.
    awaited: dict[int, "_Round"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As people count."""
        return str(self.index + 1)


@dataclass(eq=False)
class _Round:
    """One question to several, with the answers so far."""

    topic: str
    bodies: dict[int, bytes] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    whole: trio.Event = field(default_factory=trio.Event)

    def drop(self, id: int) -> None:
        self.missing.discard(id)
        if not self.missing:
            self.whole.set()


class Exchange:
    """One for each supervisor, between its `members`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.members: list[Member] = []
        self.restarts: dict[int, int] = {}
        self._ids = itertools.count()
        self._buried = b""
        # By name: the word, and who holds it.
        self._claims: dict[str, tuple[str, set[Member]]] = {}

    @property
    def serving(self) -> list[Member]:
        """Who has told that it serves, and goes on to."""
        return [member for member in self.members if member.ready]

    def hear(self, member: Member, word: words.Word) -> None:
        """A word of a worker, unless it is about how it stands, which is the supervisor's."""
        member.silent_s = 0.0
        match word:
            case words.Told(id, body):
                self._told(member, id, body)
            case words.Ask():
                self.nursery.start_soon(self._ask, member, word)
            case words.Note():
                for other in self._others(member):
                    other.line.say(word)
            case words.Claim(id, name, wanted):
                member.line.say(words.Claimed(id, self._claimed(member, name, wanted)))
            case words.Release(name):
                self._release(member, name)
            case words.Page(body):
                member.page, member.counted = body, True

    def ping(self, member: Member) -> None:
        """It is asked whether it lives; any word of it is an answer."""
        self._put(member, _Round(words.PING))

    def bury(self, member: Member) -> None:
        """It is gone."""
        self.members.remove(member)
        self._buried = kept([self._buried, member.page])
        for name in [name for name, (_, holders) in self._claims.items() if member in holders]:
            self._release(member, name)
        for id, round in member.awaited.items():
            round.drop(id)

    def _others(self, member: Member) -> Iterable[Member]:
        return (other for other in self.serving if other is not member)

    async def _ask(self, member: Member, word: words.Ask) -> None:
        round = _Round(word.topic)
        pages = word.topic == words.PAGE
        if pages:
            member.page = word.body
        for other in self._others(member):
            self._put(other, round, b"" if pages else word.body)
        if round.missing:
            with trio.move_on_after(GATHER_S):
                await round.whole.wait()
        bodies = list(round.bodies.values())
        if pages:
            # Of whoever did not answer the last one stands.
            bodies = [own_page({each.index for each in self.serving}, self.restarts), self._buried]
            bodies += [other.page for other in self.members if other is not member]
        member.line.say(words.Answers(word.id, bodies))

    def _put(self, member: Member, round: _Round, body: bytes = b"") -> None:
        id = next(self._ids)
        round.missing.add(id)
        member.awaited[id] = round
        member.line.say(words.Tell(id, round.topic, body))

    def _told(self, member: Member, id: int, body: bytes) -> None:
        round = member.awaited.pop(id, None)
        if round is None:
            return
        round.bodies[id] = body
        round.drop(id)
        if round.topic == words.PAGE and not member.counted:
            member.page = body

    def _claimed(self, member: Member, name: str, wanted: str) -> str:
        word, holders = self._claims.setdefault(name, (wanted, set()))
        if word == wanted:
            holders.add(member)
        return word

    def _release(self, member: Member, name: str) -> None:
        _, holders = self._claims.get(name, ("", set[Member]()))
        holders.discard(member)
        if not holders:
            self._claims.pop(name, None)


def own_page(up: Collection[int], restarts: Mapping[int, int]) -> bytes:
    """What a supervisor itself counts: which workers serve, and how often each was begun again."""
    lines = [
        "# HELP cortex_worker_up 1 while the worker serves",
        "# TYPE cortex_worker_up gauge",
        *(f'cortex_worker_up{{worker="{index + 1}"}} {float(index in up)}' for index in sorted(restarts)),
        "# HELP cortex_worker_restarts_total Workers that were begun again, however they had ended",
        "# TYPE cortex_worker_restarts_total counter",
        *(
            f'cortex_worker_restarts_total{{worker="{index + 1}"}} {float(count)}'
            for index, count in sorted(restarts.items())
        ),
    ]
    return "".join(line + "\n" for line in lines).encode()
