"""What models write: text, thoughts and calls in every form, and what looks like them."""

import json
from collections.abc import Callable
from itertools import count
from typing import Final

from cortex.errors import UpstreamFailed
from cortex.events import Event, Failed, Stopped, Text, Thought, TokenLogprob, Tokens, ToolCall
from cortex.text.projection import Projection
from cortex.text.thinking import KINDS, Thinking
from cortex.text.toolcalls import reader
from tests.call_forms import TOOLS
from tests.fuzz.promises import told
from tests.fuzz.tape import Tape

_WRITTEN: Final = (
    *(word for kind in KINDS for word in kind),
    "<tool_call>",
    "</tool_call>",
    "<function=weather>",
    "</function>",
    "<parameter=city>",
    "</parameter>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    '{"name": "weather", "arguments": {"city": "Bern"}}',
    '{"name": "now", "parameters": {}}',
    '[{"name": "now", "arguments": {}}]',
    "weather",
    "now[ARGS]{}",
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    ":",
    ",",
    ";",
    "<",
    "</",
    "name",
    "\n",
    " ",
    "x",
    "é😀",
    "END",
    "EN",
    "\\ud800",
    "1e999",
    "-",
    "null",
)
_FORMS: Final = ("hermes", "qwen_xml", "llama", "mistral_list", "mistral_args")


def written(tape: Tape) -> None:
    """A model's answer becomes text, thoughts and calls: the same however its bytes are cut."""
    data = "".join(tape.of(_WRITTEN) for _ in tape.some(16)).encode()
    if tape.below(4) == 3:
        at = tape.below(len(data) + 1)
        data = data[:at] + tape.rest(3) + data[at:]
    form, kind = tape.of((None, *_FORMS)), tape.of((None, *KINDS))
    inside, parallel = bool(tape.below(2)), bool(tape.below(2))
    stops = tape.of(((), ("END",), ("EN", "x", "\n\n"), ("<tool", "é")))

    def projection() -> Projection:
        return Projection(
            choice=0,
            thinking=Thinking(inside=inside, kind=kind) if kind else None,
            calls=reader(form, TOOLS, _ids()) if form else None,
            stops=stops,
            parallel=parallel,
        )

    end = tape.of((Stopped("stop"), Stopped("length"), Failed(UpstreamFailed("gone"))))
    cut = _projected(projection(), tape.cut(data, 9), end)
    assert cut == _projected(projection(), [data], end)
    assert cut == _projected(projection(), [data[at : at + 1] for at in range(len(data))], end)
    # One byte that is no text becomes a character of three.
    assert sum(len(text) for _, text in cut) <= 3 * len(data) + 40 * len(cut)


def _projected(projection: Projection, pieces: list[bytes], end: Event) -> list[tuple[str, str]]:
    """Neighbours of a kind are one; calls by what they say."""
    said: list[tuple[str, str]] = []
    events: list[Event] = []
    for piece in pieces:
        scores = (TokenLogprob(piece.decode("utf-8", "replace"), -1.0),)
        events += projection.feed(Tokens(piece, 1, scores))
    events += projection.feed(end)
    assert projection.finished
    for event in events:
        kind = type(event).__name__
        match event:
            case Text(text) | Thought(text):
                assert text
                if said and said[-1][0] == kind:
                    said[-1] = (kind, said[-1][1] + text)
                else:
                    said.append((kind, text))
            case ToolCall():
                assert isinstance(json.loads(event.arguments), dict)
                said.append((event.name, event.arguments))
            case Stopped():
                said.append((event.reason, event.stop or ""))
            case Failed():
                told(event.error)
    return said


def _ids() -> Callable[[], str]:
    ids = count()
    return lambda: f"{next(ids):024d}-more"
