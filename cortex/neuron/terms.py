"""By which rules this neuron evicts: neuron.toml's word, else a gateway's, else the usual.

The neuron's own settings bind. Where its file says nothing, the settings that a gateway sent
along with its last order to load stand in: an operator then writes them once, in cortex.toml.
"""

import msgspec

from cortex.config.gateway import ColdLoad, Eviction
from cortex.config.neuron import NeuronEviction
from cortex.evictor import Rules
from cortex.wire.keeping import EvictionTerms


class Terms:
    """`said` is the file's; what is None there was not said."""

    def __init__(self, said: NeuronEviction) -> None:
        self._said = said
        usual, waits = Eviction(), ColdLoad()
        self._heard = EvictionTerms(
            strategy=usual.strategy,
            min_residency_s=waits.min_residency_s,
            max_overtake_s=waits.max_overtake_s,
            defrag_after_cycles=usual.defrag_after_cycles,
        )

    @property
    def rules(self) -> Rules:
        """Whom to send away, and how old one must be."""
        said, heard = self._said, self._heard
        age_s = heard.min_residency_s if said.min_residency_s is None else said.min_residency_s
        return Rules(said.strategy or heard.strategy or Eviction().strategy, age_s or 0.0)

    @property
    def max_overtake_s(self) -> float:
        """How long models that are here may serve ahead of one who waits for a load, whichever gateway
        sent him. No word of neuron.toml."""
        return self._heard.max_overtake_s or 0.0

    @property
    def defrag_after_cycles(self) -> int:
        """After how many loads and unloads a device is emptied; 0 for never."""
        said = self._said.defrag_after_cycles
        return (self._heard.defrag_after_cycles or 0) if said is None else said

    def hear(self, sent: EvictionTerms) -> bool:
        """Take what a gateway sent along; whether that changes anything."""
        before = self._all
        known = {name: getattr(sent, name) for name in sent.__struct_fields__}
        told = {name: value for name, value in known.items() if value is not None}
        self._heard = msgspec.structs.replace(self._heard, **told)
        return before != self._all

    @property
    def _all(self) -> tuple[Rules, float, int]:
        return self.rules, self.max_overtake_s, self.defrag_after_cycles
