"""A neuron in a process of its own, whose models go wrong as their names say.

Run with the folders of its weights and of its state; the address of its API is its first
line. Limits are short. `Doomed` starts one and speaks to it, blocking.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

REQUEST_ID = "who-was-served"


def _main(folder: Path, state: Path) -> None:
    import trio

    from cortex import neuron
    from cortex.catalogue import Catalogue, ModelSpec
    from cortex.cli.running import hold
    from cortex.config.neuron import Devices, NeuronConfig
    from cortex.harness.alarm import Ours
    from cortex.harness.scripted import Script, ScriptedHarness, hang, hold_interpreter
    from tests.roles import ANY, MIB

    def lose(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def late(deed):
        return Script(endless=True, on_turn=lambda turn: deed() if turn == 3 else None)

    scripts = {
        "fine": Script(),
        "endless": Script(endless=True),
        "lost": late(lose),
        "hangs": late(hang),
        "holds": late(hold_interpreter),
        "aborts": late(os.abort),
        "hangs-loading": Script(on_load=hang),
        "aborts-loading": Script(on_load=os.abort),
    }
    config = NeuronConfig(
        name="n1",
        listen=ANY,
        metrics_listen=ANY,
        model_roots=(folder,),
        state_dir=state,
        devices=Devices(
            memory_limit=1024 * MIB,
            memory_headroom=0,
            turn_stall_s=1.0,
            warmup_stall_s=1.0,
            load_stall_s=1.0,
            poison_drain_s=5.0,
        ),
    )
    for model in scripts:
        if not (folder / f"{model}.gguf").exists():  # a file that is touched is another one
            (folder / f"{model}.gguf").touch()
    catalogue = Catalogue(
        {model: ModelSpec(model, source=f"path:{folder / model}.gguf") for model in scripts}
    )
    harnesses, process = {"llamacpp": ScriptedHarness(scripts=scripts)}, neuron.Process(ending=Ours())

    async def service(stop: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            run = partial(neuron.run, config, catalogue, stop=stop, harnesses=harnesses, process=process)
            ports = await nursery.start(run)
            print(*(f"http://127.0.0.1:{port}" for _, port in (ports.api, ports.metrics)), flush=True)

    hold(service, "info", "text")


class Doomed:
    """One such process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.url, _, self._metrics = process.stdout.readline().strip().partition(" ")
        if not self.url:
            raise RuntimeError(process.communicate()[1])

    def page(self) -> str:
        """The metrics."""
        with urllib.request.urlopen(f"{self._metrics}/metrics", timeout=20) as answer:
            return answer.read().decode()

    def get(self, path: str) -> dict:
        """What a control route answers."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> tuple[int, str]:
        """Status and body of the answer; as much as came where it broke off. Status 0: nothing came."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", "x-request-id": REQUEST_ID},
        )
        status, came = 0, b""
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status = answer.status
                while line := answer.readline():
                    came += line
                return answer.status, came.decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, HTTPException):
            return status, came.decode()

    def chat(self, model: str, **more: object) -> tuple[int, str]:
        """A stream of `model`."""
        messages = [{"role": "user", "content": "hi"}]
        return self.post(
            "/v1/chat/completions", {"model": model, "messages": messages, "stream": True, **more}
        )

    def end(self) -> tuple[int, str]:
        """The exit code of a process that ends by itself, and what it said."""
        _, told = self.process.communicate(timeout=20)
        return self.process.returncode, told


@contextmanager
def doomed(folder: Path, state: Path) -> Iterator[Doomed]:
    """A process at work; it is gone when the block is left."""
    process = subprocess.Popen(
        [sys.executable, __file__, folder, state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        yield Doomed(process)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
