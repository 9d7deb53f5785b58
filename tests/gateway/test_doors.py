"""Every route of a gateway against every odd key, path, host and origin; and a list that must be whole.

Faults.md rows 55 to 58, P2. Raw bytes over real sockets, since clients' libraries would mend them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.gateway.app import CONTROL, scope_of
from cortex.gateway.passage import Passage
from cortex.keys import digest
from cortex.web.site import Entry, Site, inventory
from tests import odd_heads
from tests.fake_neuron import FakeNeuron, Open, body, fake_neuron, open_gateway
from tests.odd_heads import bearer, malformed, no_key, spellings

USER, ADMIN = "sk-user", "sk-admin"
KEYED = GatewayConfig(
    keys=(Key("ann", digest(USER), ("inference",)), Key("ops", digest(ADMIN), ("admin",))),
)
# What each route demands. A route that is not here is found out, and so is one that demands less.
DEMANDS = {
    "POST /v1/chat/completions": "inference",
    "POST /v1/completions": "inference",
    "POST /v1/embeddings": "inference",
    "POST /v1/responses": "inference",
    "POST /v1/messages": "inference",
    "POST /v1/messages/count_tokens": "inference",
    "GET /v1/models": "inference",
    "GET /v1/models/some-model": "inference",
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /health": "read",
    "GET /version": "read",
    "GET /openapi.json": "read",
    "GET /fleet": "read",
    "GET /fleet/events": "read",
    "GET /fleet/plan": "admin",
    "POST /fleet/models/load": "admin",
    "POST /fleet/models/pin": "admin",
    "POST /fleet/models/unload": "admin",
    "POST /fleet/models/unpin": "admin",
}


def routes() -> Site:
    """The site of a gateway, as far as its inventory goes."""
    views = SimpleNamespace(listing=SimpleNamespace(fleet=SimpleNamespace(tongues=None)), accounts=None)
    passage = Passage("", views, None, None, None)  # type: ignore[arg-type]
    return Site(passage.routes(), None, None, scope_of)  # type: ignore[arg-type]


def entries() -> list[Entry]:
    return inventory(routes(), CONTROL)


@asynccontextmanager
async def keyed(config: GatewayConfig = KEYED) -> AsyncIterator[tuple[FakeNeuron, Open]]:
    """A gateway in front of one neuron, which nothing has reached in the end."""
    with trio.fail_after(30):
        async with fake_neuron("some-model") as neuron, open_gateway(neuron, config=config) as gateway:
            yield neuron, gateway
            assert not neuron.requests and not neuron.orders


async def status(gateway: Open, method: str, path: str, *lines: bytes) -> int:
    """What a request with these header lines, and a body that is in order, is answered."""
    port = gateway.gateway.ports.api[1]
    return await odd_heads.status(port, method, path, *lines, sent=body("some-model"))


def test_every_route_is_listed_with_what_it_demands() -> None:
    """P2: beside the test that holds CONTROL against the application's own rules."""
    assert {f"{entry.method} {entry.path}": entry.scope for entry in entries()} == DEMANDS
    for method, path in (("GET", "/fleet/other"), ("POST", "/fleet"), ("DELETE", "/health"), ("GET", "/x")):
        assert scope_of(method, path) == "admin", "what nobody knows demands most"


# -- keys


NO_KEY, MALFORMED = no_key(USER, ADMIN), malformed(USER)
MINE = USER.encode()


@pytest.mark.parametrize("lines", NO_KEY.values(), ids=NO_KEY.keys())
async def test_no_route_but_the_probes_opens_to_what_is_no_key(lines: tuple[bytes, ...]) -> None:
    """Row 55."""
    async with keyed() as (_, gateway):
        for entry in entries():
            expected = 200 if entry.scope == "open" else 401
            assert await status(gateway, entry.method, entry.path, *lines) == expected, entry


@pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_head_that_can_be_read_in_two_ways_is_refused(lines: tuple[bytes, ...]) -> None:
    """Row 55: NUL, and what one parser takes for a key and another does not. The probes, too."""
    async with keyed() as (_, gateway):
        for entry in entries():
            assert await status(gateway, entry.method, entry.path, *lines) == 400, entry


async def test_a_key_of_64_kilobytes_is_too_big_to_be_looked_at() -> None:
    """Row 55."""
    async with keyed() as (_, gateway):
        for entry in entries():
            assert await status(gateway, entry.method, entry.path, bearer(b"k" * 2**16)) == 431, entry


@pytest.mark.parametrize(
    "line",
    [
        bearer(MINE),
        bearer(MINE + b" \t "),
        b"Authorization:  bearer  " + MINE,
        b"AUTHORIZATION: BEARER " + MINE,
        b"X-API-Key: " + MINE + b" ",
    ],
)
async def test_a_good_key_is_taken_in_every_form_that_http_has_for_it(line: bytes) -> None:
    """Row 55: space around a value is no part of it, and names have no case."""
    async with keyed() as (_, gateway):
        for entry in entries():
            allowed = entry.scope in ("open", "read", "inference")
            if allowed and entry.method == "POST":
                continue  # a neuron would be asked
            assert await status(gateway, entry.method, entry.path, line) == (200 if allowed else 403), entry


# -- paths


@pytest.mark.parametrize("entry", [each for each in entries() if each.scope != "open"], ids=str)
async def test_no_spelling_of_a_path_opens_without_a_key(entry: Entry) -> None:
    """Row 55: and none is a probe that is not one."""
    async with keyed() as (_, gateway):
        for path in spellings(entry.path):
            for method in (entry.method, "GET", "OPTIONS"):
                assert await status(gateway, method, path) == 401, (method, path)


@pytest.mark.parametrize("entry", [each for each in entries() if each.scope == "admin"], ids=str)
async def test_no_spelling_of_an_admin_route_opens_to_an_inference_key(entry: Entry) -> None:
    """Row 58."""
    async with keyed() as (_, gateway):
        for path in (entry.path, *spellings(entry.path)):
            # Below /v1/ there is inference, and nothing of that name.
            below = unquote(path).startswith("/v1/")
            for method in (entry.method, "HEAD", "PUT"):
                answered = await status(gateway, method, path, bearer(MINE))
                assert answered == (404 if below else 403), (method, path)


# -- networks, names and origins


@pytest.mark.parametrize(
    "host", [b"evil.example", b"127.0.0.1.evil.example", b"localhost.evil.example:31313"]
)
async def test_without_keys_no_route_answers_to_a_name_of_somebody_elses(host: bytes) -> None:
    """Row 57: rebinding, over every route, the probes included."""
    async with keyed(GatewayConfig()) as (_, gateway):
        for entry in entries():
            assert await status(gateway, entry.method, entry.path, b"host: " + host) == 403, entry


@pytest.mark.parametrize("config", [GatewayConfig(), KEYED], ids=["no keys", "keys"])
async def test_a_page_of_another_origin_gets_nothing_and_no_leave_to_ask(config: GatewayConfig) -> None:
    """Row 57: neither the request nor its preflight."""
    async with keyed(config) as (_, gateway):
        for origin in (b"https://evil.example", b"null", b"http://localhost:31313", b""):
            for entry in entries():
                lines = (b"origin: " + origin, b"x-api-key: " + MINE)
                assert await status(gateway, entry.method, entry.path, *lines) == 403, entry
                asked = (b"origin: " + origin, b"access-control-request-method: POST")
                assert await status(gateway, "OPTIONS", entry.path, *asked) == 403, entry
