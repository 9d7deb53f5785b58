"""What clients get of the bundled model's safetensors is what they get of its GGUF: the same tests
against a neuron whose CUDA device computes on the CPU."""

from collections.abc import AsyncIterator

import pytest
import trio

from tests.exllamav2.emulation import opt_in
from tests.exllamav2.serving import serving
from tests.neuron.test_demo_answers import *  # noqa: F403
from tests.roles import Running

opt_in()


@pytest.fixture
async def demo(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    with trio.fail_after(120):
        async with serving(monkeypatch) as role:
            yield role
