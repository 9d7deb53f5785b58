"""The engines of a neuron: which harness loads a model, and whether it can run on this host.

Asked once, at start. What a model needs that is not here is refused with the reason and the remedy
before anything of it is looked at or downloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from cortex.catalogue import ModelSpec
from cortex.errors import Unfit
from cortex.harness.base import Harness, Unavailable
from cortex.hub import Source


@dataclass(frozen=True, slots=True)
class Engines:
    """The harnesses by name; why those that cannot run here cannot, and whose version is known."""

    harnesses: Mapping[str, Harness]
    why_not: Mapping[str, Unavailable | None]
    versions: Mapping[str, str | None]

    @classmethod
    async def probed(cls, harnesses: Mapping[str, Harness]) -> "Engines":
        """Asked once, in a thread: an answer may import a hundred megabytes."""
        why_not = {name: await trio.to_thread.run_sync(each.unavailable) for name, each in harnesses.items()}
        # No part of the seam: an engine without weights has none.
        versions = {name: getattr(each, "version", None) for name, each in harnesses.items()}
        return cls(harnesses, why_not, versions)

    def name_of(self, spec: ModelSpec) -> str:
        """The harness that loads `spec`. What nothing tells of has no weights here, which llama.cpp's
        look for its file says."""
        return spec.harness_name or "llamacpp"

    def of(self, spec: ModelSpec) -> Harness:
        """The one that loads `spec`. Raises Unfit when there is none, or it cannot run here."""
        name = self.name_of(spec)
        harness = self.harnesses.get(name)
        if harness is None:
            raise Unfit(
                f"Model '{spec.id}' wants harness '{name}', and this neuron has {', '.join(self.harnesses)}"
                f"{_other_way(spec)}"
            )
        if (why := self.why_not[name]) is not None:
            raise Unfit(f"Harness '{name}' cannot run on this host ({why.code}): {why}{_other_way(spec)}")
        return harness


def _other_way(spec: ModelSpec) -> str:
    """For who meant GGUF files in a repo whose name does not say so."""
    if spec.harness is None and spec.harness_name == "exllamav2" and Source.of(spec) is not None:
        return '. If its repo holds GGUF files, set harness = "llamacpp", or quant, in its models.toml entry'
    return ""
