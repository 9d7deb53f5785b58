"""A stream of OpenAI's chat is told in Anthropic's dialect, and held to the relay's limits."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from cortex import errors
from cortex.ask import Ask
from cortex.config.limits import Limits
from cortex.errors import CortexError, EngineFailed, TooSlow, UpstreamFailed
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.translator import anthropic_messages, openai_chat, openai_responses
from cortex.translator.dialects import MESSAGES, RESPONSES
from cortex.web import faults
from cortex.web.meter import Meter
from cortex.web.pool import Pool
from cortex.web.retell import Retelling
from cortex.web.streaming import PING
from cortex.wire.openai import Reply
from cortex.wire.sse import Frame, render
from tests.fake_replies import Recorder, reacting
from tests.fake_upstream import (
    STREAM_HEAD,
    Close,
    Drip,
    FakeUpstream,
    Hang,
    Script,
    Step,
    chunks,
    events,
    fake_upstream,
    last_chunk,
    script,
    whole,
)
from tests.play import play
from tests.web.test_relay import REQUEST

USAGE = "x-cortex-usage: prompt=12,cached=4,completion=34"
SAID: list[Event] = [
    Prefilled(12, 4),
    Thought("hm"),
    Text("caf\u00e9 "),
    Text('"18°"'),
    ToolCall("call_1", "weather", '{"city":"Bern"}'),
    Stopped("tool_calls", Usage(12, 4, 34)),
]
CONTENT = [
    {"type": "thinking", "thinking": "hm", "signature": "Y29ydGV4"},
    {"type": "text", "text": 'caf\u00e9 "18°"'},
    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}},
]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


def body(**more: Any) -> bytes:
    fields = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}
    return json.dumps(fields).encode()


def asked(*, stream: bool = True) -> Retelling:
    return Retelling(MESSAGES, anthropic_messages.read(body(stream=stream)), "req-1")


def chat(said: list[Event]) -> bytes:
    """What a neuron that speaks OpenAI's chat says, with its usage as the last chunk."""
    return render(*play(openai_chat.speak(Reply("c", "m", 1, include_usage=True)), said))


async def told(
    upstream: FakeUpstream, reply: Recorder, request: Retelling, limits: Limits = Limits()
) -> Meter:
    meter = Meter("anthropic")
    async with reacting() as reactor:
        pool = Pool("127.0.0.1", upstream.port, reactor=reactor)
        try:
            async with pool.exchange(REQUEST, first_byte_s=100) as answer:
                headers = [("x-cortex-model", "m")]
                await request.tell(answer, reply, reactor, meter=meter, limits=limits, extra_headers=headers)
        finally:
            pool.close()
    return meter


async def failing(plan: Script, reply: Recorder, **settings: Any) -> CortexError:
    async with fake_upstream(plan) as upstream:
        with pytest.raises(CortexError) as caught:
            await told(upstream, reply, asked(**settings))
    return caught.value


def opening() -> bytes:
    """The first events of a stream that goes on."""
    machine = openai_chat.speak(Reply("c", "m", 1))
    return render(*next(machine), *machine.send(Text("half")))


def heard(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]


async def test_the_neuron_is_asked_for_a_stream_with_all_that_was_said() -> None:
    sent = json.loads(asked(stream=False).body)
    assert sent["stream"] is True and sent["stream_options"] == {"include_usage": True}
    assert sent["messages"] == [{"role": "user", "content": "hi"}] and sent["max_tokens"] == 9


async def test_a_stream_arrives_in_the_clients_own_dialect() -> None:
    async with fake_upstream(script(events(chat(SAID), trailers=[USAGE]))) as upstream:
        reply = Recorder()
        meter = await told(upstream, reply, asked())
    assert (reply.status, reply.content_type, reply.ended) == (200, "text/event-stream", True)
    assert reply.headers == {"x-cortex-model": "m"}
    said = heard(bytes(reply.body))
    assert said[0]["type"] == "message_start" and said[0]["message"]["id"].startswith("msg_")
    assert said[-1] == {"type": "message_stop"}
    assert [each["delta"].get("text") for each in said if each["type"] == "content_block_delta"] == [
        None,
        None,
        "caf\u00e9 ",
        '"18°"',
        None,
    ]
    assert meter.usage == Usage(12, 4, 34) and not meter.estimated
    assert meter.complete and meter.first_content_at is not None and meter.events == 5


@pytest.mark.parametrize("stream", [True, False])
async def test_scores_that_the_client_wants_arrive(stream: bool) -> None:
    fields = {"model": "m", "input": "hi", "top_logprobs": 1, "stream": stream}
    request = Retelling(RESPONSES, openai_responses.read(json.dumps(fields).encode()), "req-1")
    assert json.loads(request.body)["top_logprobs"] == 1
    score = TokenLogprob("a", -0.5, (("b", -1.0),))
    said = [Started(), Prefilled(1), Text("a", (score,)), Stopped("stop", Usage(1, 0, 1))]
    frames = play(openai_chat.speak(Reply("c", "m", 1, logprobs=1)), said)
    async with fake_upstream(script(events(render(*frames)))) as upstream:
        reply = Recorder()
        await told(upstream, reply, request)
    whole = heard(bytes(reply.body))[-1]["response"] if stream else json.loads(reply.body)
    (token,) = whole["output"][0]["content"][0]["logprobs"]
    assert (token["token"], token["logprob"]) == ("a", -0.5)
    assert [(top["token"], top["logprob"]) for top in token["top_logprobs"]] == [("b", -1.0)]


async def test_a_whole_answer_is_made_of_the_stream() -> None:
    async with fake_upstream(script(events(chat(SAID), trailers=[USAGE]))) as upstream:
        reply = Recorder()
        meter = await told(upstream, reply, asked(stream=False))
    message = json.loads(reply.body)
    assert message["content"] == CONTENT and message["stop_reason"] == "tool_use"
    assert message["usage"]["input_tokens"] == 8 and message["usage"]["output_tokens"] == 34
    assert meter.usage == Usage(12, 4, 34) and meter.complete and meter.first_content_at is not None


async def test_usage_is_the_streams_own_where_no_trailer_tells() -> None:
    async with fake_upstream(script(events(chat(SAID)))) as upstream:
        meter = await told(upstream, Recorder(), asked())
    assert (meter.usage.prompt, meter.usage.cached, meter.usage.completion) == (12, 4, 34)


def cuts(data: bytes) -> Iterator[tuple[int, ...]]:
    yield from ((at,) for at in range(1, len(data), 7))


async def test_it_says_the_same_however_the_bytes_are_cut() -> None:
    """Row 13."""
    wire = events(chat(SAID), trailers=[USAGE])
    async with fake_upstream() as upstream:
        for at in cuts(wire):
            upstream.then(Drip(wire, at=at))
            reply = Recorder()
            await told(upstream, reply, asked(stream=False))
            assert json.loads(reply.body)["content"] == CONTENT, at


async def test_the_neurons_keep_alives_become_the_clients() -> None:
    stream = chat([Prefilled(1)])[:0] + b": keep-alive\n\n" + chat(SAID)
    async with fake_upstream(script(events(stream))) as upstream:
        reply = Recorder()
        await told(upstream, reply, asked())
    assert bytes(reply.body).startswith(PING) and bytes(reply.body).count(PING) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_neurons_own_failure_in_the_middle_is_raised_after_what_was_said(stream: bool) -> None:
    """Row 3."""
    broken = chat([Text("one"), Failed(EngineFailed("the device is gone"))])
    reply = Recorder()
    error = await failing(script(events(broken)), reply, stream=stream)
    assert "the device is gone" in error.message and error.blame == "engine"
    assert not reply.ended and (b'"one"' in reply.body) == stream


@pytest.mark.parametrize(
    ("cut", "kind"),
    [
        (lambda data: data[: data.index(b'"delta":{}')].rpartition(b"data: ")[0], EngineFailed),
        (lambda data: data[: len(data) // 2], EngineFailed),
        (lambda data: b"<html>" + data, UpstreamFailed),
        (lambda data: b'data: {"choices":[{"in\n\n' + data, UpstreamFailed),
    ],
    ids=["no end mark", "cut in an event", "garbage", "half of an object"],
)
async def test_a_stream_that_is_not_whole_fails(
    cut: Callable[[bytes], bytes], kind: type[CortexError]
) -> None:
    """Rows 12, 14 and 16."""
    reply = Recorder()
    error = await failing(script(events(cut(chat(SAID)))), reply)
    assert isinstance(error, kind) and not reply.ended


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "more", [b"", b'data: {"choices":[]}\n\n', b"<html>"], ids=["cut", "more", "garbage"]
)
async def test_what_is_behind_the_end_mark_takes_nothing_back(stream: bool, more: bytes) -> None:
    """The connection closes there, or goes on: the answer was whole."""
    async with fake_upstream(script(STREAM_HEAD + chunks(chat(SAID) + more), Close())) as upstream:
        reply = Recorder()
        await told(upstream, reply, asked(stream=stream))
    assert reply.ended and b"tool_use" in reply.body
    assert not stream or bytes(reply.body).endswith(b'data: {"type":"message_stop"}\n\n')


async def test_a_refusal_in_mid_stream_may_not_be_tried_again() -> None:
    """What was said has reached the client, and the neuron has computed it."""
    stopping = render(Frame(faults.response(errors.Stopping("it goes"), "openai", "r").body, "error"))
    error = await failing(script(events(opening() + stopping)), Recorder())
    assert isinstance(error, errors.Stopping) and not error.not_started


async def test_single_bytes_are_no_sign_of_life() -> None:
    """Row 11."""
    drip = Drip(b"5\r\ndata:\r\n" * 50, size=10, pause_s=0.03)
    async with fake_upstream(script(STREAM_HEAD + chunks(opening()), drip)) as upstream:
        began = trio.current_time()
        with pytest.raises(TooSlow):
            await told(upstream, Recorder(), asked(), Limits(upstream_stall_s=0.2))
        assert trio.current_time() - began < 1.4, "of the second and a half that it drips"


async def test_a_whole_answer_is_waited_for_as_long_as_the_neuron_shows_that_it_lives() -> None:
    beat = chunks(b": keep-alive\n\n")
    answer = script(
        STREAM_HEAD, Drip(beat * 8, size=len(beat), pause_s=0.05), chunks(chat(SAID)) + last_chunk(USAGE)
    )
    limits = Limits(first_token_s=0.2, upstream_stall_s=0.5)
    async with fake_upstream(answer, answer) as upstream:
        reply = Recorder()
        await told(upstream, reply, asked(stream=False), limits)
        assert json.loads(reply.body)["content"] == CONTENT
        with pytest.raises(TooSlow):
            await told(upstream, Recorder(), asked(), limits)


async def test_a_refusal_keeps_its_kind_for_the_clients_dialect() -> None:
    refused = faults.response(errors.Overloaded("full", retry_after_s=7), "openai", "r")
    headers = [f"{name}: {text}" for name, text in refused.headers]
    error = await failing(script(whole(refused.status, refused.body, *headers)), Recorder())
    assert isinstance(error, errors.Overloaded) and error.retry_after_s == 7


async def test_a_refused_form_has_the_name_that_the_client_gave_it() -> None:
    """The neuron was asked in chat, and names what it was sent."""
    error = errors.Unsupported("'response_format' holds a schema", param="response_format")
    refused = faults.response(error, "openai", "r")
    form = {"output_config": {"format": {"type": "json_schema", "schema": {}}}}
    said = json.loads(body(stream=True)) | form
    retelling = Retelling(MESSAGES, anthropic_messages.read(json.dumps(said).encode()), "req-1")
    async with fake_upstream(script(whole(refused.status, refused.body))) as upstream:
        with pytest.raises(errors.Unsupported) as caught:
            await told(upstream, Recorder(), retelling)
    assert caught.value.param == "output_config.format"
    assert caught.value.message.startswith("'output_config.format' holds")


@pytest.mark.parametrize(
    "step", [whole(307, b"", "location: http://x"), whole(200, b"{}"), whole(500, b"{}")]
)
async def test_an_answer_of_another_form_is_the_neurons_fault(step: Step | bytes) -> None:
    """Rows 17 and 21."""
    assert isinstance(await failing(script(step), Recorder()), UpstreamFailed)


@pytest.mark.parametrize(
    ("said", "reason"), [(b": keep-alive\n\n", "late"), (chat([Text("a")])[:200], "late")]
)
async def test_a_neuron_that_stops_talking_is_given_up(said: bytes, reason: str) -> None:
    """Row 5; keep-alives put nothing off before the first word."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    async with fake_upstream(script(head + chunks(said), Hang())) as upstream:
        with pytest.raises(TooSlow):
            await told(upstream, Recorder(), asked(), Limits(first_token_s=0.05, upstream_stall_s=0.05))


async def test_what_the_other_dialect_cannot_say_is_refused_before_anything_runs() -> None:
    with pytest.raises(errors.Unsupported):
        Retelling(MESSAGES, Ask("m", prompt="x", echo=True), "req-1")
