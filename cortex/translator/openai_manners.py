"""How the kinds of OpenAI-compatible engines differ in what they take.

They agree on the vendor's fields and not on the rest: a sampling field that one knows by
another name, or steps over in silence, is the difference between an answer and a wrong
answer. What a kind would ignore is not sent: the request is refused by the field's name.
Which kind an engine is shows in `owned_by` of its list of models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Manner:
    """One kind. `names` are the fields beyond the vendor's that it obeys, with what it calls
    them; `ignores` are fields of the vendor's that it would step over.

    `no_top_k` is its word for "all of them". `takes_kwargs`: what a request tells the chat
    template has a field. `flat_effort`: reasoning_effort is a field, not one for the template.
    `names_tools`: a tool_choice may name one of several tools. `least_logprobs`: fewer alternatives
    than that mean no log probabilities at all. `thought` is what it calls the reasoning of an
    earlier answer. `strict`: what the template is told must be obeyed, or the request is refused.
    """

    kind: str
    names: Mapping[str, str] = field(default_factory=dict)
    ignores: frozenset[str] = frozenset()
    no_top_k: int = -1
    takes_kwargs: bool = True
    flat_effort: bool = True
    names_tools: bool = True
    least_logprobs: int = 0
    thought: str = "reasoning_content"
    strict: bool = False


_EXTENDED: Final = {name: name for name in ("top_k", "min_p", "repetition_penalty")}

OPENAI: Final = Manner("openai", takes_kwargs=False)
VLLM: Final = Manner("vllm", _EXTENDED)
SGLANG: Final = Manner("sglang", _EXTENDED)
LLAMACPP: Final = Manner(
    "llamacpp",
    {**_EXTENDED, "repetition_penalty": "repeat_penalty"},
    no_top_k=0,
    flat_effort=False,
    names_tools=False,
    least_logprobs=1,
)
TABBYAPI: Final = Manner("tabbyapi", _EXTENDED, frozenset({"seed"}), no_top_k=0)
OLLAMA: Final = Manner(
    "ollama",
    ignores=frozenset({"logit_bias", "tool_choice"}),
    takes_kwargs=False,
    names_tools=False,
    thought="reasoning",
)
CORTEX: Final = Manner("cortex", _EXTENDED, strict=True)

MANNERS: Final[Mapping[str, Manner]] = {
    manner.kind: manner for manner in (OPENAI, VLLM, SGLANG, LLAMACPP, TABBYAPI, OLLAMA, CORTEX)
}
_OWNERS: Final[Mapping[str, Manner]] = {
    **MANNERS,
    "library": OLLAMA,
    "organization-owner": VLLM,  # Ray Serve LLM, which runs vLLM
}


def of_owner(owned_by: str | None, otherwise: Manner = OPENAI) -> Manner:
    """The manner of the engine that calls itself `owned_by`; `otherwise` when the name tells
    nothing."""
    return _OWNERS.get((owned_by or "").lower(), otherwise)
