"""What an engine's grammar is made of: a JSON schema, or one beside the calls that may come instead.

Free blanks are legal between tokens, and a small model that would rather say something else fills
its whole answer with them: so there is one line, with one blank where people put one. A grammar
with alternatives is written in the words of llguidance, which engines use or have inside.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from cortex.ask import Json, Shape, Spelling

_SPACING: Final[Mapping[str, Json]] = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}

# What tools may be called, and no marker is.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
# The one token that is a text, where letters of it might not be meant; None for none.
Single: TypeAlias = Callable[[str], int | None]


def schema(shape: Shape) -> dict[str, Json]:
    """The schema of an answer of `shape`; any object where it has none."""
    return _spaced({"type": "object"} if shape.schema is None else shape.schema)


def grammar(shape: Shape, single: Single) -> str:
    """Either one answer of `shape`, or one or several of its calls. A marker may be said as the token
    that it is, which grammars tell from its letters."""
    words = {word for call in shape.calls for word in (*call.before, *call.behind)}
    # Names of tools are no markers, and there may be hundreds: an engine is not asked for each.
    told = {word: None if _NAME.fullmatch(word) else single(word) for word in words}
    calls = "".join(f"\ncall_{index}: {_spelt(call, told)}" for index, call in enumerate(shape.calls))
    names = " | ".join(f"call_{index}" for index in range(len(shape.calls)))
    return (
        "start: answer | calls"
        f"\nanswer: {_json(schema(shape))}"
        '\ncalls: call ("\\n"? call)*'
        f"\ncall: {names}{calls}\n"
    )


def _spelt(call: Spelling, told: Mapping[str, int | None]) -> str:
    words = [_word(text, told) for text in call.before], [_word(text, told) for text in call.behind]
    return " ".join([*words[0], _json(_spaced(call.schema)), *words[1]])


def _word(text: str, told: Mapping[str, int | None]) -> str:
    letters, token = msgspec.json.encode(text).decode(), told[text]
    return letters if token is None else f"({letters} | <[{token}]>)"


def _json(of: Mapping[str, Json]) -> str:
    return f"%json {msgspec.json.encode(of).decode()}"


def _spaced(of: Mapping[str, Json]) -> dict[str, Json]:
    return {**of, **_SPACING}
