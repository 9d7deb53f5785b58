"""docs/api.md says of every request field that cortex knows what becomes of it."""

import re
from pathlib import Path

from cortex.wire.openai_bodies import NEUTRAL, Body, ChatBody, Forbidden, TextBody

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()
WORKS, REFUSED, IDLE = re.split(r"^### .*$", PAGE, flags=re.MULTILINE)[1:]
OURS = {*ChatBody.__struct_fields__, *TextBody.__struct_fields__} - {*NEUTRAL}


def named(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", text))


def test_every_field_that_is_read_is_in_the_table_or_among_the_refused() -> None:
    table = "".join(line.split("|")[1] for line in WORKS.splitlines() if line.startswith("| `"))
    assert named(table) == OURS - {"audio"}
    assert "audio" in named(REFUSED)


def test_every_field_of_other_engines_is_listed_as_refused() -> None:
    neutral, whatever = REFUSED.split("Whatever the value")
    assert named(neutral.partition(":")[2]) == {*NEUTRAL} - {
        *Forbidden.__struct_fields__,
        "thinking_budget",
    }
    assert {*Forbidden.__struct_fields__, "thinking_budget"} < named(whatever)


def test_what_is_without_effect_is_what_no_struct_reads() -> None:
    first = IDLE.partition("\n\n`reasoning_effort`")[0]
    idle = named(first) - {"response_format", "store"}
    assert idle
    assert not idle & {*Body.__struct_fields__, *OURS}
