"""Servers that speak the OpenAI dialects, as upstreams of the engine under test.

Each is a child process of its own with the demo model: our gateway before a neuron, and
llama.cpp's own listener, whose constructor holds Python's lock. A child says its address in
one line, and ends with its standard input. The third is somebody else's: vLLM's router, before
that listener. It is looked for beside this Python and in the folder CORTEX_TEST_PEERS.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from cortex import demo
from cortex.config.upstream import UpstreamConfig
from cortex.harness.upstream import UpstreamHarness

CORTEX: Final = """
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
import trio
from cortex import gateway, neuron
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig, NeuronRef, Poll
from cortex.config.network import Address
from cortex.config.neuron import NeuronConfig
from cortex.neuron.sources import demo_spec

async def main(state, context, slots):
    here = Address("127.0.0.1", 0)
    spec = replace(demo_spec(), context=context, slots=slots)
    listeners = {"listen": here, "metrics_listen": here}
    config = NeuronConfig(name="n1", default_models=(spec,), state_dir=state, **listeners)
    async with trio.open_nursery() as nursery:
        ports = await nursery.start(partial(neuron.run, config, Catalogue({spec.id: spec})))
        refs = (NeuronRef("n1", f"http://127.0.0.1:{ports.api[1]}"),)
        front = GatewayConfig(neurons=refs, poll=Poll(interval_s=0.1), **listeners)
        ports = await nursery.start(partial(gateway.run, front, Catalogue()))
        print(f"http://127.0.0.1:{ports.api[1]}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()

trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""

LLAMA_SERVER: Final = """
import sys
import xllamacpp
from cortex import demo

params = xllamacpp.CommonParams()
params.model.path = str(demo.GGUF)
params.model_alias = {demo.MODEL_ID}
params.n_parallel = int(sys.argv[3])
params.n_ctx = int(sys.argv[2]) * params.n_parallel
params.kv_unified = False
params.ctx_shift = False
params.cpuparams.n_threads = 1
params.warmup = False
params.verbosity = 0
params.hostnames = ["127.0.0.1"]
params.port = 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""

SCRIPTS: Final = {"cortex": CORTEX, "llama-server": LLAMA_SERVER}
ROUTER: Final = "vllm-router"
SERVERS: Final = (*SCRIPTS, ROUTER)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One server. `url` is where its dialect begins, `model` its name for the demo model."""

    url: str
    model: str = demo.MODEL_ID

    @property
    def options(self) -> dict[str, str]:
        """What an order says of it."""
        return {"url": self.url, "name": self.model}

    @property
    def harness(self) -> UpstreamHarness:
        return UpstreamHarness(UpstreamConfig(endpoints=(self.url,)))


def router() -> str | None:
    """The program of vLLM's router; None where it is not installed."""
    folders = (str(Path(sys.executable).parent), os.environ.get("CORTEX_TEST_PEERS", ""))
    return shutil.which(ROUTER, path=os.pathsep.join(filter(None, folders)))


def why_not(name: str) -> str | None:
    """Why the server called `name` cannot be tried here."""
    if name == ROUTER and router() is None:
        return f"{ROUTER} is not installed: pip install '.[peers]', here or in a venv of its own"
    return None


@contextmanager
def serving(name: str, folder: str, context: int, slots: int) -> Iterator[Upstream]:
    """The server called `name`, with the demo model loaded; gone with the block."""
    if name == ROUTER:
        with serving("llama-server", folder, context, slots) as engine, routed(engine) as upstream:
            yield upstream
        return
    arguments = [sys.executable, "-c", SCRIPTS[name], folder, str(context), str(slots)]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    try:
        address = child.stdout.readline().strip()
        assert address, f"the {name} did not start"
        yield Upstream(f"{address}/v1")
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


@contextmanager
def routed(engine: Upstream) -> Iterator[Upstream]:
    """vLLM's router before `engine`. It takes seconds to start, and no port 0."""
    with socket.socket() as api, socket.socket() as metrics:
        for each in (api, metrics):
            each.bind(("127.0.0.1", 0))
        port, other = api.getsockname()[1], metrics.getsockname()[1]
    said = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--worker-urls": engine.url.removesuffix("/v1"),
        "--policy": "round_robin",
        "--prometheus-host": "127.0.0.1",
        "--prometheus-port": str(other),
        "--log-level": "error",
    }
    program = router()
    assert program is not None
    arguments = [program, *(word for pair in said.items() for word in pair)]
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        upstream = Upstream(f"http://127.0.0.1:{port}/v1")
        deadline = time.monotonic() + 60
        while not _lists(upstream):
            assert child.poll() is None and time.monotonic() < deadline, "the router did not start"
            time.sleep(0.05)  # another process gives no event
        yield upstream
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _lists(upstream: Upstream) -> bool:
    try:
        return httpx.get(f"{upstream.url}/models", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
