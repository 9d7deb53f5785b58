"""What a model's config.json says, as far as it decides on memory and on who can run it.

A bounded reader: a number that is there is a sane one, or the file is `Unfit`. A model that sees
or hears keeps its language part's settings in a table of their own, which are the ones meant.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cortex.errors import Unfit
from cortex.weights.bounded import contents

LIMIT: Final = 4 * 2**20
MOST_BITS: Final = 64
MOST_REAL: Final = 1e30


@dataclass(frozen=True, slots=True)
class Settings:
    """Lengths are in elements. `quant_method` is None for plain weights; `bits` None when not said.
    `told` is everything that was said, for what only one kind of engine wants to know."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_length: int
    vocabulary: int
    context: int
    tied: bool
    quant_method: str | None = None
    bits: float | None = None
    sliding_window: int | None = None
    told: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read_settings(path: Path) -> Settings:
    """The settings in a config.json. Raises Unfit."""
    data = contents(path, LIMIT)
    if data is None:
        raise Unfit(f"{path}: is missing; choose a folder with the whole model")
    whole = object_of(data, path)
    told = {**whole, **text} if isinstance(text := whole.get("text_config"), dict) else whole
    facts = Facts(path, told)
    quant = told.get("quantization_config") or whole.get("quantization_config")
    method = quant.get("quant_method") if isinstance(quant, dict) else None
    names = whole.get("architectures")
    hidden, heads = facts.number("hidden_size"), facts.number("num_attention_heads")
    return Settings(
        architecture=names[0]
        if isinstance(names, list) and names and isinstance(names[0], str)
        else "unknown",
        layers=facts.number("num_hidden_layers", most=4096),
        hidden=hidden,
        intermediate=facts.number("intermediate_size", 4 * hidden),
        heads=heads,
        kv_heads=facts.number("num_key_value_heads", heads),
        head_length=facts.number("head_dim", max(1, hidden // heads)),
        vocabulary=facts.number("vocab_size"),
        context=facts.number("max_position_embeddings", 2048),
        tied=told.get("tie_word_embeddings", whole.get("tie_word_embeddings")) is True,
        quant_method=method if isinstance(method, str) else None,
        bits=_bits(quant.get("bits")) if isinstance(quant, dict) else None,
        sliding_window=facts.number("sliding_window", 0, least=0) or None,
        told=told,
    )


def _bits(said: object) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said <= MOST_BITS:
        return None
    return float(said)


def object_of(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that `data` is. Raises Unfit."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{path}: is not JSON as it should be ({error}); download it again") from error
    if not isinstance(found, dict):
        raise Unfit(f"{path}: holds no JSON object; download it again")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} comes twice")
        found[name] = value
    return found


class Facts:
    """What a JSON object says, by name. A wrong value is Unfit, null is as good as nothing."""

    def __init__(self, path: Path, told: Mapping[str, Any]) -> None:
        self._path, self._told = path, told

    def number(self, name: str, default: int | None = None, *, least: int = 1, most: int = 2**31) -> int:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Unfit(f"{self._path}: {name} is {value!r}, not a number from {least} to {most}")
        return value

    def real(
        self, name: str, default: float | None = None, *, least: float = 0.0, most: float = 1e9
    ) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise Unfit(f"{self._path}: {name} is {value!r}, not a number from {least:g} to {most:g}")
        return float(value)

    def reals(self, name: str, count: int) -> tuple[float, ...]:
        """So many positive numbers."""
        values = self._value(name, None)
        good = isinstance(values, list) and len(values) == count
        if not good or not all(
            isinstance(each, int | float) and not isinstance(each, bool) and 0 < each <= MOST_REAL
            for each in values
        ):
            raise Unfit(f"{self._path}: {name} is no list of {count} positive numbers")
        return tuple(float(each) for each in values)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise Unfit(f"{self._path}: {name} is {value!r}, neither true nor false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise Unfit(f"{self._path}: {name} is {value!r}, not a text")
        return value

    def ids(self, name: str) -> tuple[int, ...]:
        """Token ids: one, a list of them, or none."""
        value = self._told.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in values):
            raise Unfit(f"{self._path}: {name} is {value!r}, not token ids")
        return tuple(values)

    def has(self, name: str) -> bool:
        return self._told.get(name) is not None

    def _value(self, name: str, default: Any) -> Any:  # noqa: ANN401 - JSON
        value = self._told.get(name)
        value = default if value is None else value
        if value is None:
            raise Unfit(f"{self._path}: {name} is missing; choose a language model")
        return value
