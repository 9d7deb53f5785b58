"""Neurons and gateways for tests: the real roles over loopback, with scripted engines.

A model is an empty file with a name, since the scripted harness reads none; the script
says what it answers and how many bytes it takes. Leaving a block stops the role hard,
unless the test set `stop` itself.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import trio

from cortex import gateway, neuron
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import ColdLoad, GatewayConfig, NeuronRef, Poll
from cortex.config.limits import Limits
from cortex.config.network import Address
from cortex.config.neuron import NeuronConfig
from cortex.harness.base import Harness
from cortex.harness.scripted import Script, ScriptedEngine, ScriptedHarness

ANY = Address("127.0.0.1", 0)
MIB = 2**20


@dataclass(slots=True)
class Running:
    """A role at work. `url` has no path; `http` speaks to it. `done` is set once its run has
    returned; `engines` are a neuron's scripted ones, by model."""

    url: str
    metrics_url: str
    http: httpx.AsyncClient
    stop: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    engines: Mapping[str, ScriptedEngine] = field(default_factory=dict)


def specs(folder: Path, *models: str, **known: object) -> Catalogue:
    """A catalogue of models whose files lie in `folder`."""
    for model in models:
        (folder / f"{model}.gguf").touch()
    return Catalogue(
        {model: ModelSpec(model, source=f"path:{folder / model}.gguf", **known) for model in models}
    )


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    """`holds` has become true. For what another role learns by asking: there is no event to
    wait for on this side of the wire."""
    while not await holds():  # noqa: ASYNC110
        await trio.sleep(0.005)


@asynccontextmanager
async def running_neuron(
    folder: Path,
    catalogue: Catalogue,
    scripts: Mapping[str, Script] | Script,
    *,
    memory: int = 1024 * MIB,
    config: NeuronConfig = NeuronConfig(),
    name: str = "llamacpp",
) -> AsyncIterator[Running]:
    """A neuron whose devices have `memory` bytes for models; `name` is what its harness is called."""
    harness = ScriptedHarness(scripts) if isinstance(scripts, Script) else ScriptedHarness(scripts=scripts)
    config = replace(
        config,
        name=config.name or "n1",
        listen=ANY,
        metrics_listen=ANY,
        model_roots=(folder,),
        state_dir=config.state_dir or _new_folder(),
        devices=replace(config.devices, memory_limit=memory, memory_headroom=0),
    )
    async with _running(lambda run: neuron.run(config, catalogue, harnesses={name: harness}, **run)) as role:
        role.engines = harness.engines
        yield role


@asynccontextmanager
async def demo_neuron(
    config: NeuronConfig = NeuronConfig(),
    catalogue: Catalogue = Catalogue(),
    harnesses: Mapping[str, Harness] | None = None,
) -> AsyncIterator[Running]:
    """A neuron with llama.cpp, and with the bundled model when it is given no other."""
    state = config.state_dir or _new_folder()
    config = replace(config, name="n1", listen=ANY, metrics_listen=ANY, state_dir=state)
    async with _running(lambda run: neuron.run(config, catalogue, harnesses=harnesses, **run)) as role:
        yield role


@asynccontextmanager
async def running_gateway(
    *neurons: Running, catalogue: Catalogue = Catalogue(), config: GatewayConfig = GatewayConfig()
) -> AsyncIterator[Running]:
    """A gateway in front of `neurons`, which are called n1, n2, ..."""
    refs = tuple(NeuronRef(f"n{number}", role.url) for number, role in enumerate(neurons, 1))
    config = replace(
        config,
        listen=ANY,
        metrics_listen=ANY,
        neurons=refs or config.neurons,
        poll=Poll(interval_s=0.1, timeout_s=2.0, failures=config.poll.failures),
    )
    async with _running(lambda run: gateway.run(config, catalogue, **run)) as role:
        yield role


def patient(load_s: float = 300.0, queue_s: float = 60.0, **limits: float) -> GatewayConfig:
    """A gateway's configuration with other waits."""
    return GatewayConfig(
        cold_load=ColdLoad(max_wait_s=load_s), limits=Limits(queue_wait_s=queue_s, drain_s=1.0, **limits)
    )


def _new_folder() -> Path:
    """For a neuron's state; conftest says where such folders may be."""
    return Path(tempfile.mkdtemp(dir=os.environ["XDG_STATE_HOME"]))


@asynccontextmanager
async def _running(role) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        stop, done = trio.Event(), trio.Event()
        scope = trio.CancelScope()

        async def inside(*, task_status):
            with scope:
                await role({"stop": stop, "task_status": task_status})
            done.set()

        ports = await nursery.start(inside)
        url = f"http://127.0.0.1:{ports.api[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as http:
            yield Running(url, f"http://127.0.0.1:{ports.metrics[1]}/metrics", http, stop, scope, done)
            if not stop.is_set():
                scope.cancel()
