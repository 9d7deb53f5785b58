"""Servers that speak the OpenAI dialects, as upstreams of the engine under test.

Each is a child process of its own with the demo model: our gateway before a neuron, and
llama.cpp's own listener, whose constructor holds Python's lock. A child says its address in
one line, and ends with its standard input.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

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


@contextmanager
def serving(name: str, folder: str, context: int, slots: int) -> Iterator[Upstream]:
    """The server called `name`, with the demo model loaded; gone with the block."""
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
