"""Only strict HTTP/1.1 is taken, and nothing that two readers could read in two ways."""

import httptools
import pytest
import trio
from httptools import HttpRequestParser

from cortex.errors import BadFraming, HeadTooBig, NoUpgrade
from cortex.web.head import Chunks, Head, check_prefix, parse
from tests.fake_web import CHAT, CONTROL, KINDS, ask, do, open_door

END = b"\r\n\r\n"


def read(text: bytes) -> Head:
    check_prefix(text)
    return parse(text)


def post(*fields: bytes, target: bytes = b"/v1", version: bytes = b"HTTP/1.1") -> bytes:
    lines = [b"POST " + target + b" " + version, *fields]
    return b"\r\n".join(lines) + END


HOST = b"Host: a"
CL = b"Content-Length: 2"
TE = b"Transfer-Encoding: chunked"

REFUSED = {
    "length and chunked": post(HOST, CL, TE),
    "chunked and length": post(HOST, TE, CL),
    "two lengths, alike": post(HOST, CL, CL),
    "two lengths, unlike": post(HOST, CL, b"Content-Length: 3"),
    "length with a sign": post(HOST, b"Content-Length: +2"),
    "negative length": post(HOST, b"Content-Length: -2"),
    "list of lengths": post(HOST, b"Content-Length: 2, 2"),
    "hexadecimal length": post(HOST, b"Content-Length: 0x2"),
    "empty length": post(HOST, b"Content-Length:"),
    "length with a blank": post(HOST, b"Content-Length: 2 2"),
    "length beyond 64 bits": post(HOST, b"Content-Length: 99999999999999999999999"),
    "identity coding": post(HOST, b"Transfer-Encoding: identity"),
    "two codings": post(HOST, b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": post(HOST, TE, TE),
    "chunked twice in a list": post(HOST, b"Transfer-Encoding: chunked, chunked"),
    "nearly chunked": post(HOST, b"Transfer-Encoding: xchunked"),
    "chunked behind a tab": post(HOST, b"Transfer-Encoding: \x0bchunked"),
    "chunked in 1.0": post(HOST, TE, version=b"HTTP/1.0"),
    "blank before the colon": post(HOST, b"Content-Length : 2"),
    "folded line": post(HOST, b"X: a", b" b", CL),
    "folded first line": post(b" Host: a"),
    "NUL in a value": post(HOST, b"X: a\0b"),
    "NUL in a name": post(HOST, b"X\0: a"),
    "NUL in the target": post(HOST, target=b"/\0"),
    "control character": post(HOST, b"X: a\x01b"),
    "bare CR": post(HOST, b"X: a\rb"),
    "bare LF after the request line": b"POST /v1 HTTP/1.1\nHost: a" + END,
    "bare LF after a header": b"POST /v1 HTTP/1.1\r\nHost: a\nX: b" + END,
    "only bare LF": b"POST /v1 HTTP/1.1\nHost: a\n\n",
    "no name": post(HOST, b": x"),
    "no colon": post(HOST, b"foo"),
    "name with a parenthesis": post(HOST, b"f(o: x"),
    "name beyond ASCII": post(HOST, b"f\xc3\xa9: x"),
    "target beyond ASCII": post(HOST, target=b"/\xc3\xa9"),
    "fragment": post(HOST, target=b"/a#b"),
    "absolute target": post(HOST, target=b"http://a/v1"),
    "authority target": b"CONNECT a:80 HTTP/1.1\r\nHost: a" + END,
    "asterisk target": b"OPTIONS * HTTP/1.1\r\nHost: a" + END,
    "no host": post(CL),
    "two hosts": post(HOST, b"Host: b"),
    "odd host": post(b"Host: a b[:::99999"),
    "host with an empty label": post(b"Host: .internal"),
    "host with a path": post(b"Host: a/b"),
    "host with credentials": post(b"Host: u:p@a"),
    "empty host": post(b"Host:"),
    "HTTP/2 preface": b"PRI * HTTP/2.0" + END + b"SM\r\n\r\n",
    "HTTP/2.0": post(HOST, version=b"HTTP/2.0"),
    "HTTP/1.2": post(HOST, version=b"HTTP/1.2"),
    "HTTP/0.9": post(HOST, version=b"HTTP/0.9"),
    "no version": b"GET /v1" + END,
    "RTSP": post(HOST, version=b"RTSP/1.0"),
    "lower-case version": post(HOST, version=b"http/1.1"),
    "two blanks": b"POST  /v1 HTTP/1.1\r\nHost: a" + END,
    "tab": b"POST\t/v1 HTTP/1.1\r\nHost: a" + END,
    "blank after the version": post(HOST, version=b"HTTP/1.1 "),
    "unknown method": b"FOO /v1 HTTP/1.1\r\nHost: a" + END,
    "lower-case method": b"post /v1 HTTP/1.1\r\nHost: a" + END,
    "blank before the method": b" POST /v1 HTTP/1.1\r\nHost: a" + END,
    "unknown expectation": post(HOST, b"Expect: miracles"),
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + END,
    "upgrade to HTTP/2": post(HOST, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    "upgrade to WebSocket": post(HOST, b"Connection: Upgrade", b"Upgrade: websocket"),
    "upgrade, unconnected": post(HOST, b"Upgrade: h2c"),
}

BODIES = {
    "size with a bare LF": b"5\nhello\r\n0\r\n\r\n",
    "data with a bare LF": b"5\r\nhello\n0\r\n\r\n",
    "end with a bare LF": b"5\r\nhello\r\n0\n\n",
    "extension with a bare LF": b"5;a=b\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "blank after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "prefix of the size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size beyond 64 bits": b"fffffffffffffffff\r\nhello",
    "data longer than its size": b"5\r\nhelloworld\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "no CR LF after the data": b"5\r\nhello0\r\n\r\n",
    "trailer": b"0\r\nX: y\r\n\r\n",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_an_ambiguous_or_foreign_head_is_refused(text: bytes):
    """Rows 40, 41."""
    with pytest.raises((BadFraming, NoUpgrade)):
        read(text)


@pytest.mark.parametrize("text", BODIES.values(), ids=BODIES.keys())
def test_a_chunked_body_that_is_not_strict_is_refused(text: bytes):
    """Row 40."""
    with pytest.raises(BadFraming):
        Chunks().feed(text)


def test_what_a_head_says_is_read():
    head = read(post(b"Host: [::1]:80", CL, b"X-A:  b \t", b"x-a: c", target=b"/v1/a%20b?q=1?2"))
    assert (head.method, head.path, head.query, head.version) == ("POST", "/v1/a%20b", "q=1?2", "1.1")
    assert head.length == 2 and head.has_body and not head.chunked and not head.expects
    assert head.headers.get("X-A") == "b" and head.headers.all("x-a") == ["b", "c"]
    assert "b" not in repr(head.headers)


@pytest.mark.parametrize(
    ("fields", "version", "kept"),
    [
        ((), b"HTTP/1.1", True),
        ((b"Connection: close",), b"HTTP/1.1", False),
        ((), b"HTTP/1.0", False),
        ((b"Connection: keep-alive",), b"HTTP/1.0", True),
    ],
)
@pytest.mark.parametrize("body", [(), (CL,)])
def test_the_version_and_connection_decide_whether_it_is_kept(fields, version, kept, body):
    assert read(post(HOST, *body, *fields, version=version)).keep_alive is kept


def test_more_than_a_hundred_fields_are_too_many():
    """Row 37."""
    hundred = [HOST, *(b"X-%d: y" % n for n in range(99))]
    assert len(read(post(*hundred)).headers) == 100
    with pytest.raises(HeadTooBig):
        read(post(*hundred, b"X: y"))


@pytest.mark.parametrize("last", [b"0", b"000", b"0;a=b"])
def test_the_end_of_a_chunked_body_is_found_wherever_the_blocks_are_cut(last: bytes):
    """What follows is the next request, to the byte."""
    body, after = b"3;x=y\r\n\r\n\r\r\n2\r\n\n\r\r\n" + last + b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"
    for cut in range(1, len(body + after)):
        chunks, taken = Chunks(), 0
        blocks = [(body + after)[:cut], (body + after)[cut:]]
        for block in blocks:
            used = chunks.feed(block)
            taken += used
            if chunks.done:
                break
            assert used == len(block)
        assert (taken, bytes(chunks.body)) == (len(body), b"\r\n\r\n\r"), cut


def test_empty_lines_within_a_chunked_body_cost_nothing(monkeypatch: pytest.MonkeyPatch):
    """The parser is called a few times a block, whatever the block holds."""
    fed: list[int] = []

    class Counted:
        def __init__(self, protocol: Chunks) -> None:
            self._parser = HttpRequestParser(protocol)

        def feed_data(self, data: bytes) -> None:
            fed.append(len(data))
            self._parser.feed_data(data)

    monkeypatch.setattr(httptools, "HttpRequestParser", Counted)
    text = b"\r\n\r\n" * 16_000
    chunks = Chunks()
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
    assert chunks.feed(body + b"GET") == len(body) and chunks.done
    assert chunks.body == text and len(fed) < 10


def test_a_body_that_imitates_its_end_again_and_again_is_refused():
    for count in (30, 20_000):
        text = b"0\r\n\r\n" * count
        chunks = Chunks()
        body = b"%x;a\r\n%b\r\n00;b=c\r\n\r\n" % (len(text), text)
        if count == 30:  # what others sent ahead is not held against it
            assert chunks.feed(body + b"0\r\n\r\n" * 500) == len(body) and chunks.body == text
        else:
            with pytest.raises(BadFraming, match="length"):
                chunks.feed(body)


def test_a_chunked_body_may_come_byte_by_byte():
    chunks = Chunks()
    for byte in b"5\r\nhello\r\n0\r\n\r\n":
        assert not chunks.done
        assert chunks.feed(bytes([byte])) == 1
    assert chunks.done and chunks.body == b"hello"


async def test_nothing_of_a_refused_request_is_executed():
    """Rows 40, 41: refused, with a rendered error, and closed; what was smuggled behind never runs."""
    with trio.fail_after(30):
        async with open_door() as site:
            chunked = post(b"Host: 127.0.0.1", TE)
            cases = [*REFUSED.values(), *(chunked + body for body in BODIES.values())]
            for case in cases:
                for path in KINDS:
                    client = await site.dial()
                    await client.send(case.replace(b"/v1 ", path.encode() + b" ") + do("smuggled"))
                    answer = await client.answer()
                    assert answer.status in (400, 426), case
                    assert b'"error":{' in answer.body
                    assert answer.headers["x-request-id"] in answer.body.decode()
                    assert answer.headers["connection"] == "close"
                    assert await client.gone(), case
                    await client.close()
            assert site.stage.began == []


@pytest.mark.parametrize("path", KINDS)
async def test_chunked_and_announced_bodies_arrive_whole(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            chunked = ask(path, b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
            await client.send(chunked + b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n\r\n")
            assert (await client.answer()).status == 200
            await client.send(ask(path, b"hello", expect="100-continue").removesuffix(b"hello"))
            assert await client.until(END) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hello")
            assert (await client.answer()).status == 200
            assert site.stage.bodies == [b"hello!", b"hello"]


@pytest.mark.parametrize("path", KINDS)
async def test_requests_sent_ahead_are_answered_in_order(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            others = [CHAT, CONTROL, path]
            asks = [ask(each, b"x" * n, x_request_id=f"id-{n}") for n, each in enumerate(others)]
            await client.send(b"".join(asks))
            answers = [await client.answer() for _ in others]
            assert [a.headers["x-request-id"] for a in answers] == ["id-0", "id-1", "id-2"]
            assert [len(body) for body in site.stage.bodies] == [0, 1, 2]
