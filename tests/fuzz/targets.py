"""What is fuzzed, and what has to hold whatever comes.

Each target takes a tape, and raises nothing but AssertionError. Whatever goes in, what comes out of it
is bounded by it.
"""

from typing import Final

from cortex.translator.dialects import DIALECTS
from tests.fuzz.callers import asked, ordered, rendered
from tests.fuzz.engines import rejected, reported, streamed
from tests.fuzz.models import written
from tests.fuzz.promises import Target

TARGETS: Final[dict[str, Target]] = {
    **{dialect.name: asked(dialect, dialect.path) for dialect in DIALECTS},
    "orders": ordered,
    "templates": rendered,
    "streams": streamed,
    "refusals": rejected,
    "reports": reported,
    "answers": written,
}
