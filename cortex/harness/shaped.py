"""The JSON schema that an engine's grammar is made of, spaced as models see most of JSON.

Free blanks are legal between tokens, and a small model that would rather say something else fills
its whole answer with them: so there is one line, with one blank where people put one.
"""

from collections.abc import Mapping
from typing import Final

from cortex.ask import Json, Shape

# The words of llguidance, which engines use or are handed.
_SPACING: Final[Mapping[str, Json]] = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}


def schema(shape: Shape) -> dict[str, Json]:
    """The schema of `shape`; any object where it has none."""
    return {**({"type": "object"} if shape.schema is None else shape.schema), **_SPACING}
