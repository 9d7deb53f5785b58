"""Many clients at once: they are let in together, and who has left by then is not served. Real sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from tests.fake_web import CHAT, CONTROL, Open, do, open_door

KINDS = pytest.mark.parametrize("path", [CHAT, CONTROL])


@contextmanager
def crowd(site: Open, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many clients have connected and sent, before the door has had a moment to look."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((site.host, site.port))) for _ in range(count)
        ]
        for client in clients:
            client.sendall(sent)
        yield clients


async def turns_until(site: Open, connections: int) -> int:
    """Turns of the event loop until so many are connected."""
    turns = 0
    while site.door.connections < connections:
        await trio.lowlevel.checkpoint()
        turns += 1
    return turns


async def test_a_crowd_is_let_in_within_a_few_turns_of_the_loop() -> None:
    """On a busy day a turn takes long: nobody may stand behind as many of them as there are newcomers."""
    with trio.fail_after(30):
        async with open_door() as site:
            with crowd(site, 200):
                assert await turns_until(site, 200) < 30


@KINDS
@pytest.mark.parametrize("ahead", [b"", b"\r\n", b"GET /livez HTTP/1.1\r\n"], ids=["", "line end", "more"])
async def test_who_left_before_the_request_was_read_is_not_served(path: str, ahead: bytes) -> None:
    """Rows 28, 31: nobody begins what nobody will hear the end of."""
    with trio.fail_after(30):
        async with open_door() as site:
            with crowd(site, 20, do("wait", path) + ahead) as clients:
                for client in clients[1:]:
                    client.close()
                await site.stage.until(lambda: bool(site.stage.began))
                while site.door.connections > 1:
                    await trio.lowlevel.checkpoint()
                assert site.stage.began == ["wait"] and site.stage.left == []
