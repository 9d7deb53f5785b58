"""cortex as a rival among others: the fleet that its mock neurons tell of, and the files of its gateway.

The mock answers for any number of neurons with what stands in its files, always the same. Each neuron has
models of its own, all loaded, with seats for everybody, so that no queue is ever measured.
"""

import hashlib
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import msgspec

from cortex.config.gateway import GatewayConfig, Poll
from cortex.wire import neuron as wire

MODELS: Final = ("mock", "paced")
KEY: Final = "sk-cortex-bench"
GIB: Final = 2**30
SEATS: Final = 100_000
# What a gateway does if nobody says otherwise.
POLL_S: Final = Poll().interval_s
HAS_WORKERS: Final = any(field.name == "workers" for field in fields(GatewayConfig))


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of each neuron: its own models, of which so many are loaded."""

    models: tuple[tuple[str, ...], ...]
    loaded: int

    @classmethod
    def of(cls, neurons: int, each: int, loaded: int) -> "Fleet":
        """So many like ones. The first has the models that every load asks for, too."""
        own = [tuple(f"m{number * each + model}" for model in range(each)) for number in range(neurons)]
        own[0] = (*MODELS, *own[0][len(MODELS) :])
        return cls(tuple(own), loaded)


ONE: Final = Fleet((MODELS,), len(MODELS))


def write_neurons(folder: Path, fleet: Fleet) -> None:
    """Each neuron's answers, in a folder of its own that is named by its number."""
    for number, models in enumerate(fleet.models):
        own = folder / str(number)
        own.mkdir(parents=True)
        for name, answer in _answers(number, models, fleet.loaded).items():
            (own / f"{name}.json").write_bytes(msgspec.json.encode(answer))


def _answers(number: int, models: tuple[str, ...], loaded: int) -> dict[str, msgspec.Struct]:
    boot, name, there = f"bench-{number}", f"n{number}", models[:loaded]
    residents = [
        wire.ResidentReport(
            id=model,
            harness="llamacpp",
            devices=["cpu"],
            bytes={"cpu": GIB},
            slots=SEATS,
            queue=SEATS,
            age_s=1000.0,
            idle_s=1000.0,
            context_length=8192,
        )
        for model in there
    ]
    return {
        "discovery": wire.Discovery(
            name=name,
            hostname="bench",
            devices=[wire.Device(device="cpu", name="cpu", memory_total=64 * GIB)],
            harnesses=[wire.HarnessReport(name="llamacpp", available=True)],
            dialects=["openai_chat", "openai_text"],
            boot_id=boot,
        ),
        "health": wire.Health(
            name=name,
            boot_id=boot,
            devices=[
                wire.DeviceHealth(name="cpu", memory_total=64 * GIB, memory_free=(64 - len(there)) * GIB)
            ],
            models=[wire.ModelLoad(id=model, slots=SEATS) for model in there],
        ),
        "models": wire.Residents(boot_id=boot, models=residents, known=list(models)),
    }


def write_gateway(
    folder: Path, port: int, mock: int, fleet: Fleet, workers: int = 1, poll_s: float = POLL_S
) -> list[str]:
    """Its files are there; this command starts it, with its metrics one port on, before mocks from port
    `mock` on."""
    (folder / "models.toml").write_text(
        "".join(
            f'[[models]]\nid = "{model}"\nharness = "llamacpp"\n' for own in fleet.models for model in own
        )
    )
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "cortex.toml").write_text(
        f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{port + 1}"\n'
        f'models_config = "models.toml"\n'
        + (f"workers = {workers}\n" if workers > 1 else "")
        + f"[limits]\nqueue = 65536\n[poll]\ninterval_s = {poll_s}\n"
        + f'[[keys]]\nname = "bench"\nsha256 = "{digest}"\nscopes = ["inference"]\n'
        + "".join(
            f'[[neurons]]\nname = "n{number}"\nendpoint = "http://127.0.0.1:{mock + number}"\n'
            for number in range(len(fleet.models))
        )
    )
    return [sys.executable, "-m", "cortex", "gateway", "--config", str(folder / "cortex.toml")]
