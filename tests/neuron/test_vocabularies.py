"""Children that have a model's tokens alone: how many there are, how long they stay, and how they end.

The harness is scripted, the children are real processes.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from cortex.errors import CortexError, EngineFailed, LoadFailed, Overloaded
from cortex.harness.base import LoadOrder
from cortex.harness.losses import Crash
from cortex.harness.scripted import ScriptedHarness, scripted_order, tokens_of
from cortex.harness.watch import Limits
from cortex.neuron import vocabularies
from cortex.neuron.vocabularies import MOST, Vocabularies

HARNESS = ScriptedHarness()
TEXT = "one two three"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


class Watched(Vocabularies):
    """With the processes that it began, in order, and the crashes that it told of."""

    def __init__(self, idle_s: float) -> None:
        self.crashes: list[Crash] = []
        super().__init__(Limits(1.0, 1.0, 2.0), self.crashes.append, idle_s=idle_s)
        self.pids: list[int] = []

    def see(self, record: object) -> bool:
        told = str(record.getMessage())  # type: ignore[attr-defined]
        if told.startswith("child.started"):
            self.pids.append(int(told.rpartition("pid=")[2]))
        return True

    @property
    def living(self) -> list[int]:
        return [pid for pid in self.pids if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def watching(caplog: pytest.LogCaptureFixture) -> Callable[..., object]:
    @asynccontextmanager
    async def begun(idle_s: float = 60.0) -> AsyncIterator[Watched]:
        made = Watched(idle_s)
        caplog.set_level("INFO")
        caplog.handler.addFilter(made.see)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            yield made
            nursery.cancel_scope.cancel()
        caplog.handler.removeFilter(made.see)
        assert made.living == [], "a child was left behind"

    return begun


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - a process rings no bell here
        await trio.sleep(0.01)


def order(model: str = "m", digest: str = "") -> LoadOrder:
    return replace(scripted_order(model), digest=digest)


def broken(name: str) -> ScriptedHarness:
    return ScriptedHarness(factory=f"tests.fake_children:{name}")


async def test_however_many_ask_at_once_one_child_answers_all(watching) -> None:
    async with watching() as words:
        told: list[tuple[int, ...]] = []

        async def ask() -> None:
            told.append(await words.tokenise(HARNESS, order(), TEXT))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert told == [tokens_of(TEXT)] * 20 and len(words.pids) == 1
        assert await words.detokenise(HARNESS, order(), tokens_of(TEXT)) == TEXT
        assert len(words.pids) == 1


async def test_a_child_that_nobody_asks_goes(watching) -> None:
    async with watching(idle_s=0.05) as words:
        await words.tokenise(HARNESS, order(), TEXT)
        assert len(words.living) == 1
        await until(lambda: not words.living)
        assert await words.tokenise(HARNESS, order(), TEXT) == tokens_of(TEXT)
        assert len(words.pids) == 2 and words.crashes == []


async def test_there_are_never_more_than_a_few_and_the_one_unasked_for_longest_goes(watching) -> None:
    async with watching() as words:
        for number in range(MOST):
            await words.tokenise(HARNESS, order(f"m{number}"), TEXT)
        await words.tokenise(HARNESS, order("m0"), TEXT)
        await words.tokenise(HARNESS, order("another"), TEXT)
        assert len(words.living) == MOST
        first, second = words.pids[:2]
        assert first in words.living and second not in words.living
        # Who was asked lately answers still.
        await words.tokenise(HARNESS, order("m0"), TEXT)
        assert len(words.pids) == MOST + 1


async def test_who_finds_all_of_them_at_work_waits_and_is_told_at_last(
    watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabularies, "LINE_S", 0.2)
    async with watching() as words, trio.open_nursery() as nursery:
        for number in range(MOST):
            nursery.start_soon(quietly, words.tokenise, broken("hangs_in_load"), order(f"m{number}"), TEXT)
        await until(lambda: len(words.pids) == MOST)
        with pytest.raises(Overloaded) as refused:
            await words.tokenise(HARNESS, order("another"), TEXT)
        assert refused.value.not_started and "another" in refused.value.message
        nursery.cancel_scope.cancel()


async def quietly(ask: Callable[..., object], *what: object) -> None:
    with suppress(CortexError):
        await ask(*what)  # type: ignore[misc]


async def test_a_client_that_leaves_leaves_no_child_behind_that_is_on_its_way(watching) -> None:
    async with watching() as words:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(words.tokenise, broken("hangs_in_load"), order(), TEXT)
            await until(lambda: words.pids)
            nursery.cancel_scope.cancel()
        await until(lambda: not words.living)
        assert words.crashes == []
        assert await words.tokenise(HARNESS, order(), TEXT) == tokens_of(TEXT)


async def test_one_that_leaves_takes_nothing_from_another_that_waits_for_the_same_child(watching) -> None:
    async with watching() as words, trio.open_nursery() as nursery:
        async with trio.open_nursery() as first:
            first.start_soon(words.tokenise, HARNESS, order(), TEXT)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(words.tokenise, HARNESS, order(), TEXT)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        assert await words.tokenise(HARNESS, order(), TEXT) == tokens_of(TEXT)
        assert len(words.pids) == 1


async def test_a_file_that_changed_has_a_child_of_its_own(watching) -> None:
    async with watching() as words:
        await words.tokenise(HARNESS, order(digest="a"), TEXT)
        await words.tokenise(HARNESS, order(digest="a+of-a-draft"), TEXT)
        assert len(words.pids) == 1
        await words.tokenise(HARNESS, order(digest="b"), TEXT)
        assert len(words.pids) == 2 and words.living == words.pids[1:]


@pytest.mark.parametrize(
    ("factory", "kind", "phase"),
    [("aborts_in_load", LoadFailed, "load"), ("aborts_at_tokens", EngineFailed, "turn")],
)
async def test_one_that_dies_costs_its_question_alone(watching, factory: str, kind: type, phase: str) -> None:
    """Row 73: abort there, and the neuron lives."""
    async with watching() as words:
        with pytest.raises(kind, match="SIGABRT"):
            await words.tokenise(broken(factory), order(), TEXT)
        [crash] = words.crashes
        assert (crash.model, crash.phase, crash.shot) == ("m", phase, False)
        assert await words.tokenise(HARNESS, order(), TEXT) == tokens_of(TEXT)


async def test_one_that_breaks_is_replaced(watching) -> None:
    """It lives on, and would answer nothing for as long as somebody asks."""
    async with watching() as words:
        with pytest.raises(EngineFailed):
            await words.tokenise(broken("breaks_at_tokens"), order(), TEXT)
        assert await words.tokenise(HARNESS, order(), TEXT) == tokens_of(TEXT)
        assert len(words.pids) == 2 and words.crashes == []


async def test_one_that_is_killed_unasked_is_replaced_and_held_against_nobody(watching) -> None:
    async with watching() as words:
        await words.tokenise(HARNESS, order(), TEXT)
        os.kill(words.pids[0], signal.SIGKILL)
        await until(lambda: words.crashes)
        assert words.crashes[0].shot
        assert await words.tokenise(HARNESS, order(), TEXT) == tokens_of(TEXT)


async def test_one_that_hangs_is_ended_within_its_limits(watching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.harness.hosts.process.MERCY_S", 0.1)
    async with watching() as words:
        with pytest.raises(EngineFailed):
            await words.tokenise(broken("hangs_at_tokens"), order(), TEXT)
        assert not words.living


async def test_a_refusal_of_the_file_is_what_everybody_hears_who_waits(watching, tmp_path: Path) -> None:
    async with watching() as words:
        heard: list[str] = []

        async def ask() -> None:
            with pytest.raises(CortexError) as refused:
                await words.tokenise(broken("refuses_to_load"), order(), TEXT)
            heard.append(refused.value.message)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert heard == ["it is torn"] * 3 and len(words.pids) == 1
        assert words.crashes == []
