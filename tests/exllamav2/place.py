"""Where the exllamav2 harness runs in tests: on a card, else emulated on the CPU where that is opted for.

Asking costs no import of torch, so that a suite without either is collected and skipped, with the
reason. CORTEX_TEST_REHEARSAL=1 has what is meant for a card run on the emulation, to see that it runs.
"""

import functools
import os
from typing import TYPE_CHECKING

from cortex.harness.base import Apart
from tests.exllamav2 import emulation

if TYPE_CHECKING:
    from cortex.harness.exllamav2.loading import ExLlamaV2Harness

REHEARSAL = "CORTEX_TEST_REHEARSAL"


@functools.cache
def no_card() -> str | None:
    """Why nothing can run on a card of this host."""
    from cortex.harness.exllamav2.loading import ExLlamaV2Harness
    from cortex.neuron.cards import cards_of
    from cortex.neuron.devices import find

    cards = cards_of(find(dict(os.environ)))
    return ExLlamaV2Harness(lambda: cards).unavailable()


def rehearsing() -> bool:
    return os.environ.get(REHEARSAL) == "1"


def on_card() -> bool:
    return not rehearsing() and no_card() is None


def needs_card() -> str | None:
    """Why what is meant for a card is skipped."""
    if rehearsing():
        return emulation.why_not()
    reason = no_card()
    return None if reason is None else f"needs a CUDA device: {reason}"


def why_not() -> str | None:
    """Why the harness can run neither way."""
    if on_card() or (reason := emulation.why_not()) is None:
        return None
    return f"no CUDA device ({no_card()}), and no emulation ({reason})"


def harness() -> "ExLlamaV2Harness":
    """The one for this place; emulated children are emulated, too."""
    from cortex.harness.exllamav2.loading import ExLlamaV2Harness

    if on_card():
        return ExLlamaV2Harness()
    made = ExLlamaV2Harness(runtime=emulation.emulated_runtime())
    made.apart = Apart("tests.exllamav2.place:in_child")
    return made


def in_child() -> "ExLlamaV2Harness":
    """The emulated one of a process that loads one model."""
    from cortex.harness.exllamav2.loading import ExLlamaV2Harness

    return ExLlamaV2Harness(runtime=emulation.emulated_runtime(), alone=True)
