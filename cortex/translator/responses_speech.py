"""Events to the stream of OpenAI's Responses dialect, or to one whole response.

An answer is items in order, one open at a time: thoughts are reasoning items with themselves as
the summary, text is a message, and calls are told back in the form that the client knows its
tools in. `speak` and `whole` say the same, the first event by event, the second at the end.
Whatever ends a stream holds the whole response once more.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from typing import Final, Literal

from msgspec import UNSET

from cortex.ask import Ask, Json, Tool
from cortex.errors import CortexError, EngineFailed
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
)
from cortex.translator.free_tools import free_input
from cortex.translator.responses_tools import bare
from cortex.translator.responses_turns import sealed
from cortex.translator.speeches import Kind, spoken
from cortex.wire import faults
from cortex.wire.openai import Reply
from cortex.wire.openai_answers import LogprobBody
from cortex.wire.responses_answers import (
    CUT,
    CustomItem,
    ErrorBody,
    FunctionItem,
    Item,
    MessageItem,
    Numbered,
    ReasoningItem,
    ResponseBody,
    Status,
    SummaryPart,
    TextPart,
    UsageBody,
    at,
    encode,
    item,
)
from cortex.wire.sse import Frame, one_line

__all__ = ["speak", "whole"]

_NO_TEXT: Final = b'"content_index":0,"part":%b' % encode(TextPart())
_TEXT: Final = "output_text.delta"
_NEXT_TEXT: Final = b'"content_index":0,"delta":%b,"logprobs":[]'
_THOUGHT: Final = "reasoning_summary_text.delta"
_NEXT_THOUGHT: Final = b'"summary_index":0,"delta":%b'
_NO_THOUGHT: Final = b'"summary_index":0,"part":%b' % encode(SummaryPart())


def speak(reply: Reply) -> Generator[list[Frame], Event, None]:
    """Events in, the vendor's named events out. Prime with next(). The machine is finished when `Speech` is
    over: a late event raises StopIteration, a bug of its sender."""
    return spoken(Speech(reply))


def whole(reply: Reply, events: Iterable[Event]) -> bytes:
    """The JSON response that `events` add up to. A failure among them is raised."""
    answer = Speech(reply)
    for event in events:
        match event:
            case Text(text, logprobs):
                answer.text(text, logprobs)
            case Thought(text):
                answer.thought(text)
            case ToolCall():
                answer.call(event)
            case Stopped():
                answer.close(_status(event))
                return encode(answer.response(_status(event), event))
            case Failed(error):
                raise error
            case Started() | Prefilled():
                pass
    raise EngineFailed("the generation ended without a reason; send it again")


def _status(stopped: Stopped) -> Literal["completed", "incomplete"]:
    return "incomplete" if stopped.reason == "length" else "completed"


def _by_name(tools: tuple[Tool, ...]) -> dict[str, Tool]:
    """`tools` by what a model may call them. Small ones leave a namespace out, and are understood where
    that names one tool alone."""
    shorts = Counter(bare(tool) for tool in tools)
    short = {bare(tool): tool for tool in tools if shorts[bare(tool)] == 1}
    return short | {tool.name: tool for tool in tools}


class Speech:
    """What was said so far, and the events that say it. It is `over` when the answer has stopped, or at the
    first failure, which ends in two events."""

    def __init__(self, reply: Reply) -> None:
        self.over = False
        self._reply = reply
        self._ask = reply.ask or Ask(reply.model)
        self._tools = _by_name(self._ask.tools)
        self._said = Numbered()
        self._items: list[Item] = []
        self._open: Literal["", "text", "thought"] = ""
        self._pieces: list[str] = []
        self._logprobs: list[LogprobBody] = []
        # A delta of the open item as it goes out, with room for number and text; made when first wanted.
        self._mould = b""

    # -- the whole of it

    def begin(self) -> list[Frame]:
        """The response, with nothing in it yet."""
        empty = self.response("in_progress")
        return [
            self._said.response("response.created", "created", empty),
            self._said.response("response.in_progress", "created", empty),
        ]

    def say(self, event: Event) -> list[Frame]:
        """What `event` makes of it."""
        match event:
            case Text(text, logprobs):
                return self.text(text, logprobs)
            case Thought(text):
                return self.thought(text)
            case ToolCall() as call:
                return self.call(call)
            case Stopped() as stopped:
                self.over = True
                return self.end(stopped)
            case Failed(error):
                self.over = True
                return self.fail(error)
        return []

    def run(self, kind: Kind, texts: Sequence[str]) -> bytes:
        """The open item goes on with each of `texts`; b"" where none of that kind is open."""
        if self._open != kind:
            return b""
        if not self._mould:
            self._mould = self._moulded(
                *((_TEXT, _NEXT_TEXT) if kind == "text" else (_THOUGHT, _NEXT_THOUGHT))
            )
        self._pieces += texts
        mould, first = self._mould, self._said.next
        self._said.next += len(texts)
        return one_line(b"".join([mould % pair for pair in enumerate(map(encode, texts), first)]))

    def end(self, stopped: Stopped) -> list[Frame]:
        """The response is complete, or as complete as its limit lets it be."""
        status = _status(stopped)
        frames = self.close(status)
        return [
            *frames,
            self._said.response(f"response.{status}", "finish", self.response(status, stopped)),
        ]

    def fail(self, error: CortexError) -> list[Frame]:
        """The response has what was said, and says why that is not all. No event ends the open item: a
        client that goes by those would take it for an answer."""
        number = self._said.next
        self.close("incomplete")
        self._said.next = number
        response = self.response("failed")
        response.error = ErrorBody(error.code, error.message)
        return faults.pair(error, encode(response), self._said.next, self._reply.request_id)

    def response(self, status: Status, stopped: Stopped | None = None) -> ResponseBody:
        """The response as it stands."""
        ask = self._ask
        return ResponseBody(
            id=self._reply.id,
            created_at=self._reply.created,
            status=status,
            incomplete_details=CUT if status == "incomplete" else None,
            max_output_tokens=ask.max_tokens,
            model=self._reply.model,
            output=self._items,
            parallel_tool_calls=ask.parallel_tool_calls,
            temperature=ask.sampling.temperature,
            tool_choice=self._choice(),
            top_p=ask.sampling.top_p,
            usage=UsageBody.of(stopped.usage) if stopped else None,
        )

    def _choice(self) -> str | dict[str, Json]:
        choice = self._ask.tool_choice
        tool = self._tools.get(choice.name or "")
        if tool is None:
            return choice.mode
        told: dict[str, Json] = {"type": "custom" if tool.free_form else "function", "name": bare(tool)}
        return told | {"namespace": tool.namespace} if tool.namespace else told

    # -- its items

    def text(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> list[Frame]:
        """The answer goes on."""
        frames: list[Frame] = []
        if self._open != "text":
            frames = self.close()
            self._open, self._mould = "text", b""
            message = MessageItem(id=self._id("msg"), status="in_progress", content=[])
            frames += [self._added(message), self._inside("content_part.added", "open", _NO_TEXT)]
        told = self._told(logprobs)
        self._pieces.append(text)
        self._logprobs += told
        inner = b'"content_index":0,"delta":%b,"logprobs":%b' % (encode(text), encode(told))
        return [*frames, self._inside(_TEXT, "content", inner)]

    def thought(self, text: str) -> list[Frame]:
        """The reasoning goes on."""
        frames: list[Frame] = []
        if self._open != "thought":
            frames = self.close()
            self._open, self._mould = "thought", b""
            frames += [
                self._added(ReasoningItem(id=self._id("rs"), summary=[])),
                self._inside("reasoning_summary_part.added", "open", _NO_THOUGHT),
            ]
        self._pieces.append(text)
        return [*frames, self._inside(_THOUGHT, "thought", _NEXT_THOUGHT % encode(text))]

    def call(self, call: ToolCall) -> list[Frame]:
        """A whole call, as its client knows the tool."""
        frames = self.close()
        tool = self._tools.get(call.name) or Tool(call.name)
        namespace = tool.namespace or UNSET
        if tool.free_form:
            made: CustomItem | FunctionItem = CustomItem(
                id=self._id("ctc"),
                status="in_progress",
                call_id=call.id,
                name=bare(tool),
                namespace=namespace,
                input="",
            )
            name, field, value = "custom_tool_call_input", b"input", free_input(call.arguments)
        else:
            made = FunctionItem(
                id=self._id("fc"),
                status="in_progress",
                call_id=call.id,
                name=bare(tool),
                namespace=namespace,
                arguments="",
            )
            name, field, value = "function_call_arguments", b"arguments", call.arguments
        frames.append(self._added(made))
        text = encode(value)
        frames.append(self._inside(f"{name}.delta", "tool_call", b'"delta":%b' % text))
        frames.append(self._inside(f"{name}.done", "close", b'"%b":%b' % (field, text)))
        made.status = "completed"
        setattr(made, field.decode(), value)
        return [*frames, self._done()]

    def close(self, status: Literal["completed", "incomplete"] = "completed") -> list[Frame]:
        """No item is open; one that was has that status."""
        if not self._open:
            return []
        text = "".join(self._pieces)
        frames = self._close_message(text, status) if self._open == "text" else self._close_reasoning(text)
        self._open, self._pieces, self._logprobs = "", [], []
        return [*frames, self._done()]

    def _close_message(self, text: str, status: Literal["completed", "incomplete"]) -> list[Frame]:
        made = self._items[-1]
        assert isinstance(made, MessageItem)  # noqa: S101 - text is open
        part = TextPart(text, logprobs=self._logprobs)
        made.content, made.status = [part], status
        done = b'"content_index":0,"text":%b,"logprobs":%b' % (encode(text), encode(part.logprobs))
        return [
            self._inside("output_text.done", "close", done),
            self._inside("content_part.done", "close", b'"content_index":0,"part":%b' % encode(part)),
        ]

    def _close_reasoning(self, text: str) -> list[Frame]:
        made = self._items[-1]
        assert isinstance(made, ReasoningItem)  # noqa: S101 - a thought is open
        part = SummaryPart(text)
        made.summary = [part]
        made.encrypted_content = sealed(text) if self._ask.sealed_thoughts else None
        done = b'"summary_index":0,"text":%b' % encode(text)
        return [
            self._inside("reasoning_summary_text.done", "close", done),
            self._inside(
                "reasoning_summary_part.done", "close", b'"summary_index":0,"part":%b' % encode(part)
            ),
        ]

    # -- how it is said

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._reply.id.partition('_')[2] or self._reply.id}_{len(self._items)}"

    def _added(self, made: Item) -> Frame:
        self._items.append(made)
        return self._said.event("response.output_item.added", "open", item(len(self._items) - 1, made))

    def _inside(self, name: str, kind: str, inner: bytes) -> Frame:
        index = len(self._items) - 1
        return self._said.event(f"response.{name}", kind, at(index, self._items[index].id, inner))

    def _moulded(self, name: str, inner: bytes) -> bytes:
        index = len(self._items) - 1
        held = at(index, self._items[index].id.replace("%", "%%"), inner)
        return self._said.mould(f"response.{name}", held)

    def _done(self) -> Frame:
        index = len(self._items) - 1
        return self._said.event("response.output_item.done", "close", item(index, self._items[index]))

    def _told(self, logprobs: tuple[TokenLogprob, ...]) -> list[LogprobBody]:
        top = self._reply.logprobs
        return [] if top is None else [LogprobBody.of(token, top) for token in logprobs]
