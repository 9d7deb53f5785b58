"""From an ask to what the engine is handed, and how its answer is to be read.

Rendering happens here, once, for every engine alike; it may take long, and belongs in a
thread. Where the answer has a form, the prompt ends where that form begins: an open thought is
closed, and the marker of a call that must come is said for the model; a grammar holds the rest.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cortex.ask import Ask, Sampling, Scalar, Shape
from cortex.errors import BadAsk, Unsupported
from cortex.events import Tokens
from cortex.harness.base import Job, Preflight
from cortex.neuron.generation import Errand
from cortex.text.infill import Infill
from cortex.text.projection import Projection
from cortex.text.template import ChatTemplate, no_template, no_tools
from cortex.text.thinking import Thinking, opens_thought
from cortex.text.toolcalls import CallReader, beside, force, reader
from cortex.translator import media

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
# Two names of one switch: families of models differ.
_SWITCHES: Final = ("enable_thinking", "thinking")
# Clients send it to every model, as a hint.
_HINTS: Final = frozenset({"reasoning_effort"})


@dataclass(frozen=True, slots=True)
class Templates:
    """A model's own: `tool_use` takes the place of `plain` where tools are given."""

    plain: ChatTemplate | None = None
    tool_use: ChatTemplate | None = None

    def of(self, ask: Ask) -> ChatTemplate:
        """The one that writes the prompt of `ask`. Raises Unfit when there is none."""
        chosen = (self.tool_use or self.plain) if _shown(ask) else self.plain
        if chosen is None:
            raise no_template(ask.model)
        return chosen

    @property
    def reads(self) -> frozenset[str]:
        """The names that they read from outside."""
        return frozenset().union(*(each.variables for each in (self.plain, self.tool_use) if each))


@dataclass(frozen=True, slots=True)
class Voice:
    """How a resident is spoken to: its templates, its own defaults, and whether its engine
    puts the begin-of-sequence token before a prompt by itself."""

    templates: Templates
    preflight: Preflight
    defaults: Sampling

    @property
    def bos(self) -> str:
        """What the engine puts before a text prompt by itself; empty for nothing."""
        return (self.preflight.bos or "") if self.preflight.adds_bos else ""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """`inside`: the model goes on within a thought. `shape` is what the engine holds the answer to,
    whose beginning is `opening`, said for the model. `visible` markers are read, and `stops` are texts
    that end the answer beside the caller's. A plain prompt has no template."""

    text: str | tuple[int, ...]
    template: ChatTemplate | None = None
    inside: bool = False
    shape: Shape | None = None
    opening: str = ""
    visible: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()


def check(ask: Ask) -> None:
    """Refuse what no resident could obey."""
    if ask.images:
        raise media.unseen(ask.images, ask.model, upstream=False)
    if "thinking_budget" in ask.template:
        raise Unsupported(
            "'chat_template_kwargs.thinking_budget' is not supported: no engine here ends a thought early. "
            "Bound the whole answer with max_tokens, or send enable_thinking false",
            param="chat_template_kwargs.thinking_budget",
        )


def foresee(ask: Ask, templates: Templates) -> None:
    """Refuse what a model with these templates could not obey, before it is loaded."""
    if ask.prompt is not None or ask.embed is not None:
        return
    template = templates.of(ask)
    _controls(ask, template)
    if _shown(ask) and "tools" not in template.variables:
        raise no_tools()
    if forced(ask) and template.call_form is None:
        raise Unsupported(
            f"'tool_choice' {ask.tool_choice.mode} needs a model whose chat template writes calls in a form "
            "that is known here (docs/api.md lists them); use auto, or another model",
            param="tool_choice",
        )
    if ask.shape is not None and _shown(ask) and not forced(ask):
        _both(ask.shape, ask, template)


def _both(shape: Shape, ask: Ask, template: ChatTemplate) -> Shape:
    """An answer of `shape`, or calls. Raises Unsupported where the model's calls could not come."""
    if template.call_form is None:
        raise Unsupported(
            f"'{shape.param}' together with tools needs a model whose chat template writes calls in a form "
            "that is known here (docs/api.md lists them); leave one of the two out, or use another model",
            param=shape.param,
        )
    return beside(template.call_form, ask.tools, shape)


def prepare(ask: Ask, voice: Voice, request_id: str, infill: Infill | None = None) -> Errand:
    """What the engine is handed. Raises BadAsk when the template refuses the messages."""
    prompts = [_plain(ask, prompt, infill) for prompt in ask.prompts] or [_render(ask, voice)]
    choices = [prompt for prompt in prompts for _ in range(ask.n)]
    return Errand(tuple(_jobs(ask, choices, voice, request_id)), tuple(_projections(ask, choices)))


def forced(ask: Ask) -> bool:
    """Whether the answer must be a tool call."""
    return bool(ask.tools) and ask.tool_choice.mode in ("required", "named")


def _shown(ask: Ask) -> bool:
    """Whether the model gets to see the tools."""
    return bool(ask.tools) and ask.tool_choice.mode != "none"


def _plain(ask: Ask, prompt: str | tuple[int, ...], infill: Infill | None) -> _Prompt:
    if infill is None or not isinstance(prompt, str):
        return _Prompt(prompt, shape=ask.shape)
    text = infill.prompt(prompt, ask.suffix)
    return _Prompt(text, shape=ask.shape, visible=infill.stops, stops=infill.stops)


def _render(ask: Ask, voice: Voice) -> _Prompt:
    foresee(ask, voice.templates)
    template = voice.templates.of(ask)
    text = template.render(ask.messages, ask.tools if _shown(ask) else (), _controls(ask, template))
    last = ask.messages[-1]
    inside = opens_thought(text, last.text if last.role == "assistant" else "", template.marks)
    if inside and (forced(ask) or ask.shape is not None):
        # Within a thought the grammar's text would count as one, and the answer be empty.
        text, inside = f"{text}\n{template.marks.close}\n\n", False
    shape, opening = ask.shape, ""
    if forced(ask) and template.call_form is not None:
        call = force(template.call_form, ask.tools, ask.tool_choice.name)
        shape, opening = call.shape, call.opening
    elif shape is not None and _shown(ask):
        shape = _both(shape, ask, template)
    text += opening
    bos = voice.preflight.bos
    # The template writes the token and the engine adds it again: two of them harm some models.
    text = text.removeprefix(bos) if bos and voice.preflight.adds_bos else text
    return _Prompt(text, template, inside, shape, opening, template.markers)


def _controls(ask: Ask, template: ChatTemplate) -> Mapping[str, Scalar]:
    """What the template is told, the switch of thinking by the name that it reads. `true` allows
    thoughts, whether or not the model has any; `false` must be obeyed."""
    for name in ask.template.keys() - template.variables - _HINTS - ask.wishes - {*_SWITCHES}:
        raise Unsupported(
            f"'chat_template_kwargs.{name}' does nothing here: the model's chat template does not read it. "
            "Leave it out",
            param=f"chat_template_kwargs.{name}",
        )
    said = {name: ask.template[name] for name in _SWITCHES if name in ask.template}
    if not said:
        return ask.template
    if len(set(said.values())) > 1:
        raise BadAsk("'enable_thinking' and 'thinking' contradict each other; send one", param="thinking")
    name, wanted = next(iter(said.items()))
    read = [switch for switch in _SWITCHES if switch in template.variables]
    if not (read or wanted or name in ask.wishes) and template.thinks:
        raise Unsupported(
            f"'{name}' false (which is also what reasoning_effort none means) cannot be obeyed: the model's "
            "chat template has no switch for its thoughts. Leave it out, or use another model",
            param=name,
        )
    return {**ask.template, **dict.fromkeys(read, wanted)}


def _jobs(ask: Ask, prompts: Sequence[_Prompt], voice: Voice, request_id: str) -> list[Job]:
    """With a seed, each choice of a prompt has its own that follows from it."""
    sampling = ask.sampling.over(voice.defaults).over(FALLBACK)
    seed = sampling.seed
    return [
        Job(
            id=choice,
            prompt=prompt.text,
            sampling=sampling if seed is None else replace(sampling, seed=(seed + choice % ask.n) % 2**32),
            max_tokens=ask.max_tokens,
            shape=prompt.shape,
            logprobs=ask.logprobs,
            visible=prompt.visible,
            request_id=request_id,
        )
        for choice, prompt in enumerate(prompts)
    ]


def _projections(ask: Ask, prompts: Sequence[_Prompt]) -> list[Projection]:
    made = [
        Projection(
            choice=choice,
            thinking=Thinking(inside=prompt.inside, kind=prompt.template.marks) if prompt.template else None,
            calls=_calls(ask, prompt),
            stops=(*ask.stop, *prompt.stops),
            parallel=ask.parallel_tool_calls,
        )
        for choice, prompt in enumerate(prompts)
    ]
    for projection, prompt in zip(made, prompts, strict=True):
        if prompt.opening:
            projection.feed(Tokens(prompt.opening.encode(), 0))
    return made


def _calls(ask: Ask, prompt: _Prompt) -> CallReader | None:
    """What reads the calls of one choice, where there may be any."""
    if not _shown(ask) or prompt.template is None or prompt.template.call_form is None:
        return None
    calls = reader(prompt.template.call_form, ask.tools, lambda: secrets.token_hex(12))
    if prompt.shape is not None:
        calls.lead()
    return calls
