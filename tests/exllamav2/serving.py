"""A neuron whose one CUDA device computes on the CPU, with the bundled model's safetensors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cortex import demo
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import Devices, NeuronConfig
from cortex.neuron.devices import find, watch
from tests.exllamav2.emulation import emulated_runtime
from tests.fake_nvml import Card, FakeNvml
from tests.roles import Running, demo_neuron


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, **more: Any) -> AsyncIterator[Running]:
    """`more` is said of the model, which has the bundled one's id."""
    from cortex.harness.exllamav2 import ExLlamaV2Harness

    monkeypatch.setattr(watch, "find", lambda env: find(env, FakeNvml([Card("GPU-1")])))
    spec = ModelSpec(
        demo.MODEL_ID, source=f"path:{demo.HF}", harness="exllamav2", context=demo.CONTEXT, slots=4
    )
    spec = replace(spec, **more)
    config = NeuronConfig(devices=Devices(use=("cuda:0",)), model_roots=(demo.HF,))
    harnesses = {"exllamav2": ExLlamaV2Harness(runtime=emulated_runtime())}
    async with demo_neuron(config, Catalogue({spec.id: spec}), harnesses) as role:
        yield role
