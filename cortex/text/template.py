"""A dialogue becomes the prompt that its model was trained on.

The model's own chat template writes the prompt, by the Hugging Face conventions.
A template that cannot be compiled, or that misbehaves on a first small dialogue, is
`Unfit`: its model is not servable. The same dialogue tells which style it takes.
What a template has against a dialogue is the caller's to mend (`BadAsk`), with the
template's own words.

Three rules keep every word of a dialogue in its prompt. A trailing assistant turn
is a prefill: the prompt ends with its last character, and the model goes on there.
Many templates know one leading system turn only; where one raises on a dialogue,
or drops a system turn, all system turns are joined into a leading one. If it still
raises, neighbours of one role are joined too, as templates like to see roles alternate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Final

from jinja2 import meta
from jinja2.exceptions import SecurityError, TemplateError

from cortex.ask import TEMPLATE_WORDS, Message, Scalar, Tool, ToolUse
from cortex.errors import BadAsk, Unfit, Unsupported
from cortex.text.sandbox import Refused, Sandbox
from cortex.text.thinking import KINDS, marks
from cortex.text.toolcalls import call_form, markers
from cortex.text.turns import Style, forms, function, turn

MAX_SOURCE_BYTES: Final = 64 * 1024

_FAULTS: Final = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
)


def allowed_kwargs(given: Mapping[str, object]) -> dict[str, Scalar]:
    """The template's arguments that a caller may set; null is as good as absent.

    Raises BadAsk naming the field for any other name, and for a value of another type.
    """
    allowed: dict[str, Scalar] = {}
    for name, value in given.items():
        kind = TEMPLATE_WORDS.get(name)
        if kind is None:
            raise Unsupported(
                f"The template argument {name!r} is not supported. Leave it out, or use one of: "
                f"{', '.join(TEMPLATE_WORDS)}.",
                param=f"chat_template_kwargs.{name}",
            )
        if value is None:
            continue
        if type(value) is not kind or not isinstance(value, Scalar):
            raise BadAsk(
                f"The template argument {name!r} must be of type {kind.__name__}.",
                param=f"chat_template_kwargs.{name}",
            )
        allowed[name] = value
    return allowed


def no_template(model: str) -> Unfit:
    """The error of a chat with a model that has no chat template."""
    return Unfit(
        f"{model} ships no chat template, so its prompt format is unknown. Send the prompt as text to "
        "/v1/completions, or put a chat_template.jinja beside the weights and load the model again.",
        param="messages",
    )


def no_tools() -> Unsupported:
    """The error of tools for a model that cannot be shown any."""
    return Unsupported(
        "The model's chat template has no place for tools. Leave them out, or use another model.",
        param="tools",
    )


class ChatTemplate:
    """A compiled template. `variables` are the names that it reads from outside, so that
    a caller of `render` can tell whether an argument does anything. `call_form` is the form in
    which it writes tool calls, `marks` what stands around a thought, `thinks` whether it knows
    thoughts at all; `markers` are all those words."""

    def __init__(self, source: str, *, bos: str | None, eos: str | None) -> None:
        size = len(source.encode())
        if size > MAX_SOURCE_BYTES:
            raise Unfit(f"The chat template has {size} bytes; at most {MAX_SOURCE_BYTES} are accepted.")
        if not source.strip():
            raise Unfit("The chat template is empty: no prompt would reach the model.")
        self.call_form = call_form(source)
        known = marks(source)
        self.marks, self.thinks = known or KINDS[0], known is not None
        self.markers = (*self.marks, *(markers(self.call_form) if self.call_form else ()))
        self._sandbox = Sandbox()
        # An absent token must be undefined: templates print what they get, also None.
        given = {"bos_token": bos, "eos_token": eos}
        self._tokens = {name: token for name, token in given.items() if token is not None}
        try:
            self.variables = frozenset(meta.find_undeclared_variables(self._sandbox.parse(source)))
            self._template = self._sandbox.compile_template(source)
        except (*_FAULTS, SyntaxError, RecursionError, MemoryError) as error:
            raise Unfit(f"The chat template cannot be compiled: {error}.") from error
        self._style = Style()
        self._style = self._tried_out()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        template_kwargs: Mapping[str, object],
        *,
        continue_final: bool = False,
    ) -> str:
        """The prompt. `continue_final` says that the last turn must be a prefill.

        Raises BadAsk when the template refuses the messages, Unfit when it misbehaves.
        """
        if tools and "tools" not in self.variables:
            raise no_tools()
        facts = {
            **self._tokens,
            **allowed_kwargs(template_kwargs),
            "tools": [function(tool) for tool in tools] or None,
            "documents": None,
        }
        _check(messages, continue_final=continue_final)
        refusal, lossy = None, None
        for form in forms(messages):
            try:
                prompt = self._prompt(form, facts)
            except Refused as error:
                refusal = refusal or error
                continue
            if _has_systems(prompt, messages):
                return prompt
            lossy = lossy or prompt
        # A template may rewrite a system turn on purpose: then no form has it verbatim.
        if lossy is None:
            raise BadAsk(f"The model's chat template refuses these messages: {refusal}", param="messages")
        return lossy

    def _prompt(self, messages: Sequence[Message], facts: Mapping[str, object]) -> str:
        """One form of the dialogue; a prefill ends at the mark behind its text."""
        last = messages[-1]
        if last.role != "assistant":
            return self._fill(messages, {**facts, "add_generation_prompt": True}, self._style)
        mark = _mark()
        marked = [*messages[:-1], replace(last, text=last.text + mark)]
        prompt = self._fill(marked, {**facts, "add_generation_prompt": False}, self._style)
        text, found, _ = prompt.rpartition(mark)
        if not found:
            raise BadAsk(
                "The model's chat template cannot continue an assistant turn. End the messages with a user "
                "or tool turn.",
                param="messages",
            )
        return text

    def _fill(self, messages: Sequence[Message], facts: Mapping[str, object], style: Style) -> str:
        turns = [turn(message, style) for message in messages]
        try:
            return self._sandbox.fill(self._template, {**facts, "messages": turns})
        except Refused:
            raise
        except (SecurityError, RecursionError, OverflowError, MemoryError) as error:
            raise Unfit(f"The model's chat template is not safe to run: {error}.") from error
        except _FAULTS as error:
            raise BadAsk(
                f"The model's chat template fails on these messages: {error}", param="messages"
            ) from error

    # -- trying out

    def _tried_out(self) -> Style:
        """The style in which the template says all that it is given.

        Raises Unfit for one that misbehaves, or leaves out what the user says.
        """
        mark = _mark()
        user = Message("user", mark)
        style = Style()
        plain = self._probe([user], style)
        if plain is None or mark not in plain:
            parts = self._probe([user], Style(parts=True))
            style = Style(parts=parts is not None and mark in parts)
            if plain is not None and not style.parts:
                raise Unfit("The chat template leaves out what the user says.")
        return self._tried_with_call(user, style)

    def _tried_with_call(self, user: Message, style: Style) -> Style:
        """`style`, with arguments as text if objects fail or come out in Python's spelling, and
        with short ids if those alone are accepted."""
        style = self._tried_with_ids(user, style)
        word = token_hex(8)
        turns = _called(user, "abcdefghi", f'{{"{word}": "{word}"}}')
        written = self._probe(turns, style)
        textual = replace(style, text_arguments=True)
        if written is None or f"'{word}'" in written:
            return textual if self._probe(turns, textual) is not None else style
        return style

    def _tried_with_ids(self, user: Message, style: Style) -> Style:
        turns, short = _called(user, "call_0123456789"), replace(style, short_ids=True)
        if self._probe(turns, style) is None and self._probe(turns, short) is not None:
            return short
        return style

    def _probe(self, messages: Sequence[Message], style: Style) -> str | None:
        """The prompt, or None when the template wants something else."""
        tools = [function(Tool("probe"))] if len(messages) > 1 else None
        facts = {**self._tokens, "tools": tools, "documents": None, "add_generation_prompt": True}
        try:
            return self._fill(messages, facts, style)
        except (Refused, BadAsk):
            return None


def _called(user: Message, call_id: str, arguments: str = "{}") -> list[Message]:
    """A small dialogue with one call and its result."""
    call = ToolUse(call_id, "probe", arguments)
    return [user, Message("assistant", tool_calls=(call,)), Message("tool", "1", tool_call_id=call_id)]


def _mark() -> str:
    """A text that is nowhere else, of characters that no template has a use for."""
    return f"\ue000{token_hex(8)}\ue000"


def _check(messages: Sequence[Message], *, continue_final: bool) -> None:
    if not messages:
        raise BadAsk("There are no messages; send at least one.", param="messages")
    last = messages[-1]
    if continue_final and last.role != "assistant":
        raise BadAsk(
            "There is no assistant turn to continue: the last message must be one.", param="messages"
        )
    if last.role == "assistant" and last.tool_calls:
        raise BadAsk(
            "The messages end with tool calls. Add a tool turn with the result of each.", param="messages"
        )


def _has_systems(prompt: str, messages: Sequence[Message]) -> bool:
    return all(message.text.strip() in prompt for message in messages if message.role == "system")
