"""POST /v1/messages: body to `Ask`, events to Anthropic's stream or to one whole message.

`read` obeys every field it knows, refuses by name what cortex cannot do, and skips unknown
fields. Deliberately without effect, because the answer is right without them: metadata,
service_tier, cache_control, versions and betas, the signatures of thoughts, `budget_tokens`
(a target, and no engine here ends a thought early), and edits of the context that only take
thoughts out, which the chat template decides.
`speak` and `whole` say the same, the first event by event, the second at the end. Pieces of text that
follow one another can be said many at a time.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import Raw

from cortex.ask import Ask, Scalar, Shape
from cortex.errors import BadAsk, EngineFailed, NoThreads, Unsupported
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    StopReason,
    Text,
    Thought,
    ToolCall,
    Usage,
)
from cortex.translator import anthropic_tools, anthropic_turns, openai_fields
from cortex.translator.speeches import Kind, spoken
from cortex.wire import anthropic_answers as answers
from cortex.wire import faults, reading, sse
from cortex.wire.anthropic_answers import (
    Block,
    MessageBody,
    StopWord,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    UsageBody,
    encode,
)
from cortex.wire.anthropic_bodies import (
    BODY,
    CONTEXT,
    FORMAT,
    LIST,
    OUTPUT,
    STOPS,
    THINKING,
    FormatBody,
    MessagesBody,
)
from cortex.wire.openai import Reply
from cortex.wire.openai_bodies import Rarely
from cortex.wire.sse import Frame

_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
_WORDS: Final[dict[StopReason, StopWord]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
# Fields of OpenAI's chat, with what this dialect says instead.
_ELSEWHERE: Final = {
    "n": "",
    "best_of": "",
    "logprobs": "",
    "top_logprobs": "",
    "stop": " (here it is 'stop_sequences')",
    "response_format": " (here it is 'output_config.format')",
    "max_completion_tokens": " (here it is 'max_tokens')",
}
_OTHERS: Final = Rarely(_ELSEWHERE)
_EMPTY_THOUGHT: Final = b'{"type":"thinking","thinking":"","signature":""}'
_NOTHING: Final = Usage()
_EMPTY_TEXT: Final = b'{"type":"text","text":""}'
_TEXT_DELTA: Final = b'{"type":"text_delta","text":%b}'
_THOUGHT_DELTA: Final = b'{"type":"thinking_delta","thinking":%b}'
_SIGNED: Final = b'{"type":"signature_delta","signature":%b}' % encode(answers.SIGNATURE)


def read(body: bytes) -> Ask:
    """The request in neutral words. BadAsk or Unsupported name what cannot be obeyed."""
    wanted = reading.decode(body, BODY)
    reading.refuse_twins(body)
    _refuse(wanted)
    model = openai_fields.model(wanted)
    tools, choice, parallel = anthropic_tools.tools(wanted)
    output = reading.part(wanted.output_config, OUTPUT, "output_config", 2 * reading.SMALL_BYTES)
    template = _thinking(wanted, output.effort if output else None)
    return Ask(
        model=model,
        messages=anthropic_turns.turns(wanted.system, wanted.messages),
        sampling=openai_fields.sampling(wanted, wanted.logit_bias),
        max_tokens=wanted.max_tokens,
        stop=tuple(reading.part(wanted.stop_sequences, STOPS, "stop_sequences") or ()),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        shape=_shape(wanted, output.format if output else None),
        stream=bool(wanted.stream),
        template=template,
        wishes=frozenset(template),
    )


def _refuse(wanted: MessagesBody) -> None:
    if not reading.absent(wanted.thread):
        raise NoThreads(
            "'thread' is not supported: no conversation is kept here. Send all messages", param="thread"
        )
    openai_fields.refuse(wanted)
    if not reading.absent(wanted.chat_template_kwargs):
        raise BadAsk(
            "'chat_template_kwargs' is not accepted here; say 'thinking'", param="chat_template_kwargs"
        )
    for name, value in _OTHERS.sent(wanted):
        if not reading.absent(value):
            instead = _ELSEWHERE[name]
            raise Unsupported(f"'{name}' is a field of another dialect{instead}; leave it out", param=name)
    if not reading.absent(wanted.container):
        raise Unsupported("'container' is not supported; leave it out", param="container")
    if reading.part(wanted.mcp_servers, LIST, "mcp_servers"):
        raise Unsupported("'mcp_servers' is not supported: call them in the client", param="mcp_servers")
    context = reading.part(wanted.context_management, CONTEXT, "context_management")
    for index, edit in enumerate((context.edits if context else None) or ()):
        if not edit.type.startswith("clear_thinking"):
            name = f"context_management.edits[{index}].type"
            raise Unsupported(
                f"'{name}': '{edit.type}' is not supported; nothing is taken out of a prompt here", param=name
            )


def _thinking(wanted: MessagesBody, effort: str | None) -> dict[str, Scalar]:
    """What the template is told about thinking. Agents send it to every model, so that what a model
    cannot do is no fault of theirs."""
    if effort is not None and effort not in _EFFORTS:
        raise BadAsk(
            f"'output_config.effort' must be one of {', '.join(_EFFORTS)}", param="output_config.effort"
        )
    said: dict[str, Scalar] = {} if effort is None else {"reasoning_effort": effort}
    thinking = reading.part(wanted.thinking, THINKING, "thinking")
    match thinking.type if thinking else None:
        case None:
            return said
        case "enabled" | "adaptive":
            return {"enable_thinking": True, **said}
        case "disabled":
            # An effort is of thinking here: there is none.
            return {"enable_thinking": False}
        case _:
            raise BadAsk("'thinking.type' must be enabled, adaptive or disabled", param="thinking.type")


def _shape(wanted: MessagesBody, modern: FormatBody | None) -> Shape | None:
    """The form of the answer, by its name of today or by the older one."""
    older = reading.part(wanted.output_format, FORMAT, "output_format", 2 * reading.SMALL_BYTES)
    if modern is not None and older is not None:
        raise BadAsk(
            "'output_format' is the old name of 'output_config.format': send one", param="output_format"
        )
    form, name = (modern, "output_config.format") if older is None else (older, "output_format")
    if form is None:
        return None
    if form.type != "json_schema":
        raise Unsupported(f"'{name}.type' must be json_schema, not '{form.type}'", param=f"{name}.type")
    if reading.absent(form.schema):
        raise BadAsk(f"'{name}.schema' is missing", param=f"{name}.schema")
    return Shape("json_schema", reading.tree(form.schema, f"{name}.schema"), param=name)


# -- the stream


@dataclass(slots=True)
class _Blocks:
    """The blocks of one streamed message: at most one is open."""

    open: str = ""
    index: int = -1
    # What stands before and behind the text of a delta of the open block; made when it is first wanted.
    _mould: tuple[bytes, bytes] | None = None

    def text(self, text: str) -> list[Frame]:
        frames = self._of("text", _EMPTY_TEXT)
        return [*frames, answers.grown(self.index, "content", _TEXT_DELTA % encode(text))]

    def thought(self, text: str) -> list[Frame]:
        frames = self._of("thinking", _EMPTY_THOUGHT)
        return [*frames, answers.grown(self.index, "thought", _THOUGHT_DELTA % encode(text))]

    def run(self, kind: Kind, texts: Sequence[str]) -> bytes:
        """What `text` or `thought` would say of each, rendered; b"" where no such block is open."""
        if self.open != ("text" if kind == "text" else "thinking"):
            return b""
        if self._mould is None:
            inner = _TEXT_DELTA if kind == "text" else _THOUGHT_DELTA
            before, _, behind = sse.render(answers.grown(self.index, "content", inner)).partition(b"%b")
            self._mould = (before, behind)
        before, behind = self._mould
        return sse.one_line(b"%b%b%b" % (before, (behind + before).join(map(encode, texts)), behind))

    def call(self, call: ToolCall) -> list[Frame]:
        frames = self.close()
        empty = encode(ToolUseBlock(call.id, call.name, Raw(b"{}")))
        frames += self._of("tool_use", empty)
        inner = b'{"type":"input_json_delta","partial_json":%b}' % encode(call.arguments)
        return [*frames, answers.grown(self.index, "tool_call", inner), *self.close()]

    def close(self) -> list[Frame]:
        if not self.open:
            return []
        signed = [answers.grown(self.index, "signature", _SIGNED)] if self.open == "thinking" else []
        self.open = ""
        return [*signed, answers.closed(self.index)]

    def _of(self, kind: str, empty: bytes) -> list[Frame]:
        if self.open == kind:
            return []
        frames = self.close()
        self.open, self._mould = kind, None
        self.index += 1
        return [*frames, answers.opened(self.index, empty)]


class Speech:
    """One streamed message. It is `over` when the answer has stopped, or at the first failure, which no end
    mark follows."""

    def __init__(self, reply: Reply) -> None:
        self.over = False
        self._reply = reply
        self._blocks = _Blocks()
        self._opening: Usage | None = _NOTHING

    def begin(self) -> list[Frame]:
        """Nothing yet: the message begins with the count of its prompt."""
        return []

    def say(self, event: Event) -> list[Frame]:
        """What `event` makes of it."""
        match event:
            case Started():
                return []
            case Failed(error):
                self.over = True
                return faults.frames(error, "anthropic", self._reply.request_id)
            case Prefilled(prompt, cached) if self._opening is not None:
                self._opening = Usage(prompt, cached)
        if self._opening is None:
            return self._said(event)
        head, self._opening = answers.begun(_message(self._reply, [], self._opening)), None
        return [head, *self._said(event)]

    def run(self, kind: Kind, texts: Sequence[str]) -> bytes:
        """The open block goes on with each of `texts`; b"" where none of that kind is open."""
        return self._blocks.run(kind, texts)

    def _said(self, event: Event) -> list[Frame]:
        match event:
            case Text(text):
                return self._blocks.text(text)
            case Thought(text):
                return self._blocks.thought(text)
            case ToolCall():
                return self._blocks.call(event)
            case Stopped():
                self.over = True
                end = answers.finished(_word(event), event.stop, event.usage)
                return [*self._blocks.close(), end, answers.STOP]
        return []


def speak(reply: Reply) -> Generator[list[Frame], Event, None]:
    """Events in, Anthropic's named events out. Prime with next(). The machine is finished when `Speech` is
    over: a late event raises StopIteration, a bug of its sender."""
    return spoken(Speech(reply))


def _word(stopped: Stopped) -> StopWord:
    return "stop_sequence" if stopped.stop is not None else _WORDS[stopped.reason]


def _message(reply: Reply, content: list[Block], usage: Usage) -> MessageBody:
    return MessageBody(id=reply.id, model=reply.model, content=content, usage=UsageBody.of(usage))


# -- the whole message


@dataclass(slots=True)
class _Content:
    """What was said so far, neighbours of a kind being one block."""

    _runs: list[tuple[str, list[str]]] = field(default_factory=list)
    _calls: dict[int, ToolUseBlock] = field(default_factory=dict)

    def add(self, kind: str, piece: str) -> None:
        """A piece of text or thought."""
        if not self._runs or self._runs[-1][0] != kind:
            self._runs.append((kind, []))
        self._runs[-1][1].append(piece)

    def call(self, call: ToolCall) -> None:
        """A whole call. EngineFailed when its arguments are no object: the message would be no JSON."""
        if not reading.is_object(call.arguments.encode()):
            raise EngineFailed(f"the model called '{call.name}' with what is no JSON object; send it again")
        self._calls[len(self._runs)] = ToolUseBlock(call.id, call.name, Raw(call.arguments.encode()))
        self._runs.append(("call", []))

    def blocks(self) -> Iterator[Block]:
        """All of it, in order."""
        for index, (kind, pieces) in enumerate(self._runs):
            if kind == "call":
                yield self._calls[index]
            else:
                yield (ThinkingBlock if kind == "thought" else TextBlock)("".join(pieces))


def whole(reply: Reply, events: Iterable[Event]) -> bytes:
    """The JSON message that `events` add up to. A failure among them is raised."""
    content, stopped = _Content(), None
    for event in events:
        match event:
            case Text(text):
                content.add("text", text)
            case Thought(text):
                content.add("thought", text)
            case ToolCall():
                content.call(event)
            case Stopped():
                stopped = event
            case Failed(error):
                raise error
            case Started() | Prefilled():
                pass
    if stopped is None:
        raise EngineFailed("the generation ended without a reason; send it again")
    message = _message(reply, list(content.blocks()), stopped.usage)
    message.stop_reason, message.stop_sequence = _word(stopped), stopped.stop
    return encode(message)
