"""Neurons that were away, or spoil what they are sent: who still goes there, and how many at once."""

import logging

import pytest
import trio

from cortex.config.gateway import Poll
from cortex.wire.neuron import ModelLoad
from tests.fake_neuron import (
    OPENING,
    STREAMED,
    WHOLE,
    FakeNeuron,
    Open,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Wait, chunks, last_chunk, whole


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def row(gateway: Open, name: str = "n1") -> dict:
    told = (await gateway.http.get("/fleet")).json()["neurons"]
    return next(neuron for neuron in told if neuron["name"] == name)


async def back_again(gateway: Open, neuron: FakeNeuron) -> None:
    """It was away, and is there again."""
    await neuron.die()
    await gateway.knows(lambda ledger: not ledger.place("n1").ready)
    await neuron.listen()
    await gateway.knows(lambda ledger: ledger.place("n1").ready)


async def counts(gateway: Open, one: FakeNeuron, two: FakeNeuron, several: int) -> tuple[int, int]:
    """How many of `several` requests at once each neuron gets; all are answered."""
    before, held = (len(one.requests), len(two.requests)), trio.Event()
    for neuron in (one, two):
        neuron.scripts.extend([neuron.plan(Wait(held), WHOLE)] * several)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            assert (await gateway.ask("a")).status_code == 200

        for _ in range(several):
            nursery.start_soon(ask)
        while len(one.requests) + len(two.requests) < sum(before) + several:  # noqa: ASYNC110 - of two
            await trio.sleep(0.002)
        held.set()
    for neuron in (one, two):
        neuron.scripts.clear()
    return len(one.requests) - before[0], len(two.requests) - before[1]


async def test_a_neuron_that_is_back_gets_one_request_then_two_and_at_last_its_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 6: those who have a choice go elsewhere meanwhile."""
    caplog.set_level(logging.INFO)
    async with fake_neuron() as one, fake_neuron() as two:
        for neuron in (one, two):
            neuron.has("a", slots=64)
        two.loads["a"] = ModelLoad(id="a", in_flight=30)
        async with open_gateway(one, two) as gateway:
            await back_again(gateway, one)
            assert (await row(gateway))["state"] == "probation"
            assert 'cortex_neuron_probation{neuron="n1"} 1.0' in await gateway.page()
            assert await counts(gateway, one, two, 6) == (1, 5)
            assert await counts(gateway, one, two, 6) == (2, 4)
            assert await counts(gateway, one, two, 6) == (6, 0), "two successes made eight of two"
            assert (await row(gateway))["state"] == "ok"
            said = [each.getMessage() for each in caplog.records if "neuron.probation" in each.getMessage()]
            assert [each.rpartition("=")[2] for each in said] == ["1", "2", "4", "8", "all"]


async def test_who_waits_for_a_seat_elsewhere_takes_the_one_that_is_earned() -> None:
    """The bound is the ledger's: nobody has to ask again."""
    async with fake_neuron() as one, fake_neuron() as two:
        for neuron in (one, two):
            neuron.has("a", slots=1, queue=0)
        async with open_gateway(one, two) as gateway:
            await back_again(gateway, one)
            first, others, statuses = trio.Event(), trio.Event(), list[int]()

            async def answered() -> None:
                statuses.append((await gateway.ask()).status_code)

            one.then(Wait(first), WHOLE)
            two.then(Wait(others), WHOLE)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(answered)
                await one.seen(1)
                await two.seen(1)
                nursery.start_soon(answered)
                await gateway.knows(lambda ledger: ledger.waiting == 1)
                first.set()
                await one.seen(2)
                assert len(two.requests) == 1, "who waited for it has gone where the seat was"
                others.set()
            assert statuses == [200, 200, 200]


IN_STREAM = b'data: {"error":{"message":"the device is lost","type":"t","code":"engine_failed"}}\n\n'
SPOILT = {
    "the engine's failure": refusal(502, "engine_failed"),
    "an error in the stream": STREAM_HEAD + chunks(OPENING, IN_STREAM) + last_chunk(),
    "no room after all": refusal(503, "no_capacity"),
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
async def test_an_answer_that_tells_of_a_failure_earns_no_share(spoilt: bytes) -> None:
    """Row 6: the answers are whole and well-formed, and passed on as they are. One that tells of the
    caller's own mistake is as good as any."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        await back_again(gateway, neuron)
        for _ in range(5):
            neuron.then(spoilt)
            await gateway.ask(stream=spoilt is SPOILT["an error in the stream"])
        assert (await row(gateway))["state"] == "probation"
        for _ in range(4):
            neuron.then(refusal(400, "unsupported_parameter"))
            await gateway.ask()
        assert (await row(gateway))["state"] == "ok"


async def test_an_answer_that_tells_of_a_failure_forgives_none() -> None:
    """Row 17: it neither ejects by itself nor parts those that do."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        for said in (whole(500, b"{}"), refusal(502, "engine_failed")) * 3:
            await gateway.knows(lambda ledger: ledger.place("n1").ready)
            neuron.then(said)
            assert (await gateway.ask()).status_code == 502
        assert (await row(gateway))["state"] == "ejected"


async def test_the_only_replica_serves_everybody_and_is_called_recovering() -> None:
    """Spec section 4: a neuron on probation; nobody is refused, since who else should try it out?"""
    async with fake_neuron("a") as one, open_gateway(one) as gateway:
        one.has("a", slots=64)
        await back_again(gateway, one)
        entry = (await gateway.http.get("/v1/models/a")).json()
        assert entry["state"] == entry["locations"][0]["state"] == "recovering"
        health = (await gateway.http.get("/health")).json()
        assert (health["status"], health["unservable"]) == ("ok", [])
        held = trio.Event()
        one.scripts.extend([one.plan(Wait(held), WHOLE)] * 5)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(gateway.ask)
            await one.seen(5)
            held.set()
        assert (await gateway.http.get("/v1/models/a")).json()["state"] == "loaded"


async def test_a_fleet_whose_replicas_all_fail_goes_on_asking_them() -> None:
    """A fleet never ejects itself."""
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        one.otherwise = two.otherwise = one.plan(whole(500, b"{}"))
        async with open_gateway(one, two) as gateway:

            async def spoilt() -> None:
                await gateway.knows(lambda ledger: all(place.ready for place in ledger))
                assert (await gateway.ask("a")).status_code == 502

            while {(await row(gateway, name))["state"] for name in ("n1", "n2")} != {"ejected"}:
                await spoilt()
            before = len(one.requests) + len(two.requests)
            for _ in range(4):
                await spoilt()
            assert len(one.requests) + len(two.requests) == before + 4
            one.otherwise = two.otherwise = one.plan(WHOLE)
            await gateway.knows(lambda ledger: all(place.ready for place in ledger))
            assert (await gateway.ask("a")).status_code == 200
            page = await gateway.page()
            assert 'cortex_ejections_total{neuron="n1",reason="failing"} 1.0' in page


async def test_a_failed_probe_costs_one_request() -> None:
    """Row 6: it answers polls, and spoils what it is sent."""
    async with fake_neuron() as one, fake_neuron() as two:
        for neuron in (one, two):
            neuron.has("a", slots=64)
        two.loads["a"] = ModelLoad(id="a", in_flight=30)
        async with open_gateway(one, two, poll=Poll(interval_s=0.05, timeout_s=1.0)) as gateway:
            await back_again(gateway, one)
            one.otherwise = one.plan(whole(500, b"{}"))
            assert (await gateway.ask("a")).status_code == 502
            await gateway.knows(lambda ledger: ledger.place("n1").ready)
            assert (await row(gateway))["state"] == "ejected"
            two.otherwise = two.plan(STREAMED)
            for _ in range(5):
                assert (await gateway.ask("a", stream=True)).headers["x-cortex-neuron"] == "n2"
