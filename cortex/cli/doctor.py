"""`cortex doctor`: each line says ok, warn or fail, and what to do about it.

The neuron's file is read first; with its faults told, the rest is looked at as if it
were not there. Ports belong to the command line, everything else to the neuron's room.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cortex.cli.interrupting import interruptible
from cortex.cli.ports import CannotListen, cortex_has, ensure_free, who_has
from cortex.config.files import candidates
from cortex.config.network import Address
from cortex.config.neuron import NeuronConfig
from cortex.config.whole import whole_neuron
from cortex.errors import ConfigError
from cortex.logs import escape
from cortex.neuron.cards import cards_of
from cortex.neuron.devices import find
from cortex.neuron.doctor import checks, examine
from cortex.neuron.findings import Check, Finding, Verdict
from cortex.neuron.harnesses import usual

_COLOURS: Final[Mapping[Verdict, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}


def run(given: Path | None, env: Mapping[str, str], *, as_json: bool) -> int:
    """The exit code, after every finding has been printed: 1 when something would not work."""
    config, told = _read(given, env)
    harnesses = usual(lambda: cards_of(find(dict(env)), config.devices.use or None))
    looks = {**_ports(config), **checks(config, harnesses)}
    found = [*told, *interruptible(partial(examine, looks), lambda: "stopped; nothing was changed")]
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _print(found)
    return int(any(finding.verdict == "fail" for finding in found))


def _read(given: Path | None, env: Mapping[str, str]) -> tuple[NeuronConfig, list[Finding]]:
    path = given or next((path for path in candidates("neuron", env) if path.exists()), None)
    models = next((path for path in candidates("models", env) if path.exists()), None)
    try:
        whole = whole_neuron(path, env, models)
    except ConfigError as error:
        remedy = "mend the file; what follows is looked at without it"
        return NeuronConfig(), [Finding("config", "fail", fault, remedy) for fault in error.faults]
    warned = [Finding("config", "warn", warning, "mend the file") for warning in whole.warnings]
    files = ", ".join(str(file) for file in (path, whole.models) if file is not None)
    return whole.config, warned or [Finding("config", "ok", files or "no file, all is default")]


def _ports(config: NeuronConfig) -> dict[str, Check]:
    listeners = {"listen": config.listen, "metrics_listen": config.metrics_listen}
    return {f"port of {key}": _port(key, address) for key, address in listeners.items()}


def _port(key: str, address: Address) -> Check:
    subject = f"port of {key}"

    def look() -> Iterator[Finding]:
        try:
            ensure_free([address], f"stop it, or set {key} of [neuron]", f"set {key} of [neuron]")
        except CannotListen as error:
            what, _, remedy = error.message.rpartition("; ")
            taken = "the port is taken" in what
            if taken and cortex_has(address.port):
                yield Finding(subject, "ok", f"{address} has a cortex: {who_has(address.port)}")
                return
            # Another user's neuron may have it: then all is as it should be.
            yield Finding(subject, "warn" if taken else "fail", what, remedy)
        else:
            yield Finding(subject, "ok", f"{address} is free")

    return look


def _print(found: Iterable[Finding]) -> None:
    console = Console(highlight=False, file=sys.stdout)
    table = Table.grid(padding=(0, 2))
    for finding in found:
        what = escape(finding.what)
        text = Text(f"{what}\n-> {escape(finding.remedy)}" if finding.remedy else what)
        table.add_row(Text(finding.verdict, _COLOURS[finding.verdict]), Text(finding.subject), text)
    # A path is to be copied: it is shown whole, however long.
    table.columns[2].overflow = "fold"
    console.print(table)
