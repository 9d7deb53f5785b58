"""A gateway for clients to talk to: models that answer, call, think, come late, are small, and die.

What a model says depends on the last thing that it was told: `CALL` makes it call a tool that the
client offered, `THINK` makes it think first, and the answer to a call is repeated. The gateway
serves whom it knows by `KEY` only, where a test asks for that.
"""

import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.harness.base import Job
from cortex.harness.scripted import Gate, Script
from cortex.keys import digest
from tests.calls import settings
from tests.roles import running_gateway, running_neuron, specs
from tests.toxic import toxic_proxy

KEY: Final = "sk-cortex-1"
WRONG: Final = "sk-cortex-2"
PLAIN: Final = "Four."
COLD_S: Final = 8.0
# The largest prompt of these clients is Claude Code's: some 20000 tokens of real models, and more of ours.
CONTEXT: Final = 200_000
SMALL: Final = 12
TEMPLATE: Final = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or () %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# By the tools' names: what a call of them says. The first one that was offered is called.
CALLS: Final[Mapping[str, dict[str, object]]] = {
    "get_weather": {"city": "Oslo"},
    "Bash": {"command": "cat note.txt", "description": "read"},
    "bash": {"command": "cat note.txt", "description": "read"},
    "run_shell_command": {"command": "cat note.txt", "description": "read", "is_background": False},
}


@dataclass(frozen=True)
class Fleet:
    """Where the gateway is. `asked` are the jobs that reached the model of that name."""

    url: str
    page: Callable[[], Any]

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    async def requests(self, model: str = "m") -> int:
        """How many requests of that model the gateway has ended."""
        lines = (await self.page()).text.splitlines()
        counted = [line for line in lines if line.startswith("cortex_requests_total{")]
        return sum(round(float(line.split()[-1])) for line in counted if f'model="{model}"' in line)


def reply(job: Job) -> str:
    """What the model says to the last turn."""
    if job.shape is not None:
        return json.dumps(instance(job.shape.schema or {}, job.shape.schema or {}))
    assert isinstance(job.prompt, str)
    turns = [turn.split("<|end|>")[0] for turn in job.prompt.split("<|user|>")]
    asked, _, results = job.prompt.rpartition("<|user|>")[2].partition("<|tool|>")
    if results:
        return f"The tool said: {results.split('<|end|>')[0][:200]}"
    if "CALL" in asked and (name := _offered(job.prompt)):
        call = json.dumps({"name": name, "arguments": CALLS[name]})
        return f"Let me look.\n<tool_call>\n{call}\n</tool_call>"
    if "THINK" in turns[-1]:
        return f"<think>Two and two.</think>{PLAIN}"
    return PLAIN


def _offered(prompt: str) -> str | None:
    tools = prompt.partition("<tools>")[2].partition("</tools>\n")[0]
    return next((name for name in CALLS if f'"name": "{name}"' in tools), None)


def instance(schema: Any, root: Any) -> Any:
    """The least value that the schema accepts: an engine's grammar would see to that."""
    if "$ref" in schema:
        for part in (found := schema["$ref"].removeprefix("#/").split("/")):
            found = (root if isinstance(found, list) else found)[part]
        return instance(found, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return instance(schema[several][0], root)
    if (kind := schema.get("type", "object")) == "object":
        known = schema.get("properties", {})
        return {name: instance(known[name], root) for name in schema.get("required", known)}
    if kind == "array":
        return [instance(schema["items"], root)] * schema.get("minItems", 0)
    return {"string": "Oslo", "integer": 4, "number": 4.5, "boolean": True, "null": None}[kind]


@asynccontextmanager
async def fleet(folder: Path, *, keyed: bool = False) -> AsyncIterator[Fleet]:
    """A gateway with `m`, with `cold` that takes `COLD_S` to load, with `small` whose context is
    `SMALL`, and with `mortal`, whose neuron's connections break in the middle of its first answer."""
    dying, late = Gate(turns=2), partial(threading.Event().wait, COLD_S)
    whole = Script(reply=reply, template=TEMPLATE, trained_context=CONTEXT)
    scripts = {
        "m": whole,
        "small": Script(reply=reply, template=TEMPLATE, trained_context=SMALL),
        "cold": Script(reply=reply, template=TEMPLATE, trained_context=CONTEXT, on_load=late),
    }
    mortal = Script(reply="one two three " + PLAIN, template=TEMPLATE, trained_context=CONTEXT, hold=dying)
    config = GatewayConfig(keys=(Key("one", digest(KEY), ("inference",)),)) if keyed else GatewayConfig()
    catalogue = Catalogue(
        {
            **specs(folder, "m", "cold", context=CONTEXT).specs,
            **specs(folder, "small", context=SMALL).specs,
        }
    )
    (other := folder / "mortal").mkdir()
    async with (
        running_neuron(folder, catalogue, scripts, config=settings()) as one,
        running_neuron(other, specs(other, "mortal", context=CONTEXT), mortal, config=settings()) as two,
        toxic_proxy(int(two.url.rpartition(":")[2])) as wire,
        trio.open_nursery() as nursery,
    ):
        two.url = wire.url

        async def kill() -> None:
            while dying.ready():  # noqa: ASYNC110 - turns are taken on a thread
                await trio.sleep(0.02)
            await trio.sleep(0.3)  # what was said is with the client
            await wire.drop()
            dying.open()

        nursery.start_soon(kill)
        async with running_gateway(one, two, config=config) as gateway:
            yield Fleet(gateway.url, lambda: gateway.http.get(gateway.metrics_url))
        nursery.cancel_scope.cancel()
