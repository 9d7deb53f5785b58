"""Answers with tool calls in each form, and what they come to: one table for several tests."""

from collections.abc import Iterable
from itertools import count

from cortex.ask import Tool
from cortex.events import Text, ToolCall
from cortex.text.toolcalls import CallForm, CallReader, reader

Said = list[str | tuple[str, str]]

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "warm": {"type": "number"},
        "loud": {"type": "boolean"},
        "where": {"type": "object"},
        "tags": {"type": "array"},
        "unit": {"enum": ["c", "f"]},
        "level": {"enum": [1, 2]},
        "kind": {"const": True},
        "maybe": {"type": ["string", "null"]},
        "mixed": {"type": ["integer", "string"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "array"}]},
        "point": {"$ref": "#/$defs/Point"},
        "round": {"$ref": "#/$defs/Round"},
        "lost": {"$ref": "#/$defs/Nowhere"},
        "free": {},
    },
    "$defs": {
        "Point": {"allOf": [{"type": "object"}]},
        "Round": {"anyOf": [{"$ref": "#/$defs/Round"}, {"type": "integer"}]},
    },
}
TOOLS = (Tool("weather", "", PARAMETERS), Tool("now"))


def scanner(form: CallForm) -> CallReader:
    ids = count()
    return reader(form, TOOLS, lambda: f"{next(ids):024d}-more")


def read(form: CallForm, cut: Iterable[str]) -> Said:
    """Texts, joined, and calls as (name, arguments), in order."""
    scan = scanner(form)
    said: Said = []
    for piece in [*(p for part in cut for p in scan.feed(part)), *scan.flush()]:
        if isinstance(piece, ToolCall):
            said.append((piece.name, piece.arguments))
        elif said and isinstance(said[-1], str):
            said[-1] += piece.text
        else:
            assert isinstance(piece, Text) and piece.text
            said.append(piece.text)
    assert scan.held() == 0
    return said
