"""How much of the bare engine's speed is left behind a gateway and a neuron.

    python -m tests.bench.throughput [--rounds 15] [--model FILE.gguf]

Like prompts go to llama.cpp itself, to a neuron, and to a gateway in front of that neuron,
in turns, so that what else the machine does meets all three; only ratios within a round
mean anything. Told are medians over all rounds, their spread, and the median over those
rounds that had the machine nearly to themselves. Not part of the test suite: it takes minutes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Final

import psutil

import cortex
from cortex.demo import GGUF as DEMO
from cortex.harness.llamacpp.loading import default_threads
from tests.bench import client
from tests.bench.bare import Bare
from tests.bench.client import Burst
from tests.bench.processes import Roles, Setting, roles

BENCH: Final = Path(tempfile.gettempdir()) / "bench-model" / "cortex-bench.gguf"
STREAMS: Final = (1, 8)
CONTEXT: Final = 1024
DEMO_TOKENS: Final = 400  # a stream of the demo model lasts a tenth of a second all the same
QUIET_CORES: Final = 0.2
SINGLE_FACTOR: Final = 3  # bursts of one stream are short, and a short burst is easily disturbed
TTFT_ROUNDS: Final = 40
IDLE_S: Final = 0.05  # longer than a delayed acknowledgement
WORDS: Final = "the harbour at dawn, the boats, the gulls and what the old fisherman said that day"
OURSELVES: Final = psutil.Process()
# Neither model knows more marks that end an answer: with these barred it runs to its limit.
END_MARKS: Final = ("<|im_end|>", "<|endoftext|>")


@dataclass(slots=True)
class Way:
    """One of the ways to the engine, and what came of it. `cpu_s` is of the processes on it, and
    at last of this one: the bare engine, or the client."""

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

    def _cpu(self) -> list[float]:
        times = (process.cpu_times() for process in (*self.processes, OURSELVES))
        return [time.user + time.system for time in times]


@dataclass(slots=True)
class Bench:
    """One model, reached in three ways."""

    model: str
    bare: Bare
    at: Roles
    max_tokens: int
    bursts: int = 0

    def ways(self) -> list[Way]:
        """Fresh ones, in the order in which tokens would pass."""
        neuron, gateway = self.at.neuron_at, self.at.gateway_at
        return [
            Way("bare", self.bare.burst, ()),
            Way("neuron", lambda bodies: client.burst(neuron, bodies), (self.at.neuron,)),
            Way("through", lambda bodies: client.burst(gateway, bodies), (self.at.neuron, self.at.gateway)),
        ]

    def bodies(self, streams: int, max_tokens: int, words: str = WORDS) -> list[bytes]:
        """Requests whose prompts no engine has seen: what is cached is not computed."""
        self.bursts += 1
        barred = [self.bare.listener.tokenise(mark)[0] for mark in END_MARKS]
        return [
            json.dumps(
                {
                    "model": self.model,
                    "messages": [{"role": "user", "content": f"{self.bursts}.{number} Tell of {words}"}],
                    "max_tokens": max_tokens,
                    "temperature": 0,
                    "logit_bias": {str(token): -100 for token in barred},
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
            ).encode()
            for number in range(streams)
        ]

    def speed(self, streams: int, rounds: int) -> str:
        """A row of the table of speeds."""
        ways = self.ways()
        for number in range(rounds):
            for way in ways if number % 2 else reversed(ways):
                way.go(self.bodies(streams, self.max_tokens))
                made, wanted = way.bursts[-1].tokens, streams * self.max_tokens
                assert made == wanted, f"{self.model}, {way.name}: {made} tokens instead of {wanted}"
        bare, neuron, through = ways
        ratios = _ratios(bare, through)
        busy = [max(pair) for pair in zip(bare.others, through.others, strict=True)]
        quiet = [ratio for ratio, cores in zip(ratios, busy, strict=True) if cores <= QUIET_CORES]
        return _row(
            self.model,
            streams,
            *(f"{median(burst.speed for burst in way.bursts):.1f}" for way in ways),
            f"{median(_ratios(bare, neuron)):.3f}",
            f"**{median(ratios):.3f}**",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{median(quiet):.3f} ({len(quiet)} of {rounds})" if quiet else "none",
            " / ".join(f"{cost:.2f}" for cost in (*_ms_a_token(bare), *_ms_a_token(through))),
            f"{median(share for way in ways for share in way.others):.2f}",
        )

    def first(self, pause_s: float) -> str:
        """A row of the table of first words: one short request at a time."""
        ways = self.ways()
        for number in range(TTFT_ROUNDS):
            for way in ways if number % 2 else reversed(ways):
                time.sleep(pause_s)
                way.go(self.bodies(1, 2, "tea"))
        took = [[burst.first_s[0] * 1000 for burst in way.bursts] for way in ways]
        added = sorted(there - here for here, there in zip(took[0], took[2], strict=True))
        return _row(
            self.model,
            *(f"{median(each):.1f}" for each in took),
            f"**{median(added):.1f}**",
            f"{added[-len(added) // 10]:.1f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens a second behind gateway and neuron, and without.")
    parser.add_argument(
        "--model",
        type=Path,
        default=BENCH,
        help=f"a GGUF file with a chat template; {BENCH} is made when missing",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=32, help="a stream of the model")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of the engine")
    said = parser.parse_args()
    path = said.model.resolve()
    if not path.exists() and path == BENCH:
        make(path)
    elif not path.exists():
        parser.error(f"{path}: there is no such file")
    models = {path.stem: path, DEMO.stem: DEMO}
    setting = Setting(models, CONTEXT, max(STREAMS), said.threads)
    with tempfile.TemporaryDirectory() as folder, roles(Path(folder), setting) as at:
        empty = _mib(at.neuron)
        benches = [
            Bench(name, Bare(path, CONTEXT, max(STREAMS), said.threads), at, tokens)
            for (name, path), tokens in zip(models.items(), (said.tokens, DEMO_TOKENS), strict=True)
        ]
        for bench in benches:
            for way in bench.ways():
                way.go(bench.bodies(max(STREAMS), 8))  # loads, and touches all memory once
        report(benches, said)
        for bench in benches:
            bench.bare.close()
        full = _mib(at.neuron)
        print(f"\nMemory, MiB: gateway {_mib(at.gateway)}; neuron {empty} empty, {full} with both models.")


def report(benches: Sequence[Bench], said: argparse.Namespace) -> None:
    """The tables, row by row as they come."""
    print(
        f"\n{time.strftime('%Y-%m-%d')}: cortex {cortex.__version__}, Python {platform.python_version()}, "
        f"xllamacpp {metadata.version('xllamacpp')}; {os.cpu_count()} cores, engine with {said.threads} "
        f"thread(s), {said.rounds} rounds ({SINGLE_FACTOR} times as many of one stream).\n"
    )
    _heads(
        "model", "streams", "bare", "neuron", "through", "neuron/bare", "through/bare",
        "spread", "quiet", "CPU", "others",
    )  # fmt: skip
    for bench in benches:
        for streams in STREAMS:
            rounds = said.rounds * (SINGLE_FACTOR if streams == 1 else 1)
            print(bench.speed(streams, rounds), flush=True)
    print(
        "\nSpeeds in tokens/s; all figures but CPU are medians. Quiet: the ratio over the rounds in which\n"
        f"others used {QUIET_CORES} cores at most. CPU: ms a token, bare engine / neuron with engine /\n"
        "gateway / client. Others: cores that the rest of the machine used.\n"
    )
    _heads("first word, ms", "bare", "neuron", "through", "added", "added, 9 of 10 below")
    for bench in benches:
        print(bench.first(IDLE_S), flush=True)


def make(path: Path) -> None:
    """The bench model is at `path`, or the way to make it is told."""
    script = Path(__file__).with_name("make_model.py")
    done = subprocess.run([sys.executable, script, path.parent], check=False)
    if done.returncode or not path.exists():
        sys.exit(
            f"{path} is missing, and cannot be made here. Make it with a Python that has the packages of "
            f"packaging/demo-model/requirements.txt (torch aside):\n  python {script} {path.parent}"
        )


def _ratios(bare: Way, other: Way) -> list[float]:
    pairs = zip(bare.bursts, other.bursts, strict=True)
    return [there.speed / here.speed for here, there in pairs]


def _ms_a_token(way: Way) -> list[float]:
    """For each process on the way."""
    tokens = sum(burst.tokens for burst in way.bursts)
    return [1000 * sum(spent) / tokens for spent in zip(*way.cpu_s, strict=True)]


def _heads(*cells: str) -> None:
    print(_row(*cells), "|" + "---|" * len(cells), sep="\n")


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _host_cpu() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def _mib(process: psutil.Process) -> int:
    return process.memory_info().rss // 2**20


if __name__ == "__main__":
    main()
