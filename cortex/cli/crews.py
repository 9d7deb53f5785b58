"""A gateway of several processes: the supervisor's side, and a worker's.

The supervisor reads the files for what it needs, opens the listeners and begins the workers, and imports
nothing of the role. A worker reads the files by itself, as it does when they change, and takes its share of
their limits; where it listens, and beside how many, was said when the first one began, and stays.
"""

import faulthandler
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from cortex import logs
from cortex.cli.roles import reader
from cortex.cli.running import Bell, leave, logged, settle
from cortex.cli.trouble import tell
from cortex.config.division import divided
from cortex.config.gateway import GatewayConfig
from cortex.config.network import read_address
from cortex.config.whole import Whole
from cortex.errors import ConfigError
from cortex.notify import Notify
from cortex.web.listening import Shared, listen
from cortex.workers.crew import Worker
from cortex.workers.crowd import Crowd, make_crowd
from cortex.workers.line import Line
from cortex.workers.spawn import ORPHANED, Plan, die_with, shown_as
from cortex.workers.supervisor import Order, Supervisor

log = logging.getLogger(__name__)


async def supervise(config: GatewayConfig, path: Path, bell: Bell, stop: trio.Event) -> None:
    """All workers of the gateway whose file is at `path`, until `stop` is set and they have drained."""
    notify = Notify.taken_from(os.environ)
    settle()
    api = await listen(config.listen.host, config.listen.port)
    page = await listen(config.metrics_listen.host, config.metrics_listen.port)
    about = {
        "config": str(path),
        "listen": str(config.listen),
        "metrics_listen": str(config.metrics_listen),
        "log_format": config.log_format or "",
        "boot_id": secrets.token_hex(8),
        "since": repr(time.time()),
        "level": logging.getLevelName(logging.getLogger().level).lower(),
        "form": _form(),
    }
    crowd = make_crowd(config.workers)
    plan = Plan(
        entry=__name__,
        command="cortex gateway",
        about=about,
        workers=config.workers,
        api=api.fileno(),
        page=page.fileno(),
        crowd=crowd,
    )
    log.info("workers.listening api=%s:%d metrics=%s:%d", *api.getsockname()[:2], *page.getsockname()[:2])
    await Supervisor(Order(plan, (api, page), notify, bell.wait)).run(stop)


def _form() -> logs.Format:
    """As this process logs, so do its workers."""
    formatters = (each.formatter for each in logging.getLogger().handlers)
    return "text" if any(isinstance(each, logs.Text) for each in formatters) else "json"


def main(text: str) -> NoReturn:
    """A worker, from what `spawn` gave it to its end."""
    plan = msgspec.json.decode(text, type=Plan)
    die_with(plan.parent)
    shown_as(plan.index)
    faulthandler.enable()  # the supervisor asks for the stacks of one that hangs
    try:
        with logged(plan.about["level"], _format(plan.about["form"]), {"worker": str(plan.index + 1)}):
            trio.run(_work, plan)
    except (Exception, BaseExceptionGroup) as error:
        raise SystemExit(tell(error)) from error
    raise SystemExit(0)


def _format(said: str) -> logs.Format | None:
    return "text" if said == "text" else "json" if said == "json" else None


async def _work(plan: Plan) -> None:
    worker = Worker(Line(socket.socket(fileno=plan.line)), plan.index, plan.workers)
    bell = Bell()
    worker.hears["reload"] = lambda body: bell.ring()  # which may be asked for already
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hear, worker)
        await nursery.start(_obey, worker)
        await _serve(plan, worker, bell)
        nursery.cancel_scope.cancel()


async def _hear(worker: Worker) -> None:
    await worker.run()
    # Where the kernel did not say so already: nobody is there to end us, nor to count for.
    leave(ORPHANED)


async def _obey(worker: Worker, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """A signal to this process is a wish: the supervisor has the last word. Ctrl-C and a hang-up are told
    to all processes of a terminal, and the supervisor is one of them."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGTERM:
                worker.wanted_away()


async def _serve(plan: Plan, worker: Worker, bell: Bell) -> None:
    from cortex import gateway as role  # noqa: PLC0415 - the supervisor does without it

    settle()
    path = Path(plan.about["config"])
    read_again = partial(_share, reader(path, dict(os.environ)), plan)
    read = read_again()
    process = role.Process(
        Relayed(say=worker.say),
        worker,
        Shared(_inherited(plan.api), Crowd(plan.crowd, plan.index, plan.workers)),
        Shared(_inherited(plan.page)),
        plan.about["boot_id"],
        float(plan.about["since"]),
    )
    source = role.Source(read_again, path, bell.wait)
    config = replace(
        read.config,
        listen=read_address(plan.about["listen"]),
        metrics_listen=read_address(plan.about["metrics_listen"]),
        workers=plan.workers,
        log_format=_format(plan.about["log_format"]),
    )
    await role.run(config, read.catalogue, source=source, stop=worker.stopped, process=process)


def _share(read: Callable[[], Whole[GatewayConfig]], plan: Plan) -> Whole[GatewayConfig]:
    """What the files say, with this worker's share of the limits."""
    whole = read()
    try:
        return replace(whole, config=divided(whole.config, plan.index, plan.workers))
    except ValueError as error:
        # The file's own number of workers is another one, and holds from the next start on.
        raise ConfigError([f"{plan.about['config']}: {error}"]) from error


def _inherited(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class Relayed(Notify):
    """What a service manager would be told goes to the supervisor, which speaks for all."""

    say: Callable[..., None] = print

    def _say(self, *lines: str) -> None:
        self.say(*lines)
