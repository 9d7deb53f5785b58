"""Neurons that DNS names: who comes, who goes, and what a name server that fails changes."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from cortex.config.gateway import Discovery, GatewayConfig, NeuronRef
from cortex.gateway import discovery
from cortex.gateway.member import Found, together
from cortex.web import names
from tests.fake_dns import NAME, FakeDns, fake_dns
from tests.fake_neuron import Open, fake_neuron, open_gateway
from tests.fake_upstream import Wait


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def seeking(server: FakeDns, **more: object) -> GatewayConfig:
    found = Discovery(NAME, interval_s=0.03, nameservers=(server.address,), **more)  # type: ignore[arg-type]
    return GatewayConfig(discovery=found)


@asynccontextmanager
async def seeker(server: FakeDns, *listed, **more: object) -> AsyncIterator[Open]:
    """A gateway whose neurons `server` names, save those `listed`."""
    async with open_gateway(*listed, config=seeking(server, **more)) as gateway:
        yield gateway


async def states(gateway: Open) -> dict[str, str]:
    told = (await gateway.http.get("/fleet")).json()["neurons"]
    return {neuron["name"]: neuron["state"] for neuron in told}


async def until(gateway: Open, wanted: dict[str, str]) -> None:
    while await states(gateway) != wanted:  # noqa: ASYNC110 - asked over HTTP
        await trio.sleep(0.01)


async def warned(gateway: Open) -> list[str]:
    return (await gateway.http.get("/health")).json()["warnings"]


async def test_who_is_named_serves_from_the_start_with_the_fleets_token() -> None:
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        async with seeker(server, token="a secret of the fleet") as gateway:
            assert await states(gateway) == {"one.test": "ok"}
            answer = await gateway.ask("a")
            assert answer.headers["x-cortex-neuron"] == "one.test"
            headers = dict(neuron.requests[0].headers)
            assert headers["authorization"] == "Bearer a secret of the fleet"
            assert headers["host"] == f"one.test:{neuron.port}"


async def test_who_comes_is_asked_and_who_goes_drains() -> None:
    async with (
        fake_neuron("a") as one,
        fake_neuron("b") as two,
        fake_dns(("one.test", one.port)) as server,
        seeker(server) as gateway,
    ):
        server.hosts["two.test"] = ("127.0.0.1",)
        server.services.append(("two.test", two.port))
        await until(gateway, {"one.test": "ok", "two.test": "ok"})
        go_on = trio.Event()
        one.then(Wait(go_on), one.otherwise.steps[0])
        async with trio.open_nursery() as nursery:
            answers = []

            async def under_way() -> None:
                answers.append(await gateway.ask("a"))

            nursery.start_soon(under_way)
            await one.seen(1)
            server.services.pop(0)
            await until(gateway, {"one.test": "stopping", "two.test": "ok"})
            why = (await gateway.http.get("/fleet")).json()["neurons"][0]["why"]
            assert "DNS" in why
            go_on.set()
        assert answers[0].status_code == 200
        await until(gateway, {"two.test": "ok"})


@pytest.mark.parametrize("mood", ["empty", "nxdomain", "servfail", "garbage", "silent"])
async def test_a_lookup_that_fails_keeps_who_is_known_and_is_told_until_it_works(
    mood, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 23; an answer without a neuron counts as a failure, since a fleet is not lost to DNS."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(discovery, "ANSWER_S", 0.15)
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        async with seeker(server) as gateway:
            server.mood = mood
            while not await warned(gateway):  # noqa: ASYNC110 - asked over HTTP
                await trio.sleep(0.01)
            assert NAME in (await warned(gateway))[0]
            await server.was_asked(3)
            assert (await gateway.ask("a")).status_code == 200
            assert await states(gateway) == {"one.test": "ok"}
            server.mood = "answers"
            while await warned(gateway):  # noqa: ASYNC110 - asked over HTTP
                await trio.sleep(0.01)
            said = [record.getMessage() for record in caplog.records if "discovery." in record.getMessage()]
            assert [each.split()[0] for each in said] == ["discovery.failed", "discovery.back"]


async def test_a_gateway_starts_without_its_name_server_and_finds_them_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "ANSWER_S", 0.2)
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        server.mood = "silent"
        async with seeker(server) as gateway:
            assert await states(gateway) == {}
            assert (await gateway.http.get("/readyz")).status_code == 503
            server.mood = "answers"
            await until(gateway, {"one.test": "ok"})
            answer = await gateway.ask("a")
            assert (answer.status_code, answer.headers["x-cortex-neuron"]) == (200, "one.test")
            assert (await gateway.http.get("/readyz")).status_code == 200


async def test_a_slow_answer_holds_up_neither_polls_nor_requests() -> None:
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        async with seeker(server) as gateway:
            server.held = trio.Event()
            await server.was_asked()
            await neuron.polled(3)
            assert (await gateway.ask("a")).status_code == 200
            server.held.set()


async def test_neurons_of_one_host_are_told_apart_by_their_ports_and_named_once() -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        pairs = [("one.test", one.port), ("one.test", two.port)]
        async with fake_dns(*pairs, pairs[0]) as server, seeker(server) as gateway:
            assert await states(gateway) == {f"one.test-{one.port}": "ok", f"one.test-{two.port}": "ok"}


async def test_another_port_is_another_neuron() -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        async with fake_dns(("one.test", one.port)) as server, seeker(server) as gateway:
            server.services[:] = [("one.test", two.port)]
            await gateway.knows(lambda ledger: ledger.holders("b"))
            assert not gateway.ledger.holders("a")
            assert await states(gateway) == {"one.test": "ok"}


async def test_a_host_with_a_dead_address_is_reached_at_its_other_one() -> None:
    """By reports and by requests."""
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        server.hosts["one.test"] = ("127.0.0.9", "127.0.0.1")
        async with seeker(server) as gateway:
            assert await states(gateway) == {"one.test": "ok"}
            assert (await gateway.ask("a")).status_code == 200


async def test_an_answer_that_nobody_thought_of_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        async with seeker(server) as gateway:

            def broken(answer, token):
                raise ZeroDivisionError("nobody thought of this")

            monkeypatch.setattr(discovery, "_members", broken)
            while not await warned(gateway):  # noqa: ASYNC110 - asked over HTTP
                await trio.sleep(0.01)
            assert "nobody thought of this" in (await warned(gateway))[0]
            assert "discovery.unusable" in caplog.text
            assert (await gateway.ask("a")).status_code == 200


async def test_what_can_be_no_neuron_is_left_out_and_told() -> None:
    async with fake_neuron("a") as neuron:
        pairs = [("one.test", neuron.port), ("nobody.test", 0)]
        async with fake_dns(*pairs) as server, seeker(server) as gateway:
            assert await states(gateway) == {"one.test": "ok"}
            assert "nobody.test:0" in (await warned(gateway))[0]
            server.services.pop(0)
            await server.was_asked(3)
            assert await states(gateway) == {"one.test": "ok"}, "an answer without a neuron lets nobody go"


async def test_a_listed_neuron_wins_over_the_same_endpoint_in_dns() -> None:
    async with fake_neuron("a") as neuron, fake_dns(("127-0-0-1.test", neuron.port)) as server:
        async with seeker(server, neuron) as gateway:
            # One process, two addresses: the second is refused, and says whose address it is.
            await until(gateway, {"n1": "ok", "127-0-0-1.test": "away"})
            told = (await gateway.http.get("/fleet")).json()["neurons"]
            assert ["n1" in each["why"] for each in told if each["state"] == "away"] == [True], told
            assert (await gateway.ask("a")).headers["x-cortex-neuron"] == "n1"
    listed = (NeuronRef("n1", "http://one.test:1"), NeuronRef("two.test", "http://x:1"))
    found = (
        Found("one.test", "http://one.test:1"),
        Found("two.test", "http://two.test:2"),
    )
    assert together(listed, found) == {
        "n1": listed[0],
        "two.test": listed[1],
        "two.test-2": replace(found[1], name="two.test-2"),
    }


async def test_a_reload_that_names_no_service_lets_them_go_and_one_that_does_finds_them() -> None:
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        async with seeker(server) as gateway:
            parts = gateway.gateway._parts
            parts.seeker.refit(Discovery())
            await until(gateway, {})
            assert not gateway.ledger.holders("a") and gateway.ledger.place("one.test") is None
            assert (await gateway.ask("a")).status_code == 404
            assert not neuron.requests and not await warned(gateway)
            parts.seeker.refit(seeking(server).discovery)
            await until(gateway, {"one.test": "ok"})
            answer = await gateway.ask("a")
            assert (answer.status_code, answer.headers["x-cortex-neuron"]) == (200, "one.test")


async def test_an_answer_is_not_asked_for_again_while_it_is_valid(autojump_clock) -> None:
    """A TTL beyond the interval is waited for, to five minutes."""

    class Counted(discovery.Seeker):
        async def _look(self) -> float:
            looks.append(trio.current_time())
            return await super()._look()

    class Found:
        trouble = ""

        def found(self, refs, lookup) -> None:
            pass

    looks: list[float] = []
    for ttl, due_s in ((1, 30), (90, 90), (4000, 300)):
        answer = _Answer(ttl)

        async def asked(name, servers, answer=answer):
            return answer

        discovery_asked, discovery._asked = discovery._asked, asked
        try:
            looks.clear()
            async with trio.open_nursery() as nursery:
                await nursery.start(Counted(Found(), Discovery("x.test")).run)  # type: ignore[arg-type]
                await trio.sleep(due_s + 1)
                nursery.cancel_scope.cancel()
        finally:
            discovery._asked = discovery_asked
        assert looks[1] - looks[0] == pytest.approx(due_s)


class _Answer:
    """No records, and a TTL."""

    def __init__(self, ttl: int) -> None:
        self.rrset = type("Set", (), {"ttl": ttl})

    def __iter__(self):
        return iter(())


async def test_a_neuron_whose_name_is_not_found_any_more_is_kept_while_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 23: neither its reports nor requests need the resolver again, not even with a new connection."""
    monkeypatch.setattr(names, "FRESH_S", 0.05)
    monkeypatch.setattr(names, "RETRY_S", 0.05)
    async with fake_neuron("a") as neuron, fake_dns(("one.test", neuron.port)) as server:
        async with seeker(server) as gateway:
            server.hosts.clear()
            await server.was_unable(3)
            polls = neuron.polls
            await neuron.die()
            await gateway.knows(lambda ledger: not ledger.place("one.test").ready)
            await neuron.listen()
            await gateway.knows(lambda ledger: ledger.place("one.test").ready)
            assert neuron.polls > polls
            assert (await gateway.ask("a")).status_code == 200
