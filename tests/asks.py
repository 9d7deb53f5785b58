"""Rich asks, and the bodies that say them: one writer a dialect, each by the vendor's reference alone.

A writer says all that its dialect has words for, and steps over the rest. What that is, `losses` names.
"""

import base64
import json
from itertools import groupby
from typing import Any, Final

from hypothesis import strategies as st

from cortex.ask import Ask, Image, Json, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.translator.free_tools import PARAMETERS
from cortex.translator.responses_turns import sealed

EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
PIXEL: Final = base64.b64encode(
    bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de")
    + bytes.fromhex("0000000c4944415408d763f8ffff3f0005fe02fe0def46b80000000049454e44ae426082")
).decode()
SCHEMA: Final[dict[str, Json]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Zürich", "東京"]}, "days": {"maximum": 2**53 - 1}},
    "additionalProperties": False,
}
TEXTS: Final = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\u2028\u0000\n"\\{}é😀'), max_size=12
)
WORDS: Final = TEXTS.filter(str.strip)
_NAMES: Final = st.from_regex(r"[a-z][a-z0-9.-]{0,11}", fullmatch=True)
KEYS: Final = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


def compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# -- what there is to say


@st.composite
def pictures(draw: st.DrawFn, text: str) -> tuple[Image, ...]:
    ats = sorted(draw(st.lists(st.integers(0, len(text)), max_size=2)))
    details = st.none() | st.sampled_from(["low", "high"])
    return tuple(Image("image/png", PIXEL, at, draw(details)) for at in ats)


@st.composite
def tools(draw: st.DrawFn) -> tuple[Tool, ...]:
    made = []
    for name in draw(st.lists(_NAMES, max_size=3, unique=True)):
        said = draw(TEXTS)
        space = draw(st.sampled_from(["", "", "agents"]))
        called = f"{space}__{name}" if space else name
        if draw(st.booleans()):
            parameters = draw(st.sampled_from([{}, SCHEMA]))
            made.append(Tool(called, said, parameters, draw(st.booleans()), space))
        else:
            made.append(Tool(called, said, PARAMETERS, namespace=space, free_form=True))
    return tuple(made)


@st.composite
def _rounds(draw: st.DrawFn, names: tuple[str, ...]) -> list[Message]:
    """What the assistant said, and what came of its calls."""
    uses = tuple(
        ToolUse(key, draw(st.sampled_from(names or ("gone",))), compact(draw(ARGUMENTS)))
        for key in draw(st.lists(KEYS, max_size=3, unique=True))
    )
    said = Message("assistant", draw(TEXTS), draw(st.just("") | WORDS), uses)
    results = []
    for use in draw(st.permutations(uses)):
        text = draw(TEXTS)
        results.append(Message("tool", text, tool_call_id=use.id, images=draw(pictures(text))))
    return [said, *results]


@st.composite
def dialogues(draw: st.DrawFn, names: tuple[str, ...] = ()) -> tuple[Message, ...]:
    turns: list[Message] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            turns.append(Message("system", draw(WORDS)))
        if draw(st.integers(0, 3)):
            text = draw(TEXTS)
            name = draw(st.none() | _NAMES)
            turns.append(Message("user", text, name=name, images=draw(pictures(text))))
        elif not turns:
            turns.append(Message("user", "hi"))
        if draw(st.booleans()) and turns[-1].role != "assistant":
            turns += draw(_rounds(names))
    if all(turn.role == "system" for turn in turns):
        turns.append(Message("user", "hi"))
    return tuple(turns)


ARGUMENTS: Final = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(st.none(), max_size=2), max_size=2)
SAMPLINGS: Final = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    top_k=st.none() | st.integers(0, 200),
    min_p=st.none() | st.floats(0, 1),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    presence_penalty=st.none() | st.floats(-2, 2),
    frequency_penalty=st.none() | st.floats(-2, 2),
    repetition_penalty=st.none() | st.floats(0.1, 3),
    logit_bias=st.none()
    | st.dictionaries(st.integers(0, 9000), st.floats(-100, 100), min_size=1, max_size=3),
)
_SHAPES: Final = st.none() | st.sampled_from([Shape("json_object"), Shape("json_schema", SCHEMA)])
_TEMPLATES: Final = st.fixed_dictionaries(
    {},
    optional={
        "enable_thinking": st.booleans(),
        "reasoning_effort": st.sampled_from(EFFORTS),
        "clear_thinking": st.booleans(),
        "thinking_budget": st.integers(0, 100),
    },
)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """A chat with everything in it that any dialect has words for."""
    given = draw(tools())
    choices = [ToolChoice("auto"), ToolChoice("none")]
    if given:
        choices += [ToolChoice("required"), *(ToolChoice("named", tool.name) for tool in given)]
    stream = draw(st.booleans())
    template = draw(_TEMPLATES)
    return Ask(
        model=draw(WORDS),
        messages=draw(dialogues(tuple(tool.name for tool in given))),
        sampling=draw(SAMPLINGS),
        max_tokens=draw(st.none() | st.integers(1, 2**40)),
        stop=tuple(draw(st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))),
        n=draw(st.sampled_from([1, 1, 2])),
        tools=given,
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.booleans()),
        shape=draw(_SHAPES),
        logprobs=draw(st.none() | st.integers(0, 20)),
        stream=stream,
        include_usage=stream and draw(st.booleans()),
        template=template,
        wishes=frozenset(draw(st.sampled_from([(), tuple(template)]))),
        sealed_thoughts=draw(st.booleans()),
    )


# -- what says it


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _sampled(ask: Ask) -> dict[str, Any]:
    names = set(Sampling.__slots__) - {"logit_bias"}
    return {name: getattr(ask.sampling, name) for name in sorted(names)}


def _bias(ask: Ask) -> dict[str, float] | None:
    bias = ask.sampling.logit_bias
    return None if bias is None else {str(token): amount for token, amount in bias.items()}


def _pieces(turn: Message) -> list[str | Image]:
    """Texts and pictures of a turn in their order."""
    pieces: list[str | Image] = []
    begin = 0
    for image in turn.images:
        pieces += [turn.text[begin : image.at], image]
        begin = image.at
    return [*pieces, turn.text[begin:]]


def chat(ask: Ask) -> bytes:
    """As OpenAI's Chat Completions has it."""
    shape = ask.shape and {
        "type": ask.shape.kind,
        **({"json_schema": {"name": "n", "schema": ask.shape.schema}} if ask.shape.schema else {}),
    }
    choice = ask.tool_choice
    kinds = {tool.name: "custom" if tool.free_form else "function" for tool in ask.tools}
    body = {
        "model": ask.model,
        "messages": [_chat_turn(turn) for turn in ask.messages],
        **_sampled(ask),
        "logit_bias": _bias(ask),
        "max_completion_tokens": ask.max_tokens,
        "stop": list(ask.stop) or None,
        "n": ask.n,
        "tools": [_chat_tool(tool) for tool in ask.tools] or None,
        "tool_choice": choice.mode
        if choice.name is None
        else {"type": kinds[choice.name], kinds[choice.name]: {"name": choice.name}},
        "parallel_tool_calls": ask.parallel_tool_calls,
        "response_format": shape,
        "logprobs": True if ask.logprobs is not None else None,
        "top_logprobs": ask.logprobs,
        "stream": ask.stream,
        "stream_options": {"include_usage": ask.include_usage} if ask.stream else None,
        "chat_template_kwargs": dict(ask.template) or None,
    }
    return compact(_said(body)).encode()


def _chat_turn(turn: Message) -> dict[str, Any]:
    content: Any = turn.text
    if turn.images:
        content = [_chat_part(piece) for piece in _pieces(turn)]
    uses = [
        {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.arguments}}
        for use in turn.tool_calls
    ]
    fields = {
        "role": turn.role,
        "content": content,
        "name": turn.name,
        "tool_call_id": turn.tool_call_id,
        "tool_calls": uses or None,
        "reasoning_content": turn.thought or None,
    }
    return _said(fields)


def _chat_part(piece: str | Image) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    url = f"data:{piece.media_type};base64,{piece.data}"
    return {"type": "image_url", "image_url": _said({"url": url, "detail": piece.detail})}


def _chat_tool(tool: Tool) -> dict[str, Any]:
    if tool.free_form:
        return {"type": "custom", "custom": {"name": tool.name, "description": tool.description}}
    function = {"name": tool.name, "description": tool.description, "strict": tool.strict}
    return {"type": "function", "function": {**function, "parameters": dict(tool.parameters)}}


def messages(ask: Ask) -> bytes:
    """As Anthropic's Messages has it."""
    modes = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}
    choice = {"type": modes[ask.tool_choice.mode], "name": ask.tool_choice.name}
    switch, effort = ask.template.get("enable_thinking"), ask.template.get("reasoning_effort")
    thinking = {None: None, True: {"type": "adaptive"}, False: {"type": "disabled"}}[switch]  # type: ignore[index]
    form = {"type": "json_schema", "schema": ask.shape.schema} if ask.shape and ask.shape.schema else None
    first, rest = ask.messages[0], ask.messages
    if first.role == "system":
        rest = ask.messages[1:]
    body = {
        "model": ask.model,
        "system": first.text if first.role == "system" else None,
        "messages": list(_turns_of_blocks(rest)),
        **_sampled(ask),
        "logit_bias": _bias(ask),
        "max_tokens": ask.max_tokens,
        "stop_sequences": list(ask.stop) or None,
        "tools": [_block_tool(tool) for tool in ask.tools] or None,
        "tool_choice": _said({**choice, "disable_parallel_tool_use": not ask.parallel_tool_calls}),
        "thinking": thinking,
        "output_config": _said({"effort": effort, "format": form}) or None,
        "stream": ask.stream,
        "metadata": {"user_id": "u"},
    }
    return compact(_said(body)).encode()


def _turns_of_blocks(turns: tuple[Message, ...]) -> Any:
    """Results of a round are blocks of one turn of the user's."""
    for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
        if is_tool:
            yield {"role": "user", "content": [_result(turn) for turn in group]}
        else:
            yield from ({"role": turn.role, "content": _blocks(turn)} for turn in group)


def _result(turn: Message) -> dict[str, Any]:
    content = [_block(piece) for piece in _pieces(turn)]
    return {"type": "tool_result", "tool_use_id": turn.tool_call_id, "content": content}


def _blocks(turn: Message) -> list[dict[str, Any]]:
    thought = [{"type": "thinking", "thinking": turn.thought, "signature": "s"}] if turn.thought else []
    uses = [
        {"type": "tool_use", "id": use.id, "name": use.name, "input": json.loads(use.arguments)}
        for use in turn.tool_calls
    ]
    return [*thought, *(_block(piece) for piece in _pieces(turn)), *uses]


def _block(piece: str | Image) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece, "cache_control": {"type": "ephemeral"}}
    source = {"type": "base64", "media_type": piece.media_type, "data": piece.data}
    return {"type": "image", "source": source}


def _block_tool(tool: Tool) -> dict[str, Any]:
    said = {"name": tool.name, "description": tool.description, "strict": tool.strict}
    return {**said, "input_schema": dict(tool.parameters)}


def responses(ask: Ask) -> bytes:
    """As OpenAI's Responses has it."""
    effort = ask.template.get("reasoning_effort")
    if ask.template.get("enable_thinking") is False:
        effort = "none"
    choice = ask.tool_choice
    tool = next((tool for tool in ask.tools if tool.name == choice.name), None)
    include = ["reasoning.encrypted_content"] if ask.sealed_thoughts else []
    if ask.logprobs is not None:
        include.append("message.output_text.logprobs")
    body = {
        "model": ask.model,
        "input": [item for turn in ask.messages for item in _items(turn)],
        **_sampled(ask),
        "max_output_tokens": ask.max_tokens,
        "tools": [_item_tool(each) for each in ask.tools] or None,
        "tool_choice": choice.mode if tool is None else _said(_reference(tool)),
        "parallel_tool_calls": ask.parallel_tool_calls,
        "text": {"format": {"type": ask.shape.kind, "name": "n", "schema": ask.shape.schema}}
        if ask.shape
        else None,
        "top_logprobs": ask.logprobs,
        "include": include,
        "reasoning": {"effort": effort, "summary": "auto"} if effort else None,
        "stream": ask.stream,
        "store": False,
    }
    return compact(_said(body)).encode()


def _bare(tool: Tool) -> str:
    return tool.name.removeprefix(f"{tool.namespace}__")


def _reference(tool: Tool) -> dict[str, Any]:
    kind = "custom" if tool.free_form else "function"
    return {"type": kind, "name": _bare(tool), "namespace": tool.namespace or None}


def _item_tool(tool: Tool) -> dict[str, Any]:
    said: dict[str, Any] = {"type": "custom", "name": _bare(tool), "description": tool.description}
    if not tool.free_form:
        said |= {"type": "function", "parameters": dict(tool.parameters), "strict": tool.strict}
    return {"type": "namespace", "name": tool.namespace, "tools": [said]} if tool.namespace else said


def _items(turn: Message) -> Any:
    if turn.role == "tool":
        output = [_item_part(piece) for piece in _pieces(turn)]
        yield {"type": "function_call_output", "call_id": turn.tool_call_id, "output": output}
    elif turn.role != "assistant":
        role = {"system": "developer", "user": "user"}[turn.role]
        yield {"type": "message", "role": role, "content": [_item_part(piece) for piece in _pieces(turn)]}
    else:
        if turn.thought:
            yield {"type": "reasoning", "summary": [], "encrypted_content": sealed(turn.thought)}
        if turn.text or not (turn.thought or turn.tool_calls):
            yield {"role": "assistant", "content": [{"type": "output_text", "text": turn.text}]}
        for use in turn.tool_calls:
            call = {"call_id": use.id, "name": use.name, "arguments": use.arguments}
            yield {"type": "function_call", "id": "fc_1", "status": "completed", **call}


def _item_part(piece: str | Image) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "input_text", "text": piece}
    url = f"data:{piece.media_type};base64,{piece.data}"
    return _said({"type": "input_image", "image_url": url, "detail": piece.detail})
