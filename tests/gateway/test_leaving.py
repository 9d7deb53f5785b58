"""A gateway that stops: what is under way gets its end, nothing new begins, and it is over in time."""

from functools import partial

import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig
from cortex.config.network import Address
from cortex.gateway import service
from tests.fake_neuron import (
    ANSWER,
    CHUNKED,
    OPENING,
    STOPPING,
    STREAM,
    WHOLE,
    Open,
    body,
    fake_neuron,
    open_gateway,
)
from tests.fake_upstream import STREAM_HEAD, Hang, Wait, chunks
from tests.fake_web import ask
from tests.roles import ANY

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def status(gateway: Open, path: str) -> int:
    return (await gateway.http.get(path)).status_code


async def test_what_is_under_way_is_finished_and_nothing_new_begins() -> None:
    """Row 87: streams and whole answers; probes tell it first, since control routes go on."""
    go_on = trio.Event()
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        stream, whole, late = [await gateway.dial() for _ in range(3)]
        neuron.then(STREAM_HEAD, chunks(OPENING), Wait(go_on), CHUNKED)
        await stream.send(ask(CHAT, body(stream=True)))
        await stream.until(OPENING)
        neuron.then(Wait(go_on), WHOLE)
        await whole.send(ask(CHAT, body()))
        await neuron.seen(2)
        await late.send(ask("/livez", b"", "GET"))
        await late.answer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.gateway.leave, 20.0)
            while await status(gateway, "/readyz") != 503:  # noqa: ASYNC110 - asked over HTTP
                await trio.sleep(0.005)
            assert await status(gateway, "/livez") == 200
            for kind in (False, True):
                refused = await gateway.ask(stream=kind)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["x-cortex-not-started"] == "1"
            assert await late.gone(), "an idle connection is closed"
            assert len(neuron.requests) == 2
            go_on.set()
            assert STREAM in await stream.until(b"\r\n0\r\n\r\n")
            assert (await whole.answer()).body == ANSWER
            began = trio.current_time()
        assert trio.current_time() - began < 5, "it goes as soon as nobody is left"
        await gateway.knows(lambda ledger: "seats=0 waiting=0" in repr(ledger))


async def test_who_is_not_done_in_time_gets_an_end_nevertheless() -> None:
    """Row 87: the error event after the 200, the status before it; queue, load and neuron alike."""
    async with fake_neuron() as neuron:
        neuron.has("a", slots=2, queue=0)
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["cold"]) as gateway:
            neuron.then(STREAM_HEAD, chunks(OPENING), Hang())
            neuron.then(Hang())
            stream, whole, queued, cold = [await gateway.dial() for _ in range(4)]
            await stream.send(ask(CHAT, body(stream=True)))
            await stream.until(OPENING + b"\r\n")
            await whole.send(ask(CHAT, body()))
            await neuron.seen(2)
            await queued.send(ask(CHAT, body(stream=True)))
            await cold.send(ask(CHAT, body("cold")))
            await gateway.knows(lambda ledger: "seats=2 waiting=2" in repr(ledger))
            with trio.fail_after(3):
                await gateway.gateway.leave(0.1)
            rest = await stream.rest()
            assert b'data: {"error":{' in rest and b"shutting_down" in rest
            assert rest.endswith(b"\r\n0\r\n\r\n") and b"[DONE]" not in rest
            for client in (whole, queued, cold):
                answer = await client.answer()
                assert answer.status == 503 and b"shutting_down" in answer.body
                assert int(answer.headers["retry-after"]) >= 1
                assert "x-cortex-not-started" not in answer.headers, "it may have run"
                assert await client.gone()
            await neuron.until(hung_up=2)
            await gateway.knows(lambda ledger: "seats=0 waiting=0" in repr(ledger))


async def test_who_is_let_in_while_all_of_cortex_goes_hears_that_and_no_want_of_room() -> None:
    """The neuron of `cortex up` goes at the same moment."""
    async with fake_neuron("a", otherwise=STOPPING) as neuron, open_gateway(neuron) as gateway:
        door = trio.Event()
        neuron.then(Wait(door), STOPPING)
        client = await gateway.dial()
        await client.send(ask(CHAT, body()))
        await neuron.seen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.gateway.leave, 20.0)
            while await status(gateway, "/readyz") != 503:  # noqa: ASYNC110 - asked over HTTP
                await trio.sleep(0.005)
            door.set()
            answer = await client.answer()
    assert answer.status == 503 and b'"code":"shutting_down"' in answer.body


async def test_a_client_that_does_not_read_does_not_hold_the_end_up() -> None:
    """Row 33."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        flood = chunks(*[b"data: " + b"x" * 60_000 + b"\n\n"] * 200)
        neuron.then(STREAM_HEAD, flood, Hang())
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=True)))
        await neuron.seen(1)
        with trio.fail_after(4):
            await gateway.gateway.leave(0.1)
        await gateway.knows(lambda ledger: "seats=0" in repr(ledger))
        await neuron.until(hung_up=1)
        assert len(neuron.requests) == 1


async def test_a_role_that_is_stopped_ends_by_itself_and_frees_its_ports() -> None:
    config = GatewayConfig(listen=ANY, metrics_listen=ANY)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        ports = await nursery.start(partial(service.run, config, Catalogue(), stop=stop))
        stop.set()
    for host, port in (ports.api, ports.metrics):
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(host, port)


async def test_a_port_that_is_taken_ends_the_start_with_its_error() -> None:
    """Row 86."""
    async with open_gateway() as gateway:
        taken = Address(*gateway.gateway.ports.api)
        config = GatewayConfig(listen=taken, metrics_listen=ANY)
        with pytest.RaisesGroup(OSError, flatten_subgroups=True, allow_unwrapped=True):
            await service.run(config, Catalogue())
