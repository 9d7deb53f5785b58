"""What the simulation is fed with: a fleet of unlike neurons, models of all sizes, and a day's requests.

Made from a seed, and the same for every way of scheduling. Who asks are twelve keys with habits:
people who chat, agents that work through a task, batches, and one that wants more than its share.
"""

import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tests.fake_fleet import GIB, Make

# Devices, their disk and their memory, in bytes and bytes a second.
MAKES: Final = {
    "a": Make((12 * GIB,), 0.5e9, 360e9),
    "b": Make((24 * GIB,), 1.5e9, 900e9),
    "c": Make((32 * GIB,), 2.5e9, 1700e9),
    "d": Make((24 * GIB, 24 * GIB), 3.0e9, 900e9),
}
EACH, MODELS = 10, 60
SMALLEST, LARGEST = 2.0, 40.0
# A sequence reads all weights once a token, and gets so much of the device's bandwidth for it.
OF_BANDWIDTH: Final = 0.6
FASTEST_TOKENS_S, PREFILL_BYTES_S = 120.0, 25e12


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    bytes: int

    def seconds(self, make: Make, prompt: int, completion: int) -> float:
        """How long a request of so many tokens sits at it there."""
        tokens_s = min(FASTEST_TOKENS_S, OF_BANDWIDTH * make.device_bps / self.bytes)
        prefill_s = prompt * self.bytes / PREFILL_BYTES_S * (900e9 / make.device_bps)
        return prefill_s + completion / tokens_s


@dataclass(frozen=True, slots=True)
class Habit:
    """A key. `part` of all requests are its, in sittings of about `sitting` requests to one model,
    which come `pause_s` apart. `share` is what it is entitled to."""

    key: str
    share: float
    part: float
    sitting: int
    pause_s: float
    prompt: int
    completion: int


HABITS: Final = (
    *(Habit(f"chat-{number}", 1.0, 0.05, 6, 25.0, 800, 160) for number in range(1, 6)),
    *(Habit(f"agent-{number}", 2.0, 0.07, 40, 4.0, 6000, 90) for number in range(1, 4)),
    *(Habit(f"batch-{number}", 1.0, 0.08, 40, 1.2, 500, 60) for number in range(1, 3)),
    Habit("team", 4.0, 0.10, 15, 8.0, 1500, 140),
    Habit("greedy", 1.0, 0.28, 80, 0.8, 700, 90),
)


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    key: str
    share: float
    model: str
    sitting: str
    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Trace:
    neurons: dict[str, Make]
    models: dict[str, Model]
    requests: list[Request]


def make(seed: int, count: int, hours: float, zipf: float = 1.0) -> Trace:
    """`count` requests over so many hours; the n-th model is asked for as often as n to the -`zipf`."""
    dice = random.Random(seed)
    makes = [letter for letter in MAKES for _ in range(EACH)]
    dice.shuffle(makes)
    neurons = {f"n{number:02}{letter}": MAKES[letter] for number, letter in enumerate(makes)}
    sizes = [SMALLEST + (LARGEST - SMALLEST) * number / (MODELS - 1) for number in range(MODELS)]
    dice.shuffle(sizes)
    models = [Model(f"m{rank:02}", int(size * GIB)) for rank, size in enumerate(sizes)]
    weights = list(accumulate((rank + 1) ** -zipf for rank in range(MODELS)))
    requests = []
    for habit in HABITS:
        requests += _requests(habit, round(count * habit.part), hours * 3600.0, (models, weights), dice)
    requests.sort(key=lambda request: request.at)
    return Trace(neurons, {model.name: model for model in models}, requests[:count])


def _requests(
    habit: Habit, count: int, seconds: float, mix: tuple[list[Model], list[float]], dice: random.Random
) -> list[Request]:
    made: list[Request] = []
    models, weights = mix
    while len(made) < count:
        model = models[bisect(weights, dice.random() * weights[-1])]
        at, sitting = dice.random() * seconds, f"{habit.key}/{len(made)}"
        for _ in range(min(count - len(made), 1 + int(dice.expovariate(1 / habit.sitting)))):
            tokens = (1 + int(dice.expovariate(1 / mean)) for mean in (habit.prompt, habit.completion))
            made.append(Request(at, habit.key, habit.share, model.name, sitting, *tokens))
            at += dice.expovariate(1 / habit.pause_s)
    return made
