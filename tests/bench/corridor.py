"""cortex as a gateway against others, one after another before the same mock neuron: `--help`.

The gateway has one core, the mock and the load client share another; both are C, made when they are
needed. Every gateway is measured once a round, so that each figure's ratio to nginx is one of neighbours in
time; the medians over the rounds are told. Other programs disturb: what they used of the cores
during a run is told beside it, and the processor time for each request and event hardly depends on it.
"""

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.rivals import RIVALS, Rival, write_neuron

HERE: Final = Path(__file__).parent
GATEWAY_CORE, LOAD_CORE = "0", "1"
PACE_MS: Final = 20
EVENTS: Final = 64
# Role, finish and end mark.
FRAME_EVENTS: Final = 3
HELD_GAP_US: Final = 2 * PACE_MS * 1000
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
MESSAGE: Final = {
    "model": "mock",
    "max_tokens": EVENTS,
    "stream": True,
    "messages": [{"role": "user", "content": "the quick brown fox " * 10}],
}
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mode:
    """How long each load lasts, and how many rungs the ladder of held streams may have."""

    seconds: float
    rungs: int
    concurrencies: tuple[int, ...]


SHORT: Final = Mode(1.5, 0, (1, 32))
WHOLE: Final = Mode(3.0, 10, (1, 32, 256))


@dataclass(slots=True)
class Target:
    """A gateway that runs: where, what it wants to hear, and its process (None: the mock itself)."""

    name: str
    port: int
    headers: tuple[str, ...]
    process: psutil.Process | None
    mock: psutil.Process

    def load(self, folder: Path, concurrency: int, seconds: float, *words: str, path: str = CHAT) -> Figures:
        """One run of the load client, with what it cost the gateway and what others took meanwhile."""
        url = f"http://127.0.0.1:{self.port}{path}"
        command = [str(folder / "load"), "-u", url, "-c", str(concurrency), "-d", str(seconds), *words]
        for header in self.headers:
            command += ["-H", header]
        self._calm()
        before, began, others = self._spent(), time.monotonic(), _busy_s()
        told = subprocess.check_output(["taskset", "-c", LOAD_CORE, *command])
        wall = time.monotonic() - began
        found: Figures = json.loads(told)
        after = self._spent()
        own = sum(now - then for now, then in zip(after, before, strict=True))
        found["cpu_s"] = (after[0] - before[0]) * seconds / wall  # of the window alone
        found["others"] = round((_busy_s() - others - own) / wall, 2)
        return found

    def memory_mb(self) -> float:
        """What it has resident, with its children."""
        return sum(each.memory_info().rss for each in self._family()) / 2**20

    def _family(self) -> list[psutil.Process]:
        if self.process is None:
            return [self.mock]
        return [self.process, *self.process.children(recursive=True)]

    def _spent(self) -> tuple[float, float, float]:
        """Processor seconds of the gateway, of the mock, and of load clients that have ended."""
        times = [each.cpu_times() for each in self._family()]
        mock = self.mock.cpu_times()
        clients = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            sum(each.user + each.system for each in times),
            0.0 if self.process is None else mock.user + mock.system,
            clients.ru_utime + clients.ru_stime,
        )

    def _calm(self) -> None:
        """Slow gateways go on with requests whose clients have left."""
        for _ in range(80):
            before = self._spent()[0]
            time.sleep(0.25)
            if self._spent()[0] - before <= 0.03:
                return


def measure(target: Target, folder: Path, mode: Mode) -> Figures:
    """All that is asked of one gateway in one round."""
    found: Figures = {"idle_mb": target.memory_mb()}
    target.load(folder, 8, 0.5, "-w", "0.5")
    for concurrency in mode.concurrencies:
        found[f"plain{concurrency}"] = target.load(folder, concurrency, mode.seconds)
    stream = ("-s", "-n", str(EVENTS), "-e", str(EVENTS + FRAME_EVENTS))
    found["stream1"] = target.load(folder, 1, mode.seconds / 2, *stream)
    found["stream32"] = target.load(folder, 32, mode.seconds, *stream)
    if target.name in ("cortex", "litellm"):
        found["messages32"] = target.load(
            folder, 32, mode.seconds, "-s", "-b", str(folder / "message.json"), path=MESSAGES
        )
    found["paced64"] = _paced(target, folder, mode, 64)
    found["held"] = _held(target, folder, mode, found["paced64"])
    found["loaded_mb"] = target.memory_mb()
    return found


def _paced(target: Target, folder: Path, mode: Mode, streams: int) -> Figures:
    words = ("-s", "-m", "paced", "-n", "100", "-e", "103", "-w", "0.5", "-r", "1")
    return target.load(folder, streams, mode.seconds, *words)


def _holds(run: Figures) -> bool:
    return run["requests"] > 0 and run["gap_p99"] <= HELD_GAP_US and run["errors"] <= run["requests"] / 100


def _held(target: Target, folder: Path, mode: Mode, first: Figures) -> int:
    """The most paced streams at once whose gaps stay below twice the pace in 99 of 100."""
    best, streams, rising = (64 if _holds(first) else 0), 256, None
    for _ in range(mode.rungs):
        if _holds(_paced(target, folder, mode, streams)):
            best = max(best, streams)
            if rising is False:
                break
            rising, streams = True, int(streams * 1.3)
        else:
            if rising:
                break
            rising, streams = False, int(streams * 0.75)
            if streams <= best:
                break
    return best


# -- what is told

Figure = Callable[[Figures], float | None]
ROWS: Final[Mapping[str, tuple[Figure, str]]] = {
    "requests/s, c=1": (lambda f: f["plain1"]["rps"], "{:.0f}"),
    "requests/s, c=32": (lambda f: f["plain32"]["rps"], "{:.0f}"),
    "requests/s, c=256": (lambda f: f.get("plain256", {}).get("rps"), "{:.0f}"),
    "p50 us, c=1": (lambda f: f["plain1"]["lat_p50"], "{:.0f}"),
    "p99 us, c=1": (lambda f: f["plain1"]["lat_p99"], "{:.0f}"),
    "CPU us/request, c=32": (lambda f: _each(f["plain32"], "requests"), "{:.1f}"),
    "events/s, c=32": (lambda f: f["stream32"]["eps"], "{:.0f}"),
    "CPU us/event, burst": (lambda f: _each(f["stream32"], "events"), "{:.2f}"),
    "CPU us/event, 64 paced": (lambda f: _each(f["paced64"], "events"), "{:.1f}"),
    "first event p50 us, c=1": (lambda f: f["stream1"]["ttft_p50"], "{:.0f}"),
    "first event p99 us, 64 paced": (lambda f: f["paced64"]["ttft_p99"], "{:.0f}"),
    "paced streams held": (lambda f: f["held"] or None, "{:.0f}"),
    "Messages events/s, c=32": (lambda f: f.get("messages32", {}).get("eps"), "{:.0f}"),
    "CPU us/Messages event": (lambda f: _each(f.get("messages32", {}), "events"), "{:.2f}"),
    "RSS MB idle": (lambda f: f["idle_mb"], "{:.0f}"),
    "RSS MB after": (lambda f: f["loaded_mb"], "{:.0f}"),
    "errors": (lambda f: float(sum(run["errors"] + run["bad_events"] for run in _runs(f))), "{:.0f}"),
    "others' cores, most": (lambda f: max(run["others"] for run in _runs(f)), "{:.1f}"),
}


def _runs(found: Figures) -> list[Figures]:
    return [run for run in found.values() if isinstance(run, dict)]


def _each(run: Figures, of: str) -> float | None:
    """Processor microseconds of the gateway for each."""
    return run["cpu_s"] * 1e6 / run[of] if run.get(of) else None


def table(rounds: Sequence[Mapping[str, Figures]]) -> str:
    """Medians over the rounds, and in brackets the median of the ratios to nginx within each."""
    names = list(rounds[0])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, (figure, form) in ROWS.items():
        cells = [
            _cell([figure(each[name]) for each in rounds], form, _ratios(rounds, figure, name))
            for name in names
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratios(rounds: Sequence[Mapping[str, Figures]], figure: Figure, name: str) -> list[float]:
    if name == "nginx" or "nginx" not in rounds[0]:
        return []
    pairs = [(figure(each[name]), figure(each["nginx"])) for each in rounds]
    return [one / other for one, other in pairs if one is not None and other]


def _cell(values: Sequence[float | None], form: str, ratios: Sequence[float]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = form.format(statistics.median(known))
    return f"{text} ({statistics.median(ratios):.3g})" if ratios else text


# -- processes


@contextmanager
def started(
    command: Sequence[str], core: str | None, log: Path, environment: Mapping[str, str]
) -> Iterator[psutil.Process]:
    """It runs on that core, and is gone, with its children, when the block is left."""
    pinned = list(command) if core is None else ["taskset", "-c", core, *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            pinned, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(5)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


@contextmanager
def gateway(name: str, rival: Rival, mock: tuple[int, psutil.Process], folder: Path) -> Iterator[Target]:
    """It answers a request for each model."""
    own = folder / name
    own.mkdir(exist_ok=True)
    port, core = _free_port(), None if rival.spread else GATEWAY_CORE
    command = rival.command(port, mock[0], own)
    headers = tuple(header.format(mock=mock[0]) for header in rival.headers)
    with started(command, core, own / "log", rival.environment) as process:
        target = Target(name, port, headers, process, mock[1])
        deadline = time.monotonic() + 120
        while not _answers(port) or not target.load(folder, 1, 0.2, "-w", "0.1")["requests"]:
            if time.monotonic() > deadline or not process.is_running():
                raise RuntimeError(f"{name} does not answer:\n{(own / 'log').read_text()[-2000:]}")
            time.sleep(0.3)
        yield target


def build(folder: Path) -> None:
    """The mock and the load client, made of their C."""
    for name in ("mock", "load"):
        source = HERE / "native" / f"{name}.c"
        subprocess.check_call(["cc", "-O2", "-o", str(folder / name), str(source)])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def _busy_s() -> float:
    """Processor seconds of everybody, but for who stands back for others."""
    times = psutil.cpu_times()
    return times.user + times.system + times.irq + times.softirq + times.steal


def _free_port() -> int:
    """One whose successor is free, too."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.corridor", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--short", action="store_true", help="a look for each change: one round, no ladder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rival", action="append", choices=list(RIVALS), help="only these; else all there are"
    )
    parser.add_argument("--json", type=Path, help="where to put every figure of every run")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and prints the table."""
    options = _arguments(words)
    mode, rounds = (SHORT, 1) if options.short else (WHOLE, options.rounds)
    names = options.rival or [name for name in RIVALS if not RIVALS[name].missing()]
    for name in RIVALS:
        if why := RIVALS[name].missing():
            print(f"without {name}: {why}", file=sys.stderr)
    found: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder)
        write_neuron(folder / "neuron")
        (folder / "message.json").write_text(json.dumps(MESSAGE))
        mock_port = _free_port()
        mock = [str(folder / "mock"), str(mock_port), str(PACE_MS), str(folder / "neuron")]
        with started(mock, LOAD_CORE, folder / "mock.log", {}) as process:
            for number in range(rounds):
                found.append({})
                for name in names:
                    with gateway(name, RIVALS[name], (mock_port, process), folder) as target:
                        found[-1][name] = measure(target, folder, mode)
                    print(f"round {number + 1}: {name}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(found))
    print(table(found))


if __name__ == "__main__":
    main()
