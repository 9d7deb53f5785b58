"""An errand's own edges, which no real socket meets at will."""

import socket
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
import trio

from cortex.ask import Ask
from cortex.config.limits import Limits
from cortex.translator.dialects import MESSAGES
from cortex.translator.retold import Retold
from cortex.web.errand import Errand
from cortex.web.framing import Framing, Terms
from cortex.web.link import Link
from cortex.web.reactor import Reactor
from cortex.web.teller import Teller
from cortex.wire.openai import Reply
from tests.fake_neuron import STREAM
from tests.fake_upstream import STREAM_HEAD, chunks


class FullGuest:
    """A client that has taken nothing yet of what is sent first."""

    def __init__(self) -> None:
        self.full, self.now, self.stall_at = False, 0.0, inf
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> bool:
        assert not self.full, "what it has yet to take would be lost"
        self.sent.append(data)
        self.full = len(self.sent) == 1
        return not self.full

    def wants_look(self, due: float) -> None:
        pass


class Ends:
    """A keeper that notes how it ended."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.heard.append(name)


@pytest.fixture
async def link() -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        link, reactor = Link(ours), Reactor()
        link.watched(reactor)
        yield link
        reactor.close()


def errands(link: Link, guest: FullGuest) -> Iterator[Errand]:
    framing, given = Framing(Terms("r")), {"limits": Limits(), "now": trio.current_time()}
    client: Any = guest
    yield Errand(client, framing, link, **given)
    told = Retold(MESSAGES, Ask("m", stream=True), Reply("i", "m", 1), beat=b"", new_id=str)
    yield Teller(client, Framing(Terms("r", "anthropic")), link, told, **given)


@pytest.mark.parametrize("which", [0, 1], ids=["passed on", "told"])
@pytest.mark.parametrize("more", [b"garbage", b""], ids=["garbage", "close"])
async def test_a_bad_end_behind_the_end_mark_cuts_nothing_of_a_client_that_is_slow(
    which: int, more: bytes, link: Link
) -> None:
    """Row 14: the end waits for what the client has yet to take."""
    guest, ends = FullGuest(), Ends()
    errand = list(errands(link, guest))[which]
    keeper: Any = ends
    errand.link.push(b"x")
    errand.follow(keeper, streams=True, connect_s=1.0)
    errand.heard(STREAM_HEAD + chunks(STREAM) + more)
    if not more:
        errand.heard(b"")
    assert guest.full and ends.heard == ["headed"] and len(guest.sent) == 1
    guest.full = False
    errand.drained()
    assert ends.heard == ["headed", "done"] and guest.sent[1:] == [b"0\r\n\r\n"]
