"""The files of a role are found and read, and the role is started with what they say.

Every fault of all its files is told at once, before anything listens. The file of a
role is the one given, else the first of the usual places; a neuron does without one.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio
import typer

from cortex.cli.ports import ensure_free
from cortex.cli.running import Bell, Service, hold, settle
from cortex.config import schema
from cortex.config.files import candidates
from cortex.config.files import check as check_file
from cortex.config.gateway import GatewayConfig
from cortex.config.network import Address
from cortex.config.whole import Config, Kind, Whole, whole_gateway, whole_neuron
from cortex.errors import ConfigError
from cortex.logs import Format, escape
from cortex.notify import Notify

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A role whose files are good."""

    name: Kind
    run: Service
    listeners: tuple[Address, Address]
    log_format: Format | None
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    hung_up: Bell | None = None


def gateway(given: Path | None, env: Mapping[str, str]) -> Prepared:
    """The gateway of the file. ConfigError without one, since nothing says where its neurons are."""
    path = find("gateway", given, env)
    if path is None:
        places = " or ".join(map(str, candidates("gateway", env)))
        raise ConfigError([f"no cortex.toml: write {places}, name one with --config, or try 'cortex up'"])
    read_again = reader(path, dict(env))
    read, bell = read_again(), Bell()

    async def run(stop: trio.Event) -> None:
        from cortex import gateway as role  # noqa: PLC0415 - --check does without the role

        settle()
        process = role.Process(Notify.taken_from(os.environ))
        source = role.Source(read_again, path, bell.wait)
        await role.run(read.config, read.catalogue, source=source, stop=stop, process=process)

    async def supervise(stop: trio.Event) -> None:
        from cortex.cli import crews  # noqa: PLC0415 - as above

        await crews.supervise(read.config, path, bell, stop)

    chosen = run if read.config.workers == 1 else supervise
    return replace(_prepared("gateway", path, read, chosen), hung_up=bell)


def reader(path: Path, env: Mapping[str, str]) -> Callable[[], Whole[GatewayConfig]]:
    """What reads a gateway's files."""
    return lambda: whole_gateway(path, env, find("models", None, env))


def neuron(given: Path | None, env: Mapping[str, str]) -> Prepared:
    """The neuron of the file, or of no file: then it serves what it finds."""
    path = find("neuron", given, env)
    read = whole_neuron(path, env, find("models", None, env))

    async def run(stop: trio.Event) -> None:
        from cortex import neuron as role  # noqa: PLC0415 - as above
        from cortex.harness.alarm import Ours  # noqa: PLC0415

        settle()
        process = role.Process(Ours(), Notify.taken_from(os.environ))
        await role.run(read.config, read.catalogue, stop=stop, process=process)

    return _prepared("neuron", path, read, run)


def start(role: Prepared, only_check: bool, level: str, form: Format | None) -> None:
    """Run the role until a signal ends it; or tell that its files are good."""
    if only_check:
        for warning in role.warnings:
            typer.echo(f"warning: {escape(warning)}", err=True)
        typer.echo(f"ok: {', '.join(map(str, role.files)) or 'no file, all is default'}")
        return
    keys = f"set listen and metrics_listen of [{role.name}] to"
    ensure_free(role.listeners, f"stop it, or {keys} other ports", f"{keys} addresses of this host")
    hold(partial(_serve, role), level, form or role.log_format, role.hung_up)


def check(paths: list[Path]) -> int:
    """The exit code, after the faults and warnings of each file have been told."""
    faulty = False
    for path in paths:
        report = check_file(path)
        log.debug("config.checked file=%s kind=%s", path, report.kind)
        for warning in report.warnings:
            typer.echo(f"warning: {escape(warning)}", err=True)
        for fault in report.faults:
            typer.echo(escape(fault), err=True)
        if not report.faults:
            typer.echo(f"ok: {path} ({report.kind})")
        faulty = faulty or bool(report.faults)
    return 2 if faulty else 0


def show_schema(kind: Kind | None) -> None:
    """The schema of one kind of file, or of any, is printed."""
    words = schema.read_page()
    made = schema.any_schema(words) if kind is None else schema.schema(kind, words)
    typer.echo(json.dumps(made, indent=2, ensure_ascii=False))


async def _serve(role: Prepared, stop: trio.Event) -> None:
    for warning in role.warnings:
        log.warning("config.warning what=%s", warning)
    log.info("config.read files=%s", ",".join(map(str, role.files)) or "-")
    await role.run(stop)


def _prepared(name: Kind, path: Path | None, read: Whole[Config], run: Service) -> Prepared:
    config = read.config
    found = tuple(file for file in (path, read.models) if file is not None)
    listeners = config.listen, config.metrics_listen
    return Prepared(name, run, listeners, config.log_format, found, read.warnings)


def find(kind: Kind, given: Path | None, env: Mapping[str, str]) -> Path | None:
    """The given file, else the first that exists of the usual ones."""
    if given is not None:
        return given
    return next((path for path in candidates(kind, env) if path.exists()), None)
