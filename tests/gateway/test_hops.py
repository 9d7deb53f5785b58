"""Whole answers that come in one read: as short as they are made, they are as any other.

The first request of each test goes the longer way, since its connection is made for it, and shows what the
neuron's answers look like; those that follow are hops.
"""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig, NeuronRef
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.config.whole import Whole
from cortex.gateway import hop, lanes
from cortex.gateway.bookkeeping import Bookkeeping
from cortex.gateway.member import Found
from cortex.gateway.ways import CHATS
from cortex.ledger import Ledger
from cortex.web.listeners import fleet_credential
from cortex.web.names import resolve
from tests.fake_neuron import (
    ANSWER,
    FULL,
    IMPATIENT,
    STREAM,
    STREAMED,
    WHOLE,
    FakeNeuron,
    Open,
    body,
    fake_neuron,
    open_gateway,
)
from tests.fake_upstream import STREAM_HEAD, Drip, Hang, Reset, Wait, chunks, last_chunk, whole
from tests.fake_web import CHAT, Client, ask

MESSAGES = "/v1/messages"
KEYS = (Key("ann", fleet_credential("sk-a").sha256, ("inference",)),)
KEYED = GatewayConfig(keys=KEYS)
# A stream that no ride brings to its end.
ODD = STREAM_HEAD + chunks(b": keep-alive\n\n", STREAM) + last_chunk()


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def say(client: Client, sent: bytes = body(), path: str = CHAT, **headers: str) -> int:
    await client.send(ask(path, sent, **headers))
    return (await client.answer()).status


async def warm(gateway: Open, **headers: str) -> Client:
    """A client whose next request is a hop."""
    client = await gateway.dial()
    for _ in range(2):
        assert await say(client, **headers) == 200
    return client


def seats(ledger: Ledger) -> int:
    return sum(resident.seats for _, resident in ledger.holders("a"))


def fields(neuron: FakeNeuron, number: int = -1) -> dict[str, str]:
    lines = neuron.requests[number].head[1:]
    return dict(line.split(": ", 1) for line in lines)


async def test_a_hop_and_a_task_ask_and_answer_alike(hops: list[hop.Hop]) -> None:
    """Headers both ways, the body, the figures and the log: only the ids and times differ."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        client = await warm(gateway, authorization="Bearer sk-a", x_session_id="s", accept="a/b")
        count, heads, answers = len(hops), [], []
        for more in ({}, {"transfer-encoding": "chunked"}):
            sent = body(user="x", n=2)
            if more:
                head = ask(CHAT, sent, authorization="Bearer sk-a", x_session_id="s", accept="a/b")
                head = head.partition(b"\r\n\r\n")[0].replace(b"content-length: %d" % len(sent), b"x: y")
                await client.send(head + b"\r\ntransfer-encoding: chunked\r\n\r\n")
                await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent))
            else:
                await client.send(
                    ask(CHAT, sent, authorization="Bearer sk-a", x_session_id="s", accept="a/b")
                )
            answers.append(await client.answer())
            heads.append(fields(neuron))
        assert len(hops) == count + 1
        for differs in ("x-request-id", "x-cortex-patience"):
            assert heads[0].pop(differs) and heads[1].pop(differs)
        assert heads[0] == heads[1]
        for answer in answers:
            del answer.headers["x-request-id"], answer.headers["date"]
        assert answers[0] == answers[1]
        page = await gateway.page()
        assert 'cortex_requests_total{dialect="openai_chat",model="a",neuron="n1",outcome="ok"} 4.0' in page
        assert 'cortex_key_tokens_total{key="ann"} 40.0' in page
        assert 'cortex_in_flight{model="a"} 0.0' in page


async def test_a_hop_tells_the_log_what_an_errand_tells_it(
    caplog: pytest.LogCaptureFixture, hops: list[hop.Hop]
) -> None:
    caplog.set_level("INFO")
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        await warm(gateway, x_request_id="mine")
    told = [text for record in caplog.records if (text := record.getMessage()).startswith("request.done")]
    assert len({" ".join(word for word in line.split() if "seconds=" not in word) for line in told}) == 1, (
        told
    )
    assert len(told) == len(hops) + 1 == 2


@pytest.mark.parametrize("where", ["_body_at", "_end", "enter"])
async def test_a_bug_in_a_hop_costs_its_own_request_alone(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42: its seat and its connections are free again."""

    def broken(*facts: object) -> None:
        raise ZeroDivisionError("a bug")

    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client, bystander = await warm(gateway), await gateway.dial()
        with monkeypatch.context() as patch:
            patch.setattr(Bookkeeping if where == "enter" else hop.Hop, where, broken)
            await client.send(ask(CHAT, body()))
            answered = where == "enter" and (await client.answer()).status == 200
            if not answered:
                await client.rest()
        await gateway.knows(lambda ledger: not seats(ledger))
        assert "connection.crashed" in caplog.text and "ZeroDivisionError" in caplog.text
        assert await say(bystander) == 200
        if not answered:
            page = await gateway.page()
            assert 'outcome="bug"' in page and "cortex_connection_crashes_total 1.0" in page


@pytest.mark.parametrize(
    ("where", "said", "leaves"),
    [
        ("enter", WHOLE, False),
        ("enter", STREAMED, False),
        ("close", ODD, False),
        ("judge", ODD, False),
        ("left", None, True),
    ],
)
async def test_a_bug_in_the_books_keeps_no_seat_and_no_claim(
    where: str, said: bytes | None, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 42: a key with one request at a time asks again, and is not refused for ever."""

    def broken(*facts: object) -> None:
        raise ZeroDivisionError("a bug")

    config = GatewayConfig(keys=(replace(KEYS[0], max_in_flight=1),))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        client, key = await warm(gateway, authorization="Bearer sk-a"), "Bearer sk-a"
        claim = gateway.gateway._parts.accounts._accounts["ann"]
        with monkeypatch.context() as patch, suppress(trio.BrokenResourceError):
            patch.setattr(Bookkeeping, where, broken)
            neuron.scripts.append(neuron.plan(said or Hang()))
            await client.send(ask(CHAT, body(stream=said in (STREAMED, ODD)), authorization=key))
            await neuron.seen(3)
            if leaves:
                await trio.aclose_forcefully(client.stream)
            else:
                assert (await client.answer()).status == 200
            await gateway.knows(lambda ledger: not seats(ledger) and not claim.in_flight)
        assert await say(await gateway.dial(), authorization=key) == 200


@pytest.mark.parametrize(
    ("where", "said"),
    [("enter", WHOLE), ("enter", STREAMED), ("close", ODD)],
    ids=["a hop", "a ride", "an errand"],
)
async def test_a_bug_in_the_books_costs_not_the_request_that_was_sent_ahead(
    where: str, said: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42: the link whose owner the bug has ended is nobody else's."""
    book, bugs = getattr(Bookkeeping, where), [ZeroDivisionError("a bug")]

    def broken(*facts: object) -> None:
        if bugs:
            raise bugs.pop()
        book(*facts)

    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway)
        neuron.otherwise = neuron.plan(said)
        monkeypatch.setattr(Bookkeeping, where, broken)
        await client.send(ask(CHAT, body(stream=said is not WHOLE)) * 2)
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        await gateway.knows(lambda ledger: not seats(ledger))
        assert "ZeroDivisionError" in caplog.text and not bugs
        assert repr(gateway.gateway._parts.fleet["n1"].pool).endswith("idle=1 active=0>")
        assert 'outcome="bug"' not in await gateway.page()


# -- what was learnt is not taken for what comes

OTHERS = {
    "another header": whole(200, ANSWER, "cache-control: private"),
    "another value": whole(200, ANSWER, "x-cortex-neuron: inside", "set-cookie: c=d", "retry-after: 3"),
    "another status": whole(503, b'{"error":{"message":"m","type":"t","code":"c"}}', "retry-after: 7"),
    "another kind": whole(200, b"hi", content_type="text/plain"),
    "no JSON": whole(200, b"[" * 50, "x-cortex-neuron: inside", "set-cookie: a=b"),
    "half of it": Drip(WHOLE, at=(len(WHOLE) - 40,)),
    "head and body": Drip(WHOLE, at=(WHOLE.index(b"\r\n\r\n") + 4,)),
    "byte by byte": Drip(WHOLE, size=7),
    "more than all of it": WHOLE + b"HTTP/1.1 200 OK\r\n\r\n",
    "another length": WHOLE.replace(b"content-length: 187", b"content-length: 186"),
    "an odd length": WHOLE.replace(b"content-length: 187", b"content-length: 1_87"),
    "two lengths": WHOLE.replace(b"content-length: 187", b"content-length: 187\r\ncontent-length: 18"),
    "the end": WHOLE.replace(b"set-cookie: a=b", b"connection: close"),
    "full": FULL,
}


@pytest.mark.parametrize("said", OTHERS.values(), ids=OTHERS.keys())
async def test_what_differs_from_what_was_learnt_is_read_anew(said: bytes) -> None:
    """Each way with a neuron that nobody has learnt anything of, and with one that is known."""
    told = []
    for known in (False, True):
        async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
            client = await warm(gateway) if known else await gateway.dial()
            neuron.scripts.append(neuron.plan(said))
            await client.send(ask(CHAT, body(), x_request_id="mine"))
            answer = await client.answer()
            answer.headers.pop("date")
            told.append(answer)
            await gateway.knows(lambda ledger: not seats(ledger))
            assert await say(await gateway.dial()) == 200
    assert told[0] == told[1]


async def test_answers_that_differ_in_their_lengths_and_dates_are_hops(hops: list[hop.Hop]) -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway)
        count, kept = len(hops), ("date: Sun, 22 Nov 2026 00:05:%02d GMT", "x-request-id: %d")
        for number in range(10):
            said = b'{"choices":[],"n":"%b"}' % (b"x" * number * 7)
            neuron.scripts.append(neuron.plan(whole(200, said, *(line % number for line in kept))))
            await client.send(ask(CHAT, body(user="y" * number)))
            assert (await client.answer()).body == said
        assert len(hops) == count + 10


async def test_both_ids_of_anthropics_dialect_are_the_requests_own(hops: list[hop.Hop]) -> None:
    said = whole(200, b'{"type":"message","usage":{"input_tokens":4,"output_tokens":2}}')
    async with fake_neuron("a", otherwise=said) as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        for number in range(3):
            await client.send(ask(MESSAGES, body(max_tokens=5), x_request_id=f"r{number}"))
            answer = await client.answer()
            assert answer.headers["request-id"] == answer.headers["x-request-id"] == f"r{number}"
        assert hops and "cortex_completion_tokens_total" in await gateway.page()


# -- what was prepared ends with what it follows from


async def test_an_alias_that_stands_for_another_model_is_heard_of_at_once(hops: list[hop.Hop]) -> None:
    async with fake_neuron("a", "b") as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        tuning = gateway.gateway.tuning
        for model in ("a", "b", "a"):
            config = replace(tuning.config, aliases={"x": model})
            tuning.take(Whole(config, Catalogue(), None, ()))
            for _ in range(3):
                assert await say(client, body("x")) == 200
                assert b'"model":"%b"' % model.encode() in neuron.requests[-1].body
        assert hops


async def test_a_neuron_that_moves_under_its_name_is_asked_at_its_new_address(hops: list[hop.Hop]) -> None:
    """As one that DNS names does, without a reload."""
    async with fake_neuron("a") as old, fake_neuron("a") as new, open_gateway() as gateway:
        fleet = gateway.gateway._parts.fleet
        for neuron in (old, new):
            fleet.found((Found("n1", neuron.url),), resolve)
            await gateway.knows(lambda ledger: bool(ledger.place("n1") and ledger.place("n1").ready))
            client = await warm(gateway)
            assert await say(client) == 200
            assert fields(neuron)["host"] == neuron.url.removeprefix("http://")
        assert (len(old.requests), len(new.requests)) == (3, 3) and len(hops) == 4


async def test_another_token_of_the_fleet_is_used_at_once() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client, tuning = await warm(gateway), gateway.gateway.tuning
        for token in ("one", "two"):
            moved = (NeuronRef("n1", neuron.url, token=token),)
            tuning.take(Whole(replace(tuning.config, neurons=moved), Catalogue(), None, ()))
            for _ in range(2):
                assert await say(client) == 200
            assert fields(neuron)["authorization"] == f"Bearer {token}"


async def test_a_key_that_is_gone_asks_no_more() -> None:
    """Row 56."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        client, tuning = await warm(gateway, authorization="Bearer sk-a"), gateway.gateway.tuning
        other = (replace(KEYS[0], name="bob"),)
        tuning.take(Whole(replace(tuning.config, keys=other), Catalogue(), None, ()))
        assert await say(client, authorization="Bearer sk-a") == 200
        assert fields(neuron)["x-cortex-key-name"] == "bob"
        tuning.take(Whole(replace(tuning.config, keys=()), Catalogue(), None, ()))
        assert await say(client, authorization="Bearer sk-a") == 200
        assert "x-cortex-key-name" not in fields(neuron), "nobody needs a key any more"


async def test_a_neuron_that_comes_back_without_a_dialect_is_not_asked_in_it(hops: list[hop.Hop]) -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as other, open_gateway(one, other) as gateway:
        await warm(gateway)
        one.dialects = ("anthropic_messages",)
        await one.restart()
        one.has("a", slots=64)
        tongues = gateway.gateway._parts.fleet.tongues
        await gateway.knows(lambda ledger: "n1" in tongues.mute(CHATS) and len(ledger.holders("a")) == 2)
        client, before = await gateway.dial(), len(one.requests)
        for number in range(8):
            assert await say(client, body(user=f"one of {number}")) == 200
        assert len(one.requests) == before and len(hops) >= 7


async def test_a_neuron_that_is_another_process_is_learnt_from_anew(hops: list[hop.Hop]) -> None:
    """However long nothing was to be learnt from the one before it."""
    odd = Drip(WHOLE, at=(len(WHOLE) - 40,))
    async with fake_neuron("a", otherwise=odd) as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway)
        for _ in range(lanes.LESSONS):
            assert await say(client) == 200
        neuron.otherwise = neuron.plan(WHOLE)
        for _ in range(3):
            assert await say(client) == 200
        assert not hops, "it was given up"
        await neuron.restart()
        neuron.has("a", slots=64)
        known = gateway.gateway._parts.fleet["n1"]
        await gateway.knows(lambda ledger: known.boot_id == neuron.boot_id and bool(ledger.holders("a")))
        assert await say(client) == await say(client) == 200
        assert hops


# -- who goes, and who is slow


async def test_a_neuron_that_breaks_off_is_told_of_by_a_task() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway)
        neuron.scripts.append(neuron.plan(Reset()))
        assert await say(client) == 502
        await gateway.knows(lambda ledger: not seats(ledger))


async def test_a_client_that_leaves_a_hop_is_let_go_of_at_its_neuron() -> None:
    """Row 29."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway)
        neuron.scripts.append(neuron.plan(Hang()))
        await client.send(ask(CHAT, body()))
        await neuron.seen(3)
        await client.close()
        await gateway.knows(lambda ledger: not seats(ledger))
        assert 'cortex_client_aborts_total{phase="answer"} 1.0' in await gateway.page()


@pytest.mark.parametrize("hops", [True, False])
async def test_an_answer_during_a_drain_says_that_the_connection_ends(hops: bool) -> None:
    go_on = trio.Event()
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await warm(gateway) if hops else await gateway.dial()
        before = len(neuron.requests)
        neuron.scripts.append(neuron.plan(Wait(go_on), WHOLE))
        await client.send(ask(CHAT, body()))
        await neuron.seen(before + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.gateway._parts.api.drain, 10.0)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("stays", [True, False])
async def test_a_client_that_takes_hops_slowly_has_all_of_them(stays: bool, hops: list[hop.Hop]) -> None:
    """Row 32."""
    big = whole(200, b'{"x": "%b"}' % (b"y" * 50_000), "x-cortex-neuron: inside", "set-cookie: a=b")
    config = GatewayConfig(limits=Limits(stall_s=0.5))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        client = await warm(gateway)
        neuron.otherwise = neuron.plan(big)
        await client.send(ask(CHAT, body()) * 400)
        if stays:
            had = -1
            while had != (had := len(neuron.requests)):  # noqa: ASYNC110 - until the socket is full
                await trio.sleep(0.1)
            assert had < 400
            for _ in range(400):
                assert len((await client.answer()).body) == 50_009
            assert hops
        else:
            while 'phase="stall"} 1.0' not in await gateway.page():  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        await gateway.knows(lambda ledger: not seats(ledger))


@pytest.mark.parametrize("said", [b"", WHOLE[:20]], ids=["nothing", "half a head"])
async def test_a_neuron_without_a_sign_of_life_is_given_up(said: bytes) -> None:
    """A whole answer has no deadline but that."""
    config = GatewayConfig(limits=Limits(upstream_stall_s=0.5))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config, poll=IMPATIENT) as gateway:
        client = await warm(gateway)
        neuron.scripts.append(neuron.plan(said, Hang()) if said else neuron.plan(Hang()))
        await client.send(ask(CHAT, body()))
        await neuron.seen(3)
        neuron.silent = True
        answer = await client.answer()
        assert answer.status == 504 and b"no sign of life" in answer.body
        await gateway.knows(lambda ledger: not seats(ledger))
