"""Processes on their cores: mocks, gateways, and loads that are driven at them.

The gateway has one core, the mock and the load client share another; both are C, made when they are
needed. Whatever is started here is gone, with its children, when its block is left. Other programs
disturb: what they used of the cores during a load is kept beside what the load found.
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import psutil

from tests.bench.ours import Fleet, write_neurons
from tests.bench.rivals import Rival

NATIVE: Final = Path(__file__).parent / "native"
GATEWAY_CORE, LOAD_CORE = "0", "1"
PACE_MS: Final = 20
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
START_S: Final = 120.0
CALM_S: Final = 6.0
# Of a core. A gateway that polls is not still.
CALM: Final = 0.1
# Beyond the ports that are given out to clients, here and where Linux has other limits.
LOW, HIGH = 20_000, 32_000


class Run(msgspec.Struct):
    """What the load client saw in its window, in microseconds where it is a time; and `cpu_s`, what the
    gateway spent in it, `others`, the cores that everybody else had, and `rss_mb` in its middle."""

    c: int
    requests: int
    errors: int
    bad_events: int
    events: int
    rps: float
    eps: float
    lat_p50: float
    lat_p99: float
    ttft_p50: float
    ttft_p99: float
    gap_p99: float
    conns: int = 0
    lasterr: str = ""
    cpu_s: float = 0.0
    others: float = 0.0
    rss_mb: float = 0.0


def read(told: bytes) -> Run:
    """What the load client printed. DecodeError and ValidationError where it is something else."""
    return msgspec.json.decode(told, type=Run)


@dataclass(frozen=True, slots=True)
class Load:
    """So many clients for so long, after a warm-up. `words` are the load client's own."""

    clients: int
    seconds: float
    words: tuple[str, ...] = ()
    warm_s: float = 0.3
    ramp_s: float = 0.0
    path: str = CHAT

    def command(self, folder: Path, port: int, headers: Sequence[str]) -> list[str]:
        return [
            *("taskset", "-c", LOAD_CORE, str(folder / "load"), "-u", f"http://127.0.0.1:{port}{self.path}"),
            *("-c", str(self.clients), "-d", str(self.seconds)),
            *("-w", str(self.warm_s), "-r", str(self.ramp_s), *self.words),
            *(word for header in headers for word in ("-H", header)),
        ]


@dataclass(slots=True)
class Target:
    """A gateway that runs before a mock, and is the mock itself where there is none between."""

    name: str
    port: int
    headers: tuple[str, ...]
    process: psutil.Process
    mock: psutil.Process
    family: list[psutil.Process] = field(init=False)

    def __post_init__(self) -> None:
        self.family = [self.process, *self.process.children(recursive=True)]

    def load(self, folder: Path, load: Load) -> Run:
        """One load, with what it cost the gateway while it lasted, and what others took."""
        self.calm()
        began, others, own = time.monotonic(), _busy_s(), self._all_s()
        with subprocess.Popen(
            load.command(folder, self.port, self.headers), stdout=subprocess.PIPE
        ) as client:
            time.sleep(load.warm_s + load.ramp_s)
            opened, spent = time.monotonic(), self.cpu_s()
            time.sleep(load.seconds / 2)
            rss_mb = self.rss_mb()
            told = client.stdout.read() if client.stdout else b""
            spent, window = self.cpu_s() - spent, time.monotonic() - opened
        wall = time.monotonic() - began
        found = read(told)
        found.cpu_s = spent * load.seconds / window
        found.others = round((_busy_s() - others - (self._all_s() - own)) / wall, 2)
        found.rss_mb = rss_mb
        return found

    def rss_mb(self) -> float:
        """What it has resident, with its children."""
        return sum(each.memory_info().rss for each in self.family) / 2**20

    def cpu_s(self) -> float:
        return sum(_spent(each) for each in self.family)

    def calm(self) -> None:
        """Slow gateways go on with requests whose clients have left."""
        deadline = time.monotonic() + CALM_S
        while time.monotonic() < deadline:
            before = self.cpu_s()
            time.sleep(0.2)
            if self.cpu_s() - before <= CALM * 0.2:
                return

    def _all_s(self) -> float:
        """Processor seconds of the gateway, of the mock, and of load clients that have ended."""
        clients = resource.getrusage(resource.RUSAGE_CHILDREN)
        mock = _spent(self.mock) if self.mock not in self.family else 0.0
        return self.cpu_s() + mock + clients.ru_utime + clients.ru_stime


def build(folder: Path) -> None:
    """The mock and the load client, made of their C."""
    for name in ("mock", "load"):
        subprocess.check_call(["cc", "-O2", "-o", str(folder / name), str(NATIVE / f"{name}.c")])


@contextmanager
def neurons(
    folder: Path, fleet: Fleet, core: str = LOAD_CORE, pace_ms: int = PACE_MS
) -> Iterator[tuple[int, psutil.Process]]:
    """One mock answers for a fleet: its first port, and its process."""
    own = folder / f"neurons-{core}-{len(fleet.models)}-{pace_ms}"
    shutil.rmtree(own, ignore_errors=True)
    write_neurons(own, fleet)
    port = free_ports(len(fleet.models))
    command = [str(folder / "mock"), str(port), str(pace_ms), str(own), str(len(fleet.models))]
    with started(command, core, own / "log") as process:
        while not answers(port):
            if process.status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError(f"the mock does not run: {(own / 'log').read_text()}")
            time.sleep(0.02)
        yield port, process


@contextmanager
def gateway(name: str, rival: Rival, mock: tuple[int, psutil.Process], folder: Path) -> Iterator[Target]:
    """It answers a request. RuntimeError says, with its log, that it does not."""
    own = folder / name.replace(", ", "-").replace(" ", "-")
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    port, core = free_ports(2), None if rival.spread else GATEWAY_CORE
    command = rival.command(port, mock[0], own)
    headers = tuple(header.format(mock=mock[0]) for header in rival.headers)
    with started(command, core, own / "log", rival.environment) as process:
        wait(name, process, port, headers, folder)
        yield Target(name, port, headers, process, mock[1])


def wait(name: str, process: psutil.Process, port: int, headers: Sequence[str], folder: Path) -> None:
    """Until it serves."""
    deadline, first = time.monotonic() + START_S, Load(1, 0.2, warm_s=0.1)
    while (
        not answers(port) or not read(subprocess.check_output(first.command(folder, port, headers))).requests
    ):
        if time.monotonic() > deadline or process.status() == psutil.STATUS_ZOMBIE:
            [log] = folder.glob(f"{name.replace(', ', '-').replace(' ', '-')}/log")
            raise RuntimeError(f"{name} does not answer: {log.read_text()[-2000:]}")
        time.sleep(0.2)


@contextmanager
def started(
    command: Sequence[str], core: str | None, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """It runs on that core, and is gone, with its children, when the block is left."""
    pinned = list(command) if core is None else ["taskset", "-c", core, *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            pinned,
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
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


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> int:
    """The first of so many in a row that nobody has."""
    port = LOW + time.monotonic_ns() // 1000 % 4000
    while port + count < HIGH:
        taken = next((each for each in range(port, port + count) if not _free(each)), None)
        if taken is None:
            return port
        port = taken + 1
    raise RuntimeError(f"there are not {count} free ports in a row from {LOW} to {HIGH}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _spent(process: psutil.Process) -> float:
    """Processor seconds, finer than the hundredths that the kernel's tables have: Linux keeps a clock for
    each process, whose number is made of the process's."""
    return time.clock_gettime(~process.pid << 3 | 2)


def _busy_s() -> float:
    """Processor seconds of everybody, but for who stands back for others."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.irq + times.softirq + times.steal)
