"""What the speakers of all dialects have in common.

A `Speech` takes events one by one, each as frames; pieces of text or thought of which the last one was
one, too, it takes many at a time, as the bytes that go out. Both say the same.
"""

from collections.abc import Generator, Sequence
from typing import Literal, Protocol, TypeAlias

from cortex.events import Event
from cortex.wire.sse import Frame

Kind: TypeAlias = Literal["text", "thought"]


class Speech(Protocol):
    """One streamed answer; `over` when nothing more is to be said."""

    over: bool

    def begin(self) -> list[Frame]:
        """What comes before any event."""

    def say(self, event: Event) -> list[Frame]:
        """What `event` makes of it."""

    def run(self, kind: Kind, texts: Sequence[str]) -> bytes:
        """What each of `texts`, none of them empty, would make of it as an event of the first choice,
        rendered; b"" where what is open is not of that kind, and nothing was said."""


def spoken(speech: Speech) -> Generator[list[Frame], Event, None]:
    """`speech` as a machine: prime with next(), then send event by event."""
    frames = speech.begin()
    while not speech.over:
        frames = speech.say((yield frames))
    yield frames
