"""How much of the bare engine's speed is left in a neuron, by where the model lives in it.

    python -m tests.bench.hosts [--rounds 7] [--model FILE.gguf]

Like prompts go to llama.cpp itself, to a neuron that has the model in its own process, and to
one that has it in a child process, in turns. Reading and writing are timed apart, from the first byte
sent to the last stream's end: prompts are long, alike in nothing, and answered with one token; or they
are some twenty tokens, and the answers long. Told are medians over the rounds, of ratios within a
round, and their spread. Not part of the test suite: it takes minutes.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Final

import cortex
from cortex.demo import GGUF as DEMO
from cortex.harness.llamacpp.loading import default_threads
from tests.bench import client
from tests.bench.bare import Bare
from tests.bench.client import Burst
from tests.bench.models import BENCH, ensure
from tests.bench.processes import Neuron, Setting, neuron
from tests.bench.ways import Prompts, Way, heads, in_turns, ratios, row

HOSTS: Final = ("thread", "process")
STREAMS: Final = (1, 2, 4, 8)
CONTEXT: Final = 1024
NEWEST: Final = 0.9  # of what is sent is read; less, and prompts are cached


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens: of a long prompt, and of the answer to a short one."""

    prompt: int
    answer: int


SMALL: Final = Sizes(prompt=800, answer=400)  # all the same some tens of milliseconds


@dataclass(slots=True)
class Bench:
    """One model: bare, and in each host."""

    model: str
    bare: Bare
    neurons: Mapping[str, Neuron]
    sizes: Sizes
    prompts: Prompts

    def warm_up(self) -> None:
        """The model is everywhere, and all its memory was touched once."""
        for way in self._ways():
            way.go(self.prompts.long(max(STREAMS), self.sizes.prompt))

    def prefill(self, streams: int, rounds: int) -> str:
        """A row of its table."""
        ways = self._ways()
        in_turns(ways, rounds, lambda: self.prompts.long(streams, self.sizes.prompt))
        least = NEWEST * self.sizes.prompt
        for way in ways:
            assert all(each.read > least for burst in way.bursts for each in burst.streams), way
        return self._row(streams, ways, lambda burst: burst.prefill_speed)

    def decode(self, streams: int, rounds: int) -> str:
        """A row of its table."""
        ways = self._ways()
        in_turns(ways, rounds, lambda: self.prompts.few(streams, self.sizes.answer, "tea"))
        for way in ways:
            assert all(each.tokens == self.sizes.answer for burst in way.bursts for each in burst.streams), (
                way
            )
        return self._row(streams, ways, lambda burst: burst.speed)

    def _row(self, streams: int, ways: Sequence[Way], speed: Callable[[Burst], float]) -> str:
        bare, *hosts = ways
        rated = [ratios(bare, host, speed) for host in hosts]
        return row(
            self.model,
            streams,
            *(f"{median(map(speed, way.bursts)):.1f}" for way in ways),
            *(f"**{median(each):.3f}** [{min(each):.2f} to {max(each):.2f}]" for each in rated),
            f"{median(share for way in ways for share in way.others):.2f}",
        )

    def _ways(self) -> list[Way]:
        """Fresh ones."""
        return [Way("bare", self.bare.burst, ()), *(_way(name, each) for name, each in self.neurons.items())]


def _way(name: str, through: Neuron) -> Way:
    return Way(name, lambda bodies: client.burst(through.at, bodies), (through.process,))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=BENCH, help="a GGUF file, besides the demo model")
    parser.add_argument("--kind", nargs="*", choices=("prefill", "decode"), default=["prefill", "decode"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the model's long prompts")
    parser.add_argument("--answer", type=int, default=48, help="tokens of the model's answers")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of each engine")
    said = parser.parse_args(arguments)
    path = said.model.resolve()
    ensure(path)
    sizes = {DEMO: SMALL, path: Sizes(said.prompt, said.answer)}
    tables: dict[str, list[str]] = {kind: [] for kind in said.kind}
    with ExitStack() as stack:
        files = {file.stem: file for file in sizes}
        neurons = {host: stack.enter_context(_neuron(host, files, said.threads)) for host in HOSTS}
        for file, each in sizes.items():
            bare = Bare(file, CONTEXT, max(STREAMS), said.threads)
            stack.callback(bare.close)
            bench = Bench(file.stem, bare, neurons, each, Prompts(file.stem, bare.listener.tokenise))
            bench.warm_up()
            rows = {"prefill": bench.prefill, "decode": bench.decode}
            for streams in STREAMS:
                for kind, table in tables.items():
                    table.append(rows[kind](streams, said.rounds))
    report(tables, said)


def report(tables: Mapping[str, Sequence[str]], said: argparse.Namespace) -> None:
    print(
        f"{time.strftime('%Y-%m-%d')}: cortex {cortex.__version__}, Python {platform.python_version()}, "
        f"xllamacpp {metadata.version('xllamacpp')}; {os.cpu_count()} cores, engines with {said.threads} "
        f"thread(s), {said.rounds} rounds. Speeds in tokens/s; medians [smallest to largest round].\n"
        "Others: cores that the rest of the machine used."
    )
    for name, lines in tables.items():
        print()
        heads(name, "streams", "bare", *HOSTS, *(f"{host}/bare" for host in HOSTS), "others")
        print(*lines, sep="\n")


@contextmanager
def _neuron(host: str, files: Mapping[str, Path], threads: int) -> Iterator[Neuron]:
    setting = Setting(files, CONTEXT, max(STREAMS), threads, host)
    with tempfile.TemporaryDirectory() as folder, neuron(Path(folder), setting) as running:
        yield running


if __name__ == "__main__":
    main()
