"""What clients were seen to send is read as it was, and written for other engines as it was."""

import pytest

from cortex.translator.dialects import DIALECTS
from tests.recorded import FOLDER, clients, requests, strays, told

ANEW = "look at the difference; `python -m tests.recorded` writes what is meant"


@pytest.mark.parametrize("client", clients())
def test_every_recorded_request_becomes_what_it_did(client: str) -> None:
    assert told(client).splitlines() == (FOLDER / f"{client}.asks").read_text().splitlines(), ANEW


def test_every_client_has_its_answers_and_no_answers_are_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.asks")} == set(clients())
    assert len(clients()) > 10


def test_every_dialect_is_among_them() -> None:
    seen = {one.dialect for client in clients() for one in requests(client)}
    assert seen == set(DIALECTS)
    assert any(one.path.endswith("/count_tokens") for one in requests("claude-code"))


@pytest.mark.parametrize("client", clients())
def test_a_recording_tells_nothing_of_the_machine_it_was_made_on(client: str) -> None:
    assert strays((FOLDER / f"{client}.jsonl").read_text()) == []


@pytest.mark.parametrize("text", ["see /home/max/x", "key sk-12345678", "to max@example.org"])
def test_and_it_would_be_seen(text: str) -> None:
    assert strays(text)


def test_what_a_client_says_that_is_no_part_of_its_prompt_is_not_in_it() -> None:
    """Claude Code's line for the vendor's bill differs with each prompt; it is the one thing taken out."""
    sent, made = ((FOLDER / f"claude-code.{kind}").read_text() for kind in ("jsonl", "asks"))
    assert sent.count("x-anthropic-billing-header") > 20
    assert "x-anthropic-billing-header" not in made
