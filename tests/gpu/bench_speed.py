"""How much of bare exllamav2's speed is left behind a gateway and a neuron, on a card.

    python -m tests.gpu.bench_speed FOLDER [--shapes 0.6B 8B] [--streams 1 8 32] [--rounds 5]

Like requests go to the library itself and through a gateway and a neuron, in turns; ratios are taken
within a round, and their median is told (0.95 is wanted). Models are random, and made in FOLDER when
missing. Also told: the first word after an idle moment, and how much sooner it comes when the prompt
was read before. Ends with 1 where something is missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from cortex.harness.base import LoadOrder
from cortex.units import size
from tests.bench import client
from tests.bench.processes import Roles, Setting, roles
from tests.bench.ways import Prompts, Way, in_turns, ratios
from tests.exllamav2 import place
from tests.gpu import shapes
from tests.gpu.bare import Bare
from tests.gpu.record import record

CONTEXT: Final = 4096
WANTED: Final = 0.95
LONG: Final = 3000
IDLE_S: Final = 0.05  # longer than a delayed acknowledgement


@dataclass(slots=True)
class Bench:
    """One model, bare and behind both roles."""

    model: str
    bare: Bare
    at: Roles
    prompts: Prompts
    isolation: str

    def ways(self) -> tuple[Way, Way]:
        """Fresh ones."""
        gateway = self.at.gateway_at
        behind = (self.at.neuron, self.at.gateway)
        return (
            Way("bare", self.bare.burst, ()),
            Way("through", lambda bodies: client.burst(gateway, bodies), behind),
        )

    def speed(self, streams: int, tokens: int, rounds: int) -> float:
        """The ratio, which is recorded with its speeds and first words."""
        bare, through = ways = self.ways()
        in_turns(ways, rounds, lambda: self.prompts.few(streams, tokens))
        for way in ways:
            short = [burst.tokens for burst in way.bursts if burst.tokens != streams * tokens]
            assert not short, f"{self.model}, {way.name}: {short} tokens instead of {streams * tokens}"
        rated = ratios(bare, through)
        first = [
            1000 * median(took for burst in way.bursts for took in burst.first_s) for way in (bare, through)
        ]
        record(
            "speed", model=self.model, host=self.isolation, attention=self.bare.attention, streams=streams,
            bare=median(burst.speed for burst in bare.bursts),
            through=median(burst.speed for burst in through.bursts),
            ratio=median(rated), least=min(rated), most=max(rated), rounds=rounds,
            bare_first_ms=first[0], first_ms=first[1],
            neuron_cpu_ms=through.ms_a_token()[0], gateway_cpu_ms=through.ms_a_token()[1],
        )  # fmt: skip
        return median(rated)

    def first(self, rounds: int) -> None:
        """One short request at a time, after an idle moment."""
        bare, through = ways = self.ways()

        def one() -> Sequence[bytes]:
            time.sleep(IDLE_S)
            return self.prompts.few(1, 2, "tea")

        in_turns(ways, rounds, one)
        took = [[1000 * burst.first_s[0] for burst in way.bursts] for way in (bare, through)]
        added = [there - here for here, there in zip(*took, strict=True)]
        record("first", model=self.model, host=self.isolation, bare_ms=median(took[0]),
               through_ms=median(took[1]), added_ms=median(added))  # fmt: skip

    def again(self, rounds: int, tokens: int) -> None:
        """A long prompt, and the same once more."""
        cold, warm, read = [], [], []
        for _ in range(rounds):
            bodies = self.prompts.long(1, tokens)
            for kept in (cold, warm):
                done = client.burst(self.at.gateway_at, bodies)
                kept.append(1000 * done.first_s[0])
                read.append(done.streams[0].read)
        assert min(read[::2]) > tokens * 0.8, f"prompts were cached: {read}"
        record("reuse", model=self.model, host=self.isolation, tokens=median(read[::2]),
               left=median(read[1::2]), cold_ms=median(cold), warm_ms=median(warm),
               times=median(cold) / median(warm))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the models are, or come")
    parser.add_argument("--shapes", nargs="+", choices=tuple(shapes.SHAPES), default=["0.6B", "8B"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=LONG, help="tokens of the long prompts")
    parser.add_argument("--isolation", choices=("thread", "process"), default="thread")
    said = parser.parse_args(arguments)
    missed = [each for shape in said.shapes for each in _bench(shape, said)]
    for each in missed:
        print(f"missed: {each}")
    return int(bool(missed) and place.on_card())


def _bench(name: str, said: argparse.Namespace) -> list[str]:
    path, shape = (said.folder / name).resolve(), shapes.SHAPES[name]
    device, runner = ("cuda", "cortex") if place.on_card() else ("cpu", "tests.gpu.rehearsed")
    took = shapes.write(path, shape, device)
    print(f"{name}: made in {took:.1f} s", flush=True)
    slots = max(said.streams)
    if (why := _too_large(path, slots)) is not None:
        record("cut", what=f"speed of {name}", why=why)
        print(f"{name}: {why}")
        return []
    setting = Setting({name: path}, CONTEXT, slots, 1, said.isolation, "cuda:0", runner)
    with tempfile.TemporaryDirectory() as folder, roles(Path(folder), setting) as at:
        bare = Bare(path, CONTEXT, slots)
        bench = Bench(name, bare, at, Prompts(name, bare.vocabulary.encode, ()), said.isolation)
        missed = []
        for way in bench.ways():
            way.go(bench.prompts.few(slots, 8))  # loads, and meets the widest step
        for streams in said.streams:
            ratio = bench.speed(streams, said.tokens, said.rounds)
            print(f"{name}: {streams} streams, through/bare {ratio:.3f}", flush=True)
            if ratio < WANTED:
                missed.append(f"{name}, {streams} streams: {ratio:.3f} of bare speed, wanted {WANTED}")
        bench.first(3 * said.rounds)
        bench.again(said.rounds, said.prompt)
        bare.close()
    return missed


def _too_large(path: Path, slots: int) -> str | None:
    """Why the card cannot have the model twice: bare, and in the neuron."""
    if not place.on_card():
        return None
    import torch

    order = LoadOrder(path.name, path, "cuda:0", CONTEXT, slots)
    need, free = 2 * place.harness().preflight(order).bytes, torch.cuda.mem_get_info(0)[0]
    return None if need < free else f"needs {size(need)} for both ways, and {size(free)} are free"


if __name__ == "__main__":
    sys.exit(main())
