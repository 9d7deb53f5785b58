"""What has to hold of every error, whoever sent what."""

import json
from collections.abc import Callable
from typing import Final

from cortex.errors import LONGEST_WORDS, CortexError
from cortex.wire import faults, sse
from tests.fuzz.tape import Tape

MOST_MESSAGE: Final = LONGEST_WORDS
# What another engine says of its failure is told on, to its own bound.
MOST_TOLD: Final = 2500
Target = Callable[[Tape], None]


def refused(error: CortexError, said: bytes = b"") -> None:
    """A refusal names what is wrong, is short, and can be told in every dialect."""
    assert 400 <= error.status < 500, repr(error)
    assert error.param or error.message.startswith(("The body", "The request")), error.message
    assert len(error.message) <= MOST_MESSAGE, f"{len(error.message)} {error.message[:200]}"
    told(error, said)


def told(error: CortexError, said: bytes = b"") -> None:
    """An error can be told in every dialect, in few words."""
    assert error.message.strip()
    assert len(error.message) < MOST_TOLD, f"{len(error.message)} {error.message[:200]}"
    assert len(error.param or "") < MOST_TOLD
    assert not (len(said) > MOST_MESSAGE and said.decode("utf-8", "replace") in error.message)
    for dialect in ("openai", "anthropic", "responses"):
        assert json.loads(faults.body(error, dialect, "r"))["error"]
        assert sse.render(*faults.frames(error, dialect, "r"))
