"""Downloads that a person waits for: a bar in a terminal, a line now and then elsewhere.

No daemon is asked: the cache is the one that a neuron of this host, of the same neuron.toml and
the same user, loads from. A signal ends a download at once and keeps what came; the same command
goes on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cortex.catalogue import ModelSpec, unknown
from cortex.cli.interrupting import interruptible
from cortex.cli.roles import find
from cortex.cli.trouble import Usage
from cortex.config.hub import HubConfig
from cortex.config.whole import whole_neuron
from cortex.hub import HF, Format, Hub, Local, Phase, Source, formats_of
from cortex.logs import escape
from cortex.units import size

# Where nobody says which engine.
ANY: Final[tuple[Format, ...]] = ("gguf", "safetensors")
STEP: Final = 10  # percent between two lines


def pull(model: str, config: Path | None, env: Mapping[str, str]) -> Local:
    """What `model` means is in the cache, as the hub has it now."""
    path = find("neuron", config, env)
    read = whole_neuron(path, env, find("models", None, env))
    spec = read.catalogue.find(model)
    meant = ModelSpec(model) if spec is None else spec
    source = Source.of(meant)
    formats: Sequence[Format] = formats_of(meant)
    if spec is None:
        # Nobody loads it yet: what a neuron would look for first, else whatever there is.
        formats = (*formats, *(form for form in ANY if form not in formats))
    if source is None and spec is not None:
        raise Usage(f"{model} is not on a hub: its source is {spec.source or 'not said'}")
    if source is None:
        if model.startswith(HF):
            raise Usage(f"{model} is no hub id: write hf:org/name[@revision][:file-or-quant]")
        if read.models is None:
            raise Usage(
                f"{model} is no hub id, and no models.toml was read that could name it: give the host's own "
                "neuron.toml with --config, or write hf:org/name[@revision][:file-or-quant]"
            )
        raise unknown(model, [spec.id for spec in read.catalogue])
    if read.models is None and not model.startswith(HF):
        typer.echo(f"no models.toml was read: {escape(model)} is taken for a hub's, as {source}", err=True)
    return fetch(source, formats, read.config.hub)


def local(source: Source, formats: Sequence[Format]) -> Local:
    """The model from the cache if it is there whole, else from the hub; by the environment alone."""
    found = Hub(HubConfig()).cached(source, formats)
    return fetch(source, formats, HubConfig()) if found is None else found


def fetch(source: Source, formats: Sequence[Format], config: HubConfig) -> Local:
    """The download, shown. Interrupted when a signal ended it."""
    console = Console(stderr=True)
    told = _Bar(str(source), console) if console.is_terminal else _Lines(str(source))
    return interruptible(
        partial(_fetch, source, formats, config, told),
        lambda: f"stopped; {told.kept} are kept: the same command goes on from there",
    )


async def _fetch(
    source: Source, formats: Sequence[Format], config: HubConfig, told: "_Bar | _Lines"
) -> Local:
    with told:
        return await Hub(config).fetch(source, formats, told.tell)


@dataclass(slots=True)
class _Lines:
    """One line for every tenth, for logs and pipes."""

    what: str
    kept: str = "0B"
    _said: set[tuple[Phase, int]] = field(default_factory=set, init=False)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def tell(self, phase: Phase, done: int, total: int) -> None:
        share = done * 100 // total // STEP * STEP if total else 100
        if phase == "download":
            self.kept = f"{size(done)} of {size(total)}"
        # Each file is verified before the next one comes: what was said once is enough.
        if (phase, share) not in self._said:
            self._said.add((phase, share))
            typer.echo(f"{phase} {escape(self.what)}: {share}% of {size(total)}", err=True)


class _Bar:
    """A bar, which is gone when it is done."""

    def __init__(self, what: str, console: Console) -> None:
        self.kept = "0B"
        self._what = escape(what)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(f"asking for {self._what}", total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, phase: Phase, done: int, total: int) -> None:
        if phase == "download":
            self.kept = f"{size(done)} of {size(total)}"
        self._bar.update(self._task, description=f"{phase} {self._what}", completed=done, total=total)
