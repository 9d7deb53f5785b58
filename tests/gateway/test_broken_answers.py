"""Whatever nonsense a neuron answers, its client gets a clean end and nothing of the nonsense."""

import json

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.limits import Limits
from tests.fake_neuron import (
    ANSWER,
    CHUNKED,
    DONE,
    IMPATIENT,
    OPENING,
    STREAM,
    WHOLE,
    WORDS,
    FakeNeuron,
    Open,
    body,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Close, Drip, Hang, Reset, Send, chunks, head, last_chunk, whole
from tests.fake_web import Answer, ask

CANARY = b"Traceback /srv/secret/path.py canary-of-the-neuron"
# A gateway that loses patience within a test.
HASTY = GatewayConfig(limits=Limits(first_token_s=0.3, upstream_stall_s=0.3))


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def asked(gateway: Open, neuron: FakeNeuron, stream: bool) -> Answer:
    """The answer; the connection it came by then carries another request."""
    client = await gateway.dial()
    await client.send(ask("/v1/chat/completions", body(stream=stream)))
    answer = await client.answer()
    neuron.then(WHOLE)
    await client.send(ask("/v1/chat/completions", body()))
    assert (await client.answer()).body == ANSWER
    return answer


BAD_ANSWERS = {
    "a 500": whole(500, b'{"error":{"message":"%b","code":"internal"}}' % CANARY),
    "a 500 that is no JSON": whole(500, CANARY, content_type="text/plain"),
    "a 501 in HTML": whole(501, b"<html>%b</html>" % CANARY, content_type="text/html"),
    "a 502 of a proxy": whole(502, CANARY, content_type="text/html"),
    "garbage": b"\x00\xff" + CANARY + b"\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1 " + CANARY + b"\r\n",
    "a redirect": head(307, "location: http://169.254.169.254/canary", "content-length: 0"),
    "a moved one": head(308, "location: https://canary.example/", "content-length: 0"),
    "gzip": whole(200, b"\x1f\x8b\x08" + CANARY, "content-encoding: gzip"),
    "text": whole(200, CANARY, content_type="text/plain"),
    "half JSON": whole(200, b'{"choices":[{"' + CANARY),
    "no length": head(200, "content-type: application/json") + ANSWER,
    "too short": head(200, "content-type: application/json", "content-length: 5000") + ANSWER,
    "two lengths": head(200, "content-type: application/json", "content-length: 2", "content-length: 3"),
    "a huge head": head(200, "x-canary: " + "c" * 100_000),
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-type: app",
    "a switch of protocols": head(101, "upgrade: websocket", "connection: upgrade"),
    "a missing route": whole(404, b'{"error":{"message":"%b","code":"not_found"}}' % CANARY),
    "a bad token": whole(401, b'{"error":{"message":"%b","code":"invalid_api_key"}}' % CANARY),
    "a 400 without shape": whole(400, CANARY, content_type="text/plain"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("said", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_nonsense_is_a_502_that_quotes_none_of_it(said: bytes, stream: bool) -> None:
    """Rows 16, 17, 20, 21, 22: not followed, not decoded, not repeated."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(Send(said), Close())
        answer = await asked(gateway, neuron, stream)
        assert answer.status == 502
        error = json.loads(answer.body)["error"]
        assert (error["code"], error["type"]) == ("upstream_failed", "server_error")
        assert error["request_id"] == answer.headers["x-request-id"]
        assert answer.headers["x-cortex-neuron"] == "n1"
        assert b"canary" not in answer.body and not any("canary" in text for text in answer.headers.values())
        assert len(neuron.requests) == 2


BROKEN_STREAMS = {
    "cut in an event": (STREAM_HEAD, chunks(OPENING, WORDS[0][:-9]), Close()),
    "reset in an event": (STREAM_HEAD, chunks(OPENING, WORDS[0][:-9]), Reset()),
    "cut in a chunk": (STREAM_HEAD, b"fff\r\n" + OPENING + WORDS[0], Close()),
    "cut between events": (STREAM_HEAD, chunks(OPENING, WORDS[0]), Close()),
    "ended without its mark": (STREAM_HEAD, chunks(OPENING, WORDS[0]), last_chunk()),
    "ended by the close": (head(200, "content-type: text/event-stream"), OPENING + WORDS[0], Close()),
    "garbage among the events": (STREAM_HEAD, chunks(OPENING, b"\x00\xff canary\n"), Hang()),
    "a bad chunk": (STREAM_HEAD, chunks(OPENING), b"zz\r\ncanary\r\n", Hang()),
}


@pytest.mark.parametrize("steps", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS.keys())
async def test_a_broken_stream_keeps_what_came_and_ends_with_one_error_event(steps) -> None:
    """Rows 3, 12, 14, 16: no end mark, no finish reason made up, and the connection stays usable."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(*steps)
        answer = await asked(gateway, neuron, stream=True)
        assert answer.status == 200 and answer.body.startswith(OPENING)
        events = [event for event in answer.body.split(b"\n\n") if event]
        last = events[-1].removeprefix(b"data: ")
        assert json.loads(last)["error"]["code"] == "upstream_failed"
        assert answer.body.count(b'"error"') == 1
        assert b"[DONE]" not in answer.body and b"finish_reason" not in answer.body
        assert b"canary" not in answer.body
        assert len(neuron.requests) == 2


async def test_an_error_event_of_the_neuron_is_its_own_end() -> None:
    event = b'data: {"error":{"message":"out of memory","code":"engine_failed"}}\n\n'
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAM_HEAD + chunks(OPENING, event) + last_chunk())
        answer = await asked(gateway, neuron, stream=True)
        assert answer.body == OPENING + event
        page = await gateway.page()
        assert 'dialect="openai_chat",model="a",neuron="n1",outcome="engine"} 1.0' in page


async def test_an_endless_event_is_cut_and_costs_no_memory() -> None:
    """Row 15."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        endless = chunks(*[b"x" * 65536] * 40)
        neuron.then(STREAM_HEAD, chunks(OPENING, b"data: "), Send(endless), Hang())
        answer = await asked(gateway, neuron, stream=True)
        assert len(answer.body) < 2 * 2**20
        assert json.loads(answer.body.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_neuron_that_stops_in_the_middle_is_given_up(stream: bool) -> None:
    """Row 5: LATE by status or event; the neuron sees that nobody listens."""
    began = (STREAM_HEAD, chunks(*WORDS[:1])) if stream else (WHOLE[:-20],)
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=HASTY) as gateway:
        neuron.then(*began, Hang())
        client = await gateway.dial()
        await client.send(ask("/v1/chat/completions", body(stream=stream)))
        answer = await client.answer()
        assert answer.status == (200 if stream else 504)
        assert b"upstream_timeout" in answer.body
        await neuron.until(hung_up=1)


async def test_a_stream_that_never_starts_is_late() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=HASTY) as gateway:
        neuron.then(Hang())
        answer = await gateway.ask(stream=True)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        await neuron.until(hung_up=1)


async def test_a_whole_answer_may_take_longer_than_a_first_token() -> None:
    """Clients repeat a stream that failed without `stream`, and wait for all of it."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=HASTY) as gateway:
        neuron.then(Drip(b"", pause_s=1.0), WHOLE)
        assert (await gateway.ask()).content == ANSWER


async def test_a_whole_answer_is_given_up_when_its_neuron_shows_no_sign_of_life() -> None:
    """Row 4, 5: it hangs with the request; nobody is kept waiting for good."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=HASTY, poll=IMPATIENT) as gateway:
        neuron.then(Hang())
        async with trio.open_nursery() as nursery:

            async def hang() -> None:
                await neuron.seen(1)
                neuron.silent = True

            nursery.start_soon(hang)
            answer = await gateway.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        await neuron.until(hung_up=1)
        await gateway.knows(lambda ledger: "seats=0" in repr(ledger))


async def test_events_that_come_byte_by_byte_are_whole() -> None:
    """Row 11: slow, but whole events in time."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=HASTY) as gateway:
        neuron.then(STREAM_HEAD, Drip(CHUNKED, 16))
        assert (await gateway.ask(stream=True)).content == STREAM
        assert STREAM.endswith(DONE)


@pytest.mark.parametrize("path", ["/health", "/models", "/discovery"])
@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff\r\n\r\n",
        whole(200, b"{"),
        whole(200, b"[" * 100_000),
        whole(200, b'{"boot_id": 5}'),
        whole(200, b"\x1f\x8b\x08", "content-encoding: gzip"),
        whole(401, b'{"error":{"message":"no","code":"invalid_api_key"}}'),
        whole(307, b"{}", "location: http://127.0.0.1:1/"),
        refusal(503, "shutting_down"),
        b"",
    ],
    ids=["garbage", "half", "deep", "kinds", "gzip", "token", "redirect", "refused", "closed"],
)
async def test_a_report_of_nonsense_is_a_missed_look_and_nothing_worse(path: str, said: bytes) -> None:
    """The neuron is away after three of them, and back after the first that can be read."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        if path == "/discovery":
            await neuron.restart()
            neuron.has("a")
        neuron.on[path].extend(neuron.plan(Send(said), Close()) for _ in range(4))
        await gateway.knows(lambda ledger: not ledger.place("n1").ready)
        report = (await gateway.http.get("/fleet")).json()["neurons"][0]
        assert report["state"] == "away" and report["why"]
        await gateway.knows(lambda ledger: ledger.place("n1").ready)
        assert (await gateway.ask()).status_code == 200


async def test_a_report_without_end_is_not_kept() -> None:
    """Three neurons such as this one must not fill the gateway's memory."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        flood = head(200, "content-type: application/json", "content-length: 999999999") + b" " * 9 * 2**20
        neuron.on["/models"].extend(neuron.plan(Send(flood), Hang()) for _ in range(3))
        await gateway.knows(lambda ledger: not ledger.place("n1").ready)
        why = (await gateway.http.get("/fleet")).json()["neurons"][0]["why"]
        assert "over 8388608 bytes" in why
