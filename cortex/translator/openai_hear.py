"""The events of an OpenAI-compatible engine's stream become neutral events.

A machine takes the data of one event after another (b"" for a comment), and None when the
body has ended; it answers with what was said. It ends with one Stopped or Failed. An answer
is complete when its finish_reason was heard and the stream's own end after it; a stream that
just stops, or says [DONE] without a reason, has failed. Calls of tools are said whole.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cortex.errors import CortexError, EngineFailed, Unsupported, UpstreamFailed
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    StopReason,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.translator import openai_errors
from cortex.translator.openai_moulds import Slot
from cortex.wire.openai_heard import (
    CHUNK,
    Delta,
    HeardCall,
    HeardChoice,
    HeardChunk,
    HeardError,
    HeardLogprobs,
    HeardUsage,
    decode,
)
from cortex.wire.reading import is_object

Machine: TypeAlias = Generator[list[Event], bytes | None, None]

DONE: Final = b"[DONE]"
# All calls of one answer. A stream that goes on for ever must end somewhere.
MOST_CALL_BYTES: Final = 4 * 2**20
# Of text and thoughts, and what an event takes besides: nobody waits for a client who reads slowly.
MOST_ANSWER_BYTES: Final = 32 * 2**20
_PIECE_BYTES: Final = 64
_IMPOSSIBLE: Final = -9999.0  # how the vendor writes minus infinity
_REASONS: Final[dict[str, StopReason]] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


@dataclass(frozen=True, slots=True)
class Hearing:
    """What the answer is held against. `logprobs` as in the ask; `parallel`: several calls are
    wanted, else those after the first are left out; `prompt_bytes` is what was sent, for an
    estimate where no usage comes. `new_id` names a call that has no id."""

    logprobs: int | None = None
    parallel: bool = True
    prompt_bytes: int = 0
    new_id: Callable[[], str] = lambda: "call_0"


def hear(hearing: Hearing) -> Machine:
    """Data in, events out, of a chat's stream or a text completion's. Prime with next(): that the
    engine has taken the request comes first. Finished after Stopped or Failed."""
    ear = Ear(hearing)
    said: list[Event] = [Started()]
    while True:
        data = yield said
        try:
            said = ear.hear(data)
        except CortexError as error:
            yield [Failed(error)]
            return
        if said and isinstance(said[-1], Stopped):
            yield said
            return


@dataclass(slots=True)
class _Call:
    """A tool call as it comes in."""

    index: int | None
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Ear:
    """One choice, as far as it was heard, to its Stopped. `pieces` are content events, for an estimate, and
    `call` is the one that comes in."""

    hearing: Hearing
    prefilled: bool = False
    call: _Call | None = None
    called: int = 0
    call_bytes: int = 0
    pieces: int = 0
    size: int = 0
    thoughts: int = 0
    scored: bool = False
    riders: list[TokenLogprob] = field(default_factory=list)
    reason: StopReason | None = None
    stop: str | None = None
    usage: HeardUsage | None = None

    def hear(self, data: bytes | None) -> list[Event]:
        """What one event says, or None: that the body has ended. Raises what has failed."""
        if data is None or data.strip() == DONE:
            return self._end()
        if not data:
            return []
        chunk = decode(data, CHUNK)
        if chunk is None:
            raise UpstreamFailed("The engine that serves this model sent an event that cannot be read")
        _check(chunk)
        self.usage = chunk.usage or self.usage
        said: list[Event] = []
        for choice in chunk.choices or ():
            if choice.index != 0:
                raise UpstreamFailed("The engine that serves this model answers with more than was asked for")
            said += self._choice(choice)
        return said

    def _end(self) -> list[Event]:
        """The end of the stream: a good one only when the reason was said."""
        if self.reason is None:
            raise EngineFailed(
                "The engine that serves this model broke off before the answer was complete; send it again"
            )
        said = [*self._begun(), *self._whole()]
        reason = "tool_calls" if self.called else self.reason
        if reason == "tool_calls" and not self.called:
            reason = "stop"  # nobody could act on it
        return [*said, Stopped(reason, self._used(), self.stop)]

    def took(self, slot: Slot, texts: Sequence[str]) -> bool:
        """Whether each of `texts` was taken as all that an event says, in its `slot`, none of them being
        empty. False, and nothing was taken, where that is for `hear` to judge."""
        length, calls = sum(map(len, texts)), slot == "arguments"
        size = self.size + _PIECE_BYTES * len(texts) + (0 if calls else length)
        if size > MOST_ANSWER_BYTES or not self.prefilled:
            return False
        if calls:
            if self.call is None or self.call_bytes + length > MOST_CALL_BYTES:
                return False
            self.call.arguments += texts
            self.call_bytes += length
        self.size = size
        self.pieces += len(texts)
        self.thoughts += len(texts) if slot == "thought" else 0
        return True

    def _choice(self, choice: HeardChoice) -> list[Event]:
        if choice.logprobs is not None and self.hearing.logprobs is not None:
            self.riders += _scores(choice.logprobs, self.hearing.logprobs)
        delta = choice.delta or Delta(content=choice.text)
        said = self._delta(delta)
        if choice.finish_reason:
            if choice.finish_reason not in _REASONS:
                raise EngineFailed(
                    "The engine that serves this model ended the answer early: its finish_reason is "
                    f"{choice.finish_reason[:40]!r}"
                )
            self.reason = _REASONS[choice.finish_reason]
            stop = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
            self.stop = stop if isinstance(stop, str) else None
            said += self._whole()
        return said

    def _delta(self, delta: Delta) -> list[Event]:
        thought = delta.reasoning_content or delta.reasoning
        text = delta.content or delta.refusal
        said: list[Event] = []
        if thought or text or delta.tool_calls:
            said = self._begun()
            self.pieces += 1
            self.size += _PIECE_BYTES + len(thought or "") + len(text or "")
            if self.size > MOST_ANSWER_BYTES:
                raise UpstreamFailed(f"The answer is longer than {MOST_ANSWER_BYTES} bytes")
        if thought:
            self.thoughts += 1
            said.append(Thought(thought))
        if text:
            said.append(Text(text, self._ride()))
        elif thought or delta.tool_calls:
            # Those of thoughts and calls: log probabilities belong to the visible answer.
            self.riders.clear()
        for piece in delta.tool_calls or ():
            said += self._piece(piece)
        return said

    def _begun(self) -> list[Event]:
        if self.prefilled:
            return []
        self.prefilled = True
        told = self.usage
        return [Prefilled((told.prompt_tokens or 0) if told and told.believable else 0)]

    def _ride(self) -> tuple[TokenLogprob, ...]:
        if self.hearing.logprobs is None:
            return ()
        riders, self.riders = tuple(self.riders), []
        self.scored = self.scored or bool(riders)
        if not self.scored:
            raise Unsupported(
                "'logprobs' is not supported by the engine that serves this model, which sends none; "
                "leave it out",
                param="logprobs",
            )
        return riders

    # -- tool calls

    def _piece(self, piece: HeardCall) -> list[Event]:
        """A piece of the call in hand, or the first one of the next: then the one before is whole."""
        said: list[Event] = []
        if self.call is None or _is_other(self.call, piece):
            said = self._whole()
            self.call = _Call(piece.index, piece.id or self.hearing.new_id())
        if piece.function is not None:
            self.call.name = self.call.name or piece.function.name or ""
            if arguments := piece.function.arguments:
                self.call.arguments.append(arguments)
                self.call_bytes += len(arguments)
        if self.call_bytes > MOST_CALL_BYTES:
            raise UpstreamFailed(f"The calls of one answer are longer than {MOST_CALL_BYTES} bytes")
        return said

    def _whole(self) -> list[Event]:
        """The call in hand is complete. One whose arguments are no object, or were cut, is none: what
        there is of it is text, as where the model writes calls in its own words."""
        call, self.call = self.call, None
        if call is None:
            return []
        written = "".join(call.arguments) or ("" if self.reason == "length" else "{}")
        if not is_object(written.encode("utf-8", "surrogatepass")):
            return [Text(f"{call.name} {written}".strip() or " ")]
        if not call.name:
            raise UpstreamFailed("The engine that serves this model calls a tool without saying which")
        self.called += 1
        if self.called > 1 and not self.hearing.parallel:
            return []
        return [ToolCall(call.id, call.name, written)]

    # -- usage

    def _used(self) -> Usage:
        """As told; where nothing is, one token for each piece, and four bytes of prompt for one."""
        told = self.usage
        if told is None or not told.believable:
            prompt = -(-self.hearing.prompt_bytes // 4)
            return Usage(prompt, 0, self.pieces, self.thoughts, estimated=True)
        prompt, completion = told.prompt_tokens or 0, told.completion_tokens or 0
        prompt_details, details = told.prompt_tokens_details, told.completion_tokens_details
        reasoning = told.reasoning_tokens if details is None else details.reasoning_tokens
        return Usage(
            prompt=prompt,
            # A part is no more than the whole, whatever is told.
            cached=min(max((prompt_details.cached_tokens or 0) if prompt_details else 0, 0), prompt),
            completion=completion,
            # Many engines think and do not count it.
            reasoning=min(self.thoughts if reasoning is None else max(reasoning, 0), completion),
            estimated=told.estimated,
        )


def _check(chunk: HeardChunk) -> None:
    """Raises what the event tells of, when it is no answer but an error."""
    if chunk.error is not None:
        raise openai_errors.broke(chunk.error)
    if chunk.object == "error":
        raise openai_errors.broke(HeardError(message=chunk.message, code=chunk.code))


def _is_other(call: _Call, piece: HeardCall) -> bool:
    """Whether `piece` begins another call. Some engines number every call 0, and some none; some give
    each piece an id of its own, and some none. Who begins a call names it."""
    if piece.index is not None and call.index is not None and piece.index != call.index:
        return True
    function = piece.function
    if function is None or not function.name or not call.name:
        return False
    if piece.id:
        return piece.id != call.id
    begins = bool(call.arguments) and (function.arguments or "").lstrip().startswith("{")
    return function.name != call.name or begins


def _scores(told: HeardLogprobs, wanted: int) -> Sequence[TokenLogprob]:
    if told.content is not None:
        return [
            TokenLogprob(
                token.token,
                _number(token.logprob),
                tuple((top.token, _number(top.logprob)) for top in (token.top_logprobs or ())[:wanted]),
            )
            for token in told.content
        ]
    tokens = told.tokens or ()
    values = [*(told.token_logprobs or ()), *(None for _ in tokens)]
    tops = [*(told.top_logprobs or ()), *(None for _ in tokens)]
    return [
        TokenLogprob(token, _number(value), _best(top or {}, wanted))
        for token, value, top in zip(tokens, values, tops, strict=False)
    ]


def _best(top: dict[str, float | None], wanted: int) -> tuple[tuple[str, float], ...]:
    scored = ((text, _number(value)) for text, value in top.items())
    return tuple(sorted(scored, key=lambda pair: -pair[1])[:wanted])


def _number(logprob: float | None) -> float:
    return _IMPOSSIBLE if logprob is None else max(logprob, _IMPOSSIBLE)
