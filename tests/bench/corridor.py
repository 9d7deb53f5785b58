"""cortex as a gateway beside others, one after another before the same mock neuron: `--help`.

Every gateway is measured once a round, so that each figure's ratio to nginx is one of neighbours in time.
Told are all figures, and the goals with met or missed; a check that is missed, and a ratio that is far
below that of a kept run, end it with 1.
"""

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Final
from urllib.request import urlopen

import msgspec
import psutil

from tests.bench import ours
from tests.bench.goals import (
    DIRECT,
    NGINX,
    Kept,
    Measured,
    figures_table,
    goals_table,
    judge,
    regressions,
)
from tests.bench.loads import alone, burst, messages, paced, write_message
from tests.bench.profiling import LOADS, profile
from tests.bench.rivals import NAMES, OURS, SPEAK_MESSAGES, TWO, Rival, rivals
from tests.bench.soaking import soak
from tests.bench.stage import (
    GATEWAY_CORE,
    PACE_MS,
    Load,
    Run,
    Target,
    build,
    gateway,
    neurons,
)

HELD_GAP_US: Final = 2 * PACE_MS * 1000
STEP, FINE_STEP = 1.3, 1.12
# Cores that others had: a rung that fails beside them is tried again.
DISTURBED: Final = 0.3
SCRAPE_S: Final = 1.0
# Whoever compiles while it runs has done most of it by then.
WARMING: Final = Load(32, 1.2)


@dataclass(frozen=True, slots=True)
class Mode:
    """How long each load lasts, and how many rungs the ladder of held streams may have."""

    seconds: float
    rungs: int
    crowded: tuple[str, ...]


SHORT: Final = Mode(1.0, 3, (OURS,))
WHOLE: Final = Mode(2.0, 6, (NGINX, OURS, TWO))
# Who is in no ratio of a goal but one: less of them is measured, and held streams in one round.
OTHERS: Final = replace(WHOLE, seconds=1.5, rungs=5)


@dataclass(slots=True)
class Round:
    """What one gateway is asked in one round: by `mode`; `before` is what it held in the last one."""

    target: Target
    folder: Path
    mode: Mode
    before: int | None

    def measure(self, held: bool) -> Measured:
        """All of it. Without `held` nobody looks how many paced streams it holds."""
        found = Measured(idle_mb=self.target.rss_mb())
        self._load(WARMING)
        for name, load in self._loads().items():
            found.runs[name] = self._load(load)
        if held:
            found.held = self._held(found.runs["paced64"])
        found.after_mb = self.target.rss_mb()
        return found

    def look(self) -> Measured:
        """The two figures that gateways are first compared by."""
        self._load(WARMING)
        loads = {"plain32": Load(32, self.mode.seconds), "stream32": burst(32, self.mode.seconds)}
        return Measured({name: self._load(load) for name, load in loads.items()})

    def _loads(self) -> dict[str, Load]:
        name, seconds = self.target.name, self.mode.seconds
        loads = {
            "plain1": Load(1, seconds),
            "plain32": Load(32, seconds),
            "first1": alone(seconds),
            "stream32": burst(32, seconds),
        }
        if name in SPEAK_MESSAGES:
            loads["messages32"] = messages(32, seconds, self.folder)
        loads["paced64"] = paced(64, seconds)
        if name == OURS:
            loads["scraped200"] = paced(200, seconds)
        if name in self.mode.crowded:
            loads["crowd500"] = paced(500, seconds, ramp_s=1.5)
        return loads

    def straight(self) -> Measured:
        """What the mock does alone, where the gateway would be."""
        runs = {
            "plain1": Load(1, self.mode.seconds),
            "first1": alone(self.mode.seconds),
        }
        return Measured({name: self._load(load) for name, load in runs.items()})

    def _held(self, few: Run) -> int:
        """The most paced streams at once whose gaps stay below twice the pace in 99 of 100."""
        if not _holds(few):
            return climb(self._rung, 16, 1.5, self.mode.rungs)
        if self.before:
            return climb(self._rung, self.before, FINE_STEP, self.mode.rungs * 2 // 3)
        # As many as a core carries if each event costs what it does with few of them; they cost less in
        # company.
        start = int(PACE_MS * 1000 / _each_us(few))
        return max(64, climb(self._rung, max(64, start), STEP, self.mode.rungs))

    def _rung(self, streams: int) -> bool:
        load = paced(streams, min(1.5, self.mode.seconds))
        run = self._load(load)
        if not _holds(run) and run.others > DISTURBED and self.mode is not SHORT:
            run = self._load(load)
        return _holds(run)

    def _load(self, load: Load) -> Run:
        if load == paced(200, load.seconds):
            with scraped(self.target.port + 1):
                return self.target.load(self.folder, load)
        return self.target.load(self.folder, load)


def climb(holds: Callable[[int], bool], start: int, step: float, rungs: int) -> int:
    """The highest rung that holds: from `start` on `rungs` of them up by `step` as long as each holds, or
    down, ever faster, to the first that does; 0 if none does."""
    if not holds(start):
        return _descend(holds, start / step, step)
    best = start
    for _ in range(rungs - 1):
        if not holds(int(best * step)):
            break
        best = int(best * step)
    return best


def _descend(holds: Callable[[int], bool], streams: float, step: float) -> int:
    factor = step
    while streams >= 1:
        if holds(int(streams)):
            return int(streams)
        factor *= step
        streams /= factor
    return 0


def _each_us(run: Run) -> float:
    return run.cpu_s * 1e6 / max(run.events, 1)


def _holds(run: Run) -> bool:
    return run.requests > 0 and run.gap_p99 <= HELD_GAP_US and run.errors <= run.requests / 100


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Somebody reads the metrics once a second. A scrape that fails ends the benchmark."""
    enough, wrong = Event(), list[OSError]()

    def go_on() -> None:
        while not enough.wait(SCRAPE_S):
            try:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    answer.read()
            except OSError as error:
                wrong.append(error)

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if wrong:
        raise wrong[0]


# -- rounds


@dataclass(slots=True)
class Bench:
    """All rounds of all gateways, before one mock neuron; a second one stands where gateways do."""

    folder: Path
    mode: Mode
    found: dict[str, Rival]
    rounds: list[dict[str, Measured]]

    def go(self, rounds: int) -> None:
        with neurons(self.folder, ours.ONE) as mock:
            for number in range(rounds):
                self.rounds.append({})
                with neurons(self.folder, ours.ONE, GATEWAY_CORE) as (port, process):
                    direct = Target(DIRECT, port, (), process, process)
                    self.rounds[-1][DIRECT] = Round(direct, self.folder, self.mode, None).straight()
                for name, rival in self.found.items():
                    self.rounds[-1][name] = self._one(name, rival, mock)
                    print(f"{_now():%H:%M:%S} round {number + 1}: {name}", file=sys.stderr)

    def _one(self, name: str, rival: Rival, mock: tuple[int, psutil.Process]) -> Measured:
        near = name in (NGINX, OURS)
        before = [each[name].held for each in self.rounds[:-1]]
        try:
            with gateway(name, rival, mock, self.folder) as target:
                mode = self.mode if near or self.mode is SHORT else OTHERS
                turn = Round(target, self.folder, mode, before[-1] if before else None)
                if self.mode is SHORT and not near:
                    return turn.look()
                return turn.measure(held=near or not before)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return Measured(failed=str(error).splitlines()[0])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def report(kept: Kept, earlier: Kept | None) -> list[str]:
    """Prints the tables; the regressions that they show."""
    print("; ".join(f"{what} {value}" for what, value in kept.about.items()))
    print("; ".join(f"{name} {version}" for name, version in kept.versions.items()) + "\n")
    print(figures_table(kept.rounds), end="\n\n")
    verdicts = judge(kept.rounds)
    print(goals_table(verdicts), end="\n\n")
    for name, why in kept.absent.items():
        print(f"Not measured: {name}, {why}.")
    for number, measured in enumerate(kept.rounds, 1):
        for name, one in measured.items():
            if one.failed:
                print(f"Not measured in round {number}: {name}, {one.failed}")
    others = max(
        (run.others for measured in kept.rounds for one in measured.values() for run in one.runs.values()),
        default=0.0,
    )
    if others > DISTURBED:
        print(f"Disturbed: other programs had up to {others:.1f} cores, and are measured, too.")
    worse = regressions(verdicts, judge(earlier.rounds) if earlier else None)
    for each in worse:
        print(f"Worse: {each}.")
    return worse


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.corridor", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true", help="nginx and cortex alone, for each change")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rival", action="append", choices=NAMES, help="only these; else all there are")
    parser.add_argument(
        "--rivals",
        type=Path,
        default=os.environ.get("CORTEX_BENCH_RIVALS"),
        metavar="FOLDER",
        help="where `tests.bench.rivals install` put them; else as CORTEX_BENCH_RIVALS says",
    )
    parser.add_argument("--json", type=Path, help="where to keep every figure of every run")
    parser.add_argument("--against", type=Path, help="a kept run, below four fifths of which no ratio may be")
    parser.add_argument("--soak", type=float, metavar="MIN", help="the memory of cortex with 500 streams")
    parser.add_argument("--profile", choices=sorted(LOADS), help="where cortex spends its time in this load")
    parser.add_argument("--tool", help="what else to profile with, with {pid} and {seconds} for it to fill")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measures, and prints the tables."""
    options = _arguments(words)
    root = options.rivals or Path("rivals-are-nowhere")
    everybody = rivals(root)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder)
        write_message(folder)
        if options.soak or options.profile:
            with neurons(folder, ours.ONE) as mock, gateway(OURS, everybody[OURS], mock, folder) as target:
                if options.soak:
                    return soak(target, folder, options.soak)
                return profile(target, folder, options.profile, root, options.tool)
        return _compare(options, everybody, folder)


def _compare(options: argparse.Namespace, everybody: dict[str, Rival], folder: Path) -> int:
    usual = (NGINX, OURS, TWO) if options.short else NAMES
    wanted = [name for name in NAMES if name in (options.rival or usual)]
    versions = {name: everybody[name].version() for name in wanted}
    absent = {name: everybody[name].lacking for name in wanted if not versions[name]}
    earlier = msgspec.json.decode(options.against.read_bytes(), type=Kept) if options.against else None
    there = {name: everybody[name] for name in wanted if versions[name]}
    about = {
        "on": f"{_now():%Y-%m-%d %H:%M} UTC",
        "cores": str(os.cpu_count()),
        "Python": platform.python_version(),
        "rounds": str(options.rounds),
        "mode": "short" if options.short else "whole",
    }
    kept = Kept(about, {name: versions[name] for name in there}, absent, [])
    Bench(folder, SHORT if options.short else WHOLE, there, kept.rounds).go(options.rounds)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(kept))
    return int(bool(report(kept, earlier)))


if __name__ == "__main__":
    sys.exit(main())
