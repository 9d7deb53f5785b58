"""How a chat becomes the model's text: the marks, and the template that sets them.

The template is what both exports carry, and what the corpus is written with, so training
and serving agree to the letter. The model thinks unless `enable_thinking` is false; then
the template closes an empty thought for it.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import jinja2

END_OF_TEXT: Final = "<|endoftext|>"
END_OF_TURN: Final = "<|im_end|>"

# Control tokens never appear as text; markers do, and the one who serves takes them out.
SPECIAL: Final = (END_OF_TEXT, "<|im_start|>", END_OF_TURN)
MARKERS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

NO_THOUGHT: Final = "<think>\n\n</think>\n\n"

TEMPLATE: Final = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    "{{- '# Tools\\n\\nYou can call these functions:\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '\\n</tools>\\n\\nFor each call, return a json object within "
    "<tool_call></tool_call> tags:\\n<tool_call>\\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n\' }}'
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' + (m.content or '') }}"
    "{%- if m.tool_calls %}{%- for c in m.tool_calls %}"
    "{%- set f = c.function if c.function else c %}"
    '{{- \'<tool_call>\\n{"name": "\' + f.name + \'", "arguments": \' }}'
    "{%- if f.arguments is string %}{{- f.arguments }}{%- else %}{{- f.arguments | tojson }}{%- endif %}"
    "{{- '}\\n</tool_call>' }}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


def _compile() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=False)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE)


_COMPILED: Final = _compile()


def turn(role: str, text: str) -> str:
    """One turn as the template writes it."""
    return f"<|im_start|>{role}\n{text}{END_OF_TURN}\n"


def render(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], thinking: bool) -> str:
    """The prompt that asks for the next answer."""
    return _COMPILED.render(
        messages=messages, tools=tools, enable_thinking=thinking, add_generation_prompt=True
    )


def tools_head(system: str | None, tools: Sequence[dict[str, Any]]) -> str:
    """The opening system turn that offers `tools`, as the template writes it."""
    opening = [{"role": "system", "content": system}] if system else []
    whole = _COMPILED.render(messages=[*opening, {"role": "user", "content": "-"}], tools=tools)
    return whole[: whole.index("<|im_start|>user")]
