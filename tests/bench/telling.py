"""What GET /health, GET /fleet and the gauges take of a gateway's loop, by neurons and models.

    python -m tests.bench.telling [--rounds 20]

Half of the time another neuron has come or gone before, so that all are weighed anew. Told are the median
and the worst, in ms. Machines differ: compare the rows with each other.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from tests.believed import Believed

SIZES: Final = ((40, 500), (200, 1000))
CASES: Final[dict[str, Callable[[Believed], object]]] = {
    "gauge": lambda big: big.report.unservable(),
    "/health": lambda big: big.report.health(governs=True, named=list),
    "/fleet": lambda big: big.report.fleet_report(governs=True),
    "/fleet as JSON": lambda big: msgspec.json.encode(big.report.fleet_report(governs=True)),
}


def timed(big: Believed, case: Callable[[Believed], object], rounds: int) -> tuple[float, float]:
    took = []
    for number in range(rounds):
        if number % 2:
            big.tell("n001", memory=24 + number)
        began = time.perf_counter()
        case(big)
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return took[len(took) // 2], took[-1]


async def measure(rounds: int) -> None:
    print("| neurons | models | " + " | ".join(CASES) + " |\n|---|---|" + "---|" * len(CASES))
    for neurons, models in SIZES:
        big = Believed(neurons, models, know=[f"own{number}" for number in range(20)])
        cells = ["{:.1f}, {:.1f}".format(*timed(big, case, rounds)) for case in CASES.values()]
        print(f"| {neurons} | {models} | " + " | ".join(cells) + " |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    trio.run(measure, parser.parse_args(arguments).rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
