"""Every route of a neuron against every odd token, path, host and origin.

Faults.md rows 55 to 58; `test_callers` holds that the list of routes is whole.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import trio

from cortex.config.neuron import NeuronConfig
from cortex.harness.scripted import Script
from cortex.neuron.app import CONTROL, scope_of
from cortex.neuron.speech import Speech
from cortex.web.site import Entry, Site, inventory
from tests import odd_heads
from tests.calls import hello, settings
from tests.odd_heads import bearer, malformed, no_key, spellings
from tests.roles import Running, running_neuron, specs

TOKEN, OTHER = "a-token-of-the-fleet-0123456789", "a-token-of-another-fleet-012345"
NO_KEY, MALFORMED = no_key(TOKEN, OTHER), malformed(TOKEN)
MINE = TOKEN.encode()


def entries() -> list[Entry]:
    speech = Speech("n1", None, None, None, None)  # type: ignore[arg-type]
    return inventory(Site(speech.routes(), None, None, scope_of), CONTROL)  # type: ignore[arg-type]


@asynccontextmanager
async def kept(folder: Path, config: NeuronConfig) -> AsyncIterator[Running]:
    """A neuron where nothing was loaded in the end."""
    with trio.fail_after(60):
        async with running_neuron(folder, specs(folder, "a"), Script(reply="hi"), config=config) as role:
            yield role
            assert not role.engines


async def status(role: Running, entry: Entry, path: str, *lines: bytes) -> int:
    port = urlsplit(role.url).port or 0
    return await odd_heads.status(port, entry.method, path, *lines, sent=msgspec.json.encode(hello()))


async def test_no_route_but_the_probes_opens_to_what_is_no_token(tmp_path: Path) -> None:
    """Row 55. One neuron for all: too many different guesses are told to wait, and not served either."""
    async with kept(tmp_path, settings(token=TOKEN)) as role:
        for name, lines in NO_KEY.items():
            for entry in entries():
                answered = await status(role, entry, entry.path, *lines)
                expected = (200, 503) if entry.scope == "open" else (401, 429)
                assert answered in expected, (name, entry)


async def test_who_guesses_tokens_does_not_shut_the_gateway_out(tmp_path: Path) -> None:
    """Row 56: both may come from the address of one proxy."""
    async with kept(tmp_path, settings(token=TOKEN)) as role:
        health = Entry("GET", "/health", "read")
        guesses = [await status(role, health, "/health", bearer(b"guess-%d" % n)) for n in range(23)]
        assert guesses == [401] * 21 + [429] * 2
        assert await status(role, health, "/health", bearer(MINE)) == 200


@pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_head_that_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, lines: tuple[bytes, ...]
) -> None:
    """Row 55: NUL, and what one parser takes for a token and another does not. The probes, too."""
    async with kept(tmp_path, settings(token=TOKEN)) as role:
        for entry in entries():
            assert await status(role, entry, entry.path, *lines) == 400, entry


async def test_a_token_of_64_kilobytes_is_too_big_to_be_looked_at(tmp_path: Path) -> None:
    """Row 55."""
    async with kept(tmp_path, settings(token=TOKEN)) as role:
        for entry in entries():
            assert await status(role, entry, entry.path, bearer(b"k" * 2**16)) == 431, entry


async def test_no_spelling_of_a_path_opens_without_the_token(tmp_path: Path) -> None:
    """Row 55: and none is a probe that is not one."""
    async with kept(tmp_path, settings(token=TOKEN)) as role:
        for entry in entries():
            for path in spellings(entry.path) if entry.scope != "open" else ():
                assert await status(role, entry, path) == 401, (entry, path)


async def test_a_page_of_another_origin_may_not_even_ask(tmp_path: Path) -> None:
    """Row 57: the preflight of every route, with a token and without."""
    for token in (TOKEN, None):
        async with kept(tmp_path, settings(token=token)) as role:
            for entry in entries():
                asked = Entry("OPTIONS", entry.path, entry.scope)
                for origin in (b"https://evil.example", b"null"):
                    lines = (b"origin: " + origin, b"access-control-request-method: POST")
                    assert await status(role, asked, entry.path, *lines) == 403, entry
