"""An `Ask` becomes the body that an OpenAI-compatible engine is asked with.

Every field of the ask is in the body, or the ask is refused by the field's name: nothing is
dropped because the engine at the other end would not know it. What nobody said is not sent,
so that the engine's own defaults hold. A body asks for one answer as a stream, with its usage.
Pictures are data URLs. A tool's message holds text alone in a chat: its pictures begin the turn of
the user that comes next, or are one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from cortex.ask import Ask, Image, Json, Message, Tool, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.translator.openai_manners import Manner

# More tokens than any context of today has, where it is not known how long that is.
BEYOND_TOKENS: Final = 2**20
_SWITCHES: Final = ("enable_thinking", "thinking")


def write(ask: Ask, model: str, manner: Manner, context: int = 0) -> bytes:
    """The body for `ask`, whose model is called `model` there and has `context` tokens (0: not
    known). Raises Unsupported for a field that would be ignored there."""
    if ask.choices != 1:
        raise ValueError("a body asks for one answer; send one for each choice")
    said: dict[str, Json] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(ask, manner),
        **(_text(ask, manner, context) if ask.prompt is not None else _chat(ask, manner, context)),
        **_shape(ask),
    }
    if ask.stop:
        said["stop"] = list(ask.stop)
    try:
        return msgspec.json.encode(said)
    except UnicodeEncodeError as error:
        raise BadAsk("The request holds half of a surrogate pair, which is no character") from error


# -- sampling


def _sampling(ask: Ask, manner: Manner) -> dict[str, Json]:
    sampling = ask.sampling
    said: dict[str, Json] = {
        name: value
        for name in ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
        if (value := getattr(sampling, name)) is not None
    }
    if sampling.logit_bias:
        said["logit_bias"] = {str(token): amount for token, amount in sampling.logit_bias.items()}
    for name in said:
        if name in manner.ignores:
            raise _ignored(name, manner)
    for name, value, neutral in (
        ("top_k", sampling.top_k, 0),
        ("min_p", sampling.min_p, 0.0),
        ("repetition_penalty", sampling.repetition_penalty, 1.0),
    ):
        if value is None:
            continue
        if name in manner.names:
            said[manner.names[name]] = manner.no_top_k if name == "top_k" and value == 0 else value
        elif value != neutral:
            raise _ignored(name, manner)
    return said


def _ignored(name: str, manner: Manner) -> Unsupported:
    return Unsupported(
        f"'{name}' is not supported by the engine that serves this model (it speaks as {manner.kind} does, "
        "which would ignore it); leave it out",
        param=name,
    )


# -- a plain completion


def _text(ask: Ask, manner: Manner, context: int) -> dict[str, Json]:
    if ask.echo:
        raise Unsupported("'echo' is not passed on: the prompt is known here", param="echo")
    if ask.suffix:
        raise Unsupported("'suffix' is not passed on: engines ignore it in silence", param="suffix")
    # Without a limit engines stop after 16 tokens here, as the vendor does.
    limit = ask.max_tokens if ask.max_tokens is not None else context or BEYOND_TOKENS
    said: dict[str, Json] = {
        "prompt": ask.prompt if isinstance(ask.prompt, str) else list(ask.prompt or ()),
        "max_tokens": min(limit, context) if context else limit,
    }
    if ask.logprobs is not None:
        said["logprobs"] = max(ask.logprobs, manner.least_logprobs)
    return said


# -- a chat


def _chat(ask: Ask, manner: Manner, context: int) -> dict[str, Json]:
    said: dict[str, Json] = {"messages": [_message(turn, manner) for turn in _turns(ask.messages)]}
    # As much as the context has or more is no limit: the answer runs to its end.
    if ask.max_tokens is not None and not (context and ask.max_tokens >= context):
        said["max_tokens"] = ask.max_tokens
    if ask.logprobs is not None:
        said["logprobs"], said["top_logprobs"] = True, max(ask.logprobs, manner.least_logprobs)
    return {**said, **_tools(ask, manner), **_template(ask, manner)}


def _turns(messages: Sequence[Message]) -> Iterator[Message]:
    shown: tuple[Image, ...] = ()
    for message in messages:
        if message.role == "tool":
            shown += tuple(replace(image, at=0) for image in message.images)
            yield replace(message, images=())
        elif shown and message.role == "user" and message.name is None:
            yield replace(message, images=shown + message.images)
            shown = ()
        else:
            if shown:
                yield Message("user", images=shown)
                shown = ()
            yield message
    if shown:
        yield Message("user", images=shown)


def _content(message: Message) -> Json:
    if not message.images:
        return message.text
    parts: list[Json] = []
    begin = 0
    for image in message.images:
        if image.at > begin:
            parts.append({"type": "text", "text": message.text[begin : image.at]})
            begin = image.at
        parts.append(_picture(image))
    if begin < len(message.text):
        parts.append({"type": "text", "text": message.text[begin:]})
    return parts


def _picture(image: Image) -> Json:
    said: dict[str, Json] = {"url": f"data:{image.media_type};base64,{image.data}"}
    if image.detail is not None:
        said["detail"] = image.detail
    return {"type": "image_url", "image_url": said}


def _message(message: Message, manner: Manner) -> Json:
    said: dict[str, Json] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        said["content"] = message.text or None
        said["tool_calls"] = [_call(use) for use in message.tool_calls]
    if message.thought:
        said[manner.thought] = message.thought
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        said["name"] = message.name
    return said


def _call(use: ToolUse) -> Json:
    return {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.arguments}}


def _tools(ask: Ask, manner: Manner) -> dict[str, Json]:
    choice = ask.tool_choice
    mute = "tool_choice" in manner.ignores
    if not ask.tools or (mute and choice.mode == "none"):
        return {}  # who may not be called need not be named
    said: dict[str, Json] = {"tools": [_tool(tool) for tool in ask.tools]}
    if choice.mode != "auto":
        if mute:
            raise _ignored("tool_choice", manner)
        said["tool_choice"] = choice.mode
    if choice.mode == "named":
        said["tool_choice"] = _named(ask, manner)
    if not ask.parallel_tool_calls:
        said["parallel_tool_calls"] = False
    return said


def _named(ask: Ask, manner: Manner) -> Json:
    if manner.names_tools:
        return {"type": "function", "function": {"name": ask.tool_choice.name}}
    if len(ask.tools) == 1:
        return "required"
    raise Unsupported(
        "'tool_choice' that names one of several tools is not supported by the engine that serves this model "
        f"(it speaks as {manner.kind} does, which would ignore it); send that tool alone, or say required",
        param="tool_choice",
    )


def _tool(tool: Tool) -> Json:
    function: dict[str, Json] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = dict(tool.parameters)
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _shape(ask: Ask) -> dict[str, Json]:
    match ask.shape:
        case None:
            return {}
        case shape if shape.kind == "json_object":
            return {"response_format": {"type": "json_object"}}
        case shape:
            schema: Json = {"name": "answer", "schema": dict(shape.schema or {}), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}


# -- what the template is told


def _template(ask: Ask, manner: Manner) -> dict[str, Json]:
    if manner.takes_kwargs:
        # Not to think is a condition there, and a model that cannot but think would refuse.
        unsaid = {name for name in ask.wishes & {*_SWITCHES} if manner.strict and not ask.template[name]}
        return _kwargs({name: said for name, said in ask.template.items() if name not in unsaid}, manner)
    # A wish that has no words there is not said.
    heard = {"reasoning_effort", *_SWITCHES}
    return _effort(
        {name: ask.template[name] for name in ask.template if name in heard or name not in ask.wishes}, manner
    )


def _kwargs(template: Mapping[str, str | bool | int | float], manner: Manner) -> dict[str, Json]:
    kwargs: dict[str, Json] = {**template}
    said: dict[str, Json] = {}
    if manner.flat_effort and "reasoning_effort" in kwargs:
        said["reasoning_effort"] = kwargs.pop("reasoning_effort")
    if kwargs:
        said["chat_template_kwargs"] = kwargs
    return said


def _effort(template: Mapping[str, str | bool | int | float], manner: Manner) -> dict[str, Json]:
    """Where the template cannot be told anything, the vendor's one field has to do."""
    for name in template.keys() - {"reasoning_effort", *_SWITCHES}:
        raise _ignored(f"chat_template_kwargs.{name}", manner)
    effort: Json = template.get("reasoning_effort")
    off = next(_refusals(template), None)
    if off is not None and effort is not None:
        raise BadAsk(f"'{off}' false contradicts reasoning_effort '{effort}'; send one", param=off)
    if off is not None:
        effort = "none"
    # `true` allows thoughts, which they do by themselves.
    return {} if effort is None else {"reasoning_effort": effort}


def _refusals(template: Mapping[str, str | bool | int | float]) -> Iterator[str]:
    """The switches that forbid thoughts."""
    return (name for name in _SWITCHES if template.get(name) is False)
