"""`cortex up`: a gateway and a neuron in one process, and one model between them.

The neuron listens on a free loopback port, with a token that only this process knows;
the gateway reaches it over HTTP like any other. What a person must know is printed on
stdout once the model is loaded: nothing else is. A signal ends it within two seconds
and quietly, whatever it was at: both roles drain at once, to one deadline. Roles are
wired here because they do not know each other.
"""

import logging
import secrets
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Final, Protocol

import trio
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cortex.catalogue import Catalogue
from cortex.cli.choosing import Choice, choose
from cortex.cli.ports import ensure_free as ensure_free_ports
from cortex.cli.running import leave, settle
from cortex.cli.trouble import Usage
from cortex.config.gateway import GatewayConfig, NeuronRef, Poll
from cortex.config.limits import Limits
from cortex.config.network import Address, read_host
from cortex.config.neuron import NeuronConfig
from cortex.errors import CortexError, LoadFailed
from cortex.logs import escape
from cortex.status.fetch import Asker, asker
from cortex.units import size
from cortex.wire.neuron import Activation

__all__ = ["Choice", "Order", "choose", "ensure_free", "listen_at", "run", "welcome"]

log = logging.getLogger(__name__)

NAME: Final = "here"
# Ctrl-C shall end it within two seconds. Streams may go on for so long; by the next they have had
# their end; and by the last the process is gone, whatever an engine is at: its memory goes along.
LIMITS: Final = Limits(drain_s=0.8)
DRAINED_S: Final = 1.0
GONE_S: Final = 1.7
# The neuron is in this process: asking often costs nothing and shows the model at once.
POLL: Final = Poll(interval_s=0.5)
LOOK_S: Final = 0.1
ANY: Final = Address("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for on the command line. Port 0 means free ones."""

    choice: Choice
    listen: Address


class Addresses(Protocol):
    """What a role hands over when it is started."""

    @property
    def api(self) -> tuple[str, int]: ...


def listen_at(host: str, port: int) -> Address:
    """The address that the options name. Usage when the host is none."""
    try:
        return Address(read_host(host), port)
    except ValueError as error:
        raise Usage(f"--host {host!r} is no host name or IP address; 127.0.0.1 is the usual one") from error


def beside(listen: Address) -> Address:
    """Where the metrics are."""
    return Address(listen.host, listen.port + 1 if listen.port else 0)


def ensure_free(listen: Address) -> None:
    """Both listeners can be had; the error says who is in the way."""
    ensure_free_ports(
        (listen, beside(listen)),
        "choose others with --port N, or any free ones with --port 0",
        "name an address of this computer with --host; 127.0.0.1 is for it alone, 0.0.0.0 for its network",
    )


async def run(order: Order, stop: trio.Event) -> None:
    """Serve until `stop`. Raises LoadFailed with the cause when the model does not come in."""
    neuron, gateway = _Held("neuron"), _Held("gateway")
    starting = trio.CancelScope()
    async with trio.open_nursery() as guard:
        guard.start_soon(_be_gone, stop)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end, stop, starting, (gateway, neuron), nursery.cancel_scope)
            with starting:
                await _start(order, neuron, gateway, nursery)
        guard.cancel_scope.cancel()


async def _start(order: Order, neuron: "_Held", gateway: "_Held", nursery: trio.Nursery) -> None:
    """Both roles are at work, the model is in, and the person knows."""
    token = secrets.token_urlsafe(32)
    inner = await neuron.start(nursery, *_neuron(order.choice, token))
    endpoint = f"http://{Address(*inner.api)}"
    outer = await gateway.start(nursery, *_gateway(order, endpoint, token))
    model = order.choice.spec.id
    async with asker(endpoint, token) as at:
        with _progress(order.choice):
            await _loaded(at, model)
        known = {entry.id: entry.capabilities or () for entry in (await at.models()).data}
    settle()
    typer.echo(welcome(_reachable(outer.api), model, embeds="embeddings" in known.get(model, ())))


def welcome(base: str, model: str, *, embeds: bool) -> str:
    """What a newcomer needs to know of a model that writes, or makes vectors."""
    path, call, field, value = (
        ("embeddings", "embeddings", "input", '["Hello"]')
        if embeds
        else ("chat/completions", "chat.completions", "messages", '[{"role": "user", "content": "Hello"}]')
    )
    body = f'{{"model": "{model}", "{field}": {value}}}'
    return f"""\
cortex is ready at {base}/v1 and serves {model}

Try it:
  curl {base}/v1/{path} -H 'content-type: application/json' -d {shlex.quote(body)}

With the OpenAI SDK:
  from openai import OpenAI
  client = OpenAI(base_url="{base}/v1", api_key="none")
  client.{call}.create(model="{model}", {field}={value})

Ctrl-C stops."""


class _Held:
    """A role in this process: it can be started, told to stop, and waited for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False
        self._stop, self._ended = trio.Event(), trio.Event()

    async def start(
        self,
        nursery: trio.Nursery,
        role: Callable[..., Awaitable[None]],
        config: object,
        catalogue: Catalogue,
    ) -> Addresses:
        """The role is usable."""
        self._begun = True
        addresses: Addresses = await nursery.start(partial(self._run, role, config, catalogue))
        return addresses

    async def end(self) -> None:
        """The role has drained and is gone; or it never was there."""
        self._stop.set()
        if self._begun:
            await self._ended.wait()

    async def _run(
        self,
        role: Callable[..., Awaitable[None]],
        config: object,
        catalogue: Catalogue,
        *,
        task_status: trio.TaskStatus[Addresses],
    ) -> None:
        try:
            await role(config, catalogue, stop=self._stop, task_status=task_status)
        finally:
            self._ended.set()
        if not self._stop.is_set():
            raise CortexError(f"the {self._name} ended by itself; its log says why")


async def _end(
    stop: trio.Event, starting: trio.CancelScope, roles: tuple[_Held, ...], scope: trio.CancelScope
) -> None:
    """Whatever was under way has had its end, or the time for it."""
    await stop.wait()
    # First: whoever still waits for a role must not see it go.
    starting.cancel()
    # A gateway that is still starting cannot know yet why its neuron leaves.
    logging.getLogger("cortex.gateway").setLevel(logging.ERROR)
    with trio.move_on_after(DRAINED_S):
        async with trio.open_nursery() as nursery:
            for role in roles:
                nursery.start_soon(role.end)
    scope.cancel()


async def _be_gone(stop: trio.Event) -> None:
    """The process ends although an engine does not let go."""
    await stop.wait()
    await trio.sleep(GONE_S)
    log.warning("stop.forced cause='an engine did not end within %.1f s'", GONE_S)
    leave(0)


async def _loaded(at: Asker, model: str) -> None:
    """The neuron's default model is in."""
    while True:
        activation: Activation = (await at.health()).activation
        if model in activation.failed:
            raise LoadFailed(activation.failed[model])
        if model in activation.completed:
            return
        await trio.sleep(LOOK_S)


def _neuron(choice: Choice, token: str) -> tuple[Callable[..., Awaitable[None]], NeuronConfig, Catalogue]:
    from cortex import neuron  # noqa: PLC0415 - engines are looked for once the file is known to be good
    from cortex.harness.alarm import Ours  # noqa: PLC0415 - as above

    config = NeuronConfig(
        name=NAME,
        listen=ANY,
        metrics_listen=ANY,
        token=token,
        model_roots=choice.roots,
        default_models=(choice.spec,),
        limits=LIMITS,
    )
    return (
        partial(neuron.run, process=neuron.Process(Ours())),
        config,
        Catalogue({choice.spec.id: choice.spec}),
    )


def _gateway(
    order: Order, endpoint: str, token: str
) -> tuple[Callable[..., Awaitable[None]], GatewayConfig, Catalogue]:
    from cortex import gateway  # noqa: PLC0415 - as above

    config = GatewayConfig(
        listen=order.listen,
        metrics_listen=beside(order.listen),
        neurons=(NeuronRef(NAME, endpoint, token),),
        limits=LIMITS,
        poll=POLL,
    )
    return gateway.run, config, Catalogue()


def _reachable(api: tuple[str, int]) -> str:
    """A URL that works on this computer: an address that means all of them is none to call."""
    host, port = api[0], api[1]
    address = ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://{Address(host, port)}"


def _progress(choice: Choice) -> Progress:
    console = Console(stderr=True)
    text = f"loading {escape(choice.spec.id)} ({size(choice.bytes)})"
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    progress.add_task(text, total=None)
    return progress
