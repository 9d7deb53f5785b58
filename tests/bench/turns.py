"""What a neuron spends on each token beside its engine.

    python -m tests.bench.turns [--streams 32] [--seconds 8] [--host thread|process] [--model FILE.gguf]

A neuron runs whose engine takes 100 turns a second and computes nothing (`tests.bench.paced`); every stream
gets one token a turn, and this process reads them from raw sockets. Told is the processor time of the
neuron's threads, as the kernel's scheduler counts it, for each token, and as a share of one core: what is
left when the device's thread (or, in a child, the child) is taken off is what cortex adds to an engine.
With a model llama.cpp speaks instead, as fast as it can: a control. Its threads are the others then, and
the device's thread, which turns their chunks into events, is above it.
"""

import argparse
import json
import os
import re
import selectors
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.bench import client
from tests.bench.paced import TURNS_S
from tests.bench.processes import Address, Neuron, Setting, neuron
from tests.bench.ways import heads, row

CONTEXT: Final = 200_000
WARM_S: Final = 1.0
TOKENS: Final = 256  # a stream of a real model, so that its request weighs little
DEVICE: Final = "cpu-dev-0"
_SAID: Final = re.compile(rb'"(?:content|text)":\s*"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds so far: of trio's thread, the device's, all others, and of children."""

    trio_s: float
    device_s: float
    others_s: float
    children_s: float

    @classmethod
    def by(cls, process: psutil.Process) -> "Spent":
        tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
        trio = sum(_ran(task) for task in tasks if task.name == str(process.pid))
        # An engine's own threads inherit the name of the one that began them.
        named = [task for task in tasks if (task / "comm").read_text().strip() == DEVICE]
        device = _ran(min(named, key=lambda task: int(task.name))) if named else 0.0
        children = sum(_whole(child.pid) for child in process.children(recursive=True))
        return cls(trio, device, _whole(process.pid) - trio - device, children)

    def __sub__(self, before: "Spent") -> "Spent":
        return Spent(
            self.trio_s - before.trio_s,
            self.device_s - before.device_s,
            self.others_s - before.others_s,
            self.children_s - before.children_s,
        )


@dataclass(slots=True)
class Ear:
    """One stream, of which only the newest number is kept, and how often something came."""

    sock: socket.socket
    reads: int = 0
    tail: bytes = b""

    @property
    def tokens(self) -> int:
        """The numbers said so far: tokens count from 0."""
        said = _SAID.findall(self.tail)
        return int(said[-1].split()[-1]) + 1 if said and said[-1].strip() else 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one run."""

    name: str
    streams: int
    tokens: int
    reads: int
    wall_s: float
    spent: Spent
    real: bool = False

    def told(self) -> str:
        """A row of the table."""
        spent = self.spent
        device_s = spent.device_s + spent.children_s
        above = spent.trio_s + (spent.device_s if self.real else spent.others_s)
        per = 1e6 / self.tokens
        return row(
            self.name,
            self.streams,
            f"{self.tokens / self.wall_s:.0f}",
            f"{self.reads / self.tokens:.2f}",
            *(f"{part * per:.1f}" for part in (device_s, spent.trio_s, spent.others_s)),
            f"**{above * per:.1f}**",
            f"**{100 * above / self.wall_s:.1f} %**",
        )


def paced(at: Neuron, name: str, streams: int, seconds: float) -> Figures:
    """`streams` streams, looked at for so long once all of them speak."""
    with _ears(at.at, streams) as (ready, ears):
        while not all(ear.tokens for ear in ears):
            _listen(ready, 0.1)
        _listen(ready, WARM_S)
        counts, reads = [ear.tokens for ear in ears], [ear.reads for ear in ears]
        before = Spent.by(at.process)
        began = time.perf_counter()
        _listen(ready, seconds)
        wall_s = time.perf_counter() - began
        spent = Spent.by(at.process) - before
        tokens = sum(ear.tokens - count for ear, count in zip(ears, counts, strict=True))
        heard = sum(ear.reads - count for ear, count in zip(ears, reads, strict=True))
    return Figures(name, streams, tokens, heard, wall_s, spent)


def real(at: Neuron, name: str, streams: int, seconds: float) -> Figures:
    """Bursts of `streams` streams of a real model to their end, requests included."""
    bodies = [_body(name, f"{number}. Tell of tea", TOKENS) for number in range(streams)]
    client.burst(at.at, bodies)
    before, tokens, wall_s = Spent.by(at.process), 0, 0.0
    while wall_s < seconds:
        burst = client.burst(at.at, bodies)
        tokens, wall_s = tokens + burst.tokens, wall_s + burst.wall_s
    spent = Spent.by(at.process) - before
    return Figures(name, streams, tokens, tokens, wall_s, spent, real=True)


def _body(model: str, text: str, tokens: int) -> bytes:
    wanted: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(wanted).encode()


@contextmanager
def _ears(at: Address, count: int) -> Iterator[tuple[selectors.BaseSelector, list[Ear]]]:
    ears = [Ear(socket.create_connection(at)) for _ in range(count)]
    try:
        with selectors.DefaultSelector() as ready:
            for number, ear in enumerate(ears):
                ready.register(ear.sock, selectors.EVENT_READ, ear)
                body = _body("paced", f"{number}. Count", CONTEXT // 2)
                ear.sock.sendall(client.request("localhost", body))
            yield ready, ears
    finally:
        for ear in ears:
            ear.sock.close()


def _listen(ready: selectors.BaseSelector, seconds: float) -> None:
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        for key, _ in ready.select(left):
            data = key.data.sock.recv(client.BLOCK)
            if not data:
                raise RuntimeError(f"a stream has ended: {key.data.tail!r}")
            key.data.reads += 1
            key.data.tail = (key.data.tail + data)[-2048:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a neuron spends on each token beside its engine.")
    parser.add_argument("--model", type=Path, help="a GGUF that speaks instead")
    parser.add_argument("--streams", type=int, nargs="+", default=[32])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--host", choices=("thread", "process"), default="thread", help="where the engine is")
    said = parser.parse_args(arguments)
    print(f"\n{time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores, {TURNS_S} turns/s, host {said.host}.\n")
    heads(
        "engine", "streams", "tokens/s", "reads/token", "device, us", "trio, us", "others, us",
        "above the engine, us a token", "of a core",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "paced.gguf").touch()
        path = said.model.resolve() if said.model else folder / "paced.gguf"
        models, slots = {path.stem: path}, max(said.streams)
        setting = Setting(models, CONTEXT, slots, 1, said.host, runner="tests.bench.paced")
        if said.model:
            setting = Setting(models, 1024, slots, 1, said.host)
        with neuron(folder, setting) as at:
            if not said.model:
                _part(at.process)
            speak = real if said.model else paced
            for streams in said.streams:
                print(speak(at, path.stem, streams, said.seconds).told(), flush=True)


def _part(process: psutil.Process) -> None:
    """Neuron and client have a core each: who is woken by what it is sent would take the sender's."""
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(0, others)
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {first})


def _ran(task: Path) -> float:
    """For how long a thread has had a core."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def _whole(pid: int) -> float:
    """For how long a process has, with its threads that have ended: its clock has the number that Linux
    gives it."""
    return time.clock_gettime(~pid << 3 | 2)


if __name__ == "__main__":
    main()
