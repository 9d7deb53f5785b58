"""How much of the bare engine's speed is left behind a gateway and a neuron.

    python -m tests.bench.throughput [--rounds 15] [--model FILE.gguf]

Like prompts go to llama.cpp itself, to a neuron, and to a gateway in front of that neuron,
in turns, so that what else the machine does meets all three; only ratios within a round
mean anything. Told are medians over all rounds, their spread, and the median over those
rounds that had the machine nearly to themselves. Not part of the test suite: it takes minutes.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from tests.bench.models import BENCH, ensure
from tests.bench.processes import Roles, Setting, roles
from tests.bench.ways import Prompts, Way, heads, in_turns, ratios, row

STREAMS: Final = (1, 8)
CONTEXT: Final = 1024
DEMO_TOKENS: Final = 400  # a stream of the demo model lasts a tenth of a second all the same
QUIET_CORES: Final = 0.2
SINGLE_FACTOR: Final = 3  # bursts of one stream are short, and a short burst is easily disturbed
TTFT_ROUNDS: Final = 40
IDLE_S: Final = 0.05  # longer than a delayed acknowledgement


@dataclass(slots=True)
class Bench:
    """One model, reached in three ways."""

    model: str
    bare: Bare
    at: Roles
    max_tokens: int
    prompts: Prompts

    def ways(self) -> list[Way]:
        """Fresh ones, in the order in which tokens would pass."""
        neuron, gateway = self.at.neuron_at, self.at.gateway_at
        return [
            Way("bare", self.bare.burst, ()),
            Way("neuron", lambda bodies: client.burst(neuron, bodies), (self.at.neuron,)),
            Way("through", lambda bodies: client.burst(gateway, bodies), (self.at.neuron, self.at.gateway)),
        ]

    def speed(self, streams: int, rounds: int) -> str:
        """A row of the table of speeds."""
        ways = self.ways()
        in_turns(ways, rounds, lambda: self.prompts.few(streams, self.max_tokens))
        wanted = streams * self.max_tokens
        for way in ways:
            short = [burst.tokens for burst in way.bursts if burst.tokens != wanted]
            assert not short, f"{self.model}, {way.name}: {short} tokens instead of {wanted}"
        bare, neuron, through = ways
        rated = ratios(bare, through)
        busy = [max(pair) for pair in zip(bare.others, through.others, strict=True)]
        quiet = [ratio for ratio, cores in zip(rated, busy, strict=True) if cores <= QUIET_CORES]
        return row(
            self.model,
            streams,
            *(f"{median(burst.speed for burst in way.bursts):.1f}" for way in ways),
            f"{median(ratios(bare, neuron)):.3f}",
            f"**{median(rated):.3f}**",
            f"{min(rated):.2f} to {max(rated):.2f}",
            f"{median(quiet):.3f} ({len(quiet)} of {rounds})" if quiet else "none",
            " / ".join(f"{cost:.2f}" for cost in (*bare.ms_a_token(), *through.ms_a_token())),
            f"{median(share for way in ways for share in way.others):.2f}",
        )

    def first(self, pause_s: float) -> str:
        """A row of the table of first words: one short request at a time."""
        ways = self.ways()

        def one() -> Sequence[bytes]:
            time.sleep(pause_s)
            return self.prompts.few(1, 2, "tea")

        in_turns(ways, TTFT_ROUNDS, one)
        took = [[burst.first_s[0] * 1000 for burst in way.bursts] for way in ways]
        added = sorted(there - here for here, there in zip(took[0], took[2], strict=True))
        return row(
            self.model,
            *(f"{median(each):.1f}" for each in took),
            f"**{median(added):.1f}**",
            f"{added[-len(added) // 10]:.1f}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
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
    said = parser.parse_args(arguments)
    path = said.model.resolve()
    ensure(path)
    models = {path.stem: path, DEMO.stem: DEMO}
    setting = Setting(models, CONTEXT, max(STREAMS), said.threads)
    with tempfile.TemporaryDirectory() as folder, roles(Path(folder), setting) as at:
        empty = _mib(at.neuron)
        benches = []
        for (name, path), tokens in zip(models.items(), (said.tokens, DEMO_TOKENS), strict=True):
            bare = Bare(path, CONTEXT, max(STREAMS), said.threads)
            benches.append(Bench(name, bare, at, tokens, Prompts(name, bare.listener.tokenise)))
        for bench in benches:
            for way in bench.ways():
                way.go(bench.prompts.few(max(STREAMS), 8))  # loads, and touches all memory once
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
    heads(
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
    heads("first word, ms", "bare", "neuron", "through", "added", "added, 9 of 10 below")
    for bench in benches:
        print(bench.first(IDLE_S), flush=True)


def _mib(process: psutil.Process) -> int:
    """With the processes of its models."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) // 2**20


if __name__ == "__main__":
    main()
