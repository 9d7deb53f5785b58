"""Streams under way that go on without an errand, and what ends them, over real sockets."""

import pytest
import trio
import trio.testing

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.errors import Stopping
from cortex.gateway import hop
from cortex.ledger import Ledger
from cortex.web.listeners import fleet_credential
from tests.fake_neuron import (
    DONE,
    OPENING,
    STREAM,
    STREAMED,
    USAGE,
    WORDS,
    FakeNeuron,
    Open,
    body,
    fake_neuron,
    open_gateway,
)
from tests.fake_upstream import STREAM_HEAD, Hang, Reset, Step, Wait, chunks, last_chunk
from tests.fake_web import CHAT, Client, ask

KEYED = GatewayConfig(keys=(Key("ann", fleet_credential("sk-a").sha256, ("inference",)),))
BEGUN = STREAM_HEAD + chunks(OPENING, WORDS[0])
# As STREAMED, but for a comment: no ride brings it to its end.
REMARKED = STREAM_HEAD + chunks(b": keep-alive\n\n", STREAM) + last_chunk(USAGE)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture
def rides(hops: list[hop.Hop]) -> list[hop.Hop]:
    return hops


def seats(ledger: Ledger) -> int:
    return sum(resident.seats for _, resident in ledger.holders("a"))


async def warm(gateway: Open) -> Client:
    """A client whose next stream is a ride."""
    client = await gateway.dial()
    await client.send(ask(CHAT, body(stream=True), authorization="Bearer sk-a"))
    assert (await client.answer()).status == 200
    return client


async def riding(gateway: Open, neuron: FakeNeuron, *rest: Step | bytes) -> Client:
    """A client that has the begin of a ride."""
    neuron.otherwise = neuron.plan(STREAMED)
    client = await warm(gateway)
    neuron.scripts.append(neuron.plan(BEGUN, *rest))
    await client.send(ask(CHAT, body(stream=True), authorization="Bearer sk-a"))
    await client.until(WORDS[0])
    return client


async def test_a_ride_tells_books_and_log_what_an_errand_tells_them(
    rides: list[hop.Hop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pages, answers = [], []
    for said, rode in ((STREAMED, 2), (REMARKED, 0)):
        async with fake_neuron("a", otherwise=said) as neuron, open_gateway(neuron, config=KEYED) as gateway:
            client, before = await warm(gateway), len(rides)
            for _ in range(2):
                await client.send(ask(CHAT, body(stream=True), authorization="Bearer sk-a"))
                answers.append(await client.answer())
            assert len(rides) == before + rode
            lines = (await gateway.page()).splitlines()
            names = (
                "cortex_requests",
                "cortex_prompt",
                "cortex_comp",
                "cortex_cached",
                "cortex_key",
                "cortex_in_f",
            )
            counts = [
                line for line in lines if line.startswith(names) or line.partition("{")[0].endswith("_count")
            ]
            pages.append([line for line in counts if "_created" not in line])
    assert pages[0] == pages[1]
    assert 'cortex_time_to_first_token_seconds_count{model="a"} 3.0' in pages[0]
    assert 'cortex_tokens_per_second_count{model="a"} 3.0' in pages[0]
    for answer in answers:
        del answer.headers["x-request-id"], answer.headers["date"]
    assert answers[0] == answers[1]
    assert answers[0].headers == answers[2].headers
    assert answers[2].body == b": keep-alive\n\n" + answers[0].body
    told = [text for record in caplog.records if (text := record.getMessage()).startswith("request.done")]
    assert len({" ".join(word for word in line.split() if "s=0." not in word) for line in told}) == 1, told
    assert all(" ttft_s=0." in line and "completion=3 estimated=False" in line for line in told)


async def test_a_ride_without_a_trailer_is_estimated(
    rides: list[hop.Hop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    said = STREAM_HEAD + chunks(STREAM) + last_chunk()
    async with fake_neuron("a", otherwise=said) as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway)
        await client.send(ask(CHAT, body(stream=True)))
        assert (await client.answer()).body == STREAM
        page = await gateway.page()
    assert len(rides) == 2 and 'cortex_completion_tokens_total{model="a",neuron="n1"} 6.0' in page
    told = [text for record in caplog.records if (text := record.getMessage()).startswith("request.done")]
    assert all("completion=3 estimated=True" in line for line in told) and len(told) == 2


async def test_who_leaves_a_ride_is_let_go_of_at_its_neuron() -> None:
    """Row 29."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await riding(gateway, neuron, Hang())
        await client.close()
        await gateway.knows(lambda ledger: not seats(ledger))
        assert 'cortex_client_aborts_total{phase="stream"} 1.0' in await gateway.page()


@pytest.mark.parametrize(
    "end", [Reset(), b"zz\r\n", chunks(b'data: {"error":{"message":"m"}}\n\n') + last_chunk()]
)
async def test_a_ride_that_breaks_off_ends_with_an_error(end: Step | bytes) -> None:
    """Rows 14 to 19: what came of it stays with the client."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await riding(gateway, neuron, end)
        assert b'data: {"error"' in await client.until(b"0\r\n\r\n")
        await gateway.knows(lambda ledger: not seats(ledger))
        page = await gateway.page()
        assert 'neuron="n1",outcome="engine"} 1.0' in page and 'cortex_in_flight{model="a"} 0.0' in page


async def test_a_ride_that_falls_silent_is_ended() -> None:
    """Row 6."""
    config = GatewayConfig(limits=Limits(upstream_stall_s=0.3))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        client = await riding(gateway, neuron, Hang())
        assert b"stopped talking" in await client.until(b"0\r\n\r\n")
        await gateway.knows(lambda ledger: not seats(ledger))


async def test_a_stream_that_does_not_begin_gets_signs_of_life_and_an_end(rides: list[hop.Hop]) -> None:
    """Row 8."""
    config = GatewayConfig(limits=Limits(first_token_s=1.5))
    async with fake_neuron("a", otherwise=STREAMED) as neuron, open_gateway(neuron, config=config) as gateway:
        client = await warm(gateway)
        neuron.scripts.append(neuron.plan(Hang()))
        await client.send(ask(CHAT, body(stream=True)))
        answer = await client.answer()
        assert answer.status == 200 and answer.body.startswith(b":") and b"stopped talking" in answer.body
        await gateway.knows(lambda ledger: not seats(ledger))


async def test_a_ride_goes_on_in_a_drain() -> None:
    go_on = trio.Event()
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await riding(gateway, neuron, Wait(go_on), chunks(*WORDS, DONE) + last_chunk(USAGE))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.gateway._parts.api.drain, 10.0)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
            rest = await client.rest()
        assert all(word in rest for word in WORDS) and rest.endswith(b"0\r\n\r\n")


async def test_a_ride_that_is_stopped_has_an_end() -> None:
    """Row 41: the deadline of a drain."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await riding(gateway, neuron, Hang())
        await gateway.gateway._parts.api.drain(0.05)
        rest = await client.rest()
        assert Stopping.code.encode() in rest and rest.endswith(b"0\r\n\r\n")


async def test_a_ride_of_a_key_that_is_revoked_is_ended() -> None:
    """Row 56."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        client = await riding(gateway, neuron, Hang())
        await gateway.gateway._parts.api.revoke(frozenset({"ann"}), 0.0)
        assert b"revoked" in await client.until(b"0\r\n\r\n")
        await gateway.knows(lambda ledger: not seats(ledger))


async def test_a_bug_in_a_ride_costs_that_stream_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42."""
    go_on = trio.Event()

    def broken(*facts: object) -> None:
        raise ZeroDivisionError("a bug")

    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await riding(gateway, neuron, Wait(go_on), chunks(WORDS[1]), Hang())
        with monkeypatch.context() as patch:
            patch.setattr("cortex.gateway.ride.Ride._passed", broken)
            go_on.set()
            await client.rest()
        await gateway.knows(lambda ledger: not seats(ledger))
        page = await gateway.page()
        assert 'outcome="bug"} 1.0' in page and "cortex_connection_crashes_total 1.0" in page
        await warm(gateway)


async def test_a_client_that_takes_a_ride_slowly_has_all_of_it(rides: list[hop.Hop]) -> None:
    """Row 32: what it does not take waits at the neuron."""
    word = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 30_000 + b'"}}]}\n\n'
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await riding(gateway, neuron, *[chunks(word)] * 400, chunks(DONE) + last_chunk(USAGE))
        rides.clear()
        (link,) = gateway.gateway._parts.fleet["n1"].pool._active
        while not link._paused:  # noqa: ASYNC110 - until its socket is full: nobody tells
            await trio.sleep(0.01)
        rest = await client.until(b"0\r\n\r\n")
        assert rest.count(word) == 400 and not rides
        await gateway.knows(lambda ledger: not seats(ledger))
