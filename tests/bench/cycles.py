"""Whether memory comes back: a neuron's resident memory over many loads and unloads.

    python -m tests.bench.cycles [--cycles 30] [--model FILE.gguf] [--isolation thread|process]

Each cycle loads the model, has it say a few words, and unloads it. Told is the resident set
of the neuron's process after each unload, with its threads, descriptors and children. The
figures are the process's own, so that a busy machine does not matter.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cortex.demo import GGUF as DEMO
from tests.bench.client import ask
from tests.bench.models import ensure
from tests.bench.processes import Address, Setting, neuron

MIB = 2**20
MODEL: Final = "bench"
TOLD: Final = (1, 2, 5, 10, 20, 30)


@dataclass(frozen=True, slots=True)
class Look:
    """The neuron's process after an unload."""

    rss_bytes: int
    threads: int
    descriptors: int
    children: int

    @classmethod
    def at(cls, process: psutil.Process) -> "Look":
        return cls(
            process.memory_info().rss, process.num_threads(), process.num_fds(), len(process.children(True))
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--model", type=lambda said: Path(said).resolve(), default=DEMO)
    parser.add_argument("--isolation", choices=("thread", "process"))
    chosen = parser.parse_args(arguments)
    ensure(chosen.model)
    setting = Setting({MODEL: chosen.model}, 1024, 4, 1, chosen.isolation)
    with tempfile.TemporaryDirectory() as folder, neuron(Path(folder), setting) as running:
        looks = [_cycle(running.at, running.process) for _ in range(chosen.cycles)]
    print(
        f"{chosen.model.name} ({chosen.model.stat().st_size / MIB:.1f} MiB), {chosen.isolation or 'default'}"
    )
    print("| cycle | rss MiB | of the first | threads | descriptors | children |")
    print("|---|---|---|---|---|---|")
    for number, look in enumerate(looks, 1):
        if number in TOLD or number == len(looks):
            ratio = look.rss_bytes / looks[0].rss_bytes
            held = f"{look.threads} | {look.descriptors} | {look.children}"
            print(f"| {number} | {look.rss_bytes / MIB:.1f} | {ratio:.3f} | {held} |")
    return int(looks[-1].rss_bytes > 1.05 * looks[0].rss_bytes)


def _cycle(at: Address, neuron: psutil.Process) -> Look:
    ask(at, "/models/load", {"spec": {"id": MODEL}})
    prompt = {"model": MODEL, "prompt": "one two three", "max_tokens": 16}
    usage = ask(at, "/v1/completions", prompt)["usage"]
    if not isinstance(usage, dict) or usage["completion_tokens"] < 1:
        raise RuntimeError(f"the model said nothing: {usage}")
    ask(at, "/models/unload", {"id": MODEL})
    return Look.at(neuron)


if __name__ == "__main__":
    sys.exit(main())
