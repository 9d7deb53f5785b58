"""Pages of metrics, added up: lines of Prometheus' text format in, lines out.

Counters and histograms are sums. What becomes of a gauge is its owner's to say: the number of those who
wait is a sum, too, and that a neuron reports is not. What a worker counted that is gone goes on to count,
`kept` of its last page; its gauges go with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Rule: TypeAlias = Callable[[float, float], float]
Gauges: TypeAlias = Callable[[str], Rule]

_GAUGES: Final = ("gauge", "untyped", "unknown", "info")


def _sum(one: float, other: float) -> float:
    return one + other


@dataclass(slots=True)
class _Family:
    kind: str = "untyped"
    head: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)


def added(pages: Iterable[bytes], gauges: Gauges) -> bytes:
    """One page that says what all of them do. `gauges` has the rule for a gauge, by its name."""
    families: dict[str, _Family] = {}
    for page in pages:
        for name, family in _families(page).items():
            whole = families.setdefault(name, _Family(family.kind, family.head))
            _add(whole.values, family.values, gauges(name) if family.kind in _GAUGES else _sum)
    return _rendered(families.values())


def kept(pages: Iterable[bytes]) -> bytes:
    """What goes on to count of workers that are gone."""
    families: dict[str, _Family] = {}
    for page in pages:
        for name, family in _families(page).items():
            if family.kind not in _GAUGES:
                whole = families.setdefault(name, _Family(family.kind, family.head))
                _add(whole.values, family.values, _sum)
    return _rendered(families.values())


def without(page: bytes, gone: Callable[[str], bool]) -> bytes:
    """`page` without the samples of which `gone` says so; it gets each with its labels."""
    families = _families(page)
    for family in families.values():
        family.values = {sample: value for sample, value in family.values.items() if not gone(sample)}
    return _rendered(families.values())


def _add(whole: dict[str, float], more: Mapping[str, float], rule: Rule) -> None:
    for sample, value in more.items():
        whole[sample] = rule(whole[sample], value) if sample in whole else value


def _families(page: bytes) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    family = _Family()
    for line in page.decode().split("\n"):
        if line.startswith("# "):
            _, word, name, rest = (*line.split(" ", 3), "")[:4]
            family = families.setdefault(name, _Family())
            family.head.append(line)
            if word == "TYPE":
                family.kind = rest
        elif line:
            # A label may hold blanks; what is behind the last one is the value.
            sample, _, value = line.rpartition(" ")
            family.values[sample] = float(value)
    return families


def _rendered(families: Iterable[_Family]) -> bytes:
    return "".join(line + "\n" for family in families for line in _lines(family)).encode()


def _lines(family: _Family) -> Iterator[str]:
    yield from family.head
    for sample, value in family.values.items():
        yield f"{sample} {_number(value)}"


def _number(value: float) -> str:
    if value != value:  # noqa: PLR0124 - the only number that is none
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
