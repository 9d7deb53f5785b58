"""The fake neuron of `examples/fake-fleet` as a process of its own, to be killed, stopped and restarted.

For what only a process can do: SIGKILL with a request on its device, SIGSTOP, a start with another
boot id at the same port. Its switches are set over HTTP; its ledger is a file that outlives it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

import httpx
import trio

from tests.checker import Ran, ran_of

PROGRAM = Path(__file__).parent.parent / "examples" / "fake-fleet" / "neuron.py"
Switch = dict[str, object]


class NeuronProcess:
    """One neuron; `models` are resident at its start. `url` is where it can be reached."""

    def __init__(self, folder: Path, name: str, *models: str, **options: object) -> None:
        self.name, self.port, self.boot_id = name, 0, ""
        self._ledger = folder / f"{name}.jsonl"
        usual: dict[str, object] = {"device": "cpu=1GiB", "pace": 500, "tokens": 6, "load": "10ms"}
        self._options = {**usual, **options}
        self._models = models
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """It listens, at the same port as before."""
        options = {**self._options, "name": self.name, "port": self.port, "ledger": self._ledger}
        words = [f"--hold={model}=1MiB" for model in self._models]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            words += [f"{flag}={each}" for each in (value if isinstance(value, tuple) else (value,))]
        command = [sys.executable, str(PROGRAM), *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220 - a fork is short
        assert self._process.stdout is not None
        async with trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno())) as said:
            line = b""
            while not line.endswith(b"\n"):
                more = await said.receive_some(200)
                assert more, "the neuron did not start"
                line += more
        self.port = int(line.rpartition(b":")[2])

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """The process is gone."""
        assert self._process is not None
        self._process.send_signal(how)
        await self.gone()

    async def gone(self) -> None:
        """The process has ended, by whatever."""
        assert self._process is not None
        await trio.to_thread.run_sync(self._process.wait)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def send(self, signal_: signal.Signals) -> None:
        """Stop it or let it go on."""
        assert self._process is not None
        self._process.send_signal(signal_)

    async def frozen(self) -> None:
        """It has stopped itself, or was stopped."""
        assert self._process is not None
        while _state_of(self._process.pid) != "T":  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.002)

    async def switch(self, *faults: Switch) -> None:
        """These go wrong from here on, and nothing else."""
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{self.url}/faults", json={"faults": faults})
            assert answer.status_code == 200, answer.text

    def ran(self) -> list[Ran]:
        """What it has computed, in all its lives."""
        return ran_of(self._ledger.read_bytes().splitlines()) if self._ledger.exists() else []

    async def computing(self, tokens: int = 1) -> None:
        """It has computed so many tokens of something."""
        while not any(run.tokens >= tokens for run in self.ran()):  # noqa: ASYNC110 - a file tells nobody
            await trio.sleep(0.002)

    async def __aenter__(self) -> "NeuronProcess":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdout.close()


def _state_of(pid: int) -> str:
    """R, S, T, ... as in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@asynccontextmanager
async def two_neurons(folder: Path, *models: str, **options: object) -> AsyncIterator[list[NeuronProcess]]:
    """n1 and n2, started together."""
    async with contextlib.AsyncExitStack() as stack:
        neurons = [NeuronProcess(folder, name, *models, **options) for name in ("n1", "n2")]
        async with trio.open_nursery() as nursery:
            for neuron in neurons:
                nursery.start_soon(neuron.start)
        for neuron in neurons:
            stack.push_async_exit(neuron.__aexit__)
        yield neurons
