"""Neurons and gateways as an operator runs them: processes, config files, loopback.

Owns their files and their end; a role that dies takes the benchmark down with its log.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.bench.client import ask

ROOT: Final = Path(__file__).resolve().parents[2]
START_S: Final = 60.0

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Roles:
    """Where the two listen, and their processes."""

    neuron_at: Address
    gateway_at: Address
    neuron: psutil.Process
    gateway: psutil.Process


@dataclass(frozen=True, slots=True)
class Neuron:
    """Where one listens, and its process."""

    at: Address
    process: psutil.Process


@dataclass(frozen=True, slots=True)
class Setting:
    """What engines on both sides are given. `models` are GGUF files by name, absolute, or for another
    `device` than the CPU folders; `threads` are of llama.cpp. `runner` is the module that runs a neuron."""

    models: Mapping[str, Path]
    context: int
    slots: int
    threads: int
    isolation: str | None = None  # as the neuron decides
    device: str = "cpu"
    runner: str = "cortex"


@contextmanager
def roles(folder: Path, setting: Setting) -> Iterator[Roles]:
    """Both run and know each other; they are gone when the block is left."""
    at = ("127.0.0.1", _free_port())
    with neuron(folder, setting) as there:
        (folder / "gateway.toml").write_text(
            f'[gateway]\nlisten = "{_text(at)}"\nmetrics_listen = "127.0.0.1:0"\n'
            f'models_config = "models.toml"\n'
            f'[[neurons]]\nname = "n1"\nendpoint = "http://{_text(there.at)}"\n'
        )
        with _role("gateway", folder, lambda: _knows_it(at)) as gateway:
            yield Roles(there.at, at, there.process, gateway)


@contextmanager
def neuron(folder: Path, setting: Setting, ticks: Path | None = None) -> Iterator[Neuron]:
    """One runs; it is gone when the block is left. `ticks` is where `ticking` then tells of its loop."""
    at = ("127.0.0.1", _free_port())
    _write(folder, setting, at)
    runner = [setting.runner] if ticks is None else ["tests.bench.ticking", str(ticks)]
    with _role("neuron", folder, lambda: bool(ask(at, "/health")), runner) as process:
        yield Neuron(at, process)


def _write(folder: Path, setting: Setting, at: Address) -> None:
    entries = "".join(
        f'[[models]]\nid = "{name}"\nsource = "path:{path}"\ncontext = {setting.context}\n'
        f"slots = {setting.slots}\n"
        for name, path in setting.models.items()
    )
    (folder / "models.toml").write_text(entries)
    isolation = f'isolation = "{setting.isolation}"\n' if setting.isolation else ""
    threads = f"threads = {setting.threads}\n" if setting.device == "cpu" else ""
    harness = "llamacpp" if setting.device == "cpu" else "exllamav2"
    roots = ", ".join(f'"{root}"' for root in sorted({path.parent for path in setting.models.values()}))
    (folder / "neuron.toml").write_text(
        f'[neuron]\nname = "n1"\nlisten = "{_text(at)}"\nmetrics_listen = "127.0.0.1:0"\n'
        f'models_config = "models.toml"\nmodel_roots = [{roots}]\nstate_dir = "state"\n'
        f'[devices]\nuse = ["{setting.device}"]\n[harness.{harness}]\n{threads}{isolation}'
    )


@contextmanager
def _role(
    name: str, folder: Path, ready: Callable[[], bool], runner: Sequence[str] = ("cortex",)
) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", *runner, name, "--config", str(folder / f"{name}.toml")]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, cwd=ROOT, env=dict(os.environ))
        try:
            deadline = time.monotonic() + START_S
            while not _answers(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} does not run:\n{(folder / f'{name}.log').read_text()}")
                time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except (OSError, ValueError):
        return False


def _knows_it(gateway: Address) -> bool:
    neurons = ask(gateway, "/health")["neurons"]
    return isinstance(neurons, dict) and neurons["healthy"] == 1


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
