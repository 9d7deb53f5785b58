"""What goes wrong in one connection ends that connection, and nothing else."""

import logging
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Encoder

from cortex.web import control, head, visit
from cortex.web.body import _Pace
from cortex.web.connection import Reply
from cortex.web.control import Control
from cortex.web.line import Line
from tests.fake_web import CHAT, CONTROL, DONE, EVENT, KINDS, Open, do, open_door


@asynccontextmanager
async def bystander(site: Open, path: str) -> AsyncIterator[None]:
    """Somebody's stream is under way meanwhile, and arrives whole."""
    client = await site.dial()
    await client.send(do("pause", path))
    await client.until(EVENT)
    await trio.testing.wait_all_tasks_blocked()  # its watch has begun
    yield
    site.stage.go_on.set()
    assert await client.until(DONE)
    await client.until(b"0\r\n")
    other = await site.dial()
    await other.send(do("echo", path))
    assert (await other.answer()).status == 200


def http2(*requests: list[tuple[bytes, bytes]], data: bytes = b"") -> bytes:
    """Prior-knowledge HTTP/2 with headers that no client library would send."""
    connection = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
    connection.initiate_connection()
    sent = connection.data_to_send()
    for number, request in enumerate(requests):
        block = Encoder().encode(request)
        stream = (2 * number + 1).to_bytes(4, "big")
        flags = b"\x04" if data else b"\x05"
        sent += len(block).to_bytes(3, "big") + b"\x01" + flags + stream + block
        if data:
            sent += len(data).to_bytes(3, "big") + b"\x00\x01" + stream + data
    return sent


PLAIN = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a")]
KILLS = {
    "data after an early answer": http2([*PLAIN, (b":path", b"/none")], data=b"x" * 16384),
    "a path beyond ASCII": http2([*PLAIN, (b":path", "/é".encode())]),
    "CONNECT without a path": http2([(b":method", b"CONNECT"), (b":authority", b"a")]),
}


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
async def test_an_http_2_request_that_kills_hypercorn_touches_nobody(path: str, kill: bytes):
    """Row 41, Annex B 1: each of these takes down a whole hypercorn on trio."""
    with trio.fail_after(30):
        async with open_door() as site, bystander(site, path):
            client = await site.dial()
            await client.send(kill)
            assert (await client.answer()).status == 400
            assert await client.gone()


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize(
    "fields",
    [
        {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "!!"},
        {"connection": "upgrade", "upgrade": "websocket", "sec_websocket_version": "13"},
    ],
    ids=["h2c", "websocket"],
)
async def test_an_upgrade_is_refused_and_closed(path: str, fields: dict[str, str]):
    """Row 41."""
    with trio.fail_after(30):
        async with open_door() as site, bystander(site, path):
            client = await site.dial()
            await client.send(do("echo", path, **fields) + b"\x81\x05hello")
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (426, "close")
            assert await client.gone()


FAULTS = {
    "the parser": (head, "parse"),
    "the prefix check": (head, "check_prefix"),
    "the body's pace": (_Pace, "more"),
    "the body": (visit, "read_body"),
    "the read": (Line, "more"),
    "the watch": (Line, "watch"),
    "the write": (Line, "send"),
    "the linger": (Line, "linger"),
    "the answer to a failure": (Reply, "fail"),
    "the control corridor": (Control, "serve"),
    "the visit's loop": (visit.Visit, "_next"),
}


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("place", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("group", [False, True], ids=["plain", "group"])
async def test_an_exception_anywhere_stays_in_its_connection(path, place, group, monkeypatch, caplog):
    """Row 42: at each step of a connection's way."""
    caplog.set_level(logging.CRITICAL)
    owner, name = place

    def broken(*_: object) -> None:
        raise ExceptionGroup("two", [ZeroDivisionError(), KeyError()]) if group else ZeroDivisionError()

    with trio.fail_after(30):
        async with open_door() as site, bystander(site, path):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, broken)
                for request in (
                    do("echo", path, connection="close"),
                    do("bug-early", path, connection="close"),
                    b"\0garbage",
                ):
                    client = await site.dial()
                    with suppress(trio.BrokenResourceError):
                        await client.send(request.replace(b"{}", b"{"))
                        await client.send(b"}")
                    await client.rest()
                    await client.close()
                await site.until_connections(1)


async def test_a_crash_is_logged_with_its_traceback(monkeypatch, caplog):
    with trio.fail_after(30):
        async with open_door() as site:
            with monkeypatch.context() as patch:
                patch.setattr(head, "parse", lambda _: 1 / 0)
                client = await site.dial()
                await client.send(do("echo"))
                await client.rest()
                await site.until_connections(0)
    [record] = [r for r in caplog.records if r.message == "connection.crashed"]
    assert record.levelno == logging.ERROR and "ZeroDivisionError" in caplog.text


async def test_a_bug_in_cleaning_up_is_logged_and_the_client_has_its_end(caplog):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("bug-on-cancel"))
            await site.stage.until(lambda: bool(site.stage.began))
            await site.door.drain(0.01)
            assert (await client.answer()).status in (500, 503)
    assert "ZeroDivisionError" in caplog.text


async def test_bytes_that_hypercorn_refuses_do_not_hold_the_connection(monkeypatch):
    """Row 42: should its parser ever be stricter than ours."""
    with trio.fail_after(30):
        async with open_door() as site:
            monkeypatch.setattr(control, "_bytes", lambda *_, **__: b"garbage\r\n\r\n")
            client = await site.dial()
            await client.send(do("echo", CONTROL))
            assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 400")
            await client.rest()


@pytest.mark.parametrize("path", KINDS)
async def test_a_shortage_of_descriptors_refuses_newcomers_and_spares_the_others(path: str):
    """Row 88: the accept loop backs off, tells whom it can, and comes back by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with trio.fail_after(30):
        async with open_door() as site, bystander(site, path):
            try:
                highest = max(int(name) for name in os.listdir("/proc/self/fd"))
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
                while True:
                    try:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                    except OSError:
                        break
                os.close(taken.pop())  # the client's own end needs this one
                client = await site.dial_narrow()
                assert (await client.answer()).status == 503
                assert await client.gone()
            finally:
                for descriptor in taken:
                    os.close(descriptor)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_taken_port_is_said_plainly():
    """Row 86."""
    with trio.fail_after(30):
        async with open_door() as site:
            with pytest.raises(OSError, match="in use"):
                await site.door.run(site.host, site.port)


async def test_a_door_that_is_cancelled_leaves_no_connection():
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("hang", CHAT))
            await client.until(EVENT)
        assert site.door.connections == 0 and site.stage.left == ["hang"]
