"""From an ask to what the engine is handed, and how its answer is to be read.

Rendering happens here, once, for every engine alike. A forced tool call is begun for the
model (the marker is part of the prompt) and its form is held by a grammar, so that the
answer can only be a call.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cortex.ask import Ask, Json, Sampling, Shape, Tool
from cortex.events import Tokens
from cortex.harness.base import Job, Preflight
from cortex.text.projection import Projection
from cortex.text.template import ChatTemplate, no_template
from cortex.text.thinking import opens_thought

# Used where neither the request, nor the catalogue, nor the model says anything.
FALLBACK: Final = Sampling(
    temperature=0.7,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
_CALL: Final = "<tool_call>\n"


@dataclass(frozen=True, slots=True)
class Voice:
    """How a resident is spoken to: its template, its own defaults, and whether its engine
    puts the begin-of-sequence token before a prompt by itself."""

    template: ChatTemplate | None
    preflight: Preflight
    defaults: Sampling


def render(ask: Ask, voice: Voice) -> str | tuple[int, ...]:
    """The prompt. Raises BadAsk when the template refuses the messages."""
    if ask.prompt is not None:
        return ask.prompt
    if voice.template is None:
        raise no_template(ask.model)
    tools = () if ask.tool_choice.mode == "none" else ask.tools
    prompt = voice.template.render(ask.messages, tools, ask.template)
    if forced(ask):
        prompt += _CALL
    bos = voice.preflight.bos
    # The template writes the token and the engine adds it again: two of them harm some models.
    return prompt.removeprefix(bos) if bos and voice.preflight.adds_bos else prompt


def jobs(ask: Ask, prompt: str | tuple[int, ...], voice: Voice, request_id: str) -> list[Job]:
    """One job a choice, numbered by it; with a seed, each has its own that follows from it."""
    sampling = ask.sampling.over(voice.defaults).over(FALLBACK)
    seed = sampling.seed
    return [
        Job(
            id=choice,
            prompt=prompt,
            sampling=sampling if seed is None else replace(sampling, seed=(seed + choice) % 2**32),
            max_tokens=ask.max_tokens,
            shape=call_shape(ask.tools, ask.tool_choice.name) if forced(ask) else ask.shape,
            logprobs=ask.logprobs,
            request_id=request_id,
        )
        for choice in range(ask.n)
    ]


def projections(ask: Ask, prompt: str | tuple[int, ...]) -> list[Projection]:
    """What reads each choice's tokens."""
    chat = ask.prompt is None
    last = ask.messages[-1] if chat else None
    prefill = last.text if last is not None and last.role == "assistant" else ""
    inside = chat and isinstance(prompt, str) and opens_thought(prompt, prefill)
    made = [
        Projection(
            choice=choice,
            thinking="off" if not chat else "inside" if inside else "outside",
            tools=bool(ask.tools) and ask.tool_choice.mode != "none",
            stops=ask.stop,
            parallel=ask.parallel_tool_calls,
            new_id=lambda: secrets.token_hex(12),
        )
        for choice in range(ask.n)
    ]
    if forced(ask):
        for projection in made:
            projection.feed(Tokens(_CALL.encode(), 0))
    return made


def forced(ask: Ask) -> bool:
    """Whether the answer must be a tool call."""
    return bool(ask.tools) and ask.tool_choice.mode in ("required", "named")


def call_shape(tools: Sequence[Tool], name: str | None) -> Shape:
    """The schema of one call to `name`, or to any of `tools`."""
    calls: list[Json] = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "arguments": dict(tool.parameters) or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if name is None or tool.name == name
    ]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    assert isinstance(schema, dict)  # noqa: S101 - calls are objects
    return Shape("json_schema", schema)
