"""One choice of a generation becomes text, thoughts and tool calls, and one end.

Engine events go in, in order; what a dialect speaks comes out, stamped with the
choice's number. The stages are detokenising, thoughts, tool calls, stop strings,
each fed by the one before; streaming and whole answers take the same way.

It ends with one Stopped or Failed and says nothing afterwards. A stop string, or
the first tool call where only one is wanted, ends it at once: the driver then
cancels the job, whose later events are not heard.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final, TypeAlias

from cortex.events import (
    Embedded,
    EngineEvent,
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    StopReason,
    Text,
    Thought,
    Tokens,
    ToolCall,
    Usage,
)
from cortex.text.detokenise import Detokeniser
from cortex.text.riders import Riders
from cortex.text.stops import Stops
from cortex.text.thinking import Thinking
from cortex.text.toolcalls import CallReader

Piece: TypeAlias = Text | Thought | ToolCall

UNUSED: Final = Usage()


class Projection:
    """One choice. `finished` is True once its end was said.

    `thinking` and `calls` read thoughts and tool calls in the form of the model; without
    them there are none, as in plain completions.
    """

    def __init__(
        self,
        *,
        choice: int,
        thinking: Thinking | None = None,
        calls: CallReader | None = None,
        stops: Sequence[str] = (),
        parallel: bool = True,
    ) -> None:
        self.finished = False
        self._choice = choice
        self._parallel = parallel
        self._bytes = Detokeniser()
        self._thinking, self._calls = thinking, calls
        self._stops = Stops(stops)
        self._called = False
        self._riders = Riders()
        self._prompt = self._cached = self._completion = self._reasoning = 0

    def feed(self, event: EngineEvent) -> list[Event]:
        """What `event` makes certain; nothing once finished."""
        if self.finished:
            return []
        if isinstance(event, Tokens):
            said = self._read(event)
            return [*said, self._stop("stop")] if self._over else said
        match event:
            case Started():
                return [replace(event, choice=self._choice)]
            case Prefilled(prompt, cached):
                self._prompt, self._cached = max(self._prompt, prompt), max(self._cached, cached)
                return [replace(event, choice=self._choice)]
            case Stopped(usage=told):
                said = self._leave(self._rest())
                return [*said, self._stop(event.reason, told)]
            case Failed():
                said = self._leave(self._rest())
                self.finished = True
                return [*said, replace(event, choice=self._choice)]
            case Text() | Thought() | ToolCall() | Embedded():
                raise TypeError(f"an engine of tokens says no {type(event).__name__}")

    # -- the end

    @property
    def _over(self) -> bool:
        """Whether the answer is complete, whatever else the engine says."""
        return self._stops.matched is not None or (self._called and not self._parallel)

    def _stop(self, reason: StopReason, told: Usage = UNUSED) -> Stopped:
        """The end. A call is the reason before all others, as the caller must act on it;
        then a stop string; then what the engine said. `told` are its counts."""
        self.finished = True
        stop = self._stops.matched
        if self._called:
            reason = "tool_calls"
        elif stop is not None:
            reason = "stop"
        counted = Usage(self._prompt, self._cached, self._completion, self._reasoning)
        return Stopped(reason, _larger(counted, told), stop, self._choice)

    # -- the stages

    def _read(self, event: Tokens) -> list[Event]:
        inside = self._inside
        self._completion += event.count
        if inside:
            self._reasoning += event.count
        pieces = self._thought(self._bytes.feed(event.data))
        if not (event.logprobs or self._riders):
            if not pieces:
                return []
            if len(pieces) == 1:
                return self._pass(pieces[0])
        self._riders.add(event.logprobs)
        return self._leave(self._part(pieces), was_inside=inside)

    @property
    def _inside(self) -> bool:
        return self._thinking is not None and self._thinking.inside

    def _thought(self, text: str) -> Sequence[Text | Thought]:
        if self._thinking is not None:
            return self._thinking.feed(text)
        return [Text(text)] if text else ()

    def _pass(self, piece: Text | Thought) -> list[Event]:
        """What one piece comes to where nothing rides on it: as the way of several has it, and a good deal
        faster."""
        if isinstance(piece, Thought):
            if self._stops.held() or (self._calls is not None and self._calls.held()):
                return self._leave(self._part([piece]))
            return [Thought(piece.text, self._choice)]
        said = [piece] if self._calls is None else self._calls.feed(piece.text)
        if not said:
            return []
        if len(said) > 1 or isinstance(said[0], ToolCall):
            return self._leave(self._visible(said))
        text = self._stops.feed(said[0].text)
        return [Text(text, (), self._choice)] if text else []

    def _rest(self) -> Iterator[Piece]:
        """What the stages hold back, each handing its rest to the next."""
        yield from self._part(self._thought(self._bytes.flush()))
        yield from self._part(self._thinking.flush() if self._thinking else [])
        yield from self._seam()

    def _part(self, pieces: Iterable[Text | Thought]) -> Iterator[Piece]:
        for piece in pieces:
            if isinstance(piece, Text):
                yield from self._visible(self._calls.feed(piece.text) if self._calls else [piece])
                continue
            yield from self._seam()
            if not self._over:
                yield piece

    def _seam(self) -> Iterator[Piece]:
        """The visible text ends here: no call and no stop string reaches across."""
        yield from self._visible(self._calls.flush() if self._calls else [])
        yield from _text(self._stops.flush())

    def _visible(self, pieces: Iterable[Text | ToolCall]) -> Iterator[Piece]:
        for piece in pieces:
            if self._over:
                return
            if isinstance(piece, Text):
                yield from _text(self._stops.feed(piece.text))
            else:
                yield from _text(self._stops.flush())
                self._called = True
                yield piece

    # -- what leaves

    def _leave(self, pieces: Iterable[Piece], *, was_inside: bool = False) -> list[Event]:
        """The pieces as they go out: neighbours merged, numbered, with their logprobs."""
        said = list(_merged(pieces))
        undecided = not (said or was_inside or self._inside)
        released = sum(len(piece.text) for piece in said if isinstance(piece, Text))
        riders = () if undecided else self._riders.take(released, self._held(), cut=self._over)
        events: list[Event] = []
        for piece in said:
            if isinstance(piece, Text):
                events.append(Text(piece.text, riders, self._choice))
                riders = ()
            else:
                events.append(replace(piece, choice=self._choice))
        return events

    def _held(self) -> int:
        """How many characters are read and not decided."""
        stages = (self._thinking, self._calls, self._stops)
        return self._bytes.waiting + sum(stage.held() for stage in stages if stage)


def _text(text: str) -> list[Piece]:
    return [Text(text)] if text else []


def _merged(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for kind, run in groupby(pieces, type):
        if kind is ToolCall:
            yield from run
            continue
        whole = "".join(piece.text for piece in run if not isinstance(piece, ToolCall))
        yield Text(whole) if kind is Text else Thought(whole)


def _larger(one: Usage, other: Usage) -> Usage:
    """The larger figure of each kind: an engine may know more than its events told."""
    return Usage(
        max(one.prompt, other.prompt),
        max(one.cached, other.cached),
        max(one.completion, other.completion),
        max(one.reasoning, other.reasoning),
        one.estimated or other.estimated,
    )
