"""POST /v1/chat/completions: body to `Ask`, events to chunks or to one whole answer.

`read` obeys every field it knows, refuses by name what cortex cannot do, and skips
unknown fields. Deliberately without effect, because the answer is right without them:
user, metadata, service_tier, safety_identifier, prompt_cache_key and its retention,
verbosity, prediction, store=false, name and schema name of a response_format. Who sends the
legacy `functions` reads the one `function_call` of a message: that is told back to them.
`speak` and `whole` say the same, the first event by event, the second at the end. Pieces of one choice
can be said many at a time.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import UNSET, UnsetType

from cortex.ask import TEMPLATE_WORDS, Ask, Scalar, Tool
from cortex.errors import BadAsk, EngineFailed, Unsupported
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
from cortex.translator import openai_fields, openai_messages, openai_tools
from cortex.translator.free_tools import free_input
from cortex.translator.speeches import Kind, spoken
from cortex.wire import faults, reading
from cortex.wire.openai import Reply
from cortex.wire.openai_answers import (
    AnswerMessage,
    CallShape,
    ChatChoice,
    ChatCompletion,
    CustomShape,
    FinishReason,
    FunctionShape,
    LogprobBody,
    Logprobs,
    Mould,
    UsageBody,
    encode,
)
from cortex.wire.openai_bodies import CHAT, SCALARS, STRINGS, ChatBody
from cortex.wire.sse import DONE, Frame, one_line

_ROLE: Final = b'"delta":{"role":"assistant","content":""}'
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def read(body: bytes) -> Ask:
    """The request in neutral words. BadAsk or Unsupported name what cannot be obeyed."""
    wanted = reading.decode(body, CHAT)
    reading.refuse_twins(body)
    ask = openai_fields.begin(wanted)
    _only_text(wanted)
    tools, choice = openai_tools.tools(wanted)
    return replace(
        ask,
        messages=openai_messages.turns(wanted.messages),
        max_tokens=wanted.max_completion_tokens or wanted.max_tokens,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=wanted.parallel_tool_calls is not False and not any(map(_legacy, tools)),
        logprobs=_logprobs(wanted),
        template=_template(wanted),
    )


def _only_text(wanted: ChatBody) -> None:
    if not reading.absent(wanted.audio):
        raise Unsupported("'audio' is not supported: answers are text", param="audio")
    for mode in reading.part(wanted.modalities, STRINGS, "modalities") or ():
        if mode != "text":
            raise Unsupported(f"'modalities': only text is supported, not {mode!r}", param="modalities")


def _logprobs(wanted: ChatBody) -> int | None:
    if wanted.logprobs:
        return wanted.top_logprobs or 0
    if wanted.top_logprobs:
        raise BadAsk("'top_logprobs' needs 'logprobs': true", param="top_logprobs")
    return None


def _template(wanted: ChatBody) -> dict[str, Scalar]:
    """What the template is told about thinking; the ways to say it must agree."""
    said: dict[str, Scalar] = {}
    for name, value in (
        reading.part(wanted.chat_template_kwargs, SCALARS, "chat_template_kwargs") or {}
    ).items():
        param = f"chat_template_kwargs.{name}"
        if name not in TEMPLATE_WORDS:
            raise BadAsk(f"'{param}' is not accepted; allowed are {', '.join(TEMPLATE_WORDS)}", param=param)
        if value is not None and type(value) is not TEMPLATE_WORDS[name]:
            raise BadAsk(f"'{param}' must be of type {TEMPLATE_WORDS[name].__name__}", param=param)
        if value is not None:
            said[name] = value
    effort = wanted.reasoning_effort
    # Templates print the word: any other would be a voice of its own.
    told = {"reasoning_effort": effort, "chat_template_kwargs.reasoning_effort": said.get("reasoning_effort")}
    for param, word in told.items():
        if word is not None and word not in _EFFORTS:
            raise BadAsk(f"'{param}' must be one of {', '.join(_EFFORTS)}", param=param)
    if effort == "none":
        _agree(said, "enable_thinking", False, "reasoning_effort")
    elif effort is not None:
        _agree(said, "reasoning_effort", effort, "reasoning_effort")
    if wanted.enable_thinking is not None:
        _agree(said, "enable_thinking", wanted.enable_thinking, "enable_thinking")
    return said


def _agree(said: dict[str, Scalar], name: str, value: str | bool, param: str) -> None:
    if said.setdefault(name, value) != value:
        raise BadAsk(f"'{param}' contradicts another field about '{name}'", param=param)


class Speech:
    """One stream of chunks. It is `over` when every choice has stopped, or at the first failure, which no end
    mark follows."""

    def __init__(self, reply: Reply) -> None:
        self.over = False
        self._reply, self._mould = reply, Mould(reply, "chat.completion.chunk")
        self._tools, self._called = _tools(reply), [0] * reply.n
        self._usages: dict[int, Usage] = {}
        self._next: dict[Kind, tuple[bytes, bytes]] = {}

    def begin(self) -> list[Frame]:
        """Each choice's role."""
        return [Frame(self._mould.chunk(choice, _ROLE), "role") for choice in range(self._reply.n)]

    def say(self, event: Event) -> list[Frame]:
        """What `event` makes of it."""
        chunk = self._mould.chunk
        match event:
            case Text(text, logprobs, choice):
                inner = b'"delta":{"content":%b}%b' % (encode(text), _beside(logprobs, self._reply))
                return [Frame(chunk(choice, inner), "content")]
            case Thought(text, choice):
                inner = b'"delta":{"reasoning_content":%b}' % encode(text)
                return [Frame(chunk(choice, inner), "thought")]
            case ToolCall() as call:
                inner = b'"delta":{%b}' % _delta(call, self._called[call.choice], self._tools)
                self._called[call.choice] += 1
                return [Frame(chunk(call.choice, inner), "tool_call")]
            case Stopped():
                return self._stop(event)
            case Failed(error):
                self.over = True
                return faults.frames(error, "openai", self._reply.request_id)
        return []

    def run(self, kind: Kind, texts: Sequence[str]) -> bytes:
        """The first choice goes on with each of `texts`."""
        around = self._next.get(kind)
        if around is None:
            around = self._next[kind] = self._around(kind)
        before, behind = around
        return one_line(b"".join([before + encode(text) + behind for text in texts]))

    def _around(self, kind: Kind) -> tuple[bytes, bytes]:
        """What stands before and behind the text of a piece, in the bytes that go out."""
        name = b"content" if kind == "text" else b"reasoning_content"
        before, behind = self._mould.around(0, b'"delta":{"%b":' % name, b"}")
        return b"data: " + before, behind + b"\n\n"

    def _stop(self, stopped: Stopped) -> list[Frame]:
        self._usages[stopped.choice] = stopped.usage
        finish = b'"%b"' % _finish(stopped.reason, self._tools).encode()
        frames = [Frame(self._mould.chunk(stopped.choice, b'"delta":{}', finish), "finish")]
        self.over = len(self._usages) == self._reply.n
        if not self.over:
            return frames
        if self._reply.include_usage:
            used = UsageBody.over(self._usages.values(), self._reply.n)
            frames.append(Frame(self._mould.usage(used), "usage"))
        return [*frames, DONE]


def speak(reply: Reply) -> Generator[list[Frame], Event, None]:
    """Events in, chunks out. Prime with next(). The machine is finished when `Speech` is over: a late event
    raises StopIteration, a bug of its sender."""
    return spoken(Speech(reply))


def _beside(logprobs: tuple[TokenLogprob, ...], reply: Reply) -> bytes:
    if reply.logprobs is None or not logprobs:
        return b""
    return b',"logprobs":%b' % encode(Logprobs([LogprobBody.of(token, reply.logprobs) for token in logprobs]))


def _tools(reply: Reply) -> dict[str, Tool]:
    """By the names that the model calls them."""
    return {tool.name: tool for tool in reply.ask.tools} if reply.ask else {}


def _legacy(tool: Tool) -> bool:
    return tool.legacy


def _finish(reason: StopReason, tools: Mapping[str, Tool]) -> FinishReason:
    return "function_call" if reason == "tool_calls" and any(map(_legacy, tools.values())) else reason


def _delta(call: ToolCall, index: int, tools: Mapping[str, Tool]) -> bytes:
    if any(map(_legacy, tools.values())):
        return b'"function_call":%b' % encode(FunctionShape(call.name, call.arguments))
    return b'"tool_calls":[%b]' % encode(_shape(call, tools, index))


def _shape(call: ToolCall, tools: Mapping[str, Tool], index: int | UnsetType = UNSET) -> CallShape:
    tool = tools.get(call.name)
    if tool is not None and tool.free_form:
        custom = CustomShape(call.name, free_input(call.arguments))
        return CallShape(index=index, id=call.id, type="custom", custom=custom)
    return CallShape(index=index, id=call.id, function=FunctionShape(call.name, call.arguments))


@dataclass(slots=True)
class _Answer:
    """What one choice has said so far."""

    text: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stopped: Stopped | None = None


def whole(reply: Reply, events: Iterable[Event]) -> bytes:
    """The JSON answer that `events` add up to. A failure among them is raised."""
    answers = [_Answer() for _ in range(reply.n)]
    for event in events:
        answer = answers[event.choice]
        match event:
            case Text(text, logprobs):
                answer.text.append(text)
                answer.logprobs += logprobs
            case Thought(text):
                answer.thought.append(text)
            case ToolCall():
                answer.calls.append(event)
            case Stopped():
                answer.stopped = event
            case Failed(error):
                raise error
            case Started() | Prefilled():
                pass
    choices = [_choice(index, answer, reply) for index, answer in enumerate(answers)]
    usage = UsageBody.over((answer.stopped.usage for answer in answers if answer.stopped), reply.n)
    return encode(
        ChatCompletion(id=reply.id, created=reply.created, model=reply.model, choices=choices, usage=usage)
    )


def _choice(index: int, answer: _Answer, reply: Reply) -> ChatChoice:
    if answer.stopped is None:
        raise EngineFailed(f"the generation ended without a reason for choice {index}; send it again")
    text, tools = "".join(answer.text), _tools(reply)
    message = AnswerMessage(
        content=text if text or not answer.calls else None,
        reasoning_content="".join(answer.thought) or UNSET,
    )
    if any(map(_legacy, tools.values())):
        for call in answer.calls:
            message.function_call = FunctionShape(call.name, call.arguments)
    else:
        message.tool_calls = [_shape(call, tools) for call in answer.calls] or UNSET
    logprobs = None
    if reply.logprobs is not None:
        logprobs = Logprobs([LogprobBody.of(token, reply.logprobs) for token in answer.logprobs])
    return ChatChoice(index, message, logprobs, _finish(answer.stopped.reason, tools))
