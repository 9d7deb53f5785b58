"""A role as `python -m cortex` runs it, whose CUDA device is made up and computes on the CPU.

    python -m tests.gpu.rehearsed neuron --config FILE

For rehearsals of benches: what they measure then says nothing, and shows that they run.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.exllamav2.place import harness
from tests.fake_nvml import Card, FakeNvml


def main() -> None:
    from cortex.cli import main as cortex
    from cortex.neuron import service
    from cortex.neuron.devices import find, watch

    def looked(env: Mapping[str, str]) -> Any:
        return find(env, FakeNvml([Card("GPU-1")]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "find", looked)
        patch.setattr(service, "usual", lambda cards: {"exllamav2": harness()})
        cortex()


if __name__ == "__main__":
    main()
