"""What a model's file promises is read when the file has changed, and the last promise is kept."""

from dataclasses import replace
from pathlib import Path

import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.evictor import Rules
from cortex.harness.base import LoadOrder, Preflight
from cortex.harness.scripted import Script, ScriptedHarness
from cortex.ledger import Ledger, Policy
from cortex.neuron.engines import Engines
from cortex.neuron.pins import Pins
from cortex.neuron.residents import Residents
from cortex.neuron.sources import Found
from cortex.neuron.state import State


class Counting(ScriptedHarness):
    """Counts the headers that were read."""

    read = 0

    def preflight(self, order: LoadOrder) -> Preflight:
        self.read += 1
        return super().preflight(order)


async def test_a_changed_file_replaces_its_promise(tmp_path: Path) -> None:
    harness = Counting(Script())
    engines = Engines({"llamacpp": harness}, {"llamacpp": None}, {"llamacpp": None})
    ledger = Ledger(trio.current_time, Policy(Rules("lru", 0.0), 1, 1.0))
    config, found = NeuronConfig(model_roots=(tmp_path,)), Found(Catalogue(), (tmp_path,))
    residents = Residents(config, found, {}, engines, ledger, pins=Pins(State(None)))
    spec = ModelSpec("a", source=f"path:{tmp_path}/a.gguf")
    with trio.fail_after(30):
        for size in range(1, 6):
            (tmp_path / "a.gguf").write_bytes(b"x" * size)
            for _ in range(3):
                await residents.want(spec)
            assert harness.read == size
        await residents.want(replace(spec, context=77))
        assert harness.read == 6
        assert len(residents._promises._promises) == 1
