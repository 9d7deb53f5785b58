"""POST /v1/responses: body to `Ask`. What is answered is spoken by `responses_speech`.

`read` obeys every field it knows, refuses by name what cortex cannot do, and skips unknown
fields. Nothing is kept here between requests, so that whatever refers to an earlier answer is
refused, and `store` is false whether said or not. Deliberately without effect, because the
answer is right without them: user, metadata, client_metadata, service_tier, safety_identifier,
prompt_cache_key and kin, text.verbosity, stream_options, max_tool_calls (of hosted tools, which
nobody runs), how a summary of the reasoning is made (there is the thought itself), and
truncation: a prompt is never cut, and one that is too long is refused in any case.
"""

from typing import Final

from cortex.ask import Ask, Scalar, Shape
from cortex.errors import BadAsk, Unsupported
from cortex.translator import openai_fields, responses_tools, responses_turns
from cortex.wire import reading
from cortex.wire.openai_bodies import Rarely
from cortex.wire.responses_bodies import (
    BODY,
    EDITS,
    INCLUDE,
    OUTPUT,
    REASONING,
    OutputBody,
    ResponsesBody,
)

__all__ = ["read"]

_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SEALED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"
# What only a hosted tool could fill in, or what a client sent itself.
_NEVER_THERE: Final = (
    "web_search_call.",
    "file_search_call.",
    "code_interpreter_call.",
    "computer_call_output.",
    "message.input_image.",
)
# Fields of other dialects, with what this one says instead.
_ELSEWHERE: Final = {
    "n": "",
    "best_of": "",
    "stop": "",
    "stop_sequences": "",
    "logit_bias": "",
    "logprobs": " (here it is 'top_logprobs')",
    "max_tokens": " (here it is 'max_output_tokens')",
    "max_completion_tokens": " (here it is 'max_output_tokens')",
    "response_format": " (here it is 'text.format')",
    "reasoning_effort": " (here it is 'reasoning.effort')",
    "enable_thinking": " (here it is 'reasoning.effort')",
}
_OTHERS: Final = Rarely(_ELSEWHERE)
_KEPT_NOWHERE: Final = {
    "previous_response_id": "no answer is kept here; send the whole conversation as 'input'",
    "conversation": "no conversation is kept here; send all of it as 'input'",
    "prompt": "no prompts are kept here; send 'instructions' and 'input'",
    "moderation": "nothing is moderated here; leave it out",
}
_KEPT: Final = Rarely(_KEPT_NOWHERE)


def read(body: bytes) -> Ask:
    """The request in neutral words. BadAsk or Unsupported name what cannot be obeyed."""
    wanted = reading.decode(body, BODY)
    reading.refuse_twins(body)
    _refuse(wanted)
    model = openai_fields.model(wanted)
    include = _include(wanted)
    tools, choice = responses_tools.tools(wanted)
    template = _thinking(wanted)
    return Ask(
        model=model,
        messages=responses_turns.turns(wanted),
        sampling=openai_fields.sampling(wanted),
        max_tokens=wanted.max_output_tokens,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=wanted.parallel_tool_calls is not False,
        shape=_shape(wanted),
        logprobs=_logprobs(wanted, include),
        stream=bool(wanted.stream),
        template=template,
        wishes=frozenset(template),
        sealed_thoughts=_SEALED in include,
    )


def _refuse(wanted: ResponsesBody) -> None:
    openai_fields.refuse(wanted)
    if not reading.absent(wanted.chat_template_kwargs):
        raise BadAsk(
            "'chat_template_kwargs' is not accepted here; say 'reasoning'", param="chat_template_kwargs"
        )
    for name, value in _OTHERS.sent(wanted):
        if not reading.absent(value):
            instead = _ELSEWHERE[name]
            raise Unsupported(f"'{name}' is a field of another dialect{instead}; leave it out", param=name)
    for name, value in _KEPT.sent(wanted):
        if not reading.absent(value):
            raise Unsupported(f"'{name}' is not supported: {_KEPT_NOWHERE[name]}", param=name)
    if wanted.store:
        raise Unsupported(
            "'store' is not supported: no answer is kept here; leave it out, or send false", param="store"
        )
    if wanted.background:
        raise Unsupported(
            "'background' is not supported: stream the answer, or wait for it", param="background"
        )
    if reading.part(wanted.context_management, EDITS, "context_management"):
        raise Unsupported(
            "'context_management' is not supported: nothing is taken out of a prompt here",
            param="context_management",
        )
    if wanted.truncation not in (None, "auto", "disabled"):
        raise BadAsk("'truncation' must be auto or disabled", param="truncation")


def _include(wanted: ResponsesBody) -> frozenset[str]:
    found = frozenset(reading.part(wanted.include, INCLUDE, "include") or ())
    for name in sorted(found - {_SEALED, _LOGPROBS}):
        if not name.startswith(_NEVER_THERE):
            raise Unsupported(f"'include': {name!r} is not supported; leave it out", param="include")
    return found


def _logprobs(wanted: ResponsesBody, include: frozenset[str]) -> int | None:
    """Either field asks for them: the vendor's library sends both, others the number alone."""
    return wanted.top_logprobs or (0 if _LOGPROBS in include else None)


def _thinking(wanted: ResponsesBody) -> dict[str, Scalar]:
    """What the template is told. Agents send it to every model, so that what a model cannot do is no
    fault of theirs."""
    reasoning = reading.part(wanted.reasoning, REASONING, "reasoning")
    match reasoning.effort if reasoning else None:
        case None:
            return {}
        case "none":
            return {"enable_thinking": False}
        case effort if effort in _EFFORTS:
            return {"reasoning_effort": effort}
        case _:
            raise BadAsk(f"'reasoning.effort' must be one of {', '.join(_EFFORTS)}", param="reasoning.effort")


def _shape(wanted: ResponsesBody) -> Shape | None:
    output = reading.part(wanted.text, OUTPUT, "text", 2 * reading.SMALL_BYTES) or OutputBody()
    form = output.format
    match form.type if form else "text":
        case "text":
            return None
        case "json_object":
            return Shape("json_object", param="text.format")
        case "json_schema":
            if form is None or reading.absent(form.schema):
                raise BadAsk("'text.format.schema' is missing", param="text.format.schema")
            return Shape("json_schema", reading.tree(form.schema, "text.format.schema"), param="text.format")
        case other:
            raise Unsupported(
                f"'text.format.type' '{other}' is not supported; say text, json_object or json_schema",
                param="text.format.type",
            )
