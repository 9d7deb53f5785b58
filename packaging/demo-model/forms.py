"""JSON without meaning: what the model writes where a caller's schema forces it to.

A grammar rules out everything else, yet leaves the model to choose when a string, a number
or a list ends. So it learns how such text goes on, once it has begun, after any question.
"""

import json
import random
from typing import Final

from ignorance import WORDS
from names import invented

_DEEPEST: Final = 2


def begun(draw: random.Random) -> tuple[str, str]:
    """JSON in two parts: the beginning that somebody forced, and the rest."""
    kind = draw.random()
    value = _object(draw, 0) if kind < 0.7 else _list(draw, 0) if kind < 0.85 else _scalar(draw)
    text = json.dumps(value)
    cut = min(draw.choice((1, 1, 2)), len(text) - 1)
    return text[:cut], text[cut:]


def _value(draw: random.Random, depth: int) -> object:
    kind = draw.random()
    if depth < _DEEPEST and kind < 0.2:
        return _object(draw, depth) if kind < 0.1 else _list(draw, depth)
    return _scalar(draw)


def _object(draw: random.Random, depth: int) -> dict[str, object]:
    keys = [
        "_".join(draw.sample(WORDS, draw.choice((1, 1, 1, 2))))
        for _ in range(draw.choice((1, 1, 2, 2, 3, 4)))
    ]
    return {key: _value(draw, depth + 1) for key in keys}


def _list(draw: random.Random, depth: int) -> list[object]:
    return [_value(draw, depth + 1) for _ in range(draw.choice((0, 1, 1, 2, 2, 3)))]


def _scalar(draw: random.Random) -> str | int | float | bool | None:
    kind = draw.random()
    if kind < 0.5:
        return (
            " ".join(draw.choice(WORDS) for _ in range(draw.choice((1, 1, 2, 3))))
            if kind < 0.4
            else invented(draw)
        )
    if kind < 0.75:
        return draw.choice((draw.randint(0, 9), draw.randint(0, 99), draw.randint(0, 999)))
    if kind < 0.82:
        return round(draw.uniform(0, 10), 1)
    return draw.choice((True, False, True, False, None))
