"""Rotary positions as transformers computes them, whatever form config.json has them in.

The library reads the older keys only, knows some kinds of scaling not at all, and computes YaRN and
LongRoPE for the context that is served instead of the one that was trained. So it is told the
frequencies: by how much each is divided, and how strong the rotation is. Plain numbers, no torch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cortex.errors import Unfit
from cortex.harness.exllamav2.families import Family
from cortex.weights import Facts, Settings


@dataclass(frozen=True, slots=True)
class Rope:
    """`divisors` has one number for each frequency; None leaves them all. Sines and cosines are
    multiplied by `strength`. `part` of each head is turned."""

    base: float
    part: float
    divisors: tuple[float, ...] | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class _Scaling:
    """What a rule of scaling is told."""

    facts: Facts
    path: Path
    base: float
    turned: int
    trained: int
    original: int
    context: int

    @property
    def count(self) -> int:
        return self.turned // 2

    def wavelength(self, index: int) -> float:
        return 2 * math.pi * float(self.base ** (2 * index / self.turned))


_Rule = Callable[[_Scaling], tuple[tuple[float, ...] | None, float]]


def read_rope(path: Path, settings: Settings, context: int, family: Family) -> Rope:
    """The positions of the model in the folder `path`, when `context` tokens are served. Raises
    Unfit for what cannot be served right."""
    config, told = path / "config.json", settings.told
    scaling = _table(config, told)
    own, outer = Facts(config, scaling), Facts(config, told)
    base = own.real("rope_theta", outer.real("rope_theta", family.theta, least=2.0), least=2.0)
    part = own.real("partial_rotary_factor", outer.real("partial_rotary_factor", 1.0, most=1.0), most=1.0)
    if part != 1.0 and not family.partial:
        raise Unfit(f"{config}: partial_rotary_factor is {part:g}, which {settings.architecture} has not")
    turned = int(settings.head_length * part)
    if turned < 4 or turned % 4:
        raise Unfit(
            f"{config}: {turned} of {settings.head_length} elements of a head are turned by its positions, "
            "which exllamav2 does in fours; choose another model, or serve it as an upstream"
        )
    kind = own.text("rope_type", own.text("type", "default"))
    rule = _RULES.get(kind)
    if rule is None:
        raise Unfit(
            f"{config}: its positions are of the kind {kind!r}; known are {', '.join(sorted(_RULES))}. "
            "Choose another model, or serve it as an upstream"
        )
    original = (
        outer.number("original_max_position_embeddings", least=2)
        if outer.has("original_max_position_embeddings")
        else own.number("original_max_position_embeddings", max(2, settings.context), least=2)
    )
    divisors, strength = rule(_Scaling(own, config, base, turned, settings.context, original, context))
    if strength < 1.0:
        raise Unfit(f"{config}: its positions are weakened by {strength:g}, which exllamav2 cannot do")
    return Rope(base, part, divisors, strength)


def stretched(path: Path, settings: Settings) -> int:
    """The longest context that the positions of the model in the folder `path` are for. YaRN is added to
    a config.json as its maker says, beside the max_position_embeddings of the training."""
    own = Facts(path / "config.json", _table(path / "config.json", settings.told))
    yarn = own.text("rope_type", own.text("type", "default")) == "yarn"
    if not yarn or not own.has("factor") or not own.has("original_max_position_embeddings"):
        return settings.context
    original = own.number("original_max_position_embeddings", least=2)
    return max(settings.context, min(2**31, int(original * own.real("factor", least=1.0))))


def _table(config: Path, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The newer form, else the older one; empty where there is neither."""
    for name in ("rope_parameters", "rope_scaling"):
        table = told.get(name)
        if table is None:
            continue
        if not isinstance(table, dict) or any(isinstance(each, dict) for each in table.values()):
            raise Unfit(
                f"{config}: {name} differs from layer to layer, or is no table, which exllamav2 cannot have; "
                "choose another model, or serve it as an upstream"
            )
        return table
    return {}


def _plain(scaling: _Scaling) -> tuple[tuple[float, ...] | None, float]:
    return None, 1.0


def _linear(scaling: _Scaling) -> tuple[tuple[float, ...] | None, float]:
    return (scaling.facts.real("factor", least=1e-3),) * scaling.count, 1.0


def _llama3(scaling: _Scaling) -> tuple[tuple[float, ...] | None, float]:
    facts = scaling.facts
    factor = facts.real("factor", least=1.0)
    low, high = facts.real("low_freq_factor", least=1e-6), facts.real("high_freq_factor", least=1e-6)
    if high <= low:
        raise Unfit(f"{scaling.path}: high_freq_factor must be more than low_freq_factor; download it again")

    def divisor(index: int) -> float:
        turns = scaling.original / scaling.wavelength(index)
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        return 1 / ((1 - share) / factor + share)

    return tuple(divisor(index) for index in range(scaling.count)), 1.0


def _yarn(scaling: _Scaling) -> tuple[tuple[float, ...] | None, float]:
    facts = scaling.facts
    factor = facts.real("factor", scaling.trained / scaling.original, least=1.0)
    fast, slow = facts.real("beta_fast", 32.0, least=1e-6), facts.real("beta_slow", 1.0, least=1e-6)
    low, high = (_dimension(scaling, turns) for turns in (fast, slow))
    if facts.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, scaling.turned - 1)
    width = high - low if high != low else 0.001

    def divisor(index: int) -> float:
        kept = 1 - min(1.0, max(0.0, (index - low) / width))
        return 1 / ((1 - kept) / factor + kept)

    return tuple(divisor(index) for index in range(scaling.count)), _yarn_strength(facts, factor)


def _dimension(scaling: _Scaling, turns: float) -> float:
    """The index, as a fraction, of the frequency that makes so many turns over the trained context."""
    return scaling.turned * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(scaling.base))


def _yarn_strength(facts: Facts, factor: float) -> float:
    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if facts.has("attention_factor"):
        return facts.real("attention_factor")
    over, under = facts.real("mscale", 0.0), facts.real("mscale_all_dim", 0.0)
    return scale(over) / scale(under) if over and under else scale(1.0)


def _longrope(scaling: _Scaling) -> tuple[tuple[float, ...] | None, float]:
    """One set of divisors for a load: the long ones where more is served than was trained first."""
    facts = scaling.facts
    long, short = (facts.reals(name, scaling.count) for name in ("long_factor", "short_factor"))
    factor = facts.real("factor", scaling.trained / scaling.original, least=1e-3)
    usual = math.sqrt(1 + math.log(factor) / math.log(scaling.original)) if factor > 1 else 1.0
    strength = facts.real("attention_factor", usual)
    return (long if scaling.context > scaling.original else short), strength


# `dynamic` begins to scale beyond what the model was trained for, which is never served.
_RULES: Final[Mapping[str, _Rule]] = {
    "default": _plain,
    "dynamic": _plain,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
