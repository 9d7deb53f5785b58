"""What is told in another dialect goes by callbacks, and says what a task would say of the same."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.limits import Limits
from cortex.errors import EngineFailed
from cortex.events import Failed, Prefilled, Stopped, Text, Thought, ToolCall, Usage
from cortex.ledger import Ledger
from cortex.translator import openai_chat
from cortex.web import teller
from cortex.wire import neuron as wire
from cortex.wire.openai import Reply
from cortex.wire.sse import render
from tests.fake_neuron import (
    DONE,
    FULL,
    NOT_HERE,
    USAGE,
    WHOLE,
    FakeNeuron,
    Open,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import (
    STREAM_HEAD,
    Close,
    Drip,
    Hang,
    Step,
    Wait,
    chunks,
    head,
    last_chunk,
)
from tests.fake_web import Answer, Client, ask
from tests.play import play

PATHS: Final = ("/v1/messages", "/v1/responses")
ENDS: Final = {"/v1/messages": b'"message_stop"', "/v1/responses": b'"response.completed"'}
OLD: Final = ("openai_chat", "openai_text")
SAID: Final = [
    Prefilled(7, 2),
    Thought("hm"),
    Thought("m"),
    Text("caf\u00e9"),
    Text(" one"),
    Text(" two\u2028"),
    ToolCall("c1", "f", '{"a": 1}'),
    Stopped("tool_calls", Usage(7, 2, 3)),
]
BEAT: Final = b": keep-alive\n\n"
HASTY: Final = GatewayConfig(limits=Limits(first_token_s=0.3, upstream_stall_s=0.3))
PATIENT: Final = GatewayConfig()


def chat(*events: Any) -> bytes:
    machine = openai_chat.speak(Reply("c", "a", 1, include_usage=True))
    return render(*play(machine, list(events) or SAID))


WHOLE_CHAT: Final = chat()
HALF: Final = WHOLE_CHAT[: WHOLE_CHAT.index(b" two")]
BROKEN: Final = chat(Text("half"), Failed(EngineFailed("the device is gone")))


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def asked(path: str, *, stream: bool = True, **more: Any) -> bytes:
    said: dict[str, Any] = {"model": "a", "stream": stream, **more}
    if path == "/v1/messages":
        said |= {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    else:
        said |= {"input": "hi"}
    return json.dumps(said).encode()


def by_task(path: str, body: bytes, **more: str) -> bytes:
    """The same request, in a form that callbacks leave alone."""
    own = {"host": "127.0.0.1", **more, "transfer-encoding": "chunked"}
    fields = "".join(f"{name}: {value}\r\n" for name, value in own.items()).encode()
    return b"POST %b HTTP/1.1\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (path.encode(), fields, len(body), body)


def seats(ledger: Ledger) -> int:
    return sum(resident.seats for _, resident in ledger.holders("a"))


async def told(neuron: FakeNeuron, gateway: Open, sent: bytes) -> Answer:
    client = await gateway.dial()
    await client.send(sent)
    answer = await client.answer()
    await gateway.knows(lambda ledger: not seats(ledger))
    return answer


def masked(answer: Answer) -> tuple[int, dict[str, str], str]:
    """All of it but ids, times, and how many signs of life there were time for."""
    text = re.sub(
        rb'"((?:msg|resp|rs|fc)_)[^"]*"|"created_at":\d+|"request_id":"[^"]*"', rb'"\1"', answer.body
    )
    of_its_own = {"date", "x-request-id", "request-id", "content-length"}
    fields = {name: value for name, value in answer.headers.items() if name not in of_its_own}
    text = re.sub(rb"event: ping\n[^\n]*\n\n|: keep-alive\n\n", b"", text)
    return answer.status, fields, text.decode()


def streamed(*steps: Step | bytes) -> tuple[Step | bytes, ...]:
    return (STREAM_HEAD, *steps)


ANSWERS: Final[dict[str, tuple[Step | bytes, ...]]] = {
    "whole": streamed(chunks(WHOLE_CHAT) + last_chunk(USAGE)),
    "with keep-alives": streamed(chunks(BEAT), chunks(WHOLE_CHAT + BEAT) + last_chunk(USAGE)),
    "with signs of life for long": streamed(
        Drip(chunks(BEAT) * 10, size=len(chunks(BEAT)), pause_s=0.06), chunks(WHOLE_CHAT), last_chunk()
    ),
    "in pieces": streamed(Drip(chunks(WHOLE_CHAT), size=97), last_chunk()),
    "ended by a close": streamed(chunks(WHOLE_CHAT), Close()),
    "with garbage behind the end": streamed(chunks(WHOLE_CHAT) + b"<html>", Close()),
    "silent behind the end": streamed(chunks(WHOLE_CHAT), Hang()),
    "of no length": (head(200, "content-type: text/event-stream") + WHOLE_CHAT, Close()),
    "broken": streamed(chunks(BROKEN) + last_chunk()),
    "broken off": streamed(chunks(HALF), Close()),
    "ended too soon": streamed(chunks(HALF[: HALF.rindex(b"data:")]) + last_chunk()),
    "garbage": streamed(chunks(chat(Text("a"), Stopped("stop"))[:300] + b"\n\n<html>\n\n") + last_chunk()),
    "silent": streamed(chunks(HALF), Hang()),
    "silent from the start": streamed(Hang()),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-", Close()),
    "JSON": (WHOLE,),
    "a refusal": (refusal(400, "invalid_request_error", message="too long"),),
    "a bug": (refusal(500, "internal"),),
    "full": (FULL,),
    "moved": (NOT_HERE,),
}


async def outcome(said: str, sent: bytes, found: list[Any]) -> None:
    """What becomes of one request at a gateway of its own."""
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        neuron.otherwise = neuron.plan(*ANSWERS[said])
        hasty = said.startswith(("silent", "with signs"))
        async with open_gateway(neuron, config=HASTY if hasty else PATIENT) as gateway:
            answer = await told(neuron, gateway, sent)
            page = await gateway.page()
    counted = re.compile(r"cortex_(req\w+_total|\w+tokens_total)\{")
    lines = [line for line in page.splitlines() if counted.match(line)]
    asked = [(request.head[0], request.body) for request in neuron.requests]
    found.append((masked(answer), asked, lines))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("said", ANSWERS)
async def test_callbacks_and_tasks_tell_the_same(path: str, said: str, stream: bool) -> None:
    """Rows 3, 5, 10, 12 to 21: answer, requests and metrics, whatever the neuron does."""
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        for form in (ask, by_task):
            nursery.start_soon(outcome, said, form(path, asked(path, stream=stream)), found)
    assert found[0] == found[1]


async def held(gateway: Open, neuron: FakeNeuron, sent: bytes, count: int) -> int:
    """How many tasks there are more when `count` more requests wait for their answers."""
    before, asked = trio.lowlevel.current_statistics().tasks_living, len(neuron.requests)
    for _ in range(count):
        client = await gateway.dial()
        await client.send(sent)
    await neuron.seen(asked + count)
    return trio.lowlevel.current_statistics().tasks_living - before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_retold_request_costs_no_task(path: str, stream: bool) -> None:
    async with fake_neuron("a", otherwise=Hang()) as neuron:
        neuron.has("a", slots=64)
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            sent = asked(path, stream=stream)
            assert await held(gateway, neuron, ask(path, sent), 10) == 10, (
                "the neuron's own, one a connection"
            )
            assert await held(gateway, neuron, by_task(path, sent), 10) >= 30, "else this test sees nothing"


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_read_in_a_thread_is_left_to_a_task(path: str) -> None:
    long = asked(path, user="x" * 100_000) if path == "/v1/responses" else asked(path, x="x" * 100_000)
    async with fake_neuron("a", otherwise=STREAM_HEAD + chunks(WHOLE_CHAT) + last_chunk(USAGE)) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            answer = await told(neuron, gateway, ask(path, long))
            assert answer.status == 200 and ENDS[path] in answer.body


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_reads_slowly_has_all_of_it(path: str) -> None:
    """Row 32; the neuron breaks the connection behind the end mark, while the client has yet to take it."""
    events = [Prefilled(1), *[Text("x" * 60_000)] * 80, Stopped("stop", Usage(1, 0, 80))]
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        neuron.then(STREAM_HEAD + chunks(chat(*events)), Close())
        async with open_gateway(neuron) as gateway:
            client = await gateway.dial()
            await client.send(ask(path, asked(path)))
            start = await client.until(b"\r\n\r\n")
            await gateway.knows(lambda ledger: seats(ledger) == 1)
            client.data = start + client.data
            answer = await client.answer()
            assert answer.body.count(b'"' + b"x" * 60_000 + b'"') >= 80 and ENDS[path] in answer.body
            await gateway.knows(lambda ledger: not seats(ledger))


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_waits_hears_signs_of_life_of_its_own_dialect(path: str) -> None:
    go_on = trio.Event()
    sign = b"event: ping\n" if path == "/v1/messages" else b": keep-alive\n\n"
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        neuron.then(Wait(go_on), STREAM_HEAD + chunks(WHOLE_CHAT) + last_chunk(USAGE))
        async with open_gateway(neuron) as gateway:
            client = await gateway.dial()
            await client.send(ask(path, asked(path)))
            assert sign in await client.until(sign)
            go_on.set()
            assert ENDS[path] in await client.until(ENDS[path])


@asynccontextmanager
async def half_told(path: str) -> AsyncIterator[tuple[FakeNeuron, Open, Client]]:
    """The client has half of a stream, and the neuron says no more."""
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        neuron.then(STREAM_HEAD + chunks(HALF), Hang())
        async with open_gateway(neuron) as gateway:
            client = await gateway.dial()
            await client.send(ask(path, asked(path)))
            await client.until(b"caf")
            yield neuron, gateway, client


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_frees_seat_and_neuron(path: str) -> None:
    """Row 30."""
    async with half_told(path) as (neuron, gateway, client):
        await client.close()
        await neuron.until(hung_up=1)
        await gateway.knows(lambda ledger: not seats(ledger))
        assert 'outcome="hung_up"} 1.0' in await gateway.page()


@pytest.mark.parametrize("path", PATHS)
async def test_who_leaves_at_the_end_mark_was_answered(path: str) -> None:
    """What the neuron says behind it is in the books."""
    go_on = trio.Event()
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        neuron.then(STREAM_HEAD + chunks(WHOLE_CHAT), Wait(go_on), last_chunk(USAGE))
        async with open_gateway(neuron) as gateway:
            client = await gateway.dial()
            await client.send(ask(path, asked(path)))
            await client.until(ENDS[path])
            await client.close()
            go_on.set()
            await gateway.knows(lambda ledger: not seats(ledger))
            page = await gateway.page()
            assert 'outcome="ok"} 1.0' in page
            assert 'cortex_completion_tokens_total{model="a",neuron="n1"} 3.0' in page


@pytest.mark.parametrize("path", PATHS)
async def test_a_drain_tells_the_client_in_its_own_dialect(path: str) -> None:
    async with half_told(path) as (_, gateway, client):
        await gateway.gateway._parts.api.drain(0.0)
        assert b"shutting" in await client.rest()


async def test_a_bug_in_telling_costs_its_own_request_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42."""

    def broken(self: teller.Teller, told: object) -> bytes:
        raise ZeroDivisionError("a bug")

    async with fake_neuron("a", otherwise=STREAM_HEAD + chunks(WHOLE_CHAT) + last_chunk(USAGE)) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            with monkeypatch.context() as patch:
                patch.setattr(teller.Teller, "_said", broken)
                client = await gateway.dial()
                await client.send(ask(PATHS[0], asked(PATHS[0])))
                await client.rest()
            await gateway.knows(lambda ledger: not seats(ledger))
            assert "ZeroDivisionError" in caplog.text and 'outcome="bug"' in await gateway.page()
            assert (await told(neuron, gateway, ask(PATHS[0], asked(PATHS[0])))).status == 200


async def test_a_refused_retold_request_is_asked_again_elsewhere() -> None:
    """Row 19: begun by callbacks, and gone on with by a task."""
    good = STREAM_HEAD + chunks(WHOLE_CHAT) + last_chunk(USAGE)
    async with fake_neuron("a", otherwise=FULL) as full, fake_neuron("a", otherwise=good) as other:
        full.dialects = other.dialects = OLD
        async with open_gateway(full, other) as gateway:
            full.has("a", slots=64)
            for _ in range(3):
                answer = await told(other, gateway, ask(PATHS[0], asked(PATHS[0])))
                assert answer.headers["x-cortex-neuron"] == "n2" and ENDS[PATHS[0]] in answer.body


async def test_what_was_told_in_chat_is_followed_by_what_was_not() -> None:
    """One connection, one link, both dialects in turns."""
    good = STREAM_HEAD + chunks(WHOLE_CHAT) + last_chunk(USAGE)
    chats = "/v1/chat/completions"
    async with fake_neuron("a", otherwise=good) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            client: Client = await gateway.dial()
            for path in (PATHS[0], chats, PATHS[1], PATHS[0]) * 2:
                await client.send(ask(path, asked("/v1/messages" if path == chats else path)))
                assert ENDS.get(path, DONE.strip()) in (await client.answer()).body
            assert len({request.connection for request in neuron.requests}) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_retold_request_has_the_same_head_by_either_way(path: str) -> None:
    """That of a request in chat: what the client says of its own dialect is not of it."""
    own = {"anthropic-version": "2023-06-01", "accept": "x/y", "x-request-id": "one"}
    async with fake_neuron("a", otherwise=STREAM_HEAD + chunks(WHOLE_CHAT) + last_chunk(USAGE)) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            for sent in (ask(path, asked(path), **own), by_task(path, asked(path), **own)):
                await told(neuron, gateway, sent)
            heads = (sorted(request.head) for request in neuron.requests)
            # A task has waited for a moment, which the neuron need not wait, too.
            hopped, passed = ([line for line in head if wire.PATIENCE not in line] for head in heads)
    assert hopped == passed and {"content-type: application/json", "x-request-id: one"} < {*hopped}
    assert not any("anthropic" in line or "x/y" in line for line in hopped)
