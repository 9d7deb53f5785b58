"""Both roles do what their description says, whatever they are asked: schemathesis, over loopback.

It makes requests of `/openapi.json` that are in order, at every bound, and beyond it, and looks at
each answer: a status that is described, with the body, headers and media type that belong to it; no
5xx; nothing that is wrong is taken; nothing is let in without a key. `CORTEX_OPENAPI_EXAMPLES=200`
makes so many requests for each route, in every phase, for minutes.
"""

import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from cortex.config.gateway import GatewayConfig, NeuronRef
from cortex.config.keys import Key
from cortex.demo import MODEL_ID
from cortex.harness.scripted import Script
from cortex.keys import digest
from cortex.openapi.inference import COUNT
from tests.calls import settings
from tests.roles import Running, running_gateway, running_neuron, specs

ROOT = Path(__file__).parent.parent
TOKEN, KEY = "a-token-of-the-fleet-0123456789", "sk-openapi"
MANY = int(os.environ.get("CORTEX_OPENAPI_EXAMPLES", "0"))
FEW = 4
# The hang guard: a run by hand takes minutes.
LONGEST_S = 3600 if MANY else 300
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)


@asynccontextmanager
async def roles(folder: Path, *, keyed: bool) -> AsyncIterator[dict[str, Running]]:
    """A neuron with a scripted engine under the demo model's name, and a gateway before it."""
    catalogue = specs(folder, MODEL_ID)
    script, config = Script(reply="hi"), settings(token=TOKEN if keyed else None)
    async with running_neuron(folder, catalogue, script, config=config) as neuron:
        ref = NeuronRef("n1", neuron.url, token=TOKEN if keyed else None)
        keys = (Key("root", digest(KEY), ("inference", "admin")),) if keyed else ()
        front = GatewayConfig(neurons=(ref,), keys=keys)
        async with running_gateway(catalogue=catalogue, config=front) as gateway:
            yield {"neuron": neuron, "gateway": gateway}


async def judged(folder: Path, role: Running, key: str | None, *terms: str) -> None:
    """Schemathesis finds no fault with `role`."""
    headers = {} if key is None else {"x-api-key": key}
    answer = await role.http.get("/openapi.json", headers=headers)
    assert answer.status_code == 200, answer.text
    await judged_by(folder, answer.content, role.url, key, *terms)


async def judged_by(folder: Path, description: bytes, url: str, key: str | None, *terms: str) -> None:
    """The same by that description."""
    (folder / "openapi.json").write_bytes(description)
    # A key among the headers would stand in for those that are made up to be refused.
    settled = "" if key is None else f'[auth.openapi.bearer]\nbearer = "{key}"\n'
    (folder / "schemathesis.toml").write_text(settled)
    done = await trio.run_process(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("run", "openapi.json", "--url", url, "--no-color", "--checks", ",".join(CHECKS)),
            *("--generation-deterministic", "--request-timeout", "20", "--continue-on-failure"),
            # It has no end, and its head is looked at by tests of the door.
            *("--exclude-path", "/fleet/events"),
            *terms,
        ],
        capture_stdout=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.openapi_hooks"},
    )
    # Its report has the requests to repeat, and "generated" that there were any.
    said = done.stdout.decode()
    assert done.returncode == 0, said[-20_000:]
    assert " generated" in said, said


def phases(*names: str) -> tuple[str, ...]:
    every = ("examples", "coverage", "fuzzing")
    return ("--phases", ",".join(every if MANY else names), "--max-examples", str(MANY or FEW))


@pytest.mark.slow
async def test_a_neuron_answers_as_it_is_described(tmp_path: Path) -> None:
    with trio.fail_after(LONGEST_S):
        async with roles(tmp_path, keyed=False) as both:
            neuron = both["neuron"]
            await judged(tmp_path, neuron, None, *phases("examples", "fuzzing"))
            if not MANY:
                # What is counted has the body of what is answered.
                await judged(tmp_path, neuron, None, *phases("coverage"), "--exclude-path", COUNT)


@pytest.mark.slow
async def test_a_gateway_answers_as_it_is_described(tmp_path: Path) -> None:
    """The dialects go to the same translators: their bounds are looked at once, at a neuron."""
    with trio.fail_after(LONGEST_S):
        async with roles(tmp_path, keyed=False) as both:
            gateway = both["gateway"]
            await judged(tmp_path, gateway, None, *phases("examples", "fuzzing"))
            if not MANY:
                await judged(tmp_path, gateway, None, *phases("coverage"), "--exclude-tag", "Inference")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), [("neuron", TOKEN), ("gateway", KEY)])
async def test_nothing_is_answered_without_the_key_that_its_description_asks_for(
    tmp_path: Path, name: str, key: str
) -> None:
    with trio.fail_after(LONGEST_S):
        async with roles(tmp_path, keyed=True) as both:
            await judged(tmp_path, both[name], key, *phases("examples", "fuzzing"))


async def test_a_description_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    """In each check that matters most: a status, a body, a bound and a key."""
    with trio.fail_after(LONGEST_S):
        async with roles(tmp_path, keyed=False) as both:
            gateway = both["gateway"]
            description = (await gateway.http.get("/openapi.json")).json()
            paths, schemas = description["paths"], description["components"]["schemas"]
            del paths["/fleet"]["get"]["responses"]["200"]
            schemas["Version"]["properties"]["role"] = {"const": "neuron"}
            schemas["ModelOrder"]["additionalProperties"] = False
            paths["/health"]["get"]["security"] = [{"bearer": []}]
            terms = ("--phases", "coverage,fuzzing", "--max-examples", "3", "--exclude-tag", "Inference")
            with pytest.raises(AssertionError) as found:
                await judged_by(tmp_path, msgspec.json.encode(description), gateway.url, KEY, *terms)
    report = str(found.value).split(" FAILURES =")[1]
    sections = re.split("_{5,} ([A-Z]+ /.*) _{5,}", report)
    findings = dict(zip(sections[1::2], sections[2::2], strict=True))
    wrong = {
        "GET /fleet": "Undocumented status code",
        "GET /version": "Response violates schema",
        "POST /fleet/models/load": "Schema-violating request accepted",
        "GET /health": "API accepts requests without authentication",
    }
    for route, finding in wrong.items():
        assert finding in findings.get(route, ""), report
