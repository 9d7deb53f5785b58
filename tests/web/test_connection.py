"""What a handler writes is what the client reads, on both corridors and in both dialects."""

import json
import logging
import os

import httpx
import pytest
import trio

from cortex import logs
from cortex.errors import EngineFailed, Loading, NeverFits
from cortex.web import faults
from cortex.web.connection import Reply
from cortex.web.framing import Terms
from cortex.web.line import Line
from tests.fake_web import CHAT, CONTROL, DONE, EVENT, KINDS, MESSAGES, ask, do, open_door, open_visit

ALL = (*KINDS, MESSAGES)


@pytest.mark.parametrize("path", ALL)
async def test_one_connection_carries_answers_streams_and_refusals(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            statuses = []
            for what in ("echo", "stream", "fail-early", "stream", "bug-early", "echo"):
                await client.send(do(what, path))
                statuses.append((await client.answer()).status)
            assert statuses == [200, 200, 529 if path == MESSAGES else 503, 200, 500, 200]


@pytest.mark.parametrize("path", KINDS)
async def test_the_corridor_is_chosen_request_by_request_on_one_connection(path: str):
    """Both corridors answer alike, one after the other on the same socket."""
    with trio.fail_after(30):
        async with open_door() as site, httpx.AsyncClient(base_url=site.url) as client:
            ports, bodies = set(), []
            for each in (path, CONTROL, CHAT, CHAT, CONTROL, path):
                answer = await client.post(f"{each}?a=1", json={"x": "y"}, headers={"x-request-id": "mine"})
                ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                bodies.append(answer.json())
                assert answer.headers["x-request-id"] == "mine"
            assert len(ports) == 1 and site.door.connections == 1
            assert {(b["query"], b["peer"], b["id"], b["length"]) for b in bodies} == {
                ("a=1", "127.0.0.1", "mine", 9)
            }


@pytest.mark.parametrize("path", ALL)
async def test_a_stream_that_fails_ends_with_the_error_event_and_no_end_mark(path: str):
    """Annex B 6: a refusal keeps its own words, a bug is veiled; the body is well terminated."""
    with trio.fail_after(30):
        async with open_door() as site:
            for what, words in (("fail-late", "The engine broke."), ("bug-late", faults.BUG)):
                client = await site.dial()
                await client.send(do(what, path))
                answer = await client.answer()
                first, last, rest = answer.body.split(b"\n\n")
                assert (first + b"\n\n", rest, answer.trailers) == (EVENT, b"", {})
                if path == MESSAGES:
                    name, last = last.split(b"\n")
                    assert name == b"event: error"
                told = json.loads(last.removeprefix(b"data: "))
                assert told["error"]["message"] == words
                assert answer.headers["x-request-id"] in last.decode()


@pytest.mark.parametrize("path", ALL)
async def test_a_failure_before_the_stream_keeps_its_status_and_headers(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("fail-early", path, x_request_id="mine"))
            answer = await client.answer()
            assert answer.headers["retry-after"] == "2"  # 1.2 s, rounded up
            assert answer.headers["x-request-id"] == "mine"
            assert ("request-id" in answer.headers) is (path == MESSAGES)
            told = json.loads(answer.body)
            assert "being loaded" in told["error"]["message"]
            assert (told.get("request_id") or told["error"]["request_id"]) == "mine"


async def test_a_bug_is_logged_with_its_traceback_and_veiled(caplog: pytest.LogCaptureFixture):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("bug-early"))
            answer = await client.answer()
    assert answer.status == 500 and b"secret" not in answer.body
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info and "secret" in caplog.text


@pytest.mark.parametrize(
    ("what", "status"), [("silent", 500), ("half", 200), ("twice", 200), ("inject", 500), ("half-json", 200)]
)
async def test_a_handler_that_misuses_its_reply_is_found_out(what: str, status: int, caplog):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do(what))
            if what == "half-json":
                # Half a JSON body has no place for an event: the missing terminator tells.
                assert (await client.until(b'{"a": ')).startswith(b"HTTP/1.1 200")
                assert await client.rest() == b"\r\n"
                return
            answer = await client.answer()
            assert answer.status == status and "x-evil" not in answer.headers
            assert (b"error" in answer.body) is (what != "twice")
    assert any(r.levelno >= logging.ERROR for r in caplog.records)


async def test_trailers_are_announced_and_sent():
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("stream"))
            answer = await client.answer()
            assert answer.headers["trailer"] == "x-cortex-usage"
            assert answer.trailers == {"x-cortex-usage": "1,0,1"} and answer.body == EVENT + DONE


@pytest.mark.parametrize("path", KINDS)
async def test_http_1_0_is_served_without_chunks(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            for what, body in (("stream", EVENT + DONE), ("echo", None)):
                client = await site.dial()
                await client.send(do(what, path).replace(b"HTTP/1.1", b"HTTP/1.0"))
                answer = await client.answer()
                assert answer.status == 200 and "transfer-encoding" not in answer.headers
                assert answer.headers["connection"] == "close"
                assert body is None or answer.body == body
                assert await client.gone()


async def test_http_1_0_may_keep_its_connection_for_whole_answers():
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            for _ in range(2):
                await client.send(do("echo", connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
                assert (await client.answer()).headers["connection"] == "keep-alive"


@pytest.mark.parametrize("path", KINDS)
async def test_a_client_that_asks_for_the_close_gets_it(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("echo", path, connection="close"))
            assert (await client.answer()).headers["connection"] == "close"
            assert await client.gone()


async def test_an_inference_route_takes_post_only():
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            for method in ("GET", "PUT", "DELETE"):
                await client.send(ask(method=method, body=b""))
                answer = await client.answer()
                assert (answer.status, answer.headers["allow"]) == (405, "POST")
            await client.send(ask(method="HEAD", body=b""))
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 405")
            await client.send(do("echo"))  # nothing lies between: an answer to HEAD has no body
            assert (await client.answer()).status == 200


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("\xe9", False)],
)
async def test_a_request_id_is_honoured_or_made(path: str, given: str, kept: bool):
    """Row 59: what is not printable never reaches log or answer."""
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            ids = []
            for _ in range(2):
                await client.send(do("echo", path, x_request_id=given))
                answer = await client.answer()
                ids.append(answer.headers["x-request-id"])
                assert json.loads(answer.body)["id"] == ids[-1]
            assert (ids == [given, given]) is kept
            assert kept or ids[0] != ids[1]


@pytest.mark.parametrize("path", KINDS)
async def test_repeated_headers_reach_the_handler(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("echo", path, cookie="a=1\r\ncookie: b=2"))
            assert json.loads((await client.answer()).body)["cookies"] == ["a=1", "b=2"]


@pytest.mark.parametrize("path", KINDS)
async def test_a_stream_lasts_as_long_as_it_has_something_to_say(path: str, autojump_clock):
    """Annex B 5: an hour of silence in mid-stream cuts nothing; no total deadline exists."""
    async with open_visit() as (client, _):
        await client.send(do("minute", path))
        answer = await client.answer()
        assert answer.body == EVENT + DONE and trio.current_time() >= 3600


async def test_a_body_of_a_million_keys_is_passed_on_without_being_built():
    """Row 45, Annex B 9: the loop goes on ticking; decoding it untyped would hold it for over a second."""
    body = b"{" + b",".join(b'"k%d":0' % n for n in range(1_000_000)) + b"}"
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = trio.current_time()
            await trio.sleep(0.001)
            longest = max(longest, trio.current_time() - before)

    with trio.fail_after(30):
        async with open_door() as site, trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            client = await site.dial()
            await client.send(ask(CHAT, body))
            assert json.loads((await client.answer()).body)["length"] == len(body)
            nursery.cancel_scope.cancel()
    assert longest < 0.5


async def test_headers_and_first_event_leave_in_one_write():
    """A client that reads once has both: nothing waits for an acknowledgement between them."""
    ours, theirs = trio.testing.memory_stream_pair()
    reply = Reply(Line(theirs, 1.0), Terms("id"))
    await reply.start()
    assert not reply.started
    await reply.write(EVENT)
    assert reply.started
    block = bytes(await ours.receive_some())
    assert block.startswith(b"HTTP/1.1 200 OK\r\n") and block.endswith(b"\r\n\r\n10\r\n" + EVENT + b"\r\n")


async def test_a_head_that_has_not_left_gives_way_to_the_failure():
    ours, theirs = trio.testing.memory_stream_pair()
    reply = Reply(Line(theirs, 1.0), Terms("id"))
    await reply.start()
    await reply.fail(Loading("Later."))
    assert bytes(await ours.receive_some()).startswith(b"HTTP/1.1 503 ")
    assert reply.done and reply.keep


async def test_cancelled_before_the_first_byte_an_answer_can_still_have_its_own_status():
    ours, theirs = trio.testing.memory_stream_pair()
    reply = Reply(Line(theirs, 1.0), Terms("id"))
    await reply.start()
    with trio.CancelScope() as scope:
        scope.cancel()
        await reply.write(EVENT)
    assert scope.cancelled_caught and not reply.started
    await reply.fail(EngineFailed("Broken."))
    assert bytes(await ours.receive_some()).startswith(b"HTTP/1.1 502 ")


async def test_an_answer_torn_in_mid_write_gets_nothing_more():
    """Half a chunk followed by an error event would be garbage, well terminated."""
    ours, theirs = trio.testing.memory_stream_pair()

    passed_on = theirs.send_stream.send_all_hook

    async def stuck() -> None:
        await passed_on()
        await trio.sleep_forever()

    theirs.send_stream.send_all_hook = stuck
    line = Line(theirs, 60.0)
    reply = Reply(line, Terms("id"))
    await reply.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.write, EVENT)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    theirs.send_stream.send_all_hook = passed_on
    assert line.torn
    await reply.fail(EngineFailed("Broken."))
    assert not reply.done and not reply.keep
    with pytest.raises(trio.BrokenResourceError):
        await reply.write(EVENT)
    assert bytes(await ours.receive_some()).endswith(EVENT + b"\r\n")
    with trio.move_on_after(0) as nothing:
        await ours.receive_some()
    assert nothing.cancelled_caught


def test_what_can_never_fit_is_not_to_be_repeated():
    answer = faults.response(NeverFits("Too big for every place."), "anthropic", "id")
    assert (answer.status, answer.headers) == (503, (("x-should-retry", "false"),))


def test_a_group_of_failures_is_told_by_the_named_one_unless_a_bug_is_among_them():
    named = EngineFailed("Broken.")
    assert faults.cause(ExceptionGroup("", [ExceptionGroup("", [named])])) is named
    assert faults.cause(ExceptionGroup("", [named, ZeroDivisionError()])).message == faults.BUG


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 on this host")
async def test_the_peer_behind_ipv6_is_told():
    with trio.fail_after(30):
        async with open_door(host="::1") as site:
            client = await site.dial()
            for path in KINDS:
                await client.send(do("echo", path))
                assert json.loads((await client.answer()).body)["peer"] == "::1"


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 on this host")
async def test_a_listener_on_all_addresses_takes_ipv4_under_its_own_name():
    with trio.fail_after(30):
        async with open_door(host="::") as site:
            site.host = "127.0.0.1"
            client = await site.dial()
            for path in KINDS:
                await client.send(do("echo", path))
                assert json.loads((await client.answer()).body)["peer"] == "127.0.0.1"


@pytest.mark.parametrize("path", KINDS)
async def test_whatever_is_logged_while_a_request_is_served_bears_its_id(path: str, caplog):
    ids: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ids.append(logs.request_id())

    note = Note(logging.ERROR)
    logging.getLogger().addHandler(note)
    try:
        with trio.fail_after(30):
            async with open_door() as site:
                client = await site.dial()
                for number in range(2):
                    await client.send(do("bug-early", path, x_request_id=f"id-{number}"))
                    assert (await client.answer()).status == 500
    finally:
        logging.getLogger().removeHandler(note)
    assert list(dict.fromkeys(ids)) == ["id-0", "id-1"] and logs.request_id() == "-"
