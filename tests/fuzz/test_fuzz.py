"""Whatever callers, engines, neurons and models send: it is understood, or named and refused.

Ten thousand cases here, drawn and shrunk by hypothesis, the same ones every time. By hand as many as
are wanted, drawn by chance, some ten minutes a million on one idle core:

    CORTEX_FUZZ_CASES=1000000 pytest tests/fuzz -k by_hand

A case that fails there is printed with its tape, which `TARGETS[name](Tape(tape))` plays again.
CORTEX_FUZZ_SEED gives other cases.
"""

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.errors import BadAsk, CortexError
from cortex.events import Tokens
from cortex.text.projection import Projection
from cortex.text.thinking import Thinking
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES, TEXT
from cortex.translator.openai_hear import Hearing, hear
from cortex.wire.openai import peek
from cortex.wire.sse_reading import EventReader
from tests.fuzz.bodies import corpus, mutated
from tests.fuzz.tape import Tape
from tests.fuzz.targets import TARGETS
from tests.work import lines

CASES: Final = 10_000
BY_HAND: Final = int(os.environ.get("CORTEX_FUZZ_CASES", "0"))
SEED: Final = os.environ.get("CORTEX_FUZZ_SEED", "cortex")
EACH: Final = -(-CASES // len(TARGETS))
TAPES: Final = st.binary(min_size=1, max_size=64) | st.randoms(use_true_random=False).map(
    lambda chance: chance.randbytes(64)
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_understood_or_refused_by_name(name: str) -> None:
    @settings(
        max_examples=EACH,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(TAPES)
    def holds(tape: bytes) -> None:
        TARGETS[name](Tape(tape))

    holds()


@pytest.mark.skipif(not BY_HAND, reason="CORTEX_FUZZ_CASES says how many cases")
@pytest.mark.parametrize("name", TARGETS)
def test_and_by_hand_as_often_as_is_wanted(name: str) -> None:
    chance = random.Random(f"{SEED}/{name}")
    for _ in range(-(-BY_HAND // len(TARGETS))):
        tape = chance.randbytes(chance.choice((16, 32, 64)))
        try:
            TARGETS[name](Tape(tape))
        except Exception as error:
            raise AssertionError(f"TARGETS[{name!r}](Tape({tape!r}))") from error


def test_the_cases_are_neither_all_refused_nor_all_taken() -> None:
    """Else the fuzz would look at one half of the code alone."""
    for dialect in (CHAT, TEXT, RESPONSES, MESSAGES):
        bodies, taken = corpus()[dialect.path], 0
        for case in range(300):
            with suppress(CortexError):
                dialect.read(mutated(Tape(random.Random(case).randbytes(64)), bodies))
                taken += 1
        assert 45 < taken < 255, (dialect.name, taken)


def test_a_case_leaves_nothing_behind_for_the_next() -> None:
    before = corpus()
    for path, bodies in corpus().items():
        for case in range(200):
            mutated(Tape(random.Random(case).randbytes(64)), bodies)
        assert bodies == before[path]


# -- work that grows with what comes, and no faster


def _read(path: Callable[[bytes], object], body: bytes) -> None:
    with suppress(BadAsk):
        path(body)


def _chat(size: int) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y" * size}] * (size // 8)
    _read(CHAT.read, json.dumps({"model": "m", "messages": turns}).encode())


def _twins(size: int) -> None:
    _read(peek, b'{"model":"m",' + b'"a":{"model":1},' * size + b'"z":1}')


def _messages(size: int) -> None:
    """Calls and their results, in the order that is the hardest to sort."""
    uses = [{"type": "tool_use", "id": f"t{i}", "name": "n", "input": {}} for i in range(size)]
    results = [{"type": "tool_result", "tool_use_id": f"t{i}", "content": "r"} for i in reversed(range(size))]
    turns = [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    _read(MESSAGES.read, json.dumps({"model": "m", "max_tokens": 5, "messages": turns}).encode())


def _items(size: int) -> None:
    items = [
        {"type": "function_call", "call_id": f"c{i}", "name": "n", "arguments": "{}"} for i in range(size)
    ]
    results = [{"type": "function_call_output", "call_id": f"c{i}", "output": "r"} for i in range(size)]
    _read(RESPONSES.read, json.dumps({"model": "m", "input": [*items, *reversed(results)]}).encode())


def _events(size: int) -> None:
    reader, machine = EventReader(), hear(Hearing())
    next(machine)
    for _ in range(size):
        for data in reader.feed(b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a",'):
            machine.send(data)
        for data in reader.feed(b'"function":{"name":"n","arguments":"{"}}]}}]}\n\n'):
            machine.send(data)


def _line(size: int) -> None:
    reader = EventReader()
    for _ in range(size):
        reader.feed(b"data: x")


def _tokens(size: int) -> None:
    projection = Projection(choice=0, thinking=Thinking(inside=True), stops=("aaaaaaaaaaaab",))
    for _ in range(size):
        projection.feed(Tokens(b"aaa\n\n</thin", 1))


@pytest.mark.parametrize("deed", [_chat, _twins, _messages, _items, _events, _line, _tokens])
def test_twice_as_much_is_twice_the_work(deed: Callable[[int], None]) -> None:
    deed(10)
    once, twice = lines(lambda: deed(200)), lines(lambda: deed(400))
    assert twice < 2.3 * once + 100
