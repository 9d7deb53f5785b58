"""Push generators are driven by a list of events, and byte streams are cut in every way.

`play` holds the manners of a dialect's machine: primed once, one `send` an event,
finished after the end event. `splits` gives the ways a network or an engine may
cut the same bytes; whatever reads them must say the same for all of them. `SCRIPT` is one
chat with everything in it, which each dialect of chats tells its clients.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import Final, TypeVar

from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    Text,
    Thought,
    ToolCall,
    Usage,
)
from cortex.translator.dialects import Dialect
from cortex.translator.speeches import spoken
from cortex.wire.openai import Reply
from cortex.wire.sse import Frame as SseFrame

Frame = TypeVar("Frame")

SCRIPT: Final[tuple[Event, ...]] = (
    Started(),
    Prefilled(7, 3),
    Thought("Let me "),
    Thought("see.\n"),
    Text("It is "),
    Text('"18°" 😀\u2028'),
    ToolCall("call_a", "weather", '{"city":"Paris"}'),
    ToolCall("call_b", "weather", '{"city":"Rome"}'),
    Stopped("tool_calls", Usage(7, 3, 9, 2)),
)


def play(machine: Generator[list[Frame], Event, None], events: Iterable[Event]) -> list[Frame]:
    """All frames: those of priming, then those of each event.

    A machine may end by returning at an end event, with nothing more to say. One
    that is finished while events remain fails the test: it would lose them.
    """
    frames = list(next(machine))
    ended: set[int] = set()
    left = iter(events)
    for event in left:
        is_end = isinstance(event, Stopped | Failed) and event.choice not in ended
        if is_end:
            ended.add(event.choice)
        try:
            frames += machine.send(event)
        except StopIteration:
            lost = list(left) if is_end else [event, *left]
            assert not lost, f"the machine is finished, and {lost} remain"
    return frames


def speaking(dialect: Dialect, reply: Reply) -> Generator[list[SseFrame], Event, None]:
    """The machine of a dialect that has streams."""
    assert dialect.speech is not None
    return spoken(dialect.speech(reply))


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Every way to cut `data` in two, and the one that cuts it into single bytes."""
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]
