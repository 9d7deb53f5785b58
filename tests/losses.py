"""What is lost on the way through a dialect, by name: each is a row of docs/dialects.md, and that is all.

`READ` are pairs of bodies that are one and the same ask. `UNSAID` is what a dialect has no words for,
`RETOLD` what is not told to a neuron or an engine that knows OpenAI's chat alone, `REFUSED` what an
engine would ignore, `ANSWERED` what an answer does not tell in a dialect: each makes of the whole what is
left of it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final, Generic, TypeVar

from msgspec import structs

from cortex.ask import Ask, Image, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.events import Event, Stopped, Text, Thought, TokenLogprob, ToolCall, Usage
from tests.asks import EFFORTS, SCHEMA

T = TypeVar("T")
HI: Final = (Message("user", "hi"),)


@dataclass(frozen=True)
class Loss(Generic[T]):
    """`where` are the dialects in which `lose` happens to something like `example`."""

    where: tuple[str, ...]
    lose: Callable[[T], T]
    example: T


def after(losses: Iterable[Loss[T]], where: str, whole: T) -> T:
    """What is left of `whole`."""
    for loss in losses:
        if where in loss.where or where.removesuffix(" whole") in loss.where:
            whole = loss.lose(whole)
    return whole


# -- of requests: what a dialect has no words for


def _without(**fields: Any) -> Callable[[Ask], Ask]:
    return lambda ask: replace(ask, **fields)


def _of_turns(change: Callable[[Message], Message]) -> Callable[[Ask], Ask]:
    return lambda ask: replace(ask, messages=tuple(map(change, ask.messages)))


def _of_tools(change: Callable[[Tool], Tool]) -> Callable[[Ask], Ask]:
    return lambda ask: replace(ask, tools=tuple(map(change, ask.tools)))


def _plain_pictures(turn: Message) -> Message:
    return replace(turn, images=tuple(replace(image, detail=None) for image in turn.images))


def _in_call_order(ask: Ask) -> Ask:
    turns: list[Message] = []
    places: list[str] = []
    for is_tool, group in groupby(ask.messages, key=lambda turn: turn.role == "tool"):
        run = list(group)
        if is_tool:
            run.sort(key=lambda turn: places.index(turn.tool_call_id or ""))
        else:
            places = [use.id for use in run[-1].tool_calls]
        turns += run
    return replace(ask, messages=tuple(turns))


def _thinking_of_messages(ask: Ask) -> Ask:
    said = {
        name: ask.template[name] for name in ("enable_thinking", "reasoning_effort") if name in ask.template
    }
    if said.get("enable_thinking") is False:
        said = {"enable_thinking": False}
    return replace(ask, template=said)


def _thinking_of_responses(ask: Ask) -> Ask:
    if ask.template.get("enable_thinking") is False:
        return replace(ask, template={"enable_thinking": False})
    effort = ask.template.get("reasoning_effort")
    return replace(ask, template={} if effort is None else {"reasoning_effort": effort})


_PICTURE: Final = (Message("user", "look", images=(Image("image/png", "AAAA", 4, "high"),)),)
_CALLS: Final = (
    *HI,
    Message("assistant", tool_calls=(ToolUse("a", "now", "{}"), ToolUse("b", "now", "{}"))),
    Message("tool", "2", tool_call_id="b"),
    Message("tool", "1", tool_call_id="a"),
)

UNSAID: Final[dict[str, Loss[Ask]]] = {
    "several-answers": Loss(("messages", "responses"), _without(n=1), Ask("m", HI, n=2)),
    "stop-strings": Loss(("responses",), _without(stop=()), Ask("m", HI, stop=("END",))),
    "bias": Loss(
        ("responses",),
        lambda ask: replace(ask, sampling=replace(ask.sampling, logit_bias=None)),
        Ask("m", HI, sampling=Sampling(logit_bias={5: 1.0})),
    ),
    "scores": Loss(("messages",), _without(logprobs=None), Ask("m", HI, logprobs=2)),
    "usage-wanted": Loss(
        ("messages", "responses"),
        _without(include_usage=False),
        Ask("m", HI, stream=True, include_usage=True),
    ),
    "any-object": Loss(
        ("messages",),
        lambda ask: replace(ask, shape=None if ask.shape == Shape("json_object") else ask.shape),
        Ask("m", HI, shape=Shape("json_object")),
    ),
    "names-of-speakers": Loss(
        ("messages", "responses"),
        _of_turns(lambda turn: replace(turn, name=None)),
        Ask("m", (Message("user", "hi", name="max"),)),
    ),
    "detail-of-pictures": Loss(("messages",), _of_turns(_plain_pictures), Ask("m", _PICTURE)),
    "namespaces": Loss(
        ("chat", "messages"),
        _of_tools(lambda tool: replace(tool, namespace="")),
        Ask("m", HI, tools=(Tool("agents__close", namespace="agents"),)),
    ),
    "custom-tools": Loss(
        ("messages",),
        _of_tools(lambda tool: replace(tool, free_form=False)),
        Ask("m", HI, tools=(Tool("patch", free_form=True),)),
    ),
    "words-to-the-template": Loss(
        ("messages",), _thinking_of_messages, Ask("m", HI, template={"clear_thinking": True})
    ),
    "one-word-of-thinking": Loss(
        ("responses",),
        _thinking_of_responses,
        Ask("m", HI, template={"enable_thinking": True, "reasoning_effort": EFFORTS[0]}),
    ),
    "thinking-is-wished": Loss(
        ("messages", "responses"),
        lambda ask: replace(ask, wishes=frozenset(ask.template)),
        Ask("m", HI, template={"reasoning_effort": "low"}),
    ),
    "thinking-is-demanded": Loss(
        ("chat",),
        _without(wishes=frozenset()),
        Ask("m", HI, template={"reasoning_effort": "low"}, wishes=frozenset({"reasoning_effort"})),
    ),
    "sealed-thoughts": Loss(
        ("chat", "messages"), _without(sealed_thoughts=False), Ask("m", HI, sealed_thoughts=True)
    ),
    "results-in-order": Loss(("messages", "responses"), _in_call_order, Ask("m", _CALLS)),
}

# -- of requests: what is not told to who knows OpenAI's chat alone


def _pictures_of_results(ask: Ask) -> Ask:
    """They stand before what the user says next, or in a turn of their own."""
    turns: list[Message] = []
    shown: tuple[Image, ...] = ()
    for turn in ask.messages:
        if turn.role == "tool":
            shown += tuple(replace(image, at=0) for image in turn.images)
            turns.append(replace(turn, images=()))
            continue
        joins = turn.role == "user" and turn.name is None
        if shown and not joins:
            turns.append(Message("user", images=shown))
        turns.append(replace(turn, images=shown + turn.images) if joins else turn)
        shown = ()
    return replace(ask, messages=(*turns, *([Message("user", images=shown)] if shown else [])))


def _wishes(ask: Ask) -> Ask:
    """A wish not to think is not said: a model that cannot but think would refuse."""
    unsaid = {name for name in ask.wishes & {"enable_thinking", "thinking"} if not ask.template[name]}
    said = {name: value for name, value in ask.template.items() if name not in unsaid}
    return replace(ask, template=said, wishes=frozenset())


def _no_choice(ask: Ask) -> Ask:
    return ask if ask.tools else replace(ask, tool_choice=ToolChoice(), parallel_tool_calls=True)


_SEEN: Final = (*HI, Message("tool", "", tool_call_id="a", images=(Image("image/png", "AAAA"),)))
_NAMESPACED: Final = (Tool("agents__patch", "d", SCHEMA, namespace="agents", free_form=True),)
RETOLD: Final[dict[str, Loss[Ask]]] = {
    "always-a-stream": Loss(("chat",), _without(stream=True, include_usage=True), Ask("m", HI)),
    "kept-for-the-answer": Loss(
        ("chat",),
        lambda ask: replace(
            _of_tools(lambda tool: replace(tool, namespace="", free_form=False))(ask), sealed_thoughts=False
        ),
        Ask("m", HI, tools=_NAMESPACED, sealed_thoughts=True),
    ),
    "pictures-of-results": Loss(("chat",), _pictures_of_results, Ask("m", _SEEN)),
    "wishes": Loss(
        ("chat",),
        _wishes,
        Ask("m", HI, template={"enable_thinking": False}, wishes=frozenset({"enable_thinking"})),
    ),
    "choice-without-tools": Loss(("chat",), _no_choice, Ask("m", HI, tool_choice=ToolChoice("none"))),
}

# -- of answers

Events = tuple[Event, ...]
_END: Final = Stopped("stop", Usage(1, 0, 1))


def _of_end(change: Callable[[Stopped], Stopped]) -> Callable[[Events], Events]:
    return lambda events: tuple(change(event) if isinstance(event, Stopped) else event for event in events)


def _of_usage(**fields: Any) -> Callable[[Events], Events]:
    return _of_end(lambda end: replace(end, usage=structs.replace(end.usage, **fields)))


def _unscored(events: Events) -> Events:
    return tuple(replace(event, logprobs=()) if isinstance(event, Text) else event for event in events)


def _sorted_by_kind(events: Events) -> Events:
    """A whole chat message has one thought, one text and its calls, in this order."""
    kinds: tuple[type, ...] = (Thought, Text, ToolCall, Stopped)
    return merged(event for kind in kinds for event in events if isinstance(event, kind))


def _unthought(events: Events) -> Events:
    return merged(Text(event.text) if isinstance(event, Thought) else event for event in events)


def _calls_late(events: Events) -> Events:
    """A call is whole when the next one begins, or at the end."""
    said: list[Event] = []
    held: list[Event] = []
    for event in events:
        if isinstance(event, ToolCall | Stopped):
            said += held
            held = [event]
        else:
            said.append(event)
    return merged([*said, *held])


def _no_calls(end: Stopped) -> Stopped:
    return replace(end, reason="stop" if end.reason == "tool_calls" else end.reason)


def merged(events: Iterable[Event]) -> Events:
    """`events`, those side by side of one kind being one."""
    said: list[Event] = []
    for event in events:
        last = said[-1] if said else None
        if isinstance(event, Text) and isinstance(last, Text):
            said[-1] = Text(last.text + event.text, last.logprobs + event.logprobs)
        elif isinstance(event, Thought) and isinstance(last, Thought):
            said[-1] = Thought(last.text + event.text)
        else:
            said.append(event)
    return tuple(said)


_SCORED: Final[Events] = (Text("a", (TokenLogprob("a", -0.5, (("b", -1.0),)),)), _END)
ANSWERED: Final[dict[str, Loss[Events]]] = {
    "no-scores": Loss(("messages",), _unscored, _SCORED),
    "stop-string-that-ended-it": Loss(
        ("chat", "text", "responses"),
        _of_end(lambda end: replace(end, stop=None)),
        (Text("a"), replace(_END, stop="END")),
    ),
    "reasoning-tokens": Loss(
        ("messages",), _of_usage(reasoning=0), (Text("a"), Stopped("stop", Usage(1, 0, 3, 2)))
    ),
    "guessed-figures": Loss(
        ("messages",),
        _of_usage(estimated=False),
        (Text("a"), Stopped("stop", Usage(1, 0, 3, estimated=True))),
    ),
    "order-of-a-message": Loss(("chat whole",), _sorted_by_kind, (Text("a"), Thought("b"), Text("c"), _END)),
    "text-behind-a-call": Loss(
        ("heard",), _calls_late, (ToolCall("c", "now", "{}"), Text("a"), replace(_END, reason="tool_calls"))
    ),
    "thoughts-as-text": Loss(("text",), _unthought, (Thought("a"), Text("b"), _END)),
    "calls-are-no-end": Loss(
        ("responses",), _of_end(_no_calls), (ToolCall("c", "now", "{}"), replace(_END, reason="tool_calls"))
    ),
}

# -- of requests: what an engine would ignore, with the kinds that do, and the field

REFUSED: Final[dict[str, tuple[Ask, tuple[str, ...], str]]] = {
    "sampling-of-local-engines": (Ask("m", HI, sampling=Sampling(top_k=5)), ("openai", "ollama"), "top_k"),
    "ignored-bias": (Ask("m", HI, sampling=Sampling(logit_bias={1: 5.0})), ("ollama",), "logit_bias"),
    "ignored-seed": (Ask("m", HI, sampling=Sampling(seed=1)), ("tabbyapi",), "seed"),
    "ignored-choice": (
        Ask("m", HI, tools=(Tool("a"), Tool("b")), tool_choice=ToolChoice("named", "a")),
        ("llamacpp", "ollama"),
        "tool_choice",
    ),
    "template-out-of-reach": (
        Ask("m", HI, template={"clear_thinking": True}),
        ("openai", "ollama"),
        "chat_template_kwargs.clear_thinking",
    ),
    "gaps": (Ask("m", prompt="x", suffix="y"), ("cortex", "vllm", "openai"), "suffix"),
}

# -- of requests: two ways to say one thing

_USE: Final = {"type": "tool_use", "id": "t", "name": "now", "input": {}}
_ITEM: Final = {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"}


def _result(**more: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": "t", **more}
    return {"messages": [{"role": "assistant", "content": [_USE]}, {"role": "user", "content": [block]}]}


def _assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [*blocks]}]}


def _chat(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}, *turns], **more}


READ: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "failed-results": (
        "messages",
        _result(content="no such file", is_error=True),
        _result(content="no such file"),
    ),
    "silent-failures": ("messages", _result(is_error=True), _result(content="error")),
    "signatures": (
        "messages",
        _assistant(
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"}, {"type": "text", "text": "a"}
        ),
        _assistant({"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}),
    ),
    "encrypted-thoughts": (
        "messages",
        _assistant({"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}),
        _assistant({"type": "text", "text": "a"}),
    ),
    "marks-for-a-cache": (
        "messages",
        _assistant({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}),
        _assistant({"type": "text", "text": "a"}),
    ),
    "billing-block": (
        "messages",
        {
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=1;"},
                {"type": "text", "text": "s"},
            ],
            "messages": [{"role": "user", "content": "hi"}],
        },
        {"system": "s", "messages": [{"role": "user", "content": "hi"}]},
    ),
    "borders-of-parts": (
        "chat",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]}]},
        {"messages": [{"role": "user", "content": "ab"}]},
    ),
    "order-within-a-turn": (
        "messages",
        _assistant({"type": "text", "text": "a"}, _USE, {"type": "text", "text": "b"}),
        _assistant({"type": "text", "text": "ab"}, _USE),
    ),
    "budget-of-thoughts": (
        "messages",
        {**_assistant(), "thinking": {"type": "enabled", "budget_tokens": 2000}},
        {**_assistant(), "thinking": {"type": "adaptive"}},
    ),
    "tools-of-the-vendor": (
        "messages",
        {**_assistant(), "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        _assistant(),
    ),
    "work-of-the-vendors-tools": (
        "messages",
        _assistant(
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            {"type": "text", "text": "a"},
        ),
        _assistant({"type": "text", "text": "a"}),
    ),
    "files-in-containers": (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "container_upload", "file_id": "f"}, {"type": "text", "text": "hi"}],
                }
            ]
        },
        {"messages": [{"role": "user", "content": "hi"}]},
    ),
    "developers": (
        "chat",
        _chat({"role": "developer", "content": "d"}),
        _chat({"role": "system", "content": "d"}),
    ),
    "refusals-of-earlier": (
        "chat",
        _chat({"role": "assistant", "refusal": "no"}),
        _chat({"role": "assistant", "content": "no"}),
    ),
    "schema-names": (
        "chat",
        _chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}),
        _chat(response_format={"type": "json_schema", "json_schema": {"name": "b", "schema": SCHEMA}}),
    ),
    "items-of-a-turn": (
        "responses",
        {"input": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}, _ITEM]},
        {"input": [{"role": "user", "content": "hi"}, _ITEM, {"role": "assistant", "content": "a"}]},
    ),
    "thoughts-that-others-sealed": (
        "responses",
        {"input": [{"role": "user", "content": "hi"}, {"type": "reasoning", "encrypted_content": "Z0FB"}]},
        {"input": [{"role": "user", "content": "hi"}, {"type": "reasoning", "summary": []}]},
    ),
    "grammars-of-tools": (
        "responses",
        {
            "input": "hi",
            "tools": [
                {
                    "type": "custom",
                    "name": "p",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "d"},
                }
            ],
        },
        {
            "input": "hi",
            "tools": [
                {"type": "custom", "name": "p", "description": "The input follows this grammar (lark):\nd"}
            ],
        },
    ),
    "hosted-tools": ("responses", {"input": "hi", "tools": [{"type": "web_search"}]}, {"input": "hi"}),
    "work-of-hosted-tools": (
        "responses",
        {
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "q"}},
                {"role": "assistant", "content": "a"},
            ]
        },
        {"input": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]},
    ),
    "sealed-compactions": (
        "responses",
        {"input": [{"type": "compaction", "encrypted_content": "Z0FB"}, {"role": "user", "content": "hi"}]},
        {"input": [{"role": "user", "content": "hi"}]},
    ),
    "summaries": ("responses", {"input": "hi", "reasoning": {"summary": "auto"}}, {"input": "hi"}),
}
