"""A stream of OpenAI's chat, told in another dialect: bytes in, bytes out.

Pieces of text that follow one another are nearly all of a stream. They are told without being read event
by event, as `openai_moulds` has it; whatever is not plainly one more piece goes the long way, by
neutral events. Both ways say the same. Pure: no IO, no clock. What is wrong is a `fault`, behind
whatever was said before it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cortex.ask import Ask
from cortex.errors import CortexError
from cortex.events import Event, Prefilled, Stopped, Text, Thought, Usage
from cortex.translator.dialects import Dialect
from cortex.translator.openai_hear import Ear, Hearing
from cortex.translator.openai_moulds import Mould, mould
from cortex.translator.speeches import Kind, Speech
from cortex.wire import refusals, sse
from cortex.wire.openai import Reply
from cortex.wire.sse_reading import EventReader

# So many chunks in a row that were like none before, and no more are kept: each has something of its own.
_MOST_ODD: Final = 8
_END: Final = b"\n\n"
_UNUSED: Final = Usage()
_KINDS: Final[dict[Kind, type[Text] | type[Thought]]] = {"text": Text, "thought": Thought}


class Retold:
    """The answer to `ask`, in the frame of `reply`. What goes to a client that it `streams` to is there to
    `take`. After each `feed`, `stirred` tells whether an event has come to its end then, if only a
    keep-alive, for which `beat` is said.

    `begun` once an event was no keep-alive, `spoken` once there is something of the answer, `ended` with its
    good end: what comes behind that is nothing. A client that asked for a whole answer gets `answer`
    then. `new_id` names a call that has no id.
    """

    failed = False  # an error is a fault, and never the end

    def __init__(
        self, dialect: Dialect, ask: Ask, reply: Reply, *, beat: bytes, new_id: Callable[[], str]
    ) -> None:
        self.stirred = self.begun = self.spoken = self.ended = False
        self.fault: CortexError | None = None
        self.usage = _UNUSED
        self._dialect, self._reply, self._beat = dialect, reply, beat
        self._ear = Ear(Hearing(logprobs=ask.logprobs, parallel=ask.parallel_tool_calls, new_id=new_id))
        self._reader = EventReader()
        self._said: list[Event] = []
        self.streams = ask.stream
        self._speech = _speech(dialect, reply) if ask.stream else None
        self._out = [sse.render(*self._speech.begin())] if self._speech is not None else []
        # The chunk that others are like, the call of which it was, and the pieces of those that were.
        self._mould: Mould | None = None
        self._call: object = None
        self._run: list[str] = []
        self._odd = 0 if ask.logprobs is None else _MOST_ODD

    def feed(self, data: bytes) -> None:
        """`data` has come."""
        self.stirred = False
        try:
            self._hear_all(data)
            self._flush()
        except CortexError as error:
            self.fault = error

    def close(self) -> None:
        """The body has ended: that is the end, or a fault."""
        try:
            if not self.ended:
                self._hear(None)
        except CortexError as error:
            self.fault = error

    def take(self) -> bytes:
        """What was told and was not taken yet."""
        said = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return said

    def answer(self) -> bytes:
        """The whole answer. Raises what keeps it from being one."""
        return self._dialect.whole(self._reply, self._said)

    # -- the short way

    def _hear_all(self, data: bytes) -> None:
        at, size = 0, len(data)
        while self._reader.inside and at < size:  # line by line: what is behind one may be no event
            begin, at = at, data.find(b"\n", at) + 1 or size
            self._read(data[begin:at])
        while at < size and not self.ended:
            if (behind := self._ran(data, at)) > at:
                at = behind
                continue
            begin, end = at, data.find(_END, at)
            at = size if end < 0 else end + len(_END)
            self._flush()
            pieces = self._ear.pieces
            self._read(data[begin:at])
            if end >= 0 and self._ear.pieces > pieces:
                self._keep(data[begin:end])

    def _ran(self, data: bytes, at: int) -> int:
        """Where the pieces end that come next in `data` from `at`, and were kept as that."""
        found = self._mould
        if found is None:
            return at
        pieces, behind = found.run(data, at)
        if behind > at:
            self.stirred = True
            # An empty one is counted among a call's, and else says nothing.
            self._run += pieces if found.slot == "arguments" or "" not in pieces else filter(None, pieces)
        return behind

    def _flush(self) -> None:
        """All pieces that were kept are told."""
        if not self._run or self._mould is None:
            return
        run, self._run, self._odd = self._run, [], 0
        found = self._mould
        slot, speech = found.slot, self._speech
        of_another = slot == "arguments" and self._call is not self._ear.call
        if of_another or not self._ear.took(slot, run):
            for piece in run:
                self._hear(found.filled(piece))
        elif slot != "arguments" and speech is not None:
            self._say(speech, slot, run)
        elif slot != "arguments":
            self.spoken = True
            self._said.append(_KINDS[slot]("".join(run)))

    def _say(self, speech: Speech, kind: Kind, run: Sequence[str]) -> None:
        """The client hears each of them."""
        self.spoken = True
        if told := speech.run(kind, run):
            self._out.append(told)
        else:
            self._tell([_KINDS[kind](piece) for piece in run])

    def _keep(self, event: bytes) -> None:
        """That event, which was read, is what others may be like."""
        if self._odd < _MOST_ODD and not self.ended:
            self._odd += 1
            if (found := mould(event)) is not None:
                self._mould, self._call = found, self._ear.call

    # -- the long way

    def _read(self, data: bytes) -> None:
        self._flush()
        for event in self._reader.feed(data):
            self.stirred = True
            if event:
                self.begun = True
                self._hear(event)
            elif self._speech is not None:
                self._out.append(self._beat)
            if self.ended:
                return

    def _hear(self, event: bytes | None) -> None:
        if event is not None and (error := refusals.in_stream(event)) is not None:
            raise error
        self._tell(self._ear.hear(event))

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Stopped):
                self.ended, self.usage = True, event.usage
            elif not isinstance(event, Prefilled):
                self.spoken = True
            if self._speech is None:
                self._said.append(event)
            else:
                self._out.append(sse.render(*self._speech.say(event)))


def _speech(dialect: Dialect, reply: Reply) -> Speech:
    if dialect.speech is None:
        raise RuntimeError(f"nothing is told in {dialect.name} that was heard in another dialect")
    return dialect.speech(reply)
