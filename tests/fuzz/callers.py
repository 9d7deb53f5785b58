"""What callers send: bodies of every dialect, orders, and what a chat template is given.

It is read, or refused with a status below 500 in a short message that names what is wrong.
"""

import json
from functools import cache
from typing import Any, Final

import msgspec

from cortex.ask import Ask, Message, Tool, ToolUse
from cortex.errors import BadAsk, CortexError, Unfit
from cortex.text.template import ChatTemplate
from cortex.translator.dialects import CHAT, Dialect
from cortex.translator.openai_manners import CORTEX, MANNERS
from cortex.translator.openai_write import write
from cortex.wire import keeping, neuron, reading
from cortex.wire.openai import peek, rename
from tests.fuzz.bodies import corpus, mutated
from tests.fuzz.promises import Target, refused, told
from tests.fuzz.tape import Tape
from tests.recorded import FOLDER

_TEMPLATES: Final = FOLDER.parent / "templates"


@cache
def _corpus() -> dict[str, list[Any]]:
    return corpus()


def asked(dialect: Dialect, path: str) -> Target:
    """A body of `dialect` is read, written for every kind of engine, and looked at by a gateway."""

    def target(tape: Tape) -> None:
        body = mutated(tape, _corpus()[path])
        _peeked(body)
        try:
            ask = dialect.read(body)
        except CortexError as error:
            refused(error, body)
            return
        # What is short as JSON can stand for much: a tool's schema, a text. It comes from the body.
        assert sum(len(turn.text) + len(turn.thought) for turn in ask.messages) <= 4 * len(body) + 100
        for manner in MANNERS.values():
            _written(ask, manner, len(body))

    return target


def _peeked(body: bytes) -> None:
    try:
        seen = peek(body)
        assert json.loads(rename(body, seen.model, "other")) is not None
    except CortexError as error:
        refused(error, body)
    except ValueError:
        pass  # what a gateway does not look at is for the neuron to judge: json has its own bounds
    except RecursionError:
        pass


def _written(ask: Ask, manner: Any, size: int) -> None:
    if ask.n != 1:
        return
    try:
        body = write(ask, "m", manner)
    except CortexError as error:
        refused(error)
        return
    assert len(body) < 8 * size + 2000
    if manner is CORTEX and ask.messages:
        try:
            again = CHAT.read(body)
        except CortexError as error:
            raise AssertionError(f"a neuron refuses what a gateway wrote: {error.message}") from error
        # Pictures of a result stand in a turn of their own there: texts are compared as a whole.
        assert "".join(turn.text for turn in again.messages) == "".join(turn.text for turn in ask.messages)


def ordered(tape: Tape) -> None:
    """Orders of the control routes, of /tokenize and its kin."""
    kind, bodies = tape.of(ORDERS)
    body = mutated(tape, bodies)
    try:
        reading.decode(body, msgspec.json.Decoder(kind))
    except CortexError as error:
        refused(error, body)


ORDERS: Final[tuple[tuple[type, list[Any]], ...]] = (
    (neuron.Tokenize, [{"model": "m", "prompt": "x"}, {"model": "m", "messages": [{"role": "user"}]}]),
    (neuron.Detokenize, [{"model": "m", "tokens": [1, 2, 3]}]),
    (neuron.LoadRequest, [{"spec": {"id": "m", "aliases": ["a"]}, "evict": "never", "victims": ["n"]}]),
    (neuron.UnloadRequest, [{"id": "m", "force": True}]),
    (keeping.PinRequest, [{"id": "m"}]),
    (keeping.KeepRequest, [{"id": "m", "keep": {"priority": 3}}]),
)


def rendered(tape: Tape) -> None:
    """A chat template is given what a caller likes to say."""
    template = _template(tape.of(sorted(_TEMPLATES.glob("*.jinja"))).name)
    messages = [_message(tape) for _ in tape.some(4)]
    tools = [_tool(tape) for _ in tape.some(2)] if tape.below(2) else []
    try:
        prompt = template.render(messages, tools, {"enable_thinking": True} if tape.below(2) else {})
    except (BadAsk, Unfit) as error:
        assert error.status < 500
        told(error)
        return
    # All of it, in the largest form that a template gives it: escaped as JSON, and twice.
    size = sum(len(turn.text) + len(turn.thought) for turn in messages)
    assert len(prompt) <= 60_000 + 24 * (size + len(str(tools)))


@cache
def _template(name: str) -> ChatTemplate:
    return ChatTemplate((_TEMPLATES / name).read_text(), bos="<s>", eos="</s>")


def _message(tape: Tape) -> Message:
    role = tape.of(("user", "assistant", "system", "tool"))
    if role != "assistant":
        return Message(role, _said(tape), tool_call_id=_said(tape) if role == "tool" else None)
    uses = tuple(ToolUse(_said(tape), _said(tape), _said(tape)) for _ in range(tape.below(3)))
    return Message("assistant", _said(tape), _said(tape), uses)


def _tool(tape: Tape) -> Tool:
    values: list[Any] = [
        "string",
        None,
        1,
        ["string", "null"],
        {"type": "object"},
        {"$ref": "#"},
        _said(tape),
    ]
    return Tool(
        tape.of(("weather", "now")),
        _said(tape),
        {"type": tape.of(values), "properties": {tape.of(("a", "city")): tape.of(values)}},
    )


def _said(tape: Tape) -> str:
    return "".join(tape.of(_SAYINGS) for _ in range(tape.below(4)))


_SAYINGS: Final = (
    "x",
    "",
    " ",
    "\n",
    "{{ bos_token }}",
    "{% raw %}",
    "{{ ''.__class__ }}",
    "<|im_end|>",
    "</think>",
    "<think>",
    "[TOOL_CALLS]",
    "<tool_call>",
    "</s>",
    "\ue000",
    "\u2028",
    "\ud800",
    "😀",
    "%s %(a)s {0}",
    '{"a": 1}',
    "{",
    "[1]",
    "\x00",
    "x" * 2000,
)
