"""Requests that no client of good will sends: what passes for a key, and other ways to write a path.

Faults.md rows 55 to 58. Raw bytes over a real socket, since clients' libraries would mend them.
"""

from collections.abc import Iterator

import trio

from cortex.keys import digest
from tests.fake_web import Client


def bearer(key: bytes) -> bytes:
    return b"authorization: Bearer " + key


def no_key(good: str, other: str) -> dict[str, tuple[bytes, ...]]:
    """Header lines that hold no key, where `good` and `other` are keys."""
    key, second = good.encode(), other.encode()
    return {
        "none": (),
        "an empty header": (b"authorization:",),
        "the scheme alone": (b"authorization: Bearer",),
        "the scheme and spaces": (b"authorization: Bearer   ",),
        "an empty key": (b"x-api-key:",),
        "the key without a scheme": (b"authorization: " + key,),
        "another scheme": (b"authorization: Basic " + key,),
        "the scheme without a space": (b"authorization: Bearer" + key,),
        "a tab behind the scheme": (b"authorization: Bearer\t" + key,),
        "in capitals": (bearer(key.upper()),),
        "its beginning": (bearer(key[:-1]),),
        "more than it": (bearer(key + b"x"),),
        "a space in it": (bearer(key[:3] + b" " + key[3:]),),
        "in quotes": (bearer(b'"' + key + b'"'),),
        "its digest": (bearer(digest(good).encode()),),
        "a statement": (bearer(b"' OR '1'='1' --"),),
        "a format": (bearer(b"%s%n{0}${jndi:x}"),),
        "a glob": (bearer(b"*"),),
        "not ASCII": (bearer(b"\xff\xfe"),),
        "two headers that disagree": (bearer(key), b"x-api-key: " + second),
        "the same header twice, and they disagree": (bearer(key), bearer(second)),
        "both in one": (bearer(key + b", Bearer " + second),),
        "a good one and an empty one": (bearer(key), b"x-api-key:"),
        "a good one and one of another scheme": (b"x-api-key: " + key, b"authorization: Basic eA=="),
        "in headers of ours": (b"x-cortex-key-name: ann", b"x-cortex-route: boot-1"),
        "in a cookie": (b"cookie: authorization=Bearer " + key,),
        "by a proxy's word": (b"x-forwarded-for: 127.0.0.1", b"x-forwarded-user: ann"),
    }


def malformed(good: str) -> dict[str, tuple[bytes, ...]]:
    """Header lines that are no HTTP, in which some readers would find `good`."""
    key = good.encode()
    return {
        "NUL in the key": (bearer(key[:3] + b"\x00" + key[3:]),),
        "NUL behind the key": (bearer(key + b"\x00"),),
        "a control character": (bearer(key + b"\x0b"),),
        "a bare line feed": (bearer(key) + b"\nx-api-key: " + key,),
        "a folded line": (b"authorization: Bearer\r\n " + key,),
        "a space before the colon": (b"authorization : Bearer " + key,),
        "two hosts": (b"host: a", b"host: b", bearer(key)),
    }


def spellings(path: str) -> Iterator[str]:
    """Other ways to write a path, some of which some servers take for it."""
    first, _, rest = path[1:].partition("/")
    yield f"/{path}"
    yield f"{path}/"
    yield f"/.{path}"
    yield f"/v1/..{path}"
    yield f"/v1/%2e%2e{path}"
    yield f"/v1/..%2f{path[1:]}"
    yield f"/livez/..{path}"
    yield f"/livez%2f..{path}"
    yield f"/livez;{path}"
    yield f"/livez%00{path}"
    yield f"/livez%3f{path}"
    yield f"/%2f{path[1:]}"
    yield f"/%{ord(path[1]):02x}{path[2:]}"
    yield f"/%25{ord(path[1]):02x}{path[2:]}"
    yield f"{path};x=1"
    yield f"{path};/livez"
    yield f"{path}%00"
    yield f"{path}%20"
    yield f"{path}%0a"
    yield f"{path}."
    yield f"{path}.json"
    yield path.upper()
    yield path.title()
    yield f"/v1{path}"
    yield f"{path}?path=/livez"
    if rest:
        yield f"/{first}//{rest}"
        yield f"/{first}%2f{rest}"
        yield f"/{first};/{rest}"
        yield f"/{first}/./{rest}"
        yield f"/{first}\\{rest}"


async def status(port: int, method: str, path: str, *lines: bytes, sent: bytes) -> int:
    """What a request with these header lines is answered at that port of loopback. A method that takes
    no body has none."""
    body = b"" if method in ("GET", "HEAD") else sent
    named = any(line.lower().startswith(b"host:") for line in lines)
    fields = lines if named else (b"host: localhost", *lines)
    head = [b"%b %b HTTP/1.1" % (method.encode(), path.encode("latin-1")), *fields]
    client = Client(await trio.open_tcp_stream("127.0.0.1", port))
    await client.send(b"\r\n".join([*head, b"content-length: %d" % len(body), b"", b""]) + body)
    line = await client.until(b"\r\n")
    await client.close()
    return int(line.split(b" ")[1])
