"""A gateway as a process of its own, from files, to be killed and started again at the same port."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import httpx
import trio

from tests.fake_neuron import FakeNeuron
from tests.roles import Running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayProcess:
    """`cortex gateway` in front of `neurons`, called n1, n2, ... Its log is a file that outlives it.
    `own` are lines of `[gateway]`, `more` the tables behind it."""

    def __init__(
        self,
        folder: Path,
        neurons: Iterable[Running | FakeNeuron],
        models: Iterable[str],
        own: str = "",
        more: str = "",
        *,
        poll_s: float = 0.1,
    ) -> None:
        self._file, self._log = folder / "cortex.toml", folder / "gateway.log"
        self.port, self.metrics_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        rows = "".join(
            f'[[neurons]]\nname = "n{number}"\nendpoint = "{neuron.url}"\n'
            for number, neuron in enumerate(neurons, 1)
        )
        (folder / "models.toml").write_text("".join(f'[[models]]\nid = "{model}"\n' for model in models))
        self._file.write_text(
            f'[gateway]\nlisten = "127.0.0.1:{self.port}"\n'
            f'metrics_listen = "127.0.0.1:{self.metrics_port}"\n'
            f'models_config = "models.toml"\n{own}[poll]\ninterval_s = {poll_s}\n{rows}{more}'
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[str]:
        """What it has logged, in all its lives."""
        return self._log.read_text().splitlines()

    async def start(self) -> None:
        """The process is there; it may not listen yet."""
        command = [sys.executable, "-m", "cortex", "gateway", "--config", str(self._file)]
        with self._log.open("ab") as log:
            self._process = await trio.to_thread.run_sync(
                lambda: subprocess.Popen([*command, "--log-format", "text"], stderr=log)
            )

    async def serves(self, model: str) -> None:
        """It listens, and knows where `model` lives."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            while True:
                try:
                    if (await http.get(f"/v1/models/{model}")).json()["state"] == "loaded":
                        return
                except httpx.TransportError:
                    pass
                await trio.sleep(0.02)

    def kill(self) -> None:
        """The process is gone, and what it had to log yet."""
        self._end(signal.SIGKILL)

    async def leave(self) -> None:
        """The process has ended in peace, and all is in its log."""
        await trio.to_thread.run_sync(self._end, signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
