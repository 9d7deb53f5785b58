"""Every described route by methods that it does not have, and by paths that nobody would write.

Raw bytes over real sockets, since clients' libraries would mend them. `test_openapi_calls` asks what is
described; here is what is not.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Script
from tests.calls import settings
from tests.fake_web import Client, ask
from tests.roles import Running, running_gateway, running_neuron, specs

ROLES = ("neuron", "gateway")
OTHERS = ("PUT", "PATCH", "TRACE", "PROPFIND", "REPORT", "M-SEARCH")
ENDLESS = "/fleet/events"
ODD = {
    "a slash": "%2F",
    "slashes": "a%2Fb/c",
    "NUL": "%00",
    "no UTF-8": "%ff%fe",
    "half a surrogate": "%ed%a0%80",
    "letters": "%C3%A9%F0%9F%98%80",
    "the folder above": "%2e%2e%2f%2e%2e",
    "the folder above, bare": "../..",
    "a line's end": "%0d%0ax-cortex-model:%20b",
    "a percent": "%25s%n%",
    "a parameter": "a;b=c",
    "a quote": "'%22%3C",
    "a space": "%20",
    "very long": "x" * 4000,
}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


@pytest.fixture
async def role(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    catalogue = specs(tmp_path, "a")
    async with running_neuron(tmp_path, catalogue, Script(reply="hi"), config=settings()) as neuron:
        if request.param == "neuron":
            yield neuron
            return
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            yield gateway


EACH = pytest.mark.parametrize("role", ROLES, indirect=True)


async def head(role: Running, method: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request without a body."""
    host, _, port = role.url.removeprefix("http://").partition(":")
    client = Client(await trio.open_tcp_stream(host, int(port)))
    async with client.stream:
        await client.send(ask(path, b"", method, **headers))
        lines = (await client.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:] if line)


async def described(role: Running) -> dict[str, dict]:
    return (await role.http.get("/openapi.json")).json()["paths"]


def real(path: str, part: str = "some-part") -> str:
    return re.sub("{[^}]*}", lambda _: part, path)


@EACH
async def test_a_method_that_is_not_described_is_told_those_that_are(role: Running) -> None:
    for path, item in (await described(role)).items():
        there = {method.upper() for method in item}
        for method in ("GET", "POST", "DELETE", *OTHERS):
            if method in there:
                continue
            status, headers = await head(role, method, real(path))
            assert status == 405, (method, path)
            allowed = set(headers["allow"].upper().split(", "))
            assert there <= allowed <= there | {"HEAD", "OPTIONS"}, (method, path)
        status, headers = await head(role, "OPTIONS", real(path))
        assert status in (200, 405) and there <= set(headers["allow"].upper().split(", ")), path


@EACH
async def test_head_is_get_without_its_body(role: Running) -> None:
    for path, item in (await described(role)).items():
        asked, _ = await head(role, "HEAD", real(path))
        if "get" not in item:
            assert asked == 405, path
        elif path != ENDLESS:
            assert asked == (await head(role, "GET", real(path)))[0], path
        else:
            assert asked == 200


@EACH
async def test_a_slash_too_many_is_another_path(role: Running) -> None:
    for path, item in (await described(role)).items():
        for method in item:
            for odd in (f"{real(path)}/", f"/{real(path)}"):
                status, _ = await head(role, method.upper(), odd)
                assert status in (404, 405), (method, odd)


@EACH
@pytest.mark.parametrize("part", ODD.values(), ids=ODD.keys())
async def test_whatever_stands_in_a_path_gets_an_answer_that_is_described(role: Running, part: str) -> None:
    for path, item in (await described(role)).items():
        if "{" not in path:
            continue
        for method, told in item.items():
            status, headers = await head(role, method.upper(), real(path, part))
            assert str(status) in {*told["responses"], "405"} and status < 500, (method, path)
            assert headers["content-type"] == "application/json"
