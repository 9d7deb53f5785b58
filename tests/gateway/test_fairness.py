"""Keys take turns: through a gateway to a neuron with one seat, and what a full queue says. Real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import msgspec
import pytest
import trio

from cortex.config.gateway import ColdLoad, GatewayConfig
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.keys import digest
from tests.fake_neuron import WHOLE, FakeNeuron, Open, body, fake_neuron, open_gateway
from tests.fake_upstream import Wait
from tests.fake_web import ask

CHAT = "/v1/chat/completions"
SECRETS = {"ann": "sk-ann", "bob": "sk-bob"}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def keyed(queue: int = 1024, **shares: float) -> GatewayConfig:
    """Two keys, and callers without one."""
    keys = tuple(
        Key(name, digest(secret), ("inference", "admin"), share=shares.get(name, 1.0))
        for name, secret in SECRETS.items()
    )
    limits, anyone = Limits(queue=queue), (ip_network("127.0.0.0/8"),)
    return GatewayConfig(keys=keys, limits=limits, anonymous=True, trusted_networks=anyone)


@asynccontextmanager
async def one_seat(config: GatewayConfig) -> AsyncIterator[tuple[FakeNeuron, Open]]:
    """A neuron that takes one request at a time, and waits with each answer for the test."""
    async with fake_neuron() as neuron:
        neuron.has("a", slots=1, queue=0)
        async with open_gateway(neuron, catalogue=["a", "cold"], config=config) as gateway:
            yield neuron, gateway


async def send(gateway: Open, key: str, model: str = "a", **more: object) -> None:
    """A request of `key` that waits, or sits: the ledger has it."""
    before = gateway.ledger._arrivals
    client = await gateway.dial()
    headers = {"x_api_key": SECRETS[key]} if key else {}
    await client.send(ask(CHAT, body(model, **more), **headers))
    await gateway.knows(lambda ledger: ledger._arrivals > before)


def caller(neuron: FakeNeuron, which: int, header: str = "x-cortex-key-name") -> str:
    return dict(neuron.requests[which].headers).get(header, "")


async def order_of(neuron: FakeNeuron, gateway: Open, *keys: str) -> list[str]:
    """Whose requests reach the neuron one after another, when all have come before the first is done."""
    doors = [trio.Event() for _ in range(len(keys) + 1)]
    for door in doors:
        neuron.then(Wait(door), WHOLE)
    await send(gateway, "")
    for key in keys:
        await send(gateway, key)
    for count, door in enumerate(doors, 1):
        await neuron.seen(count)
        door.set()
    return [caller(neuron, which) for which in range(1, len(doors))]


async def test_keys_take_turns_at_a_neuron_with_one_seat_and_callers_without_one_come_last() -> None:
    async with one_seat(keyed()) as (neuron, gateway):
        served = await order_of(neuron, gateway, "ann", "", "ann", "ann", "bob", "", "bob")
        assert served == ["ann", "bob", "ann", "bob", "ann", "", ""]


async def test_a_share_of_two_is_two_turns_and_the_neuron_is_told() -> None:
    async with one_seat(keyed(bob=2.0)) as (neuron, gateway):
        served = await order_of(neuron, gateway, *["ann"] * 4, *["bob"] * 4)
        assert sorted(served[:6]) == ["ann"] * 2 + ["bob"] * 4
        shares = {caller(neuron, at, "x-cortex-key-share") for at in range(1, 9) if served[at - 1] == "bob"}
        assert shares == {"2"}
        others = {caller(neuron, at, "x-cortex-key-share") for at in range(1, 9) if served[at - 1] == "ann"}
        assert others == {""}


async def test_a_neuron_is_told_how_long_a_request_may_wait_yet() -> None:
    """Who has waited here does not wait as long again there; who waits for a load may wait for that."""
    config = replace(keyed(), limits=Limits(queue_wait_s=20.0), cold_load=ColdLoad(max_wait_s=300.0))
    async with one_seat(config) as (neuron, gateway):
        door = trio.Event()
        neuron.then(Wait(door), WHOLE)
        neuron.otherwise = neuron.plan(WHOLE)
        await send(gateway, "")
        await neuron.seen(1)
        begun = trio.current_time()
        await send(gateway, "")
        await trio.sleep(0.05)  # it waits, and so much is gone
        door.set()
        await neuron.seen(2)
        waited = trio.current_time() - begun
        lie = {"x-cortex-patience": "1000"}
        assert (await gateway.http.post(CHAT, content=body("cold"), headers=lie)).status_code == 200
        at_once, later, cold = (float(caller(neuron, at, "x-cortex-patience")) for at in range(3))
        assert 19 < at_once <= 20 and 19 - waited < later <= 20 - 0.05 and 200 < cold <= 300


async def test_what_a_client_says_of_keys_reaches_no_neuron() -> None:
    async with one_seat(keyed()) as (neuron, gateway):
        neuron.otherwise = neuron.plan(WHOLE)
        lies = {"x-cortex-key-name": "boss", "x-cortex-key-share": "1000"}
        for key in ("", SECRETS["ann"]):
            said = {**lies, "x-api-key": key} if key else lies
            assert (await gateway.http.post(CHAT, content=body("a"), headers=said)).status_code == 200
        assert [caller(neuron, at) for at in (0, 1)] == ["", "ann"]
        assert [caller(neuron, at, "x-cortex-key-share") for at in (0, 1)] == ["", ""]


async def test_an_order_to_load_has_the_key_and_the_share_of_who_waits_for_it() -> None:
    async with one_seat(keyed(bob=0.5)) as (neuron, gateway):
        neuron.otherwise = neuron.plan(WHOLE)
        headers = {"x-api-key": SECRETS["bob"]}
        assert (await gateway.http.post(CHAT, content=body("cold"), headers=headers)).status_code == 200
        order = msgspec.json.decode(neuron.orders[0].body)
        assert (order["key"], order["share"]) == ("bob", 0.5)


async def test_a_key_that_fills_the_queue_gives_way_to_another_one() -> None:
    """Both get an answer that says where they stood and when to come again."""
    async with one_seat(keyed(queue=2)) as (neuron, gateway):
        door = trio.Event()
        neuron.then(Wait(door), WHOLE)
        neuron.otherwise = neuron.plan(WHOLE)
        for key in ("", "ann", "ann", "bob"):
            await send(gateway, key)
        _, elder, younger, bob = gateway.clients
        await send(gateway, "ann")
        refused = gateway.clients[-1]  # has as many waiting itself
        for client, position in ((younger, 2), (refused, 3)):
            answer = await client.answer()
            error = msgspec.json.decode(answer.body)["error"]
            assert (answer.status, error["code"]) == (503, "overloaded")
            assert error["queue_position"] == position and error["retry_after"] >= 1
            assert int(answer.headers["retry-after"]) >= 1
        door.set()
        for client in (elder, bob):
            assert (await client.answer()).status == 200


async def test_a_stream_that_gives_way_after_its_head_ends_with_the_same_error() -> None:
    async with one_seat(keyed(queue=2)) as (neuron, gateway):
        door = trio.Event()
        neuron.then(Wait(door), WHOLE)
        await send(gateway, "")
        await send(gateway, "ann", stream=True)
        await send(gateway, "ann", stream=True)
        youngest = gateway.clients[-1]
        await youngest.until(b": keep-alive")
        await send(gateway, "bob")
        said = await youngest.until(b"}\n\n")
        assert b'"code":"overloaded"' in said and b'"queue_position":2' in said and b'"retry_after"' in said
        assert b"[DONE]" not in said


@pytest.mark.parametrize("first_leaves", [False, True])
async def test_an_order_is_sent_again_for_who_joins_its_load_and_ranks_better(first_leaves: bool) -> None:
    """Once for each key, and for nobody who ranks no better than who is there."""
    async with one_seat(keyed(bob=2.0)) as (neuron, gateway):
        neuron.otherwise, neuron.loading = neuron.plan(WHOLE), trio.Event()
        await send(gateway, "", "cold")
        await neuron.told_to_load()
        if first_leaves:
            await gateway.clients[0].close()
            await gateway.knows(lambda ledger: not ledger.waiting)
        for key in ("", "bob", "bob", "", "ann"):
            await send(gateway, key, "cold")
        while neuron.ordered("/models/load") < 2:
            await neuron._change.wait()
        neuron.loading.set()
        await neuron.seen(5 if first_leaves else 6)
        orders = [msgspec.json.decode(order.body) for order in neuron.orders if order.body]
        assert [(order["key"], order["share"]) for order in orders] == [("", 1.0), ("bob", 2.0)]
