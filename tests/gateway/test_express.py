"""Plain requests are answered by callbacks, and whatever is not plain, or goes wrong, by tasks."""

import gc
import weakref
from dataclasses import replace

import pytest
import trio
import trio.testing

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.config.whole import Whole
from cortex.gateway.bookkeeping import Bookkeeping
from cortex.gateway.express import Express
from cortex.ledger import Ledger
from cortex.web import errand, guest, hall
from cortex.web.listeners import fleet_credential
from tests.fake_neuron import (
    ANSWER,
    CHUNKED,
    FULL,
    STREAM,
    STREAMED,
    WHOLE,
    FakeNeuron,
    Open,
    body,
    fake_neuron,
    open_gateway,
)
from tests.fake_upstream import STREAM_HEAD, Hang, Wait, chunks, script, whole
from tests.fake_web import CHAT, Client, ask


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def seats(ledger: Ledger) -> int:
    return sum(resident.seats for _, resident in ledger.holders("a"))


async def held(gateway: Open, neuron: FakeNeuron, count: int, **headers: str) -> int:
    """How many tasks there are more when `count` more requests wait for their answers."""
    before, asked = trio.lowlevel.current_statistics().tasks_living, len(neuron.requests)
    for _ in range(count):
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=True), **headers))
    await neuron.seen(asked + count)
    return trio.lowlevel.current_statistics().tasks_living - before


async def test_a_plain_request_that_waits_costs_no_task() -> None:
    async with fake_neuron("a", otherwise=Hang()) as neuron:
        neuron.has("a", slots=64)
        async with open_gateway(neuron) as gateway:
            plain = await held(gateway, neuron, 10)
            odd = await held(gateway, neuron, 10, connection="close")
            assert plain == 10, "the neuron's own tasks, one a connection"
            assert odd >= 30, "else this test sees nothing"


@pytest.mark.parametrize("count", [2, 50])
async def test_requests_sent_ahead_are_answered_in_turn(count: int) -> None:
    """Annex B 3: the second begins when the first has its last byte, and none is lost."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        await client.send(ask(CHAT, body(), x_request_id="one") * count)
        for _ in range(count):
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, ANSWER)
        assert len(neuron.requests) == count
        await gateway.knows(lambda ledger: not seats(ledger))


async def test_a_connection_goes_from_callbacks_to_tasks_and_back() -> None:
    async with fake_neuron("a", otherwise=STREAMED) as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body(stream=True)), body(stream=True))
        head = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode()
        for sent in (ask(CHAT, body(stream=True)), head + chunked, ask(CHAT, body(stream=True), x_odd="1")):
            await client.send(sent)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, STREAM)
        await client.send(ask("/livez", b"", "GET"))
        assert (await client.answer()).body == b"ok\n"
        await client.send(ask(CHAT, body(stream=True)))
        assert (await client.answer()).body == STREAM


@pytest.mark.parametrize("where", ["_begin_answer", "_gather", "_finish"])
async def test_a_bug_in_a_callback_costs_its_own_request_alone(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42: its seat and its connections are free again, and it is in the books."""

    def broken(self: errand.Errand) -> None:
        raise ZeroDivisionError("a bug")

    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        bystander = await gateway.dial()
        with monkeypatch.context() as patch:
            patch.setattr(errand.Errand, where, broken)
            client = await gateway.dial()
            await client.send(ask(CHAT, body()))
            await client.rest()
        await gateway.knows(lambda ledger: not seats(ledger))
        assert "connection.crashed" in caplog.text and "ZeroDivisionError" in caplog.text
        await bystander.send(ask(CHAT, body()))
        assert (await bystander.answer()).status == 200
        page = await gateway.page()
        assert 'outcome="bug"' in page
        assert "cortex_connection_crashes_total 1.0" in page


@pytest.mark.parametrize("side", [errand.Errand, guest.Guest], ids=["neuron's", "client's"])
async def test_a_bug_in_letting_go_of_a_bug_costs_its_own_connection_alone(
    side: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42: the callbacks of all connections are called by one loop, and it goes on."""
    where = "_begin_answer" if side is errand.Errand else "_overhear"

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        if side is guest.Guest:
            neuron.scripts.append(script(Hang()))
        bystander = await gateway.dial()
        with monkeypatch.context() as patch:
            patch.setattr(side, where, broken)
            patch.setattr(Bookkeeping, "close", broken)
            client = await gateway.dial()
            await client.send(ask(CHAT, body(stream=True)))
            if side is guest.Guest:
                await neuron.seen(1)
                await client.send(b"x")
            await client.rest()
        await gateway.knows(lambda ledger: not seats(ledger))
        assert caplog.text.count("connection.crashed") == 2
        await bystander.send(ask(CHAT, body()))
        assert (await bystander.answer()).status == 200


@pytest.mark.parametrize(
    ("said", "stream", "later"),
    [
        (WHOLE, False, False),
        (WHOLE, True, False),
        (WHOLE, True, True),
        (STREAMED.replace(b"data: [DONE]", b"x"), True, True),
    ],
    ids=["whole", "no stream from a new connection", "no stream where one was to come", "an odd piece"],
)
async def test_a_bug_in_beginning_leaves_no_answer_that_nobody_hears(
    said: bytes, stream: bool, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 42: what the neuron answers would give back twice what was held, or end with the same bug, and
    the reactor with it."""

    def broken(*facts: object) -> None:
        raise ZeroDivisionError("a bug")

    keyed = GatewayConfig(keys=(Key("ann", fleet_credential("sk-a").sha256, ("inference",)),))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=keyed) as gateway:
        client, key = await gateway.dial(), "Bearer sk-a"
        for _ in range(2 if later else 0):
            await client.send(ask(CHAT, body(), authorization=key))
            assert (await client.answer()).status == 200
        neuron.scripts.append(neuron.plan(said))
        with monkeypatch.context() as patch:
            patch.setattr(Express, "unfolded", broken)
            await client.send(ask(CHAT, body(stream=stream), authorization=key))
            await client.rest()
            await neuron.polled()
        assert gateway.gateway._parts.accounts._accounts["ann"].in_flight == 0
        page = await gateway.page()
        assert 'cortex_in_flight{model="a"} 0.0' in page and 'outcome="bug"} 1.0' in page
        bystander = await gateway.dial()
        await bystander.send(ask(CHAT, body(), authorization=key))
        assert (await bystander.answer()).status == 200


async def test_a_client_that_reads_slowly_has_all_of_it_and_holds_up_nobody() -> None:
    """Row 32: what it does not take waits at the neuron, and not here."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 60_000 + b'"}}]}\n\n'
    many = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for _ in range(200))
    async with fake_neuron("a", otherwise=STREAM_HEAD + many + CHUNKED) as neuron:
        async with open_gateway(neuron) as gateway:
            slow, quick = await gateway.dial(), await gateway.dial()
            await slow.send(ask(CHAT, body(stream=True)))
            head = await slow.until(b"\r\n\r\n")
            slow.data = head + slow.data
            await quick.send(ask(CHAT, body(stream=True)))
            for client in (quick, slow):
                said = (await client.answer()).body
                assert len(said) == len(event) * 200 + len(STREAM)
                assert said.count(event) == 200 and said.endswith(STREAM)


KEYS = (Key("ann", fleet_credential("sk-a").sha256, ("inference",)),)


async def asks(client: Client, key: str) -> int:
    await client.send(ask(CHAT, body(), authorization=f"Bearer {key}"))
    return (await client.answer()).status


async def test_what_is_known_of_a_head_ends_with_its_key() -> None:
    """Row 56: a head that was judged before is judged anew once the keys are others."""
    config = GatewayConfig(keys=KEYS)
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        client = await gateway.dial()
        assert [await asks(client, "sk-a"), await asks(client, "sk-a")] == [200, 200]
        tuning = gateway.gateway.tuning
        other = (Key("ann", fleet_credential("sk-b").sha256, ("inference",)),)
        tuning.take(Whole(replace(tuning.config, keys=other), Catalogue(), None, ()))
        client = await gateway.dial()
        assert await asks(client, "sk-a") == 401
        client = await gateway.dial()
        assert await asks(client, "sk-b") == 200


async def test_a_connection_stays_with_the_address_that_it_leads_to() -> None:
    """A request that ends when its neuron is at another address leaves nothing of the old one behind."""
    async with fake_neuron("a") as old, fake_neuron("a") as new, open_gateway(old) as gateway:
        go_on = trio.Event()
        old.scripts.append(old.plan(Wait(go_on), WHOLE))
        first = await gateway.dial()
        await first.send(ask(CHAT, body()))
        await old.seen(1)
        tuning = gateway.gateway.tuning
        moved = (replace(tuning.config.neurons[0], endpoint=new.url),)
        tuning.take(Whole(replace(tuning.config, neurons=moved), Catalogue(), None, ()))
        await new.polled()
        await gateway.knows(lambda ledger: ledger.place("n1").ready)
        go_on.set()
        assert (await first.answer()).status == 200
        second = await gateway.dial()
        await second.send(ask(CHAT, body()))
        assert (await second.answer()).status == 200
        assert (len(old.requests), len(new.requests)) == (1, 1)


async def test_a_link_that_waited_for_a_slow_client_hears_the_next_answer() -> None:
    """It was not listened to meanwhile, and goes back for others to use."""
    big = b'{"x": "%b"}' % (b"y" * 9_000_000)
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.scripts.append(neuron.plan(whole(200, big)))
        slow = await gateway.dial()
        await slow.send(ask(CHAT, body()))
        await slow.until(b"\r\n\r\n")
        await gateway.knows(lambda ledger: seats(ledger) == 1)  # its socket is full
        assert await slow._exactly(len(big)) == big
        quick = await gateway.dial()
        await quick.send(ask(CHAT, body()))
        assert (await quick.answer()).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_head_without_a_body_is_given_up(stream: bool) -> None:
    """Row 12: a whole answer that has begun, and does not go on."""
    config = GatewayConfig(limits=Limits(upstream_stall_s=0.2))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n"
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        neuron.scripts.append(neuron.plan(head, Hang()))
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=stream)))
        assert (await client.answer()).status == 504
        await gateway.knows(lambda ledger: not seats(ledger))


async def test_links_that_can_carry_no_other_request_are_forgotten() -> None:
    closing = whole(200, ANSWER, "connection: close")
    async with fake_neuron("a", otherwise=closing) as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        for _ in range(5):
            await client.send(ask(CHAT, body()))
            assert (await client.answer()).status == 200
        pool = gateway.gateway._parts.fleet["n1"].pool
        assert repr(pool).endswith("idle=0 active=0>")


async def test_a_revoke_finds_a_request_that_goes_on_elsewhere() -> None:
    """What callbacks began is the same request when a task goes on with it."""
    config = GatewayConfig(keys=KEYS)
    async with fake_neuron("a", otherwise=FULL) as full, fake_neuron("a") as other:
        other.scripts.append(other.plan(STREAM_HEAD + chunks(STREAM[:100]), Hang()))
        async with open_gateway(full, other, config=config) as gateway:
            full.has("a", slots=64)
            client = await gateway.dial()
            await client.send(ask(CHAT, body(stream=True), authorization="Bearer sk-a"))
            await other.seen(1)
            tuning = gateway.gateway.tuning
            tuning.take(Whole(replace(tuning.config, keys=()), Catalogue(), None, ()))
            await gateway.gateway._parts.api.revoke(frozenset({"ann"}), 0.0)
            assert b"revoked" in (await client.answer()).body
            await gateway.knows(lambda ledger: not seats(ledger))


async def test_who_is_refused_by_his_limits_keeps_no_model_warm() -> None:
    limited = (replace(KEYS[0], requests_per_minute=1),)
    async with (
        fake_neuron("a") as neuron,
        open_gateway(neuron, config=GatewayConfig(keys=limited)) as gateway,
    ):
        client = await gateway.dial()
        assert await asks(client, "sk-a") == 200
        await gateway.knows(lambda ledger: not seats(ledger))
        [(_, resident)] = gateway.ledger.holders("a")
        before = resident.last_used
        assert await asks(client, "sk-a") == 429
        assert resident.last_used == before


LONG = body(stream=True, user="x" * 200_000)


async def test_a_long_body_that_comes_in_pieces_costs_no_task_either() -> None:
    async with fake_neuron("a", otherwise=Hang()) as neuron:
        neuron.has("a", slots=64)
        async with open_gateway(neuron) as gateway:
            before, sent = trio.lowlevel.current_statistics().tasks_living, ask(CHAT, LONG)
            for _ in range(10):
                client = await gateway.dial()
                for start in range(0, len(sent), 50_000):
                    await client.send(sent[start : start + 50_000])
            await neuron.seen(10)
            assert trio.lowlevel.current_statistics().tasks_living - before == 10, "the neuron's own"
            assert all(request.body == LONG for request in neuron.requests)


@pytest.mark.parametrize("all_of_it", [True, False])
async def test_a_body_that_does_not_come_soon_is_left_to_a_task(
    all_of_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 35: which gives it the time that it may have, and no more."""
    monkeypatch.setattr(guest, "GATHER_S", 0.0)
    config = GatewayConfig(limits=Limits(request_body_s=0.3))
    async with fake_neuron("a", otherwise=STREAMED) as neuron:
        async with open_gateway(neuron, config=config) as gateway:
            client, sent = await gateway.dial(), ask(CHAT, LONG)
            await client.send(sent[:100_000])
            if all_of_it:
                await trio.testing.wait_all_tasks_blocked()
                await client.send(sent[100_000:])
            answer = await client.answer()
            assert answer.status == (200 if all_of_it else 408)
            assert len(neuron.requests) == all_of_it


async def test_who_leaves_in_the_middle_of_his_body_is_in_the_books() -> None:
    """Row 28."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        await client.send(ask(CHAT, LONG)[:100_000])
        await client.close()
        while 'cortex_client_aborts_total{phase="body"} 1.0' not in await gateway.page():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)
        assert not neuron.requests


async def test_half_a_body_is_refused_when_the_gateway_goes() -> None:
    """Row 87: as any other request that has not begun."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        await client.send(ask(CHAT, LONG)[:100_000])
        await trio.testing.wait_all_tasks_blocked()
        await gateway.gateway._parts.api.drain(0.2)
        answer = await client.answer()
        assert answer.status == 503 and answer.headers["x-cortex-not-started"] == "1"


@pytest.mark.parametrize(("path", "stream"), [(CHAT, False), ("/v1/messages", True), ("/v1/responses", True)])
async def test_an_errand_that_is_over_leaves_nothing_to_the_collector_of_garbage(
    path: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else that walks through thousands of them at once, while nobody is served."""
    errands: list[weakref.ref[errand.Errand]] = []
    follow = errand.Errand.follow

    def follows(self: errand.Errand, *facts: object, **more: object) -> None:
        errands.append(weakref.ref(self))
        follow(self, *facts, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(errand.Errand, "follow", follows)
    # Who would look at it later forgets it when he has many.
    monkeypatch.setattr(hall.Watch, "wants", lambda *_: None)
    kind: dict[str, object] = {"input": "hi"} if "responses" in path else {"max_tokens": 9}
    said = [{"role": "user", "content": "hi"}]
    async with fake_neuron("a") as neuron, open_gateway(neuron, dialects=("openai_chat",)) as gateway:
        neuron.otherwise = neuron.plan(STREAMED if stream else WHOLE)
        client = await gateway.dial()
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await client.send(ask(path, body(messages=said, stream=stream, **kind)))
                assert (await client.answer()).status == 200
                await gateway.knows(lambda ledger: not seats(ledger))
            await trio.testing.wait_all_tasks_blocked()
            assert errands and not any(each() for each in errands)
        finally:
            gc.enable()
