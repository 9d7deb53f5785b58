"""The fake neuron of `examples/fake-fleet` as a process of its own, to be killed, stopped and restarted.

For what only a process can do: SIGKILL with a request on its device, SIGSTOP, a start with another
boot id at the same port. Its switches are set over HTTP; its ledger is a file that outlives it.
"""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType

import httpx
import trio

from tests.checker import Ran, ran_of

PROGRAM = Path(__file__).parent.parent / "examples" / "fake-fleet" / "neuron.py"
Switch = dict[str, object]


class NeuronProcess:
    """One neuron; `models` are resident at its start, of a MiB each. `url` is where it can be
    reached. A tuple among the `options` is a flag that is repeated."""

    def __init__(self, folder: Path, name: str, *models: str, **options: object) -> None:
        self.name, self.port, self.thawed_at = name, 0, 0.0
        self._ledger = folder / f"{name}.jsonl"
        usual: dict[str, object] = {"device": "cpu=1GiB", "pace": 500, "tokens": 6, "load": "10ms"}
        held = tuple(f"{model}=1MiB" for model in models)
        self._options = {**usual, "name": name, "ledger": self._ledger, "hold": held, **options}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    def begin(self) -> None:
        """It listens, at the same port as before."""
        words = []
        for name, value in {**self._options, "port": self.port}.items():
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}={each}" for each in values]
        self._process = subprocess.Popen([sys.executable, str(PROGRAM), *words], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the neuron did not start"
        self.port = int(line.rpartition(b":")[2])

    def kill(self) -> None:
        """The process is gone, whatever it did."""
        self.process.kill()
        self._bury()

    async def start(self) -> None:
        """As `begin`, while others go on."""
        await trio.to_thread.run_sync(self.begin)

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """The process is gone, by a signal."""
        self.process.send_signal(how)
        await self.gone()

    async def gone(self) -> int:
        """The process has ended, by whatever; its exit code."""
        await trio.to_thread.run_sync(self._bury)
        return self.process.returncode

    def _bury(self) -> None:
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def freeze(self) -> None:
        """It is stopped where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on as if nothing had happened."""
        self.thawed_at = time.monotonic()
        self.process.send_signal(signal.SIGCONT)

    async def frozen(self) -> None:
        """It has stopped itself, or was stopped."""
        while _state_of(self.process.pid) != "T":  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.002)

    async def switch(self, *faults: Switch) -> None:
        """These go wrong from here on, and nothing else."""
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{self.url}/faults", json={"faults": faults})
            assert answer.status_code == 200, answer.text

    async def stopping(self) -> None:
        """It has heard that it shall stop, whoever else knows."""
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                health = (await http.get(f"{self.url}/health")).json()
                if health["activation"]["state"] == "stopping":
                    return

    def ran(self) -> list[Ran]:
        """What it has computed, in all its lives."""
        return ran_of(self._ledger.read_bytes().splitlines()) if self._ledger.exists() else []

    async def computing(self, tokens: int = 1) -> None:
        """It has computed so many tokens of something."""
        while not any(run.tokens >= tokens for run in self.ran()):  # noqa: ASYNC110 - a file tells nobody
            await trio.sleep(0.002)

    async def let_go(self, id: str) -> None:
        """It computes nothing any more for that request."""
        while not any(run.id == id and run.end for run in self.ran()):  # noqa: ASYNC110 - as above
            await trio.sleep(0.002)

    async def __aenter__(self) -> "NeuronProcess":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _state_of(pid: int) -> str:
    """R, S, T, ... as in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@asynccontextmanager
async def two_neurons(folder: Path, *models: str, **options: object) -> AsyncIterator[list[NeuronProcess]]:
    """n1 and n2, started together."""
    neurons = [NeuronProcess(folder, name, *models, **options) for name in ("n1", "n2")]
    async with AsyncExitStack() as stack:
        for neuron in neurons:
            stack.callback(lambda each=neuron: each._process and each.kill())
        async with trio.open_nursery() as nursery:
            for neuron in neurons:
                nursery.start_soon(neuron.start)
        yield neurons
