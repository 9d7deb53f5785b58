"""What one render may still spend, and what things cost.

The budget grows with the dialogue. A unit is a step of a loop or a character. Work is paid
for before it is done, and in steps: what is weighed may share parts, and be endless as text.
"""

from collections.abc import Collection, Iterator, Mapping, Set, Sized
from dataclasses import dataclass
from typing import Final

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

# An honest render costs about ten units for each character of the dialogue, and a
# hostile one spends the floor in a few seconds.
_FLOOR: Final = 2_000_000
_PER_UNIT: Final = 64
LONGEST_BITS: Final = 1024


@dataclass(slots=True)
class Budget:
    """What one render may still spend; a unit is a step or a character."""

    left: int

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise SecurityError("it does far more work than its messages can need")

    def weigh(self, value: object) -> None:
        """Pay for `value` as text, however often parts of it are shared."""
        for units in weights(value):
            self.spend(units)

    def match(self, left: object, right: object) -> None:
        """Pay for holding one against the other: as far as the smaller of them reaches."""
        if isinstance(left, str) and isinstance(right, str):  # nearly all are
            self.spend(min(len(left), len(right)) + 1)
            return
        for one, other in zip(weights(left), weights(right), strict=False):
            self.spend(2 * min(one, other))

    def seek(self, item: object, items: object) -> None:
        """Pay for looking for `item` among `items`."""
        if isinstance(items, str | Mapping | Set):
            self.spend(1 + (len(items) if isinstance(items, str) else 0))
            self.match(item, item)
        elif isinstance(items, Collection) and isinstance(item, str):
            most = len(item) + 1
            self.spend(sum(min(most, len(each) + 1) if isinstance(each, str) else 1 for each in items))
        elif isinstance(items, Collection):
            for each in items:
                self.match(item, each)

    @classmethod
    def for_facts(cls, facts: Mapping[str, object]) -> "Budget":
        """What any honest render of `facts` gets along with."""
        return cls(_FLOOR + _PER_UNIT * sum(weights(facts)))


def price(budget: Budget, name: str, value: object, args: tuple[object, ...]) -> None:
    """Pay for a text operation: what goes in, and what its arguments multiply."""
    budget.weigh((value, args))
    texts = [arg for arg in args if isinstance(arg, str)]
    numbers = [arg for arg in args if isinstance(arg, int)]
    if name == "format":
        if any(char.isdigit() or char == "*" for char in str(value)):
            raise SecurityError("it formats to a width")
        # One argument may be named many times.
        budget.spend(str(value).count("%") * sum(weights(args)))
    elif name == "replace" and len(texts) > 1:
        budget.spend(str(value).count(texts[0]) * len(texts[1]))
    elif name == "join":  # the glue is the argument of the filter, the owner of the method
        budget.spend(size_of(value) * max(map(size_of, args), default=0))
    elif name == "indent":
        budget.spend((str(value).count("\n") + 1) * (sum(map(len, texts)) + sum(numbers)))
    elif name == "tojson":
        marks = sum(
            len(mark) for arg in args if isinstance(arg, tuple) for mark in arg if isinstance(mark, str)
        )
        budget.spend((max(numbers, default=0) + marks) * sum(depths(value)))


def weights(value: object) -> Iterator[int]:
    """The units of `value` as text: a shared part counts wherever it is."""
    stack = [value]
    while stack:
        item = stack.pop()
        yield len(item) + 1 if isinstance(item, str) else 1
        if isinstance(item, Namespace):
            raise SecurityError("it makes text of a namespace")
        if isinstance(item, Mapping):
            stack += item.values()
        if isinstance(item, Collection) and not isinstance(item, str):
            stack += item


def depths(value: object) -> Iterator[int]:
    """How deep each part of `value` lies: what it is indented by."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        yield depth
        if isinstance(item, Mapping):
            item = list(item.values())
        if isinstance(item, Collection) and not isinstance(item, str):
            stack += [(part, depth + 1) for part in item]


def size_of(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 0


def product(left: object, right: object) -> int:
    """What `left * right` costs: of numbers little, as they are not very long."""
    if isinstance(left, int) and isinstance(right, int):
        return 1
    times = max((side for side in (left, right) if isinstance(side, int)), default=0)
    return max(times, 0) * max(size_of(left), size_of(right))
