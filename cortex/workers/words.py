"""What a supervisor and its workers say to each other."""

from typing import TypeAlias

import msgspec


class Tell(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to worker: answer this."""

    id: int
    topic: str
    body: bytes = b""


class Told(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: the answer."""

    id: int
    body: bytes


class Ask(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: have all others answer this."""

    id: int
    topic: str
    body: bytes = b""


class Answers(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to worker: what they said, those who did in time."""

    id: int
    bodies: list[bytes]


class Note(msgspec.Struct, tag=True, frozen=True):
    """To be known, without an answer: to all other workers, or to one by the supervisor."""

    topic: str
    body: bytes = b""


class Claim(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: `name` is to be mine, for `word`."""

    id: int
    name: str
    word: str


class Claimed(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to worker: the word for which it is taken; one's own when it is one's own."""

    id: int
    word: str


class Release(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: I have done with it."""

    name: str


class State(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: what a service manager would be told of it, as lines of KEY=VALUE."""

    lines: list[str]


class Page(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: what it has counted, at its end."""

    body: bytes


class Leave(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor: somebody wants me to go."""


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to worker: drain, and end; `alone` while the others serve on."""

    alone: bool


Word: TypeAlias = Tell | Told | Ask | Answers | Note | Claim | Claimed | Release | State | Page | Leave | Stop

# The topics that the supervisor itself knows: whether a worker lives, and what it has counted.
PING = "ping"
PAGE = "page"
