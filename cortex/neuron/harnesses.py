"""The kinds of engines that a neuron has by itself, and whether each can run on this host.

Nothing is loaded for the answer, and no library of CUDA's is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cortex.config.upstream import UpstreamConfig
from cortex.harness.base import Harness
from cortex.harness.exllamav2 import ExLlamaV2Harness, extension
from cortex.harness.exllamav2.probe import Cards
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.upstream import UpstreamHarness
from cortex.neuron.cards import cards_of
from cortex.neuron.devices import Driver


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What there is to say of one engine. `code`, `why_not` and `remedy` are None where it can run;
    `extension` is the folder of the part that was compiled for it, where it has one."""

    name: str
    available: bool
    version: str | None = None
    code: str | None = None
    why_not: str | None = None
    remedy: str | None = None
    extension: str | None = None
    archs: str | None = None


def usual(cards: Callable[[], Cards]) -> dict[str, Harness]:
    """The harnesses that every neuron has, by name."""
    kinds: tuple[Harness, ...] = (ExLlamaV2Harness(cards), LlamaCppHarness())
    return {each.name: each for each in kinds}


def survey(driver: Driver) -> list[Surveyed]:
    """Every engine there is, on a host with this driver. Blocks: an answer may import a library."""
    cards = cards_of(driver)
    kinds: dict[str, Harness] = usual(lambda: cards)
    kinds["upstream"] = UpstreamHarness(UpstreamConfig())
    return [_surveyed(each, cards) for each in kinds.values()]


def version_of(harness: Harness) -> str | None:
    """No part of the seam: an engine without weights has none."""
    told: str | None = getattr(harness, "version", None)
    return told


def _surveyed(harness: Harness, cards: Cards) -> Surveyed:
    why = harness.unavailable()
    here = extension.choose(cards.capabilities) if harness.name == "exllamav2" else None
    return Surveyed(
        name=harness.name,
        available=why is None,
        version=version_of(harness),
        code=None if why is None else why.code,
        why_not=None if why is None else why.what,
        remedy=why.remedy or None if why is not None else None,
        extension=None if here is None else str(here.folder),
        archs=None if here is None else here.archs,
    )
