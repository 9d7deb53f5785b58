"""Every field of a request has the effect on exllamav2 that it has on llama.cpp: the same tests
against a neuron whose CUDA device computes on the CPU."""

from collections.abc import AsyncIterator

import pytest
import trio

from tests.exllamav2.emulation import opt_in
from tests.exllamav2.serving import serving
from tests.neuron.test_fields import *  # noqa: F403
from tests.roles import Running

opt_in()


@pytest.fixture
async def demo(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    with trio.fail_after(120):
        async with serving(monkeypatch) as role:
            yield role
