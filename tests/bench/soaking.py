"""Whether a gateway's memory stays what it is, under 500 paced streams that come and go for minutes."""

import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.bench.loads import paced
from tests.bench.stage import Target, read

STREAMS: Final = 500
EVERY_S: Final = 5.0
# Of what it was at the end of the first minute, in which everything has been used once.
GROWTH: Final = 0.02


def soak(target: Target, folder: Path, minutes: float) -> int:
    """Prints what it had each minute; 1 if that grew."""
    idle = target.rss_mb()
    load = replace(paced(STREAMS, minutes * 60), ramp_s=2.0)
    samples: list[float] = []
    with subprocess.Popen(
        load.command(folder, target.port, target.headers), stdout=subprocess.PIPE
    ) as client:
        while client.poll() is None:
            time.sleep(EVERY_S)
            samples.append(target.rss_mb())
        told = read(client.stdout.read() if client.stdout else b"")
    print(f"idle {idle:.1f} MiB; {told.requests} streams of which {told.errors + told.bad_events} were bad\n")
    print("| minute | RSS MiB |\n|---|---|")
    for minute, figure in enumerate(by_minute(samples, EVERY_S), 1):
        print(f"| {minute} | {figure:.1f} |")
    grown = growth(by_minute(samples, EVERY_S))
    print(f"\ngrown by {grown:.1%} since the first minute, of {GROWTH:.0%} at most")
    return int(grown > GROWTH)


def by_minute(samples: Sequence[float], every_s: float) -> list[float]:
    """The median of each minute; of the last one, what there is."""
    each = int(60 / every_s)
    return [statistics.median(samples[at : at + each]) for at in range(0, len(samples), each)]


def growth(minutes: Sequence[float]) -> float:
    """From the first minute to the last, as a part of the first."""
    return minutes[-1] / minutes[0] - 1
