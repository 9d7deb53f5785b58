"""A gateway for clients to talk to: models that answer, call, think, come late, are small, and die.

What a model says depends on the last thing that it was told: `CALL` makes it call a tool that the
client offered, `THINK` makes it think first, and the answer to a call is repeated. The gateway
serves whom it knows by `KEY` only, where a test asks for that; `SLOW` may ask once within what it
takes for a minute, and `SPENT` has had its day's tokens after one answer.
"""

import json
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from time import sleep
from typing import Any, Final

import httpx
import trio

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.harness.base import Job
from cortex.harness.scripted import Gate, Script
from cortex.keys import digest
from tests.calls import figures, settings, until
from tests.roles import Running, running_gateway, running_neuron, specs
from tests.toxic import toxic_proxy

KEY: Final = "sk-cortex-1"
SLOW: Final = "sk-cortex-slow"
SPENT: Final = "sk-cortex-spent"
WRONG: Final = "sk-cortex-2"
NOBODYS: Final = "none"
PLAIN: Final = "Four."
COLD_S: Final = 8.0
# What a test sets to what it takes for a minute.
MINUTE: Final = "cortex.keys.accounts.MINUTE_S"
# The largest prompt of these clients is Claude Code's: some 20000 tokens of real models, and more of ours.
CONTEXT: Final = 200_000
SMALL: Final = 12
WIDTH: Final = 8
FULL: Final = ("full", "full2", "full3")
HOLD: Final = "HOLD"
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
    "exec_command": {"cmd": "cat note.txt"},
    "multi_agent_v1__close_agent": {"target": "nobody"},
}


@dataclass
class Fleet:
    """Where the gateway is. A page of its metrics is kept for a second; `watched`: others ask for it, too."""

    url: str
    http: httpx.AsyncClient
    metrics_url: str
    watched: bool = False
    _looked: float = -math.inf

    async def ask(self, key: str = NOBODYS, model: str = "m", text: str = "Hello") -> httpx.Response:
        """A request of somebody else's."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return await self.http.post(f"{self.v1}/chat/completions", json=body, headers={"x-api-key": key})

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    async def requests(self, model: str, outcome: str) -> int:
        """How many requests of that model have ended so."""
        await self._renewed()
        return await self.count("cortex_requests_total{", f'model="{model}"', f'outcome="{outcome}"')

    async def refusals(self, reason: str) -> int:
        """How many requests it refused for that reason."""
        await self._renewed()
        return await self.count("cortex_rejections_total{", f'reason="{reason}"')

    async def _renewed(self) -> None:
        """The next page is none that was kept: it is a second since anybody looked."""
        await trio.sleep(1.0 if self.watched else max(0.0, self._looked + 1.0 - trio.current_time()))
        self._looked = trio.current_time()

    async def count(self, name: str, *labels: str) -> int:
        """A figure of the page, which may be a second old."""
        lines = (await self.http.get(self.metrics_url)).text.splitlines()
        found = [line for line in lines if line.startswith(name) and all(label in line for label in labels)]
        return sum(round(float(line.split()[-1])) for line in found)


def reply(job: Job) -> str:
    """What the model says to the last turn."""
    if job.shape is not None:
        return json.dumps(instance(job.shape.schema or {}, job.shape.schema or {}))
    assert isinstance(job.prompt, str)
    turns = [turn.split("<|end|>")[0] for turn in job.prompt.split("<|user|>")]
    asked, _, results = job.prompt.rpartition("<|user|>")[2].partition("<|tool|>")
    if results:
        return f"The tool said: {results.split('<|end|>')[0][:200]}"
    if "CALL" in asked and (name := _offered(job.prompt, asked)):
        call = json.dumps({"name": name, "arguments": CALLS[name]})
        return f"Let me look.\n<tool_call>\n{call}\n</tool_call>"
    if "THINK" in turns[-1]:
        return f"<think>Two and two.</think>{PLAIN}"
    return PLAIN


def _offered(prompt: str, asked: str) -> str | None:
    """One that is asked for goes first."""
    tools = prompt.partition("<tools>")[2].partition("</tools>\n")[0]
    names = [name for name in CALLS if f'"name": "{name}"' in tools]
    return next((name for name in names if name.rpartition("__")[2] in asked), next(iter(names), None))


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


KEYS: Final = (
    Key("one", digest(KEY)),
    Key("slow", digest(SLOW), requests_per_minute=1),
    Key("spent", digest(SPENT), tokens_per_day=1),
)


@asynccontextmanager
async def fleet(folder: Path, *, keyed: bool = False, cold_s: float = COLD_S) -> AsyncIterator[Fleet]:
    """A gateway with `m`, with `cold` that takes `cold_s` to load, with `small` whose context is
    `SMALL`, and with `mortal`, whose neuron's connections break in the middle of its first answer, and
    `doomed`, in whose case they do so each time. `vector` answers with `WIDTH` numbers."""
    dying, doom, late = Gate(turns=2), Gate(turns=2), partial(sleep, cold_s)
    whole = Script(reply=reply, template=TEMPLATE, trained_context=CONTEXT)
    scripts = {
        "m": whole,
        "small": replace(whole, trained_context=SMALL),
        "cold": replace(whole, on_load=late),
        "vector": replace(whole, embeds=WIDTH),
    }
    mortals = {
        "mortal": replace(whole, reply="one two three " + PLAIN, hold=dying),
        "doomed": replace(whole, reply="one two three " + PLAIN, hold=doom),
    }
    known = {
        **specs(folder, "m", "cold", "vector", context=CONTEXT).specs,
        **specs(folder, "small", context=SMALL).specs,
    }
    (other := folder / "mortal").mkdir()
    async with (
        running_neuron(folder, Catalogue(known), scripts, config=settings()) as one,
        running_neuron(other, specs(other, *mortals, context=CONTEXT), mortals, config=settings()) as two,
        toxic_proxy(int(two.url.rpartition(":")[2])) as wire,
        trio.open_nursery() as nursery,
    ):
        two.url = wire.url

        async def kill(gate: Gate) -> None:
            while gate.ready():  # noqa: ASYNC110 - turns are taken on a thread
                await trio.sleep(0.02)
            await trio.sleep(0.3)  # what was said is with the client
            await wire.drop()

        async def once() -> None:
            await kill(dying)
            dying.open()

        async def always() -> None:
            while True:
                await kill(doom)
                # A job that is being called off must not take the turns of the next one.
                await until(partial(_idle, two, "doomed"), within_s=10)
                doom.let(2)

        nursery.start_soon(once)
        nursery.start_soon(always)
        async with running_gateway(one, two, config=GatewayConfig(keys=KEYS if keyed else ())) as gateway:
            yield Fleet(gateway.url, gateway.http, gateway.metrics_url)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def crowd(folder: Path) -> AsyncIterator[Fleet]:
    """A gateway whose line is full, so that it refuses at once. The models of `FULL` have a slot each, and
    somebody in it, who leaves once the gateway has refused a request for that model."""
    script = Script(reply=_long, template=TEMPLATE, trained_context=CONTEXT, on_turn=lambda _: sleep(0.01))
    models = specs(folder, "line", *FULL, context=CONTEXT, slots=1)
    config = GatewayConfig(limits=Limits(queue=1, queue_wait_s=600))
    async with (
        running_neuron(folder, models, script, config=settings(queue=0)) as neuron,
        running_gateway(neuron, config=config) as gateway,
        trio.open_nursery() as nursery,
    ):
        site = Fleet(gateway.url, gateway.http, gateway.metrics_url, watched=True)

        holds: dict[str, trio.CancelScope] = {}

        async def hold(model: str) -> None:
            with trio.CancelScope() as holds[model]:
                await site.ask(model=model, text=HOLD)

        async def release() -> None:
            while True:
                for model in FULL:
                    if await site.count("cortex_requests_total{", f'model="{model}"', 'outcome="cortex"'):
                        holds[model].cancel()
                await trio.sleep(0.2)

        for model in ("line", *FULL):
            nursery.start_soon(hold, model)
            await until(partial(_seats, neuron, model, 1), within_s=10)
        nursery.start_soon(release)
        nursery.start_soon(site.ask, NOBODYS, "line")
        await until(partial(_waits, gateway), within_s=10)
        yield site
        nursery.cancel_scope.cancel()


def _long(job: Job) -> str | Iterable[bytes]:
    return repeat(b"and ") if HOLD in str(job.prompt) else reply(job)


async def _idle(neuron: Running, model: str) -> bool:
    return await _seats(neuron, model, 0) and not neuron.engines[model]._live


async def _seats(neuron: Running, model: str, count: int) -> bool:
    return (await figures(neuron)).get(model) == (count, 0)


async def _waits(gateway: Running) -> bool:
    return bool((await gateway.http.get("/fleet")).json()["waiting"] == 1)
