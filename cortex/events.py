"""What a generation can say.

An engine says `Started`, `Prefilled`, `Tokens`, then `Stopped` or `Failed`, once.
The text pipeline turns `Tokens` into `Text`, `Thought` and `ToolCall`; an engine with a
template of its own says these itself. Dialects speak them as frames. `choice` numbers
the answers of one request (`n`), from 0. After `Stopped` or `Failed` nothing more comes
for that choice. Of inputs that are embedded each is a choice, and `Embedded` all that is said of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from cortex.errors import CortexError

StopReason: TypeAlias = Literal["stop", "length", "tool_calls"]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one choice. `cached` of the prompt were not computed again. `estimated`: they
    were counted from what was said, since nobody told. A struct, since every request makes one: of a frozen
    dataclass each field costs a call."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    estimated: bool = False

    @classmethod
    def total(cls, counts: "Sequence[Usage]", each: int) -> "Usage":
        """What choices used together, of which `each` have one prompt. That counts once, and cached is
        what the first of them found, since the others find what it left behind."""
        asked = [counts[at : at + each] for at in range(0, len(counts), each)]
        return cls(
            sum(max(count.prompt for count in one) for one in asked),
            sum(min(count.cached for count in one) for one in asked),
            sum(count.completion for count in counts),
            sum(count.reasoning for count in counts),
            any(count.estimated for count in counts),
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token, its natural-log probability, and the likeliest alternatives with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has taken the job in."""

    choice: int = 0


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is read; the first token comes next. Of an upstream `prompt_tokens` is 0: it
    tells at the end."""

    prompt_tokens: int
    cached_tokens: int = 0
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """`count` more tokens. `data` is UTF-8 and may end inside a code point."""

    data: bytes
    count: int
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the visible answer: whole code points, never empty."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning that comes before or between visible text."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One whole call: `arguments` is the JSON text of an object."""

    id: str
    name: str
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """The choice is complete. `stop` is the stop string that ended it, if one did."""

    reason: StopReason
    usage: Usage = Usage()
    stop: str | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vector of one input, which `choice` numbers: single precision, little-endian."""

    data: bytes
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The choice ends without being complete."""

    error: CortexError
    choice: int = 0


Event: TypeAlias = Started | Prefilled | Text | Thought | ToolCall | Embedded | Stopped | Failed
EngineEvent: TypeAlias = Event | Tokens
