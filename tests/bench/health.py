"""How soon a neuron tells how it is while it is busy.

    python -m tests.bench.health [--seconds 20] [--streams 8] [--isolation thread|process]

Streams of the demo model run without a pause, from a process of their own; meanwhile GET /health and
GET /models are asked in turns over one connection, as a gateway does, only far more often. Told are
p50, p99 and the worst, idle and busy; what else the machine did is told with them, since on a busy
machine the figures are of its scheduler. Not part of the test suite.
"""

import argparse
import http.client
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from cortex.demo import GGUF as DEMO
from tests.bench.client import burst
from tests.bench.processes import Address, Setting, roles

PATHS: Final = ("/health", "/models")
PAUSE_S: Final = 0.01
WARM: Final = 20
GOAL_MS: Final = 20.0


def main() -> int:
    """Print the table; 1 when the goal is missed."""
    told = argparse.ArgumentParser()
    told.add_argument("--seconds", type=float, default=20.0)
    told.add_argument("--streams", type=int, default=8)
    told.add_argument("--isolation", choices=("thread", "process"))
    chosen = told.parse_args()
    setting = Setting({"demo": DEMO}, 1024, chosen.streams, 1, chosen.isolation)
    with tempfile.TemporaryDirectory() as folder, roles(Path(folder), setting) as running:
        burst(running.neuron_at, [_body()])  # the model is in
        idle, calm = _measured(running.neuron_at, chosen.seconds / 4, running.neuron)
        with _busy(running.neuron_at, chosen.streams):
            busy, others = _measured(running.neuron_at, chosen.seconds, running.neuron)
    print(f"{psutil.cpu_count()} cores; others used {calm:.2f} of them idle, {others:.2f} busy")
    print(f"{'':24}{'asked':>8}{'p50 ms':>9}{'p99 ms':>9}{'worst':>9}")
    for name, times in (("idle", idle), (f"{chosen.streams} streams", busy)):
        for path, taken in times.items():
            row = (_part(taken, 0.5), _part(taken, 0.99), max(taken))
            print(f"{name:12}{path:12}{len(taken):8}" + "".join(f"{each * 1e3:9.2f}" for each in row))
    worst = max(_part(taken, 0.99) for taken in busy.values()) * 1e3
    print(f"goal p99 <= {GOAL_MS:g} ms: {'met' if worst <= GOAL_MS else 'missed'}")
    return int(worst > GOAL_MS)


def _measured(at: Address, seconds: float, neuron: psutil.Process) -> tuple[dict[str, list[float]], float]:
    """Seconds that each answer took, by path, and the cores that nobody of ours used."""
    line = http.client.HTTPConnection(*at, timeout=30)
    times: dict[str, list[float]] = {path: [] for path in PATHS}
    for path in PATHS * WARM:
        _ask(line, path)
    ours, host, began = _used(neuron), _host(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        for path in PATHS:
            times[path].append(_ask(line, path))
            time.sleep(PAUSE_S)
    wall_s = time.perf_counter() - began
    line.close()
    return times, max(0.0, (_host() - host) - (_used(neuron) - ours)) / wall_s


def _ask(line: http.client.HTTPConnection, path: str) -> float:
    began = time.perf_counter()
    line.request("GET", path)
    answer = line.getresponse()
    data = answer.read()
    taken = time.perf_counter() - began
    if answer.status != 200 or not data:
        raise RuntimeError(f"{path} was answered with {answer.status}: {data[:200]!r}")
    return taken


@contextmanager
def _busy(at: Address, streams: int) -> Iterator[None]:
    """That many streams run all the time."""
    caller = multiprocessing.get_context("spawn").Process(target=_stream, args=(at, streams), daemon=True)
    caller.start()
    time.sleep(2.0)  # it imports, and the first prompts are read
    try:
        yield
        if not caller.is_alive():
            raise RuntimeError("the streams failed; the answer is above")
    finally:
        caller.kill()
        caller.join()


def _stream(at: Address, streams: int) -> None:
    while True:
        burst(at, [_body()] * streams)


def _body() -> bytes:
    messages = [{"role": "user", "content": "Tell me a long story."}]
    options = {"stream_options": {"include_usage": True}, "max_tokens": 600, "temperature": 1.0}
    return json.dumps({"model": "demo", "messages": messages, "stream": True, **options}).encode()


def _part(times: Sequence[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def _used(neuron: psutil.Process) -> float:
    """Processor seconds of everybody who belongs to the bench."""
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    known = {each.pid: each for each in (*mine, neuron)}
    return sum(_seconds(each) for each in known.values())


def _seconds(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(spent.user + spent.system)


def _host() -> float:
    spent = psutil.cpu_times()
    return float(sum(spent) - spent.idle - getattr(spent, "iowait", 0.0))


if __name__ == "__main__":
    sys.exit(main())
