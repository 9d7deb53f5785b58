"""A neuron as `python -m cortex` runs it, whose engine computes nothing and takes a turn every 10 ms.

    python -m tests.bench.paced neuron --config FILE

What such a process spends is cortex's own: a turn sleeps, as if a device computed, and then every job says
one token more, without end. Turns keep to a schedule, and one that is late is not made up for.
"""

import time
from typing import Final

from cortex.harness.scripted import Script, ScriptedHarness

TURNS_S: Final = 100


class Pace:
    """Sleeps until the next turn is due."""

    def __init__(self, turns_s: float) -> None:
        self._period_s = 1 / turns_s
        self._due = 0.0

    def __call__(self, turn: int) -> None:
        now = time.monotonic()
        self._due += self._period_s
        if self._due <= now:
            self._due = now
        else:
            time.sleep(self._due - now)


def harness() -> ScriptedHarness:
    """For the neuron, and for a child of it, which asks for it by name."""
    script = Script(endless=True, on_turn=Pace(TURNS_S), trained_context=10**6)
    return ScriptedHarness(script, factory="tests.bench.paced:harness")


def main() -> None:
    import pytest

    from cortex.cli import main as cortex
    from cortex.neuron import service

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "usual", lambda cards: {"llamacpp": harness()})
        cortex()


if __name__ == "__main__":
    main()
