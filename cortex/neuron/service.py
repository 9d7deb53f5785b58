"""A neuron from its first socket to its last: wiring, and the order of start and stop.

The listener is bound first, then the default models come in. At the end: refuse, let
finish, and stop the threads, which unload what they have.
"""

import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import trio

from cortex import logs
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import ColdLoad
from cortex.config.neuron import NeuronConfig
from cortex.dispatch import Dispatch, LoadBook, Patience
from cortex.errors import DeviceLost
from cortex.harness.alarm import Ending
from cortex.harness.base import Harness
from cortex.harness.losses import Crash
from cortex.harness.watch import Limits
from cortex.harness.worker import STOP_S, DeviceWorker
from cortex.ledger import Ledger
from cortex.ledger import Policy as LedgerPolicy
from cortex.metrics import Metrics
from cortex.neuron import upstreams, vocabularies
from cortex.neuron.app import build_app, scope_of
from cortex.neuron.cards import cards_of
from cortex.neuron.crashes import Crashes
from cortex.neuron.devices import Devices, Rooms, thread_name
from cortex.neuron.engines import Engines
from cortex.neuron.footprints import Footprints
from cortex.neuron.harnesses import usual
from cortex.neuron.jobs import Jobs
from cortex.neuron.orders import Orders
from cortex.neuron.pins import Pins
from cortex.neuron.residents import Residents
from cortex.neuron.sources import Found
from cortex.neuron.speech import Speech
from cortex.neuron.spending import Spending
from cortex.neuron.state import State, usual_folder
from cortex.neuron.terms import Terms
from cortex.neuron.tokens import Tokeniser
from cortex.neuron.upkeep import Upkeep
from cortex.neuron.upstreams import Upstreams
from cortex.neuron.view import Activation, Endpoint, View
from cortex.neuron.vigil import LAST_WORDS_S, Vigil
from cortex.neuron.vocabularies import Vocabularies
from cortex.notify import Notify
from cortex.places import Room
from cortex.units import counted
from cortex.web.door import Door, Site
from cortex.web.guard import Policy
from cortex.web.lag import watch_lag
from cortex.web.listeners import Ports, fleet_credential, metrics_site, own_names
from cortex.web.visit import FAREWELL_S

log = logging.getLogger(__name__)

# As often as Prometheus could want to know.
TELL_S: Final = 2.0
# Not in neuron.toml, so as for a gateway that is told nothing.
WAITS: Final = ColdLoad()
# Cards that were here once, by uuid.
DEVICES: Final = "devices.json"
# Several times within what one such word is good for.
ANNOUNCE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Process:
    """What the process that carries a neuron offers it. `ending` may end it when a device hangs,
    and is None where the process is not the neuron's own; `notify` tells its service manager."""

    ending: Ending | None = None
    notify: Notify = Notify()


async def run(
    config: NeuronConfig,
    catalogue: Catalogue,
    *,
    stop: trio.Event | None = None,
    harnesses: Mapping[str, Harness] | None = None,
    process: Process = Process(),
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The neuron, until `stop` is set (then it drains) or it is cancelled (then it does not).

    `started` hands over its addresses. `harnesses` other than its usual ones are for tests,
    examples and benchmarks. DeviceLost is raised when the process has to be started again.
    """
    elsewhere = Upstreams(config.upstream, catalogue, config.default_models)
    config = replace(config, name=config.name or socket.gethostname().partition(".")[0])
    async with trio.open_nursery() as nursery:
        neuron = await _assemble(config, catalogue, harnesses, elsewhere, nursery)
        vigil = neuron.view.vigil
        await nursery.start(vigil.run, process.ending)
        nursery.start_soon(process.notify.feed, vigil.hung)
        api = await nursery.start(neuron.api.run, config.listen.host, config.listen.port)
        page = await nursery.start(neuron.page.run, config.metrics_listen.host, config.metrics_listen.port)
        neuron.view.at.listens(api[0], api[1], neuron.view.devices.host.hostname)
        log.info("neuron.listening name=%s api=%s:%d metrics=%s:%d", config.name, *api, *page)
        await neuron.view.residents.found.seen()
        await elsewhere.seen()
        task_status.started(Ports(api, page))
        nursery.start_soon(_activate, neuron, config.default_models, process.notify)
        told = await _first(trio.Event() if stop is None else stop, vigil.doomed)
        # Nobody is left to finish where the vigil says so: only errors are on their way.
        drain_s = config.limits.drain_s if told else LAST_WORDS_S
        process.notify.stopping(drain_s + FAREWELL_S + STOP_S, "draining, then unloading")
        await neuron.leave(drain_s)
        # Each device's worker unloads its models when it is cancelled, within a limit of its own.
        nursery.cancel_scope.cancel()
    log.info("neuron.stopped")
    if not told:
        raise DeviceLost(vigil.verdict)


async def _first(stop: trio.Event, doomed: trio.Event) -> bool:
    """One of the two has come; whether it was `stop`."""
    async with trio.open_nursery() as nursery:
        for event in (stop, doomed):

            async def wait(event: trio.Event = event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
    return stop.is_set()


async def _activate(neuron: "_Neuron", specs: Iterable[ModelSpec], notify: Notify) -> None:
    """The default models have come in or failed, and the service manager knows."""
    activation = neuron.view.activation

    async def announce() -> None:
        while True:
            notify.starting(f"loading {activation.in_progress or 'default models'}")
            await trio.sleep(ANNOUNCE_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        await neuron.orders.activate(specs, activation)
        nursery.cancel_scope.cancel()
    if activation.state == "ready":
        failed = f", {len(activation.failed)} failed" if activation.failed else ""
        notify.ready(f"{counted(len(activation.completed), 'default model')} loaded{failed}")


class _Part(Protocol):
    """What runs as long as the neuron does."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...


@dataclass(frozen=True, slots=True)
class _Neuron:
    """The parts that start and stop name."""

    api: Door
    page: Door
    view: View
    orders: Orders

    async def leave(self, drain_s: float) -> None:
        """Nobody is served any more."""
        log.info("neuron.draining in_flight=%d", self.api.in_flight)
        self.view.activation.state = "stopping"
        if not self.view.vigil.doomed.is_set():
            self.view.residents.crashes.leave()
        await self.api.drain(drain_s)
        await self.page.drain(0.0)
        await self.view.spending.keep()


async def _assemble(
    config: NeuronConfig,
    catalogue: Catalogue,
    harnesses: Mapping[str, Harness] | None,
    elsewhere: Upstreams,
    nursery: trio.Nursery,
) -> _Neuron:
    name, boot_id = config.name or "neuron", secrets.token_hex(8)
    found = Found(catalogue, config.model_roots, elsewhere.offered if elsewhere.offers else None)
    state, devices = await _host(config, nursery)
    terms = Terms(config.eviction)
    ledger = _ledger(config, terms)
    crashes = await Crashes.remembered(state, boot_id)
    workers = await _open(config, Rooms(config.devices, devices, ledger), elsewhere, ledger, crashes)
    pins = await Pins.remembered(state)
    engines = await Engines.probed(_kinds(harnesses, devices, elsewhere))
    residents = Residents(config, found, workers, engines, ledger, pins=pins, elsewhere=elsewhere)
    residents.footprints, residents.crashes = await Footprints.remembered(state), crashes
    metrics = _metrics(found, ledger)
    jobs, tongues = Jobs(residents, ledger, residents.progress), _vocabularies(config, crashes, metrics)
    dispatch = Dispatch(ledger, jobs, _patience(config), LoadBook(metrics))
    spending = Spending(state)
    speech = Speech(name, residents, dispatch, metrics, spending)
    upkeep = Upkeep(residents, dispatch, metrics, terms, devices.ours)
    view = View(
        name=name,
        boot_id=boot_id,
        started_at=trio.current_time(),
        born=int(time.time()),
        ledger=ledger,
        devices=devices,
        residents=residents,
        speech=speech,
        spending=spending,
        at=Endpoint(),
        activation=Activation(),
        state=state,
        upstreams=elsewhere,
        upkeep=upkeep,
        vigil=_vigil(config, workers, dispatch, residents, metrics),
        warnings=_warnings(config),
    )
    orders = Orders(residents, dispatch, view, metrics, jobs=jobs, terms=terms)
    books: tuple[_Part, ...] = (residents.footprints, crashes, spending)
    for part in (*books, found, *workers.values(), elsewhere, tongues, dispatch, orders, jobs, upkeep):
        await nursery.start(part.run)
    nursery.start_soon(_tell, view, metrics)
    nursery.start_soon(watch_lag, metrics.lagged)
    site = _site(config, view, orders, Tokeniser(name, residents, tongues))
    return _Neuron(*_doors(config, site, metrics), view, orders)


def _site(config: NeuronConfig, view: View, orders: Orders, tokeniser: Tokeniser) -> Site:
    """All routes of the API."""
    routes = {**view.speech.routes(), **tokeniser.routes()}
    policy = _policy(config)
    return Site(routes, build_app(view, orders, tokeniser, policy), policy, scope_of)


def _kinds(
    harnesses: Mapping[str, Harness] | None, devices: Devices, elsewhere: Upstreams
) -> dict[str, Harness]:
    """The harnesses by name: those that are given, else the usual; and the upstreams', if there are any."""
    kinds = dict(harnesses or usual(lambda: cards_of(devices.driver, devices.names)))
    return {**kinds, elsewhere.harness.name: elsewhere.harness} if elsewhere else kinds


async def _host(config: NeuronConfig, nursery: trio.Nursery) -> tuple[State, Devices]:
    """What the host remembers and what it has, both of them running."""
    state = State(config.state_dir or usual_folder(os.environ))
    await nursery.start(state.run)
    devices = await Devices.found(config.devices, await state.recall(DEVICES, dict[str, str]))
    await nursery.start(devices.run)
    nursery.start_soon(state.keep, DEVICES, devices.remembered)
    return state, devices


def _doors(config: NeuronConfig, site: Site, metrics: Metrics) -> tuple[Door, Door]:
    """The listeners of the API and of the metrics."""
    page = metrics_site(metrics, config.trusted_networks)
    return Door(site, config.limits, metrics), Door(page, config.limits)


async def _open(
    config: NeuronConfig, rooms: Rooms, elsewhere: Upstreams, ledger: Ledger, crashes: Crashes
) -> dict[str, DeviceWorker]:
    """The ledger has every place; the workers of these, by place, which do not run yet."""
    rooms.open()
    workers = {
        place: DeviceWorker(thread_name(names), await crashes.open(place), _limits(config))
        for place, names in rooms.places.items()
    }
    if elsewhere:
        ledger.open(upstreams.PLACE, [Room(upstreams.PLACE, 0)])
        workers[upstreams.PLACE] = DeviceWorker(upstreams.THREAD)
    return workers


def _patience(config: NeuronConfig) -> Patience:
    return Patience(config.admission.max_wait_s, WAITS.max_wait_s)


def _limits(config: NeuronConfig) -> Limits:
    said = config.devices
    return Limits(said.turn_stall_s, said.warmup_stall_s, said.load_stall_s)


def _vigil(
    config: NeuronConfig,
    workers: Mapping[str, DeviceWorker],
    dispatch: Dispatch,
    residents: Residents,
    metrics: Metrics,
) -> Vigil:
    _note_faults(workers, residents.crashes, metrics)
    return Vigil(
        workers,
        dispatch,
        _limits(config),
        drain_s=config.devices.poison_drain_s,
        patience=_patience(config),
        lost=residents.forget,
        elsewhere=(upstreams.PLACE,),
    )


def _vocabularies(config: NeuronConfig, crashes: Crashes, metrics: Metrics) -> Vocabularies:
    """Whose children, when they die, are held against their models like others."""

    def died(crash: Crash) -> None:
        metrics.device_fault("child")
        crashes.died(vocabularies.PLACE, crash)

    return Vocabularies(_limits(config), died)


def _note_faults(workers: Mapping[str, DeviceWorker], crashes: Crashes, metrics: Metrics) -> None:
    """What goes wrong on devices is counted, and who died with what is remembered."""

    def died(place: str, crash: Crash) -> None:
        metrics.device_fault("child")
        crashes.died(place, crash)

    for _ in crashes.died_before:
        metrics.device_fault("crash")
    for place, worker in workers.items():
        worker.on_fault = metrics.device_fault
        worker.on_crash = partial(died, place)


def _ledger(config: NeuronConfig, terms: Terms) -> Ledger:
    """Empty, and judging by `terms`."""
    policy = LedgerPolicy(terms.rules, config.admission.queue, terms.max_overtake_s, queue_per_model=True)
    return Ledger(trio.current_time, policy)


def _metrics(found: Found, ledger: Ledger) -> Metrics:
    """Empty; what lives here and what could are labels."""
    metrics = Metrics(
        lambda model: found.spec(model) is not None or bool(ledger.holders(model)),
        role="neuron",
        dropped_records=logs.dropped,
    )
    metrics.loads_from(lambda: len(ledger.loads))
    return metrics


async def _tell(view: View, metrics: Metrics) -> None:
    """Keep the gauges fresh until cancelled."""
    while True:
        residents = Counter[str]()
        for place in view.ledger:
            residents.update({resident.model: resident.bytes for resident in place})
        health = view.health()
        metrics.neuron_reported(view.name, health.devices, residents)
        metrics.serving(health.models)
        metrics.quarantined(len(health.quarantined))
        await trio.sleep(TELL_S)


def _policy(config: NeuronConfig) -> Policy:
    return Policy(
        trusted_networks=config.trusted_networks,
        allowed_hosts=own_names(config.allowed_hosts),
        credentials=(fleet_credential(config.token),) if config.token is not None else (),
        # Gateways order loads from other hosts; without a token the network is the credential.
        loopback_admin=False,
    )


def _warnings(config: NeuronConfig) -> tuple[str, ...]:
    if config.token is not None or config.listen.host in ("127.0.0.1", "::1", "localhost"):
        return ()
    return ("no token_file: every peer of trusted_networks may infer and load models here",)
