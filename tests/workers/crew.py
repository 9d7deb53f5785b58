"""A gateway of several processes, and the calls that the tests of it make."""

import os
import re
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.calls import CHAT, hello
from tests.fake_neuron import FakeNeuron
from tests.storms.gateway_process import GatewayProcess

_BORN = re.compile(r"worker\.started worker=(\d+) pid=(\d+)")


class CrewProcess(GatewayProcess):
    """A supervisor with two workers."""

    def __init__(
        self, folder: Path, neurons: Iterable[FakeNeuron], more: str = "", *, poll_s: float = 0.1
    ) -> None:
        super().__init__(folder, neurons, "ab", "workers = 2\n", more, poll_s=poll_s)
        self.file = folder / "cortex.toml"

    def pids(self) -> dict[str, int]:
        """The last process of each worker."""
        return {found[1]: int(found[2]) for line in self.lines() if (found := _BORN.search(line))}

    def processes(self) -> list[psutil.Process]:
        """The supervisor's, and every worker's that is there."""
        assert self._process is not None
        supervisor = psutil.Process(self._process.pid)
        return [supervisor, *supervisor.children()]

    def signal(self, number: signal.Signals, worker: str | None = None) -> None:
        assert self._process is not None
        os.kill(self._process.pid if worker is None else self.pids()[worker], number)

    async def says(self, word: str, times: int = 1) -> None:
        """The log has so many lines with it."""
        while sum(word in line for line in self.lines()) < times:  # noqa: ASYNC110 - a file tells nobody
            await trio.sleep(0.02)

    async def ended(self) -> int:
        """Its exit code, once it has one."""
        assert self._process is not None
        return await trio.to_thread.run_sync(self._process.wait)

    async def ask(self, **more: object) -> httpx.Response:
        """A request over a connection of its own."""
        async with self.client() as http:
            return await http.post(CHAT, json=hello(**more))

    async def get(self, path: str) -> httpx.Response:
        async with self.client() as http:
            return await http.get(path)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False)

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """The metrics of all workers, as they are at present."""
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            page = (await http.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def total(self, name: str) -> float:
        """The sum of all series of a metric."""
        return sum(value for (sample, _), value in (await self.samples()).items() if sample == name)

    async def comes_to(self, name: str, value: float) -> None:
        """The sum of a metric is that; a page may be a second old."""
        while await self.total(name) != value:  # noqa: ASYNC110 - a page tells nobody
            await trio.sleep(0.05)

    def served(self) -> dict[str, int]:
        """How many requests each worker has logged."""
        done = [line.rpartition("worker=")[2].split()[0] for line in self.lines() if "request.done" in line]
        return {worker: done.count(worker) for worker in set(done)}


@asynccontextmanager
async def crew(
    folder: Path, *neurons: FakeNeuron, more: str = "", poll_s: float = 0.1
) -> AsyncIterator[CrewProcess]:
    """It serves, and is killed at the end."""
    process = CrewProcess(folder, neurons, more, poll_s=poll_s)
    await process.start()
    try:
        await process.says("workers.ready")
        yield process
    finally:
        process.kill()
