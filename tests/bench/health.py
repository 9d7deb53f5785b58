"""How late a neuron's loop is, and how soon it tells how it is, while it loads and while it generates.

    python -m tests.bench.health [--seconds 20] [--streams 8] [--loads 5] [--model FILE.gguf ...]

For each host of models (thread, process): idle, while each model is loaded, and while streams of each run
without a pause, from a process of their own. Meanwhile GET /health and GET /models are asked in turns over
one connection, as a gateway does, only far more often, and clocks in the neuron's own loop tell by how
much it was late, and what it worked (`ticking`). What else the machine did is told with them, since on a
busy machine the figures are of its scheduler. Not part of the test suite.
"""

import argparse
import http.client
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cortex.demo import GGUF as DEMO
from tests.bench.client import ask, burst
from tests.bench.models import BENCH, ensure
from tests.bench.processes import Address, Neuron, Setting, neuron
from tests.bench.ticking import Moments, Ticks
from tests.bench.ways import heads, row

PATHS: Final = ("/health", "/models")
PAUSE_S: Final = 0.01
WARM: Final = 20
GOAL_MS: Final = 20.0
STARTS_S: Final = 2.0  # the process of the streams imports, and their first prompts are read


@dataclass(frozen=True, slots=True)
class Phase:
    """Something that a neuron did for a while: how long each answer took, by path, and the cores that
    nobody of ours used. `spans` are of time.monotonic."""

    name: str
    spans: Sequence[tuple[float, float]]
    answers: Mapping[str, Sequence[float]]
    others: float

    def rows(self, host: str, ticks: Ticks) -> Iterator[str]:
        """Of the loop, and of each path."""
        took_s = sum(end - start for start, end in self.spans) / len(self.spans)
        loop = {"loop is late": self._within(ticks.lags), "a pass's CPU": self._within(ticks.passes)}
        for what, times in (loop | dict(self.answers)).items():
            figures = [f"{each * 1e3:.1f}" for each in (_part(times, 0.5), _part(times, 0.99), max(times))]
            yield row(host, self.name, f"{took_s:.2f}", what, len(times), *figures, f"{self.others:.2f}")

    def _within(self, moments: Moments) -> Sequence[float]:
        return [took for at, took in moments if any(start <= at < end for start, end in self.spans)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 when the goal is missed."""
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    told.add_argument("--seconds", type=float, default=20.0)
    told.add_argument("--streams", type=int, default=8)
    told.add_argument("--loads", type=int, default=5)
    told.add_argument("--model", type=_file, nargs="*", default=[DEMO, BENCH])
    told.add_argument("--heavy", type=_file, nargs="*", default=[], help="models that are only loaded")
    told.add_argument("--isolation", nargs="*", default=["thread", "process"])
    chosen = told.parse_args(arguments)
    for path in (*chosen.model, *chosen.heavy):
        ensure(path)
    heads("host", "phase", "s", "what", "times", "p50 ms", "p99 ms", "worst ms", "others")
    worst = max(_host(host, chosen) for host in chosen.isolation)
    print(
        f"goal p99 <= {GOAL_MS:g} ms for answers while streams run: {'met' if worst <= GOAL_MS else 'missed'}"
    )
    return int(worst > GOAL_MS)


def _host(host: str, chosen: argparse.Namespace) -> float:
    """The worst p99 of answers while streams run, in ms."""
    models = {path.stem: path for path in (*chosen.model, *chosen.heavy)}
    setting = Setting(models, 1024, chosen.streams, 1, host)
    with tempfile.TemporaryDirectory() as folder:
        ticks = Path(folder) / "ticks"
        with neuron(Path(folder), setting, ticks) as running:
            calm = [_measured("idle", running, _lasting(chosen.seconds / 4))]
            calm += [_loading(model, running, chosen.loads) for model in models]
            busy = [_streaming(model, running, chosen) for model in models if models[model] in chosen.model]
        told = Ticks.read(ticks)
    for phase in (*calm, *busy):
        print(*phase.rows(host, told), sep="\n", flush=True)
    return max(_part(times, 0.99) for phase in busy for times in phase.answers.values()) * 1e3


def _loading(model: str, running: Neuron, loads: int) -> Phase:
    """So many loads, without the unloads between them."""

    def loads_of() -> Iterator[Callable[[], bool]]:
        for _ in range(loads):
            load = threading.Thread(target=ask, args=(running.at, "/models/load", {"spec": {"id": model}}))
            load.start()
            yield load.is_alive
            load.join()
            ask(running.at, "/models/unload", {"id": model})

    return _measured(f"loads {model}", running, loads_of())


def _streaming(model: str, running: Neuron, chosen: argparse.Namespace) -> Phase:
    burst(running.at, [_body(model, 1)])  # the model is in
    with _busy(running.at, chosen.streams, model):
        phase = _measured(f"{chosen.streams} streams of {model}", running, _lasting(chosen.seconds))
    ask(running.at, "/models/unload", {"id": model, "force": True})
    return phase


def _lasting(seconds: float) -> Iterator[Callable[[], bool]]:
    until = time.monotonic() + seconds
    yield lambda: time.monotonic() < until


def _measured(name: str, running: Neuron, parts: Iterator[Callable[[], bool]]) -> Phase:
    """Answers are timed while each part says that it lasts."""
    line = http.client.HTTPConnection(*running.at, timeout=120)
    times: dict[str, list[float]] = {path: [] for path in PATHS}
    for path in PATHS * WARM:
        _ask(line, path)
    spans, ours, host = [], _used(running.process), _host_cpu()
    began = time.monotonic()
    for lasts in parts:
        start = time.monotonic()
        while lasts():
            for path in PATHS:
                times[path].append(_ask(line, path))
                time.sleep(PAUSE_S)
        spans.append((start, time.monotonic()))
    wall_s = time.monotonic() - began
    line.close()
    others = max(0.0, (_host_cpu() - host) - (_used(running.process) - ours)) / wall_s
    return Phase(name, spans, times, others)


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
def _busy(at: Address, streams: int, model: str) -> Iterator[None]:
    """That many streams run all the time."""
    caller = multiprocessing.get_context("spawn").Process(
        target=_stream, args=(at, streams, model), daemon=True
    )
    caller.start()
    time.sleep(STARTS_S)
    try:
        yield
        if not caller.is_alive():
            raise RuntimeError("the streams failed; the answer is above")
    finally:
        caller.kill()
        caller.join()


def _stream(at: Address, streams: int, model: str) -> None:
    while True:
        burst(at, [_body(model)] * streams)


def _body(model: str, max_tokens: int = 600) -> bytes:
    messages = [{"role": "user", "content": "Tell me a long story."}]
    options = {"stream_options": {"include_usage": True}, "max_tokens": max_tokens, "temperature": 1.0}
    return json.dumps({"model": model, "messages": messages, "stream": True, **options}).encode()


def _file(said: str) -> Path:
    return Path(said).resolve()


def _part(times: Sequence[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def _used(neuron: psutil.Process) -> float:
    """Processor seconds of everybody who belongs to the bench, also of those who are gone."""
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    known = {each.pid: each for each in (*mine, neuron)}
    return sum(_seconds(each) for each in known.values())


def _seconds(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def _host_cpu() -> float:
    spent = psutil.cpu_times()
    return float(sum(spent) - spent.idle - getattr(spent, "iowait", 0.0))


if __name__ == "__main__":
    sys.exit(main())
