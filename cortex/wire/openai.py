"""The OpenAI dialects on the wire, as far as routing and the frame of an answer go.

`peek` decodes the few fields that routing needs and skips the rest; `rename` swaps the
model's name and leaves every other byte alone. A `Reply` is the frame around one
answer. The requests in full are in `openai_bodies`, the answers in `openai_answers`;
which event becomes which chunk is decided by the translators.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final

import msgspec
from msgspec import Raw

from cortex.ask import Ask
from cortex.errors import BadAsk
from cortex.wire import reading
from cortex.wire.openai_bodies import ModelName

# As much of the prompt as tells conversations of different agents apart.
OPENING_BYTES: Final = 1024
# A body has one model; more candidates than this are no accident.
MOST_CANDIDATES: Final = 64
# A request with more of them is refused by whoever answers it.
MOST_PROMPTS: Final = 64
# Up to here they are counted one by one: some milliseconds at worst.
SMALL_PROMPT_BYTES: Final = 128 * 1024

_LIST: Final = re.compile(rb'\[[ \t\r\n]*["\[]')
_MODEL: Final = re.compile(
    rb'"model"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")',
    re.DOTALL,
)


# What a request says, as far as routing goes.


# Every field that is not there is this very one.
_ABSENT: Final = Raw()
_LONGEST_NOTHING: Final = len(b"null")


class Peek(msgspec.Struct, frozen=True):
    """What a gateway needs to know of a request, in any of the dialects it passes on.

    `named` tells those apart that profit from the same neuron's prompt cache, or else where the prompt
    begins, which is its `opening`; neither tells nothing.
    `answer_tokens` is the most that all answers may have together; None when it does not say, or
    not so that it can be read: whoever computes them refuses that.
    """

    model: str
    stream: bool = False
    named: Raw = _ABSENT
    opening: Raw = _ABSENT
    answer_tokens: int | None = None

    @property
    def affinity(self) -> str:
        """The same for requests that belong together, and short. Made when it is asked for."""
        if self.named is not _ABSENT:
            return affinity_of(memoryview(self.named))
        return "" if self.opening is _ABSENT else affinity_of(memoryview(self.opening)[:OPENING_BYTES])


class _Metadata(msgspec.Struct):
    user_id: Raw = _ABSENT


class _Glimpse(msgspec.Struct):
    model: ModelName | None = None
    stream: bool | None = None
    # Raw, since it is for others to judge them.
    user: Raw = _ABSENT
    metadata: Raw = _ABSENT
    prompt_cache_key: Raw = _ABSENT
    system: Raw = _ABSENT
    instructions: Raw = _ABSENT
    messages: Raw = _ABSENT
    input: Raw = _ABSENT
    prompt: Raw = _ABSENT
    max_tokens: Raw = _ABSENT
    max_completion_tokens: Raw = _ABSENT
    max_output_tokens: Raw = _ABSENT
    n: Raw = _ABSENT


class _Name(msgspec.Struct):
    model: str | None = None


_GLIMPSE: Final = msgspec.json.Decoder(_Glimpse)
_METADATA: Final = msgspec.json.Decoder(_Metadata)
_NAME: Final = msgspec.json.Decoder(_Name)
_STRING: Final = msgspec.json.Decoder(str)
_RAWS: Final = msgspec.json.Decoder(list[Raw])


def peek(body: bytes) -> Peek:
    """What `body` says that routing needs. BadAsk names the position or the field."""
    seen = reading.decode(body, _GLIMPSE)
    reading.refuse_twins(body)
    if seen.model is None:
        raise BadAsk("'model' is missing: name one of GET /v1/models", param="model")
    # Most requests bear no name at all.
    nameless = seen.user is seen.prompt_cache_key is seen.metadata is _ABSENT
    return Peek(
        model=seen.model,
        stream=bool(seen.stream),
        named=_ABSENT if nameless else _named(seen),
        opening=_opening(seen),
        answer_tokens=_answer_tokens(seen),
    )


def affinity_of(name: bytes | memoryview) -> str:
    """The affinity of all requests that bear `name`: short however long that is, since it is hashed
    for each neuron as often as they are ranked."""
    return blake2b(name, digest_size=8).hexdigest()


def _named(seen: _Glimpse) -> Raw:
    """The narrowest name that is a text, Anthropic's metadata.user_id first. As sent: who spells a name in
    two ways is not known again."""
    inner = _ABSENT
    if seen.metadata is not _ABSENT and _begins(seen.metadata, b"{"):
        inner = reading.decode(seen.metadata, _METADATA, "metadata").user_id
    for name in (inner, seen.prompt_cache_key, seen.user):
        if name is not _ABSENT and _begins(name, b'"') and len(name) > len('""'):
            return name
    return _ABSENT


def _opening(seen: _Glimpse) -> Raw:
    """What the prompt begins with."""
    for raw in (seen.system, seen.instructions, seen.messages, seen.input, seen.prompt):
        if raw is not _ABSENT and (len(raw) > _LONGEST_NOTHING or not reading.absent(raw)):
            return raw
    return _ABSENT


def _begins(raw: Raw, sign: bytes) -> bool:
    return memoryview(raw)[:1] == sign


def _answer_tokens(seen: _Glimpse) -> int | None:
    for raw in (seen.max_completion_tokens, seen.max_tokens, seen.max_output_tokens):
        if raw is not _ABSENT and (said := _count(raw)) is not None:
            several = seen.n is not _ABSENT or seen.prompt is not _ABSENT
            return said * (_count(seen.n) or 1) * _prompts(seen.prompt) if several else said
    return None


def _prompts(raw: Raw) -> int:
    """How many prompts a completion has; where they are long, the most that there can be. A list of
    numbers is the tokens of one."""
    if raw is _ABSENT or _LIST.match(memoryview(raw)[:64]) is None:
        return 1
    if len(raw) > SMALL_PROMPT_BYTES:
        return min(MOST_PROMPTS, bytes(raw).count(b",") + 1)
    return len(reading.decode(raw, _RAWS, "prompt"))


def _count(raw: Raw) -> int | None:
    if raw is _ABSENT:
        return None
    # No count is longer; int() of a longer text only burns time.
    text = bytes(raw) if len(raw) <= 12 else b""
    return int(text) if text.isdigit() else None


def rename(body: bytes, old: str, new: str) -> bytes:
    """`body`, in which `peek` has found the model `old`, with `new` instead; every other byte is as it was.

    Which of several "model" keys is the outermost is found out by giving each place
    a mark and decoding once, so no bytes are interpreted here in a second way. Where there is
    one alone, it is that.
    """
    if old == new:
        return body
    if (at := reading.lone(body, b'"model"')) >= 0:
        alone = _MODEL.match(body, at)
        if alone is not None and alone[1] == msgspec.json.encode(old):
            return _spliced(body, [alone.span(1)], [new])
    found = list(islice(_MODEL.finditer(body), MOST_CANDIDATES + 1))
    if len(found) > MOST_CANDIDATES:
        raise BadAsk(f"'model' occurs more than {MOST_CANDIDATES} times in the body", param="model")
    spots = [spot.span(1) for spot in found if reading.decode(spot[1], _STRING, "model") == old]
    marks = [f"{old}#{index}" for index in range(len(spots))]
    outermost = reading.decode(_spliced(body, spots, marks), _NAME).model
    if outermost not in marks:
        raise BadAsk(f"'model' must be a plain key with the value '{old}'", param="model")
    spot = spots[marks.index(outermost)]
    return _spliced(body, [spot], [new])


def _spliced(body: bytes, spots: list[tuple[int, int]], names: list[str]) -> bytes:
    pieces, at = [], 0
    for (start, end), name in zip(spots, names, strict=True):
        pieces += [body[at:start], msgspec.json.encode(name)]
        at = end
    return b"".join([*pieces, body[at:]])


# What an answer says.


@dataclass(frozen=True, slots=True)
class Reply:
    """The frame around one answer. `created` is in Unix seconds.

    `logprobs` is how many alternatives beside each token were asked for, None when no
    log probabilities were. There are `n` choices, `each` of them for one prompt. `echo` are the
    prompts that text completions repeat. `ask` is what is
    answered, where it is known: Responses repeats some of it.
    """

    id: str
    model: str
    created: int
    request_id: str = "-"
    n: int = 1
    each: int = 1
    include_usage: bool = False
    logprobs: int | None = None
    echo: tuple[str, ...] = ()
    ask: Ask | None = None

    @classmethod
    def to(cls, ask: Ask, *, id: str, created: int, request_id: str = "-") -> "Reply":
        """The frame around the answer to `ask`."""
        return cls(
            id=id,
            model=ask.model,
            created=created,
            request_id=request_id,
            n=ask.choices,
            each=ask.n,
            include_usage=ask.include_usage,
            logprobs=ask.logprobs,
            echo=tuple(prompt for prompt in ask.prompts if isinstance(prompt, str)) if ask.echo else (),
            ask=ask,
        )

    def echoed(self, choice: int) -> str:
        """What `choice` repeats of its prompt."""
        return self.echo[choice // self.each] if self.echo else ""
