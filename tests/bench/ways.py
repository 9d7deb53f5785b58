"""Ways to one engine, taken in turns, so that what else the machine does meets all of them.

Owns what is asked on each way and what is kept of it. Only figures of the same round are
compared; how busy others kept the machine is kept beside each.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.bench.client import Burst

WORDS: Final = "the harbour at dawn, the boats, the gulls and what the old fisherman said that day"
OURSELVES: Final = psutil.Process()
# Neither model knows more marks that end an answer: with these barred it runs to its limit.
END_MARKS: Final = ("<|im_end|>", "<|endoftext|>")


@dataclass(slots=True)
class Way:
    """One of the ways to the engine, and what came of it. `cpu_s` is of the processes on it, each with its
    children, and at last of this one: the bare engine, or the client."""

    name: str
    burst: Callable[[Sequence[bytes]], Burst]
    processes: tuple[psutil.Process, ...]
    bursts: list[Burst] = field(default_factory=list)
    cpu_s: list[tuple[float, ...]] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def go(self, bodies: Sequence[bytes]) -> None:
        """One more burst, kept with the processor time that it took, and that others took meanwhile."""
        before, host = self._cpu(), _host_cpu()
        done = self.burst(bodies)
        after, host = self._cpu(), _host_cpu() - host
        spent = [b - a for a, b in zip(before, after, strict=True)]
        self.bursts.append(done)
        self.cpu_s.append(tuple(spent))
        self.others.append(max(0.0, host - sum(spent)) / done.wall_s)

    def ms_a_token(self) -> list[float]:
        """For each process on the way."""
        tokens = sum(burst.tokens for burst in self.bursts)
        return [1000 * sum(spent) / tokens for spent in zip(*self.cpu_s, strict=True)]

    def _cpu(self) -> list[float]:
        families = [(each, *each.children(recursive=True)) for each in self.processes]
        return [sum(map(_spent, family)) for family in (*families, (OURSELVES,))]


@dataclass(slots=True)
class Prompts:
    """Requests whose prompts no engine has seen: what is cached is not computed. `tokenise` is the
    model's; `barred` are the marks that its answers do without."""

    model: str
    tokenise: Callable[[str], Sequence[int]]
    barred: tuple[str, ...] = END_MARKS
    made: int = 0

    def few(self, streams: int, max_tokens: int, words: str = WORDS) -> list[bytes]:
        """Short ones, and answers of exactly so many tokens."""
        self.made += 1
        asked = [f"{self.made}.{number} Tell of {words}" for number in range(streams)]
        return [self._body(text, max_tokens) for text in asked]

    def long(self, streams: int, tokens: int) -> list[bytes]:
        """About so many tokens each, alike in nothing, and one word for an answer."""
        self.made += 1
        return [self._body(self._babble(number, tokens), 1) for number in range(streams)]

    def _babble(self, number: int, tokens: int) -> str:
        chance = random.Random(self.made * 1000 + number)
        letters = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz   ", k=tokens))
        used = len(self.tokenise(letters))
        return f"{self.made}.{number} {(letters * 3)[: tokens * tokens // used]}"

    def _body(self, text: str, max_tokens: int) -> bytes:
        barred = [self.tokenise(mark)[0] for mark in self.barred]
        wanted: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if barred:
            wanted["logit_bias"] = {str(token): -100 for token in barred}
        return json.dumps(wanted).encode()


def in_turns(ways: Sequence[Way], rounds: int, bodies: Callable[[], Sequence[bytes]]) -> None:
    """Every way once a round, in an order that is reversed with every round."""
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            way.go(bodies())


def ratios(bare: Way, other: Way, speed: Callable[[Burst], float] = lambda burst: burst.speed) -> list[float]:
    """Round by round."""
    pairs = zip(bare.bursts, other.bursts, strict=True)
    return [speed(there) / speed(here) for here, there in pairs]


def heads(*cells: str) -> None:
    """Print the head of a table."""
    print(row(*cells), "|" + "---|" * len(cells), sep="\n")


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _host_cpu() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system
