"""One request in neutral words.

Every dialect is read into an `Ask`, and nothing below the translator knows which
dialect it was. `None` means "not said": the model's own defaults then hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Scalar: TypeAlias = str | bool | int | float
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

# What a request may tell a chat template, and its type. Anything else could stand for a name of
# ours (messages, tools), change whose voice is whose, or do nothing without saying so.
TEMPLATE_WORDS: Final[Mapping[str, type]] = {
    "enable_thinking": bool,
    "thinking": bool,
    "preserve_thinking": bool,
    "clear_thinking": bool,
    "thinking_budget": int,
    "reasoning_effort": str,
}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that the model made in an earlier turn; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a turn, where `at` characters of its text are said: `data` in base64. `detail` is
    how closely it is to be looked at. `place` is where the request has it."""

    media_type: str
    data: str = field(repr=False)
    at: int = 0
    detail: str | None = None
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tool_call_id` names the call that a tool turn answers. `images`, which users and
    tools have, stand in the order of their `at`."""

    role: Role
    text: str = ""
    thought: str = ""
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema.

    The last three tell how its calls are told back: `name` begins with `namespace`, which the client
    has apart, what is `free_form` has one text as its input there, and the call of what is `legacy`
    is the message's only one.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Json] = field(default_factory=dict)
    strict: bool = False
    namespace: str = ""
    free_form: bool = False
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`named` wants the tool called `name`; `required` wants any."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to spell a call: texts around JSON that `schema` accepts, each of which may be a token
    of its own."""

    before: tuple[str, ...]
    schema: Mapping[str, Json]
    behind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What form the answer must have: any JSON object, or one that a schema accepts.

    With `calls` it may be calls instead, one or several, each in one of these spellings. `param` is
    the field that asks for it in the caller's dialect, for errors.
    """

    kind: Literal["json_object", "json_schema"]
    schema: Mapping[str, Json] | None = None
    calls: tuple[Spelling, ...] = ()
    param: str = field(default="response_format", compare=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Resolved by `over`, later ones filling gaps."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None

    def over(self, base: "Sampling") -> "Sampling":
        """This, with `base` where nothing was said here."""
        return Sampling(
            **{
                name: getattr(base, name) if getattr(self, name) is None else getattr(self, name)
                for name in Sampling.__slots__
            }
        )


@dataclass(frozen=True, slots=True)
class Embed:
    """Texts, or token ids, each of which is wanted as a vector. `dimensions` is how many numbers of it;
    None means all. `base64` is the form in which they are told."""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    base64: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A chat (`messages`), a plain completion (`prompt`) or vectors (`embed`); exactly one of the three.

    `prompt` is text or token ids; `further` ones of the same request are answered like it, in the
    order of choices, `n` each. With a `suffix` the answer is what stands between prompt and suffix.
    `stop` strings end the visible text.
    `logprobs` asks for that many alternatives beside each token (0 = the token alone).
    `template` holds scalars for the chat template, of TEMPLATE_WORDS; those of them that are
    `wishes` may find a template that cannot obey, the others are conditions. `sealed_thoughts`:
    thoughts are told a second time, in the form in which they are handed back.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    further: tuple[str | tuple[int, ...], ...] = ()
    suffix: str = ""
    embed: Embed | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    shape: Shape | None = None
    logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    template: Mapping[str, Scalar] = field(default_factory=dict)
    wishes: frozenset[str] = frozenset()
    sealed_thoughts: bool = False

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """All prompts of plain completions."""
        return () if self.prompt is None else (self.prompt, *self.further)

    @property
    def choices(self) -> int:
        """How many answers there are, those of one prompt side by side."""
        return self.n * (1 + len(self.further))

    @property
    def images(self) -> tuple[Image, ...]:
        """All pictures of all turns."""
        return tuple(image for message in self.messages for image in message.images)
