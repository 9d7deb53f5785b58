"""What an upstream can do wrong, row by row of the fault matrix, as a neuron's client sees it.

A neuron stands where a gateway does in the matrix, and an engine where a neuron does.
"""

import msgspec
import pytest
import trio

from cortex.config.upstream import UpstreamConfig
from tests.calls import CHAT, calling, events, fault_of, hello, residents, text_of
from tests.fake_engine import ANSWER, DONE, HELLO, chunk, fake_engine, refusal
from tests.fake_upstream import (
    STREAM_HEAD,
    Close,
    Drip,
    Hang,
    Reset,
    Step,
    Wait,
    chunks,
    head,
    last_chunk,
    script,
    whole,
)
from tests.fake_upstream import events as stream_of
from tests.neuron.test_upstreams import ask, bridge


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def error(message: str, **more: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode({"error": {"message": message, **more}})


BEFORE: dict[str, tuple[tuple[Step | bytes, ...], int, str]] = {
    # name: what the engine does before any event, the status, the code
    "row 1: reset while the request comes": ((Reset(),), 502, "upstream_failed"),
    "row 10: reset before the first byte": ((Reset(),), 502, "upstream_failed"),
    "row 10: closed before the first byte": ((Close(),), 502, "upstream_failed"),
    "row 12: no HTTP at all": ((b"SSH-2.0-x\r\n\r\n", Close()), 502, "upstream_failed"),
    "row 16: no events": ((STREAM_HEAD + last_chunk(),), 502, "engine_failed"),
    "row 16: [DONE] at once": ((stream_of(DONE),), 502, "engine_failed"),
    "row 17: 500": ((refusal(500, "secret"),), 502, "upstream_failed"),
    "row 19: 429": ((refusal(429, "slow", "retry-after: 7"),), 503, "overloaded"),
    "row 18: 503": ((refusal(503, "soon", "retry-after: 7"),), 503, "overloaded"),
    "row 20: 405": ((refusal(405),), 502, "upstream_failed"),
    "row 21: 307": ((whole(307, b"", "location: http://127.0.0.1:1/"),), 502, "upstream_failed"),
    "row 22: gzip": ((whole(200, b"x", "content-encoding: gzip"),), 502, "upstream_failed"),
    "401": ((refusal(401, "secret"),), 502, "upstream_failed"),
    "404": ((refusal(404),), 502, "upstream_failed"),
    "400": ((refusal(400, "a bad one", param="seed"),), 400, "invalid_request"),
    "422": ((whole(422, b'{"detail":"a bad one"}'),), 400, "invalid_request"),
    "too long": (
        (refusal(400, "maximum context length is 9 tokens. However, your messages resulted in 10 tokens"),),
        400,
        "context_length_exceeded",
    ),
    "a stream in capitals": ((whole(200, b"", content_type="Text/Event-Stream"),), 502, "engine_failed"),
    "504": ((refusal(504),), 504, "upstream_timeout"),
    "a whole answer where a stream was asked for": ((whole(200, b"{}"),), 502, "upstream_failed"),
    "an error as the first event": ((stream_of(error("full", code="overloaded")),), 503, "overloaded"),
    "an endless head": ((head(200, *(f"a{n}: {'x' * 60000}" for n in range(20))),), 502, "upstream_failed"),
    "an endless refusal": (
        (head(500, f"content-length: {2**30}"), b"x" * 2**20, Close()),
        502,
        "upstream_failed",
    ),
}


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_fault_before_the_first_event_has_a_status(name: str, stream: bool) -> None:
    steps, status, code = BEFORE[name]
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(*steps)
        answer = await ask(role, stream=stream)
        assert answer.status_code == status, answer.text
        fault = fault_of(answer)
        assert fault["code"] == code
        assert "secret" not in fault["message"]
        if "slow" in str(steps) or "soon" in str(steps):
            assert answer.headers["retry-after"] == "7"
        assert text_of(await ask(role)) == "Hello"
        assert len(engine.requests) == 2  # nothing is tried twice behind the client's back


AFTER: dict[str, tuple[tuple[Step | bytes, ...], str]] = {
    # name: what the engine does after some words, the code of the error event
    "row 3: reset": ((Reset(),), "upstream_failed"),
    "row 3: the chunked body breaks off": ((Close(),), "upstream_failed"),
    "row 12: garbage": ((chunks(b"\x00\x01garbage\n\n"),), "upstream_failed"),
    "row 14: truncated JSON": ((chunks(b'data: {"choices":[\n\n'),), "upstream_failed"),
    "row 15: an endless event": ((chunks(*[b"data: " + b"x" * 2**16] * 20),), "upstream_failed"),
    "row 16: well-formed and without an end": ((last_chunk(),), "engine_failed"),
    "row 16: [DONE] without a reason": ((chunks(DONE) + last_chunk(),), "engine_failed"),
    "row 16: cut within an event": ((chunks(b'data: {"choi') + last_chunk(),), "engine_failed"),
    "an error event": ((chunks(error("secret", type="internal_error")),), "engine_failed"),
    "content_filter": ((chunks(chunk("content_filter")),), "engine_failed"),
}


@pytest.mark.parametrize("name", AFTER)
async def test_a_fault_in_mid_stream_is_an_error_event_after_all_that_was_said(name: str) -> None:
    steps, code = AFTER[name]
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(STREAM_HEAD + chunks(*HELLO), *steps)
        async with calling(role) as caller:
            await caller.ask(CHAT, hello("m", stream=True))
            answer = await caller.all()
        assert answer.complete
        *said, last = answer.data
        assert "".join(said).count('"content":"lo"') == 1 and "[DONE]" not in last
        fault = msgspec.json.decode(last)["error"]
        assert fault["code"] == code
        assert "secret" not in fault["message"]
        assert text_of(await ask(role)) == "Hello"


@pytest.mark.parametrize("size", [1, 7])
async def test_bytes_that_drip_are_put_together(size: int) -> None:
    """Rows 11 and 13: slow is legal while events come, and code points may be cut anywhere."""
    said = (chunk(content="Κα 😀"), chunk("stop"), DONE)
    body = b"".join(said)
    pieces = chunks(*(body[at : at + size] for at in range(0, len(body), size))) + last_chunk()
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(STREAM_HEAD, Drip(pieces, size=40))
        assert text_of(await ask(role)) == "Κα 😀"


async def test_invalid_utf8_costs_no_more_than_itself() -> None:
    """Row 13."""
    bad = b'data: {"choices":[{"index":0,"delta":{"content":"a\xffb"}}]}\n\n'
    async with fake_engine("m", otherwise=stream_of(bad, *ANSWER)) as engine, bridge(engine) as role:
        assert text_of(await ask(role)) == "a\ufffdbHello"


async def test_a_body_that_ends_by_close_is_whole_when_its_end_mark_came() -> None:
    """Row 16 [X]: HTTP/1.0 style."""
    plain = head(200, "content-type: text/event-stream")
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(plain + b"".join(ANSWER), Close())
        assert text_of(await ask(role)) == "Hello"
        engine.then(plain + b"".join(ANSWER[:3]), Close())
        assert (await ask(role)).status_code == 502


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"first_token_s": 0.2}, (Hang(),)),
        ({"first_token_s": 0.2}, (STREAM_HEAD, Hang())),
        ({"first_token_s": 0.2}, (STREAM_HEAD + chunks(chunk(role="assistant")), Hang())),
        ({"first_token_s": 0.4}, (STREAM_HEAD, Drip(chunks(*[b": ping\n\n"] * 400), size=12, pause_s=0.01))),
        ({"stall_s": 0.2}, (STREAM_HEAD + chunks(*HELLO), Hang())),
        (
            {"stall_s": 0.4},
            (STREAM_HEAD + chunks(*HELLO), Drip(chunks(b"data: " + b"x" * 4000), pause_s=0.01)),
        ),
    ],
    ids=["no head", "no event", "only a role", "only comments", "silent", "a dripping event"],
)
async def test_silence_ends_in_time_and_the_connection_is_closed(limits, steps) -> None:
    """Rows 5, 7 and 11."""
    async with fake_engine("m") as engine, bridge(engine, **limits) as role:
        engine.then(*steps)
        with trio.fail_after(5):
            answer = await ask(role)
            await engine.until(hung_up=1)
        assert (answer.status_code, fault_of(answer)["code"]) == (504, "upstream_timeout")


async def test_events_that_come_in_time_may_go_on_for_long() -> None:
    said = chunks(*[chunk(content="x")] * 30)
    async with fake_engine("m") as engine, bridge(engine, stall_s=0.25) as role:
        engine.then(
            STREAM_HEAD, Drip(said, size=len(said) // 30, pause_s=0.03), chunks(*ANSWER[3:]) + last_chunk()
        )
        assert text_of(await ask(role)) == "x" * 30


async def test_a_port_that_is_closed_is_a_refusal_that_proves_that_nothing_ran() -> None:
    """Row 8."""
    async with fake_engine("m") as engine, bridge(engine, look_s=60.0) as role:
        text_of(await ask(role))
        await engine.die()
        answer = await ask(role)
        assert (answer.status_code, answer.headers["x-cortex-not-started"]) == (502, "1")
        assert "cannot be reached" in fault_of(answer)["message"]


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
async def test_a_refusal_is_heard_though_the_request_was_not_all_sent(end: Step) -> None:
    """Proxies say 413 to the head alone."""
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.scripts.append(script(refusal(413, "64 KiB is the limit"), end, read="head"))
        answer = await ask(role, messages=[{"role": "user", "content": "x" * 20_000_000}])
        assert answer.status_code == 413
        assert "64 KiB is the limit" in fault_of(answer)["message"]


async def test_a_connection_that_breaks_before_all_is_sent_proves_that_nothing_ran() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.scripts.append(script(Reset(), read="head"))
        answer = await ask(role, messages=[{"role": "user", "content": "x" * 20_000_000}])
        assert (answer.status_code, answer.headers["x-cortex-not-started"]) == (502, "1")


async def test_a_connection_that_hangs_is_given_up() -> None:
    """Row 9: a listener whose backlog is full."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        stuffed = [socket.socket() for _ in range(4)]
        try:
            for each in stuffed:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port))
            from cortex.errors import Unreachable
            from cortex.harness.upstream import Endpoint, listed_by

            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1")
            with pytest.raises(Unreachable, match="timed out"):
                await trio.to_thread.run_sync(listed_by, endpoint, 0.2)
        finally:
            for each in stuffed:
                each.close()


async def test_a_name_that_nobody_knows_is_unreachable() -> None:
    """Row 23."""
    from cortex.errors import Unreachable
    from cortex.harness.upstream import Endpoint, listed_by

    for name in ("nobody.invalid", "no..body", "x" * 70):
        with pytest.raises(Unreachable, match="cannot be reached"):
            await trio.to_thread.run_sync(listed_by, Endpoint(f"http://{name}:1/v1"), 2.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (whole(200, b"{}"), "no list of models"),
        (whole(200, b"<html>"), "no list of models"),
        (refusal(401), "does not accept this neuron's key"),
        (refusal(404), "no longer knows it, or has no such route"),
        (whole(302, b"", "location: /login"), "redirect"),
        (head(200, f"content-length: {2**30}") + b"x" * 9 * 2**20, "more than"),
    ],
)
async def test_a_list_that_is_none_fails_the_load_and_says_why(answer: bytes, said: str) -> None:
    from cortex.catalogue import Catalogue, ModelSpec

    async with fake_engine("m") as engine:
        catalogue = Catalogue({"x": ModelSpec("x", source=f"upstream:{engine.url}#m")})
        async with bridge(engine, catalogue, look_s=60.0) as role:
            engine.listing.append(script(answer, Close()))
            failed = fault_of(await role.http.post(CHAT, json=hello("x")))
            assert failed["code"] == "load_failed"
            assert said in failed["message"] and engine.url in failed["message"]


async def test_one_jobs_fault_is_no_other_jobs() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        go = trio.Event()
        engine.then(STREAM_HEAD + chunks(*HELLO), Wait(go), chunks(*ANSWER[3:]) + last_chunk())
        engine.then(STREAM_HEAD + chunks(*HELLO), Reset())
        async with calling(role) as lasting:
            await lasting.ask(CHAT, hello("m", stream=True))
            await lasting.until(b"lo")
            failed = await ask(role, stream=True)
            assert "error" in events(failed.content)[-1]
            go.set()
            assert (await lasting.all()).data[-1] == "[DONE]"
        assert (await residents(role))["m"]["servable"]["ok"]


async def test_no_secret_is_in_a_repr() -> None:
    assert "sesame" not in repr(UpstreamConfig(api_key="sesame"))
