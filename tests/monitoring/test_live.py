"""Every expression of the dashboard, asked of a real Prometheus that scrapes a fleet at work.

Debian's Prometheus runs in a folder of the test's own, with the configuration that is shipped. A
gateway stands before a neuron with scripted engines and before a fake one with a GPU; the traffic has
something of everything in it.
"""

import json
import math
import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import trio

from cortex.config.gateway import GatewayConfig, NeuronRef
from cortex.config.keys import Key
from cortex.config.neuron import NeuronEviction
from cortex.errors import LoadFailed
from cortex.harness.scripted import Script
from cortex.metrics import FRESH_S
from cortex.web.listeners import fleet_credential
from cortex.wire import neuron as wire
from tests.calls import settings
from tests.fake_neuron import NOT_STARTED, STREAMED, WHOLE, FakeNeuron, refusal
from tests.fake_upstream import Close, script
from tests.roles import MIB, Running, running_gateway, running_neuron, specs

FOLDER = Path(__file__).parent.parent.parent / "packaging" / "monitoring"
BOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
KEY = "sk-live"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed: apt-get install prometheus"
    ),
]


class GpuNeuron(FakeNeuron):
    """A fake neuron that has figures of a GPU."""

    def _health(self) -> wire.Health:
        health = super()._health()
        gpu = msgspec.structs.replace(health.devices[0], name="cuda:0", utilization=0.5, temperature=61.0)
        return msgspec.structs.replace(health, devices=[*health.devices, gpu])


@dataclass
class Site:
    """A fleet at work."""

    gateway: Running
    neuron: Running
    fake: GpuNeuron

    async def ask(self, model: str, key: str = KEY, **more: object) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "one two three four"}], **more}
        headers = {"authorization": f"Bearer {key}"}
        answer = await self.gateway.http.post("/v1/chat/completions", json=body, headers=headers)
        return answer.status_code

    async def works(self) -> None:
        """Good and bad requests, loads and evictions, failures of each side, second tries."""
        assert await self.ask("a", stream=True) == 200
        assert await self.ask("b", stream=True) == 200, "it comes in where the other one leaves"
        self.fake.then(STREAMED)  # which says that some of the prompt was cached
        assert await self.ask("gpu", stream=True) == 200
        assert await self.ask("unknown") == 404
        assert await self.ask("a", key="sk-wrong") == 401
        assert await self.ask("broken") == 502
        for failure in (refusal(503, "overloaded", NOT_STARTED), Close()):
            self.fake.then(failure)
            await self.ask("gpu")

    async def loses_a_neuron(self) -> None:
        """One of the two is started anew."""
        await self.fake.restart()
        self.fake.has("gpu")


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Site]:
    catalogue = specs(folder, "a", "b", "broken", footprint=700 * MIB)
    scripts = {name: Script(bytes=700 * MIB) for name in ("a", "b")}
    scripts["broken"] = Script(load_error=LoadFailed("The file is damaged"))
    upkeep = NeuronEviction(min_residency_s=0.0, defrag_after_cycles=1)
    async with trio.open_nursery() as nursery:
        fake = GpuNeuron(deque(), script(WHOLE), _nursery=nursery)
        fake.has("gpu")
        fake.memory = 2 * MIB  # too little for the models of the other one
        await fake.listen()
        config = replace(settings(), eviction=upkeep)
        async with running_neuron(folder, catalogue, scripts, config=config) as neuron:
            config = GatewayConfig(
                neurons=(NeuronRef("n1", neuron.url), NeuronRef("n2", fake.url)),
                keys=(Key("ann", fleet_credential(KEY).sha256, tokens_per_day=10**6),),
            )
            async with running_gateway(catalogue=catalogue, config=config) as gateway:
                yield Site(gateway, neuron, fake)
        nursery.cancel_scope.cancel()


@contextmanager
def prometheus(folder: Path, site: Site) -> Iterator[str]:
    """Prometheus at work on both metrics ports, with what is shipped but its pace; where its API is."""
    config = (FOLDER / "prometheus.yml").read_text().replace(": 15s", ": 1s")
    for usual, role in (("127.0.0.1:31314", site.gateway), ("127.0.0.1:13132", site.neuron)):
        assert usual in config
        config = config.replace(usual, urlsplit(role.metrics_url).netloc)
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(FOLDER / "alerts.yml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    order = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(order, stdout=log, stderr=log) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


# A rate of a machine that is busy elsewhere may want another round of work between two scrapes.
TRIES = 3


def expression(text: str) -> str:
    """As Grafana asks it with nothing chosen."""
    chosen = {"gateway_job": "cortex-gateway", "neuron_job": "cortex-neuron"}
    for each in BOARD["templating"]["list"]:
        if each["type"] == "textbox":
            assert each["query"] == chosen[each["name"]]
    for name, value in {**chosen, "model": ".*", "neuron": ".*", "__rate_interval": "60s"}.items():
        text = text.replace(f"${name}", value)
    return text


@dataclass
class Asker:
    """Asks Prometheus."""

    http: httpx.AsyncClient

    async def values(self, text: str) -> list[float]:
        """What an expression comes to at present, one value a series."""
        answer = await self.http.get("/api/v1/query", params={"query": text})
        said = answer.json()
        assert said["status"] == "success", f"{text}: {said}"
        return [float(each["value"][1]) for each in said["data"]["result"]]

    async def blank(self) -> list[tuple[str, str, list[float]]]:
        """Panels that show nothing, with what they ask and get."""
        found = []
        for panel in BOARD["panels"]:
            for target in panel.get("targets", ()):
                values = await self.values(text := expression(target["expr"]))
                if all(math.isnan(value) for value in values):
                    found.append((panel["title"], text, values))
        return found

    async def until(self, text: str) -> None:
        """The expression has become true of something."""
        while not await self.values(text):  # noqa: ASYNC110 - asked over HTTP
            await trio.sleep(0.1)

    async def seen(self) -> None:
        """Both pages have been scraped as they are at this call: one is kept for a second."""
        await self.until(f"min(timestamp(cortex_build_info)) > {time.time() + FRESH_S}")

    async def ready(self) -> None:
        while True:
            try:
                if (await self.http.get("/-/ready")).status_code == 200:
                    return
            except httpx.ConnectError:
                pass
            await trio.sleep(0.05)


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[Site, Asker]]:
    """A fleet, and a Prometheus that has seen all that can happen in it."""
    (folder / "models").mkdir()
    async with fleet(folder / "models") as site:
        with prometheus(folder, site) as url:
            async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
                asker = Asker(http)
                await asker.ready()
                await site.works()
                await site.loses_a_neuron()
                # A rate needs two scrapes with something between them.
                await asker.seen()
                await site.works()
                await asker.seen()
                # The devices of the neuron are quiet from here on.
                await asker.until("count(cortex_device_leaked_bytes)")
                yield site, asker


async def test_every_panel_of_the_dashboard_shows_something_of_a_fleet_at_work(tmp_path: Path) -> None:
    with trio.fail_after(55):
        async with watched(tmp_path) as (site, asker):
            for _ in range(TRIES):
                if not (empty := await asker.blank()):
                    break
                await site.works()
                await asker.seen()
            assert not empty
            for each in BOARD["templating"]["list"]:
                if each["type"] == "query":
                    metric, label = (
                        each["query"]["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
                    )
                    assert await asker.values(f"count by ({label}) ({expression(metric)})")
            rules = (await asker.http.get("/api/v1/rules")).json()["data"]["groups"]
            told = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
            assert len(told) > 20 and "err" not in told.values(), told
