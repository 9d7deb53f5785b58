"""Streams of requests that began as tasks are passed on by callbacks, and end as the task would end them."""

import socket
from typing import Any, Final

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.limits import Limits
from cortex.ledger import Ledger
from cortex.web import errand
from tests.fake_neuron import CHUNKED, DONE, FULL, STREAM, WHOLE, WORDS, Open, body, fake_neuron, open_gateway
from tests.fake_upstream import STREAM_HEAD, Close, Drip, Hang, Wait, chunks, head, last_chunk
from tests.fake_web import CHAT, Client, ask

EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def by_task(version: bytes = b"1.1") -> bytes:
    """A chat in a form that callbacks leave alone."""
    sent = body(stream=True)
    if version == b"1.0":
        return b"POST %b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(sent), sent)
    fields = b"host: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    return b"POST %b HTTP/1.1\r\n%b%x\r\n%b\r\n0\r\n\r\n" % (CHAT.encode(), fields, len(sent), sent)


def seats(ledger: Ledger) -> int:
    return sum(resident.seats for _, resident in ledger.holders("a"))


class Steps(trio.abc.Instrument):
    """How often tasks of the gateway's connections had their turn."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("cortex.web") and "reactor" not in task.name:
            self.count += 1


async def begun(gateway: Open, sent: bytes) -> Client:
    """Who has the first word of a stream."""
    client = await gateway.dial()
    await client.send(sent)
    await client.until(WORDS[0])
    return client


async def test_an_event_costs_the_task_that_waits_no_turn() -> None:
    go_on, steps = trio.Event(), Steps()
    many = Drip(chunks(*[EVENT % b"x"] * 200), size=len(chunks(EVENT % b"x")))
    plan = (STREAM_HEAD + chunks(WORDS[0]), Wait(go_on), many, chunks(DONE) + last_chunk())
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(*plan)
        client = await begun(gateway, by_task())
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        go_on.set()
        for _ in range(200):
            await client.until(EVENT % b"x")
        trio.lowlevel.remove_instrument(steps)
        await client.until(b"0\r\n\r\n")
        assert steps.count < 20
        trio.lowlevel.add_instrument(steps)
        await client.send(by_task())
        await client.answer()
        trio.lowlevel.remove_instrument(steps)
        assert steps.count > 0, "else this test sees nothing"


@pytest.mark.parametrize("where", ["_begin_stream", "_pass_on", "_told", "_finish"])
async def test_a_bug_in_passing_on_is_the_tasks_own(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42: the client is told, its seat is free again, and the books have it."""

    def broken(self: errand.Errand, *_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAM_HEAD, Drip(chunks(*WORDS, DONE), size=90), last_chunk())
        client = await gateway.dial()
        with monkeypatch.context() as patch:
            patch.setattr(errand.Errand, where, broken)
            await client.send(by_task())
            said = await client.answer()
            assert said.status == (200 if where == "_finish" else 500)
            assert (b"internal" in said.body) == (where != "_finish")
            assert where != "_finish" or await client.gone(), "nothing may follow the end"
        await gateway.knows(lambda ledger: not seats(ledger))
        assert "ZeroDivisionError" in caplog.text
        assert 'outcome="bug"} 1.0' in await gateway.page()
        other = await gateway.dial()
        await other.send(ask(CHAT, body()))
        assert (await other.answer()).status == 200


async def test_a_client_that_reads_slowly_has_all_of_it_and_pauses_the_neuron() -> None:
    """Row 32: what it does not take waits at the neuron, and not here."""
    event = EVENT % (b"x" * 60_000)
    many = Drip(chunks(*[event] * 200), size=len(chunks(event)))
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAM_HEAD + chunks(WORDS[0]), many, CHUNKED)
        client = await gateway.dial()
        await client.send(by_task())
        start = await client.until(b"\r\n\r\n")
        await trio.sleep(0.1)
        client.data = start + client.data
        answer = await client.answer()
        assert answer.body == WORDS[0] + event * 200 + STREAM
        await client.send(ask(CHAT, body()))
        assert (await client.answer()).status == 200


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    """Row 32: its neuron is free again after the stall limit."""
    config = GatewayConfig(limits=Limits(stall_s=0.3))
    flood = STREAM_HEAD + chunks(*[EVENT % (b"x" * 60_000)] * 400)
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        neuron.then(flood, Hang())
        client = await gateway.dial()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # type: ignore[attr-defined]
        await client.send(by_task())
        await client.until(b"\r\n\r\n")
        await gateway.knows(lambda ledger: not seats(ledger))
        assert 'cortex_client_aborts_total{phase="stall"} 1.0' in await gateway.page()


async def test_a_neuron_that_stops_in_the_middle_is_given_up_later_for_each_event() -> None:
    """Row 5: the limit runs from the last event, and a task that waits for an earlier time looks again."""
    config, go_on = GatewayConfig(limits=Limits(upstream_stall_s=0.4)), trio.Event()
    drip = Drip(chunks(*[EVENT % b"x"] * 8), size=len(chunks(EVENT % b"x")), pause_s=0.1)
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        neuron.then(STREAM_HEAD, Wait(go_on), chunks(WORDS[0]), drip, Hang())
        client = await gateway.dial()
        await client.send(by_task())
        await neuron.seen(1)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        said = (await client.answer()).body
        assert said.count(EVENT % b"x") == 8 and b"upstream_timeout" in said
        await gateway.knows(lambda ledger: not seats(ledger))


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("framed", [True, False], ids=["chunked", "ended by the close"])
async def test_whatever_frames_it_a_stream_arrives(version: bytes, framed: bool) -> None:
    plain = (head(200, "content-type: text/event-stream") + STREAM, Close())
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(*((STREAM_HEAD + CHUNKED,) if framed else plain))
        client = await gateway.dial()
        await client.send(by_task(version))
        assert (await client.answer()).body == STREAM


async def test_a_link_goes_from_callbacks_to_tasks_and_back() -> None:
    async with fake_neuron("a", otherwise=STREAM_HEAD + CHUNKED) as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        for sent in (by_task(), ask(CHAT, body(stream=True)), by_task(), by_task()):
            await client.send(sent)
            assert (await client.answer()).body == STREAM
        assert len({request.connection for request in neuron.requests}) == 1


async def test_what_was_sent_ahead_of_a_stream_is_answered_behind_it() -> None:
    async with fake_neuron("a", otherwise=STREAM_HEAD + CHUNKED) as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        await client.send(by_task() + ask(CHAT, body(stream=True)) + by_task())
        for _ in range(3):
            assert (await client.answer()).body == STREAM


async def test_a_stream_that_is_stopped_ends_in_good_order() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAM_HEAD + chunks(WORDS[0]), Hang())
        client = await begun(gateway, by_task())
        await gateway.gateway._parts.api.drain(0.0)
        said = await client.rest()
        assert b"shutting_down" in said and said.endswith(b"0\r\n\r\n")


async def test_a_stream_that_goes_on_elsewhere_joins_there() -> None:
    """Row 19: a task has asked again."""
    async with fake_neuron("a", otherwise=FULL) as full, fake_neuron("a") as other:
        other.otherwise = other.plan(STREAM_HEAD + CHUNKED)
        async with open_gateway(full, other) as gateway:
            full.has("a", slots=64)
            client = await gateway.dial()
            for _ in range(3):
                await client.send(ask(CHAT, body(stream=True)))
                assert (await client.answer()).body == STREAM


async def test_a_stream_that_waited_for_its_model_joins_when_it_is_there() -> None:
    async with fake_neuron(known=["a"], otherwise=STREAM_HEAD + CHUNKED) as neuron:
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            client = await gateway.dial()
            await client.send(ask(CHAT, body(stream=True)))
            assert (await client.answer()).body == STREAM


async def test_who_leaves_at_the_end_mark_was_answered() -> None:
    """What the neuron says behind it is in the books."""
    go_on = trio.Event()
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(
            STREAM_HEAD + chunks(STREAM),
            Wait(go_on),
            last_chunk("x-cortex-usage: prompt=7,cached=2,completion=9"),
        )
        client = await gateway.dial()
        await client.send(by_task())
        await client.until(DONE)
        await client.close()
        go_on.set()
        await gateway.knows(lambda ledger: not seats(ledger))
        page: Any = await gateway.page()
        assert 'outcome="ok"} 1.0' in page
        assert 'cortex_completion_tokens_total{model="a",neuron="n1"} 9.0' in page


async def test_a_whole_answer_is_no_stream() -> None:
    async with fake_neuron("a", otherwise=WHOLE) as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        await client.send(by_task())
        assert (await client.answer()).status == 200
