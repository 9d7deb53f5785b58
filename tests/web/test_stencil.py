"""What is taken for another head of the same kind, and what is not."""

import pytest

from cortex.web.stencil import Stencil

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 00:05:02 GMT\r\nX-Cortex-Neuron: a\r\n"
    b"Content-Length:  12\r\ncontent-type: application/json\r\nx-request-id: r-1\r\n\r\n"
)
HEADERS = {
    "date": "Sun, 22 Nov 2026 00:05:02 GMT",
    "x-cortex-neuron": "a",
    "content-length": "12",
    "content-type": "application/json",
    "x-request-id": "r-1",
}
BODY = b"x" * 12


def made(head: bytes = HEAD, headers: dict[str, str] = HEADERS) -> Stencil | None:
    return Stencil.of(head, headers, b"")


def fits(data: bytes) -> int:
    stencil = made()
    assert stencil is not None
    return stencil.fits(data)


def test_its_own_head_fits() -> None:
    assert fits(HEAD + BODY) == len(HEAD)


@pytest.mark.parametrize(
    ("was", "said"),
    [(b"00:05:02", b"00:05:59"), (b"r-1", b"another-id"), (b"r-1", b""), (b" 12\r", b" 012\r")],
)
def test_a_head_that_differs_in_what_varies_fits(was: bytes, said: bytes) -> None:
    head = HEAD.replace(was, said)
    assert fits(head + BODY) == len(head)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 12345])
def test_a_body_of_any_length_begins_behind_the_head(length: int) -> None:
    head = HEAD.replace(b" 12\r", b" %d\r" % length)
    assert fits(head + b"y" * length) == len(head)


@pytest.mark.parametrize(
    ("was", "said"),
    [
        (b"200", b"201"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Neuron: a", b"Neuron: b"),
        (b"Neuron", b"neuron"),
        (b"application/json", b"application/jsom"),
        (b"GMT\r\n", b"GMT\r\nretry-after: 1\r\n"),
        (b"r-1\r\n", b"r-1\r\nconnection: close\r\n"),
        (b" 12\r\n", b" 12\r\ntransfer-encoding: chunked\r\n"),
        (b" 12\r", b" +12\r"),
        (b" 12\r", b" 1_2\r"),
        (b" 12\r", b" 12 \r"),
        (b" 12\r", b" \r"),
        (b" 12\r", b" 0000000012\r"),
        (b" 12\r", b" \xb2\r"),
        (b"x-request-id", b"y-request-id"),
    ],
)
def test_a_head_that_differs_in_anything_else_does_not(was: bytes, said: bytes) -> None:
    assert was in HEAD
    assert fits(HEAD.replace(was, said) + BODY) == -1


@pytest.mark.parametrize("more", [b"", b"x" * 11, b"x" * 13, BODY + HEAD])
def test_a_body_that_is_not_all_there_is_does_not(more: bytes) -> None:
    assert fits(HEAD + more) == -1


@pytest.mark.parametrize("end", range(0, len(HEAD), 7))
def test_a_part_of_a_head_does_not(end: int) -> None:
    assert fits(HEAD[:end]) == -1


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        (
            HEAD.replace(b"x-request-id: r-1", b"x-cortex-neuron: r-1"),
            {**HEADERS, "x-cortex-neuron": "a, r-1"},
        ),
        (HEAD.replace(b"\r\nx-request", b"\r\n folded\r\nx-request"), HEADERS),
        (HEAD.replace(b"Content-Length:  12\r\n", b""), HEADERS),
        (HEAD.replace(b"r-1", b"r" * 9000), HEADERS),
    ],
    ids=["twice", "folded", "no length", "long"],
)
def test_of_an_odd_head_none_is_made(head: bytes, headers: dict[str, str]) -> None:
    assert made(head, headers) is None
