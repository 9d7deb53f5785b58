"""What a gateway's state costs as it grows: connections, streams, neurons, models: `--help`.

The gateway is a real process before mock neurons, and its cost is its own processor time and memory, which
depend little on what else the machine does. The decisions alone are timed in this process
(`tests.bench.decisions`). A request that cost more with a larger fleet would show in the columns.
"""

import argparse
import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

from tests.bench import decisions
from tests.bench.loads import paced
from tests.bench.ours import KEY, ONE, POLL_S, Fleet, write_gateway
from tests.bench.rivals import OURS, rivals
from tests.bench.stage import CHAT, START_S, Load, Target, build, gateway, neurons

EACH, LOADED = 5, 3
CONNECTIONS, STREAMS = 10_000, 2_000
# So slow that only their number counts.
SLOW_MS: Final = 1000
IDLE_S: Final = 6.0
# Nobody is looked at again while requests are counted.
SELDOM_S: Final = 600.0
FETCHES: Final = 20
# How many connections have something to say at once.
BATCH: Final = 32
REQUEST_S: Final = 2.0
# Of `decisions.CASES`, what a request or a report comes to.
TIMED: Final = ("warm", "warm, on all neurons", "cold, room is free", "cold, somebody idle leaves")
REPORT: Final = "a neuron's report"
KIB: Final = 1024


@dataclass(slots=True)
class Row:
    """A figure at each size."""

    title: str
    figures: tuple[str, ...]

    def __str__(self) -> str:
        return f"| {self.title} | {' | '.join(self.figures)} |"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a gateway did at one size of fleet: microseconds of its processor, but for seconds and bytes."""

    neurons: int
    ready_s: float
    rss_mb: float
    look_us: float
    request_us: float
    metrics_us: float
    metrics_bytes: int
    models_us: float
    models_bytes: int


@contextmanager
def standing(folder: Path, fleet: Fleet, pace_ms: int, poll_s: float = POLL_S) -> Iterator[Target]:
    """cortex before a fleet of mocks, which it has all looked at, and does again every `poll_s`."""
    rival = rivals(folder)[OURS]
    with neurons(folder, fleet, pace_ms=pace_ms) as mock:
        ours_now = replace(rival, command=partial(_command, fleet, poll_s))
        with gateway(OURS, ours_now, mock, folder) as target:
            deadline = time.monotonic() + START_S
            while _healthy(target) < len(fleet.models):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{_healthy(target)} of {len(fleet.models)} neurons are known")
                time.sleep(0.1)
            yield target


def _command(fleet: Fleet, poll_s: float, port: int, mock: int, folder: Path) -> list[str]:
    return write_gateway(folder, port, mock, fleet, poll_s=poll_s)


def _healthy(target: Target) -> int:
    return int(json.loads(_get(target.port, "/health"))["neurons"]["healthy"])


def _get(port: int, path: str) -> bytes:
    request = Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {KEY}"})
    with urlopen(request, timeout=30) as answer:
        told: bytes = answer.read()
        return told


# -- connections and streams


def connections(target: Target, folder: Path, count: int) -> list[str]:
    """Opens so many, and lets each say one thing."""
    usual = min(_request_us(target, folder) for _ in range(2))
    silent, first = _stopped(target), target.rss_mb()
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", target.port)))
        target.calm()
        accepted, quiet = target.cpu_s() - silent, target.rss_mb()
        _speak(opened, target.port)
        target.calm()
        kept = target.rss_mb()
        beside = _request_us(target, folder)
    finally:
        for each in opened:
            each.close()
    return [
        f"| {count} connections: accepting one, CPU us | {accepted * 1e6 / count:.0f} |",
        f"| memory of one that has said nothing, KiB | {(quiet - first) * KIB / count:.1f} |",
        f"| memory of one that had an answer and rests, KiB | {(kept - first) * KIB / count:.1f} |",
        f"| RSS MiB before, and with all of them | {first:.0f}, {kept:.0f} |",
        f"| CPU us a request without, and beside them | {usual:.0f}, {beside:.0f} |",
    ]


def _stopped(target: Target) -> float:
    target.calm()
    return target.cpu_s()


def _speak(opened: Sequence[socket.socket], port: int) -> None:
    """Each has an answer, and stays."""
    body = b'{"model": "mock", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}'
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    said = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    for at in range(0, len(opened), BATCH):
        for each in opened[at : at + BATCH]:
            each.sendall(said)
        for each in opened[at : at + BATCH]:
            if not each.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise RuntimeError("a connection was given no answer")


def streams(target: Target, folder: Path, count: int) -> list[str]:
    """So many at once, with an event a second each."""
    idle = target.rss_mb()
    run = target.load(folder, paced(count, 5.0, ramp_s=4.0))
    return [
        f"| {count} streams, an event a second each: memory of one, KiB "
        f"| {(run.rss_mb - idle) * KIB / count:.1f} |",
        f"| RSS MiB before, and with all of them | {idle:.0f}, {run.rss_mb:.0f} |",
        f"| events/s, and CPU us an event | {run.eps:.0f}, {run.cpu_s * 1e6 / max(run.events, 1):.0f} |",
    ]


# -- fleets


def spent(folder: Path, size: int) -> Spent:
    """One gateway over a fleet of this size."""
    fleet = Fleet.of(size, EACH, LOADED)
    with standing(folder, fleet, pace_ms=20, poll_s=SELDOM_S) as target:
        # The first has everything made that is made once.
        request_us = min(_request_us(target, folder) for _ in range(3))
        metrics = _fetched(target, target.port + 1, "/metrics")
        models = _fetched(target, target.port, "/v1/models")
    began = time.monotonic()
    with standing(folder, fleet, pace_ms=20) as target:
        ready = time.monotonic() - began
        time.sleep(POLL_S)
        before = target.cpu_s()
        time.sleep(IDLE_S)
        idle = (target.cpu_s() - before) / IDLE_S
        return Spent(
            size,
            ready,
            target.rss_mb(),
            idle * POLL_S * 1e6 / size,
            request_us,
            *metrics,
            *models,
        )


def _request_us(target: Target, folder: Path) -> float:
    """What a plain request costs."""
    run = target.load(folder, Load(32, REQUEST_S))
    return run.cpu_s * 1e6 / run.requests


def _fetched(target: Target, port: int, path: str) -> tuple[float, int]:
    """Microseconds and bytes of a page."""
    before, size = target.cpu_s(), 0
    for _ in range(FETCHES):
        size = len(_get(port, path))
    return (target.cpu_s() - before) * 1e6 / FETCHES, size


def fleet_rows(found: Sequence[Spent]) -> list[Row]:
    """A line for each figure, a column for each size."""
    rows = {
        "until all neurons are known, s": [f"{each.ready_s:.1f}" for each in found],
        "RSS MiB": [f"{each.rss_mb:.0f}" for each in found],
        "a look at a neuron, CPU us": [f"{each.look_us:.0f}" for each in found],
        "a request for a resident model, CPU us": [f"{each.request_us:.0f}" for each in found],
        "/metrics, CPU ms": [f"{each.metrics_us / 1000:.1f}" for each in found],
        "/metrics, KiB": [f"{each.metrics_bytes / KIB:.0f}" for each in found],
        "/v1/models, CPU ms": [f"{each.models_us / 1000:.1f}" for each in found],
        "/v1/models, KiB": [f"{each.models_bytes / KIB:.0f}" for each in found],
    }
    return [Row(title, tuple(figures)) for title, figures in rows.items()]


def decision_rows(sizes: Sequence[int], rounds: int) -> list[Row]:
    """The ledger's answers, in this process."""
    rows = []
    for name in (*TIMED, REPORT):
        cells = tuple(f"{decisions.timed(size, name, rounds)[0]:.0f}" for size in sizes)
        rows.append(Row(f"decision: {name}, us" if name != REPORT else f"{name}, us", cells))
    kept = [decisions.remembered(size) for size in sizes]
    rows.append(Row("the ledger keeps for a neuron, KiB", tuple(f"{each[0] / KIB:.1f}" for each in kept)))
    rows.append(Row("the catalogue keeps for a model, bytes", tuple(f"{each[1]:.0f}" for each in kept)))
    return rows


def main(words: Sequence[str] | None = None) -> int:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="neurons of a fleet")
    parser.add_argument("--rounds", type=int, default=200, help="decisions timed in each case")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--streams", type=int, default=STREAMS)
    options = parser.parse_args(words)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder)
        print("| | |\n|---|---|")
        with standing(folder, ONE, SLOW_MS) as target:
            print(*connections(target, folder, options.connections), sep="\n", flush=True)
        with standing(folder, ONE, SLOW_MS) as target:
            print(*streams(target, folder, options.streams), sep="\n", flush=True)
        found = [spent(folder, size) for size in options.sizes]
    heads = " | ".join(f"{size} neurons, {size * EACH} models" for size in options.sizes)
    print(f"\n| | {heads} |\n|---|" + "---|" * len(options.sizes))
    print(*fleet_rows(found), *decision_rows(options.sizes, options.rounds), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
