"""What clients send cannot forge a line of the log, nor steer a terminal: faults.md row 59.

Over real sockets and the real outlet, with all that is logged at any level.
"""

import io
import json
import re

import msgspec
import pytest
import trio

from cortex import logs
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.keys import digest
from tests.fake_neuron import Open, fake_neuron, open_gateway, refusal
from tests.fake_web import ask

CHAT = "/v1/chat/completions"
FORGED = "2026-11-21T00:00:00.000Z ERROR   cortex.forged all.is.lost"
# Whoever reads the log by its lines, or shows it, must not be led by any of these.
HOSTILE = (
    f"a\n{FORGED}",
    f"a\r\n{FORGED}\r\n",
    f"a\x1b[2J\x1b]0;{FORGED}\x07",
    f"a\u2028{FORGED}\u2029\x85{FORGED}",
    f"a\u202e{FORGED}\x9b31m\x00\x7f",
    '", "message": "forged", "x": "',
    "%s %(message)s {0} ${jndi:ldap://x}",
    "a neuron=n9 outcome=ok key=root seconds=0",
    'a" neuron="n9" outcome="ok',
)
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ +(cortex|asyncio|httpcore|httpx|hypercorn)[.\w]* ")


@pytest.fixture
def written(request: pytest.FixtureRequest):
    """The log's stream, once its outlet is closed; in the form that the test asks for."""
    stream = io.StringIO()
    outlet = logs.configure("debug", request.param, stream)

    def close() -> list[str]:
        outlet.close()
        return stream.getvalue().split("\n")[:-1]

    yield close
    outlet.close()


async def say(gateway: Open, text: str) -> None:
    """One request each with `text` wherever a client may put any."""
    fields = {
        "model": {"model": text},
        "user": {"model": "a", "user": text, "metadata": {"user_id": text}, "prompt_cache_key": text},
        "a field": {"model": "a", text: 1},
        "of the wrong type": {"model": "a", "stream": text},
    }
    for said in fields.values():
        await gateway.http.post(CHAT, content=msgspec.json.encode({"messages": [], **said}))
    await gateway.http.post("/fleet/models/load", content=msgspec.json.encode({"model": text}))
    raw = text.encode("utf-8", "surrogatepass").decode("latin-1")
    for header in ("x-request-id", "x-session-affinity", "user-agent", "x-api-key", "x-forwarded-for"):
        for value in (raw, re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "", raw)):
            client = await gateway.dial()
            await client.send(ask(CHAT, b'{"model":"a"}', **{header: value}))
            await client.until(b"\r\n")
            await client.close()
    for target in (f"/{raw}", f"/fleet/plan?model={raw}"):
        client = await gateway.dial()
        await client.send(ask(target, b"", "GET"))
        await client.rest()


KEYED = GatewayConfig(keys=(Key("ops", digest("sk-ops"), ("inference", "admin")),))


@pytest.mark.parametrize("written", ["text", "json"], indirect=True)
@pytest.mark.parametrize("config", [GatewayConfig(), KEYED], ids=["no keys", "keys"])
async def test_no_text_of_a_client_makes_a_line(written, config: GatewayConfig) -> None:
    with trio.fail_after(30):
        async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
            gateway.http.headers["x-api-key"] = "sk-ops"
            for text in HOSTILE:
                # What a neuron says of a request may quote it.
                neuron.then(refusal(500, "engine_failed", message=text))
                await say(gateway, text)
    lines = written()
    done = 0
    for line in lines:
        assert line.isprintable(), line
        if line.startswith("{"):
            loaded = json.loads(line)
            assert loaded["logger"] != "cortex.forged"
            said = loaded["message"]
        else:
            assert TEXT_LINE.match(line), line
            said = line
        if "request.done " in said:
            done += 1
            # What is in quotes is one value, whatever it holds.
            keys = re.findall(r" (\w+)=", re.sub(r'="(?:[^"\\]|\\.)*"', "=_", said))
            assert len(keys) == len(set(keys)), said
            assert "root" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", said), said
    assert done >= 4 * len(HOSTILE), "each of them was spoken of"
