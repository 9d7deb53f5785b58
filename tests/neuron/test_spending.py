"""Tokens by key name and day: counted at the neuron, kept over a restart, reported."""

from datetime import date, timedelta
from pathlib import Path

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.events import Usage
from cortex.harness.scripted import Script
from cortex.neuron.spending import DAYS, FILE, KEEP_S, NAMES_A_DAY, OTHERS, Spending
from cortex.neuron.state import State
from cortex.web.listeners import fleet_credential
from cortex.wire import neuron as wire
from tests.calls import CHAT, calling, hello
from tests.roles import Running, eventually, running_gateway, running_neuron, specs

MONDAY = date(2026, 11, 30)


class Days:
    """A calendar that turns when told to."""

    def __init__(self) -> None:
        self.today = MONDAY

    def __call__(self) -> date:
        return self.today


def book() -> tuple[Spending, Days]:
    days = Days()
    return Spending(State(None), days), days


def tokens(prompt: int, cached: int, completion: int) -> wire.Tokens:
    return wire.Tokens(prompt=prompt, cached=cached, completion=completion)


def test_what_a_key_used_adds_up_by_day() -> None:
    spending, days = book()
    spending.count("ada", Usage(10, 4, 3))
    spending.count("ada", Usage(5, 0, 2))
    spending.count("bob", Usage(1, 0, 1))
    told = spending.report()
    assert (told.day, told.keys) == ("2026-11-30", {"ada": tokens(15, 4, 5), "bob": tokens(1, 0, 1)})
    days.today += timedelta(days=1)
    assert spending.report() == wire.KeyTokens(day="2026-12-01", book=told.book)


def test_without_a_key_or_tokens_nothing_is_entered() -> None:
    spending, _ = book()
    spending.count(None, Usage(10, 4, 3))
    spending.count("ada", Usage(0, 0, 0))
    assert spending.report().keys == {}


@pytest.mark.parametrize("name", ["", " ", "a b", "ü", "x" * 65, "-a", "a\n"])
def test_what_no_key_can_be_called_counts_with_the_others(name: str) -> None:
    spending, _ = book()
    spending.count(name, Usage(1, 0, 0))
    assert set(spending.report().keys) == {OTHERS}


def test_whoever_names_keys_at_will_does_not_fill_the_memory() -> None:
    spending, _ = book()
    for number in range(NAMES_A_DAY + 5):
        spending.count(f"k{number}", Usage(1, 0, 0))
    spending.count("k1", Usage(1, 0, 0))
    keys = spending.report().keys
    assert len(keys) == NAMES_A_DAY + 1
    assert (keys[OTHERS].prompt, keys["k1"].prompt) == (5, 2)


async def test_the_book_outlasts_a_restart_and_forgets_after_a_month(tmp_path: Path) -> None:
    days, books = Days(), set()
    for used in (1, 2):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                state = State(tmp_path)
                await nursery.start(state.run)
                spending = Spending(state, days)
                await nursery.start(spending.run)
                spending.count("ada", Usage(used, 0, 0))
                await spending.keep()
                books.add(spending.report().book)
                nursery.cancel_scope.cancel()
    assert books == {spending.report().book} != {book()[0].report().book}, "lost, it is another"
    assert spending.report().keys == {"ada": tokens(3, 0, 0)}
    days.today += timedelta(days=DAYS)
    spending.count("bob", Usage(1, 0, 0))
    async with trio.open_nursery() as nursery:
        state = State(tmp_path)
        await nursery.start(state.run)
        late = Spending(state, days)
        await nursery.start(late.run)
        late.count("bob", Usage(1, 0, 0))
        await late.keep()
        nursery.cancel_scope.cancel()
    assert b"ada" not in (tmp_path / FILE).read_bytes()


async def test_a_book_of_an_older_build_gets_an_id_that_stays(tmp_path: Path) -> None:
    """Else each start would be one more book with the same day in it."""
    (tmp_path / FILE).write_text('{"days":{"2026-11-30":{"ada":{"prompt":3}}}}')
    books = set()
    for _ in range(2):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                state = State(tmp_path)
                await nursery.start(state.run)
                spending = Spending(state, Days())
                await nursery.start(spending.run)
                books.add(spending.report().book)
                assert spending.report().keys == {"ada": tokens(3, 0, 0)}
                await spending.keep()
                nursery.cancel_scope.cancel()
    assert len(books) == 1


async def test_the_book_is_kept_now_and_then_without_being_told(tmp_path: Path, mock_clock) -> None:
    state = State(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        spending = Spending(state, Days())
        await nursery.start(spending.run)
        spending.count("ada", Usage(1, 0, 0))
        written = tmp_path / FILE
        mock_clock.jump(KEEP_S)
        mock_clock.rate = 1.0
        with trio.fail_after(20):
            while not written.exists():
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert b"ada" in written.read_bytes()


async def test_a_request_counts_for_the_key_that_its_gateway_names(tmp_path: Path) -> None:
    """Also one whose client leaves: what was computed was used. A client cannot name a key."""
    config = GatewayConfig(keys=(Key("ann", fleet_credential("sk-canary").sha256),))
    headers = {"authorization": "Bearer sk-canary", wire.KEY_NAME: "mallory"}
    script = {"a": Script("one two"), "endless": Script(endless=True)}

    with trio.fail_after(30):
        async with (
            running_neuron(tmp_path, specs(tmp_path, "a", "endless"), script) as neuron,
            running_gateway(neuron, config=config) as gateway,
        ):
            assert (await gateway.http.post(CHAT, json=hello(), headers=headers)).status_code == 200
            first = (await used(neuron))["ann"]
            assert first["completion"] == 2
            body = hello("endless", stream=True)
            async with calling(gateway) as caller:
                await caller.ask(CHAT, body, **headers)
                await caller.until(b"content")
                await caller.leave()

            async def counted() -> bool:
                return (await used(neuron))["ann"]["completion"] > first["completion"]

            await eventually(counted)
            assert (await neuron.http.post(CHAT, json=hello())).status_code == 200
            assert set(await used(neuron)) == {"ann"}


async def test_what_a_key_used_up_at_one_gateway_is_used_up_at_the_next(tmp_path: Path) -> None:
    """By the neuron's count, also for a client that left; at its own gateway at once."""
    names = ("ann", "bob")
    keys = tuple(Key(name, fleet_credential(f"sk-{name}").sha256, tokens_per_day=1) for name in names)
    config, script = GatewayConfig(keys=keys), {"a": Script("one two"), "endless": Script(endless=True)}
    ann, bob = ({"authorization": f"Bearer sk-{name}"} for name in names)

    async def status(gateway: Running, headers: dict[str, str]) -> int:
        return (await gateway.http.post(CHAT, json=hello(), headers=headers)).status_code

    with trio.fail_after(30):
        async with running_neuron(tmp_path, specs(tmp_path, "a", "endless"), script) as neuron:
            async with running_gateway(neuron, config=config) as first:
                assert await status(first, ann) == 200
                assert await status(first, ann) == 429
                async with calling(first) as caller:
                    await caller.ask(CHAT, hello("endless", stream=True), **bob)
                    await caller.until(b"content")
                    await caller.leave()

                async def counted() -> bool:
                    return set(await used(neuron)) == {*names}

                await eventually(counted)
            async with running_gateway(neuron, config=config) as second:
                assert [await status(second, headers) for headers in (ann, bob)] == [429, 429]


async def used(neuron: Running) -> dict[str, dict[str, int]]:
    return (await neuron.http.get("/health")).json()["key_tokens"]["keys"]
