"""What is known of a head is true of that head alone, under the policy that judged it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cortex.web.guard import Credential, Policy
from cortex.web.known import MOST, Heads
from cortex.web.listeners import fleet_credential
from cortex.web.site import Route, Site
from tests.fake_web import CHAT, LOCAL, Stage, ask, make_site

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def site(policy: Policy = LOCAL) -> Site:
    """A site whose chats are taken by callbacks."""
    made = make_site(Stage(), policy)
    chat = made.routes[CHAT]
    return replace(made, routes={**made.routes, CHAT: Route(CHAT, chat.handler, quick=lambda *_: None)})


def head(body: bytes = b"{}", **headers: str) -> bytes:
    return ask(CHAT, body, **headers).removesuffix(body)


def keyed(**more: object) -> Policy:
    own = Credential("ann", fleet_credential("sk-a").sha256, frozenset({"inference"}), **more)  # type: ignore[arg-type]
    return Policy(credentials=(own,))


def test_heads_that_differ_in_the_length_of_the_body_alone_are_one() -> None:
    heads, here = Heads(), site()
    first = heads.recognise(head(b"{}"), "127.0.0.1", here)
    second = heads.recognise(head(b" " * 1234), "127.0.0.1", here)
    assert first is not None and second is not None
    assert first[0] is second[0] and (first[1], second[1]) == (2, 1234)


@pytest.mark.parametrize(
    ("other", "peer"),
    [(head(x_a="1"), "127.0.0.1"), (head(x_a="2"), "127.0.0.2"), (head(X_A="2"), "127.0.0.1")],
)
def test_another_byte_or_another_address_is_another_head(other: bytes, peer: str) -> None:
    heads, here = Heads(), site()
    first, second = heads.recognise(head(x_a="2"), "127.0.0.1", here), heads.recognise(other, peer, here)
    assert first is not None and second is not None and first[0] is not second[0]


ODD = {
    "another method": ask(CHAT, b"", "GET"),
    "another route": ask("/v1/nothing", b""),
    "a control route": ask("/control", b""),
    "a slow route": ask("/v1/messages", b""),
    "no length": b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % CHAT.encode(),
    "two lengths": head().replace(b"content-length: 2", b"content-length: 2\r\nContent-Length: 3"),
    "the same twice": head().replace(b"content-length: 2", b"content-length: 2\r\ncontent-length: 2"),
    "a length and chunks": head(transfer_encoding="chunked"),
    "a negative length": head().replace(b": 2\r\n", b": -2\r\n"),
    "a length in another base": head().replace(b": 2\r\n", b": 0x2\r\n"),
    "a length that is folded": head().replace(b": 2\r\n", b":\r\n 2\r\n"),
    "no host": head().replace(b"host: 127.0.0.1\r\n", b""),
    "two hosts": head(x_b="1").replace(b"x-b: 1", b"host: 127.0.0.1"),
    "HTTP/1.0": head().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no more after it": head(connection="close"),
    "a hundred to wait for": head(expect="100-continue"),
    "an upgrade": head(connection="upgrade", upgrade="h2c"),
    "a page of the web": head(origin="http://127.0.0.1"),
    "progress": head(x_cortex_progress="reasoning"),
    "a bare line end": head().replace(b"host", b"x: 1\nhost"),
    "a NUL": head(x_a="\0"),
    "a proxy's client": b"PROXY TCP4 1.2.3.4 127.0.0.1 1 2\r\n" + head(),
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD.keys())
def test_what_is_odd_is_never_known(raw: bytes) -> None:
    """Rows 36 to 40: it is the visit's, which says what is wrong with it."""
    heads, here = Heads(), site()
    for _ in range(2):
        assert heads.recognise(raw, "127.0.0.1", here) is None
    assert len(heads) == 0


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-b"}, {"authorization": "Basic sk-a"}])
def test_who_is_refused_is_never_known(headers: dict[str, str]) -> None:
    """Row 55."""
    heads = Heads()
    assert heads.recognise(head(**headers), "127.0.0.1", site(keyed())) is None
    assert len(heads) == 0


def test_a_caller_is_known_by_name_until_the_policy_is_another() -> None:
    """Row 56."""
    heads, raw = Heads(), head(authorization="Bearer sk-a")
    before = site(keyed())
    found = heads.recognise(raw, "127.0.0.1", before)
    assert found is not None and found[0].caller == "ann"
    assert heads.recognise(raw, "127.0.0.1", replace(before, policy=Policy())) is None


def test_a_key_that_runs_out_is_known_no_longer() -> None:
    clock = [NOW]
    here = site(replace(keyed(expires=NOW + HOUR), now=lambda: clock[0]))
    heads, raw = Heads(), head(authorization="Bearer sk-a")
    assert heads.recognise(raw, "127.0.0.1", here) is not None
    clock[0] = NOW + HOUR
    assert heads.recognise(raw, "127.0.0.1", here) is None


def test_no_more_heads_are_remembered_than_are_of_use() -> None:
    heads, here = Heads(), site()
    for number in range(MOST + 10):
        assert heads.recognise(head(x_a=str(number)), "127.0.0.1", here) is not None
        assert len(heads) <= MOST


def test_one_head_too_many_costs_the_oldest_alone() -> None:
    """Those that are sent all the time are not judged anew for the sake of one that is not."""
    heads, here = Heads(), site()

    def known(number: int) -> object:
        found = heads.recognise(head(x_a=str(number)), "127.0.0.1", here)
        assert found is not None
        return found[0]

    first = [known(number) for number in range(MOST)]
    known(MOST)
    assert all(known(number) is first[number] for number in range(1, MOST))
    assert known(0) is not first[0]


def test_no_key_is_kept() -> None:
    """Of a head a digest is kept, whose salt is of this process alone."""
    heads = Heads()
    found = heads.recognise(head(authorization="Bearer sk-a"), "127.0.0.1", site(keyed()))
    assert found is not None and "sk-a" not in str([*found[0].head.headers])
    kept = [*heads._known]
    assert len(kept) == 1 and b"sk-a" not in kept[0] and len(kept[0]) == 16
    other = Heads()
    other.recognise(head(authorization="Bearer sk-a"), "127.0.0.1", site(keyed()))
    assert [*other._known] != kept
