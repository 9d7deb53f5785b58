"""POST /v1/completions: one prompt as it stands, no template, legacy shapes.

The prompt is a text or token ids, or a list of such: then each is answered, `n` times, choice
after choice. max_tokens is 16 where nothing is said, as the
vendor has it. echo needs a text prompt, and no logprobs: those of the prompt are not
known. Deliberately without effect: user, metadata, service_tier.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import Raw

from cortex.ask import Ask
from cortex.errors import BadAsk, EngineFailed, Unsupported
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.translator import openai_fields
from cortex.translator.speeches import Kind, spoken
from cortex.wire import faults, reading
from cortex.wire.openai import Reply
from cortex.wire.openai_answers import (
    Mould,
    TextChoice,
    TextCompletion,
    TextLogprobs,
    UsageBody,
    encode,
    finite,
)
from cortex.wire.openai_bodies import PROMPT, TEXT, TextBody
from cortex.wire.sse import DONE, Frame, one_line

MAX_TOKENS: Final = 16
# Those that have no slot yet wait for one.
MOST_CHOICES: Final = 64
# A million token ids: the longest contexts there are.
_MOST_NODES: Final = 1_048_576


def read(body: bytes) -> Ask:
    """The request in neutral words. BadAsk or Unsupported name what cannot be obeyed."""
    wanted = reading.decode(body, TEXT)
    reading.refuse_twins(body)
    ask = openai_fields.begin(wanted)
    prompt, *further = prompts = _prompts(wanted.prompt)
    if len(prompts) * ask.n > MOST_CHOICES:
        raise BadAsk(f"'prompt' and 'n' ask for more than {MOST_CHOICES} answers", param="prompt")
    _refuse(wanted, prompts, ask.n)
    return replace(
        ask,
        prompt=prompt,
        further=tuple(further),
        suffix=wanted.suffix or "",
        max_tokens=wanted.max_tokens or MAX_TOKENS,
        logprobs=wanted.logprobs,
        echo=bool(wanted.echo),
    )


def _prompts(raw: Raw) -> tuple[str | tuple[int, ...], ...]:
    match reading.long_part(raw, PROMPT, "prompt", _MOST_NODES):
        case None | "" | []:
            raise BadAsk("'prompt' is missing or empty", param="prompt")
        case str() as text:
            return (text,)
        case [int(), *_] as ids:
            return (_tokens(ids, "prompt"),)
        case several:
            return tuple(_one(entry, f"prompt[{index}]") for index, entry in enumerate(several))


def _one(entry: str | int | list[int], at: str) -> str | tuple[int, ...]:
    if isinstance(entry, int):
        raise BadAsk(f"'{at}' is a number among prompts; token ids are a list of their own", param=at)
    if not entry:
        raise BadAsk(f"'{at}' is empty", param=at)
    return entry if isinstance(entry, str) else _tokens(entry, at)


def _tokens(found: Sequence[object], at: str) -> tuple[int, ...]:
    ids = tuple(entry for entry in found if isinstance(entry, int))
    if len(ids) != len(found):
        raise BadAsk(f"'{at}' holds something else beside token ids", param=at)
    if min(ids) < 0 or max(ids) >= 2**31:
        raise BadAsk(f"'{at}' holds a number that is no token id", param=at)
    return ids


def _refuse(wanted: TextBody, prompts: Sequence[str | tuple[int, ...]], n: int) -> None:
    if wanted.suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise Unsupported("'suffix' needs a text prompt", param="suffix")
    if wanted.best_of is not None and wanted.best_of > n:
        raise Unsupported("'best_of' above 'n' is not supported", param="best_of")
    if wanted.best_of is not None and wanted.best_of < n:
        raise BadAsk("'best_of' is smaller than 'n'", param="best_of")
    if wanted.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise Unsupported("'echo' needs a text prompt", param="echo")
    if wanted.echo and wanted.logprobs is not None:
        raise Unsupported("'echo' with 'logprobs' is not supported", param="echo")


class Speech:
    """One stream of chunks. It is `over` when every choice has stopped, or at the first failure, which no end
    mark follows."""

    def __init__(self, reply: Reply) -> None:
        self.over = False
        self._reply, self._mould = reply, Mould(reply, "text_completion")
        self._said = [0] * reply.n
        self._usages: dict[int, Usage] = {}
        before, behind = self._mould.around(0, b'"text":', b"")
        self._next = b"data: " + before, behind + b"\n\n"

    def begin(self) -> list[Frame]:
        """What each choice repeats of the prompt."""
        if not self._reply.echo:
            return []
        return [
            Frame(self._mould.chunk(choice, b'"text":%b' % encode(self._reply.echoed(choice))), "echo")
            for choice in range(self._reply.n)
        ]

    def say(self, event: Event) -> list[Frame]:
        """What `event` makes of it."""
        match event:
            case (Text(text, choice=choice) | Thought(text, choice=choice)) as piece:
                inner = b'"text":%b%b' % (encode(text), _beside(piece, self._said[choice], self._reply))
                self._said[choice] += len(text)
                return [Frame(self._mould.chunk(choice, inner), "content")]
            case Stopped():
                return self._stop(event)
            case Failed(error):
                self.over = True
                return faults.frames(error, "openai", self._reply.request_id)
            case ToolCall():
                raise TypeError("a plain completion has no tool calls")
        return []

    def run(self, kind: Kind, texts: Sequence[str]) -> bytes:
        """The first choice goes on with each of `texts`."""
        before, behind = self._next
        self._said[0] += sum(map(len, texts))
        return one_line(b"".join([before + encode(text) + behind for text in texts]))

    def _stop(self, stopped: Stopped) -> list[Frame]:
        reason = b'"%b"' % stopped.reason.encode()
        self._usages[stopped.choice] = stopped.usage
        frames = [Frame(self._mould.chunk(stopped.choice, b'"text":""', reason), "finish")]
        self.over = len(self._usages) == self._reply.n
        if not self.over:
            return frames
        if self._reply.include_usage:
            usages = (self._usages[choice] for choice in range(self._reply.n))
            used = UsageBody.over(usages, self._reply.each)
            frames.append(Frame(self._mould.usage(used), "usage"))
        return [*frames, DONE]


def speak(reply: Reply) -> Generator[list[Frame], Event, None]:
    """Events in, chunks out. Prime with next(). The machine is finished when `Speech` is over: a late event
    raises StopIteration, a bug of its sender."""
    return spoken(Speech(reply))


def _beside(piece: Text | Thought, offset: int, reply: Reply) -> bytes:
    if reply.logprobs is None or isinstance(piece, Thought) or not piece.logprobs:
        return b""
    return b',"logprobs":%b' % encode(_legacy(piece.logprobs, offset, reply.logprobs))


def _legacy(logprobs: tuple[TokenLogprob, ...], offset: int, top: int) -> TextLogprobs:
    """Lists side by side; `offset` is how many characters were said before these tokens."""
    offsets = []
    for token in logprobs:
        offsets.append(offset)
        offset += len(token.text)
    return TextLogprobs(
        tokens=[token.text for token in logprobs],
        token_logprobs=[finite(token.logprob) for token in logprobs],
        top_logprobs=[{text: finite(value) for text, value in token.top[:top]} for token in logprobs]
        if top
        else None,
        text_offset=offsets,
    )


@dataclass(slots=True)
class _Answer:
    """What one choice has said so far."""

    pieces: list[str] = field(default_factory=list)
    size: int = 0
    logprobs: TextLogprobs = field(default_factory=lambda: TextLogprobs([], [], [], []))
    stopped: Stopped | None = None

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self.size += len(text)


def whole(reply: Reply, events: Iterable[Event]) -> bytes:
    """The JSON answer that `events` add up to. A failure among them is raised."""
    answers = [_Answer() for _ in range(reply.n)]
    for event in events:
        answer = answers[event.choice]
        match event:
            case Text(text, logprobs):
                if reply.logprobs is not None:
                    _extend(answer.logprobs, _legacy(logprobs, answer.size, reply.logprobs))
                answer.add(text)
            case Thought(text):
                answer.add(text)
            case Stopped():
                answer.stopped = event
            case Failed(error):
                raise error
            case Started() | Prefilled():
                pass
            case ToolCall():
                raise TypeError("a plain completion has no tool calls")
    choices = [_choice(index, answer, reply) for index, answer in enumerate(answers)]
    usage = UsageBody.over((answer.stopped.usage for answer in answers if answer.stopped), reply.each)
    return encode(
        TextCompletion(id=reply.id, created=reply.created, model=reply.model, choices=choices, usage=usage)
    )


def _extend(all_of_them: TextLogprobs, more: TextLogprobs) -> None:
    all_of_them.tokens += more.tokens
    all_of_them.token_logprobs += more.token_logprobs
    all_of_them.text_offset += more.text_offset
    if more.top_logprobs is None:
        all_of_them.top_logprobs = None
    elif all_of_them.top_logprobs is not None:
        all_of_them.top_logprobs += more.top_logprobs


def _choice(index: int, answer: _Answer, reply: Reply) -> TextChoice:
    if answer.stopped is None:
        raise EngineFailed(f"the generation ended without a reason for choice {index}; send it again")
    logprobs = None if reply.logprobs is None else answer.logprobs
    return TextChoice("".join([reply.echoed(index), *answer.pieces]), index, logprobs, answer.stopped.reason)
