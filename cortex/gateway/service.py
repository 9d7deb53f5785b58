"""A gateway from its first socket to its last: wiring, and the order of start and stop."""

import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import trio

from cortex import logs
from cortex.catalogue import Catalogue
from cortex.config.division import share
from cortex.config.gateway import GatewayConfig
from cortex.config.models import merge_aliases
from cortex.dispatch import Dispatch, LoadBook
from cortex.gateway.app import build_app, scope_of
from cortex.gateway.discovery import Seeker
from cortex.gateway.expiry import end_expired
from cortex.gateway.fellows import Fellows
from cortex.gateway.fleet import Fleet
from cortex.gateway.happenings import Happenings
from cortex.gateway.headway import Headway
from cortex.gateway.listing import Listing
from cortex.gateway.loading import RemoteLoader
from cortex.gateway.passage import Passage
from cortex.gateway.pins import Pins
from cortex.gateway.process import Process
from cortex.gateway.reload import Reloader, Source
from cortex.gateway.report import Report
from cortex.gateway.telling import tell
from cortex.gateway.tuning import Parts, Tuning, patience_of, rules_of, terms_of, warnings_of
from cortex.gateway.views import Views
from cortex.gateway.watch import Watch
from cortex.keys import Accounts, Guesses
from cortex.keys.guesses import MOST
from cortex.ledger import Ledger
from cortex.metrics import Metrics
from cortex.units import counted
from cortex.web.door import Door, Site
from cortex.web.guard import Credential, Policy
from cortex.web.lag import watch_lag
from cortex.web.listeners import Ports, metrics_site, own_names
from cortex.web.reactor import Reactor
from cortex.web.visit import FAREWELL_S
from cortex.workers.crew import Crew

log = logging.getLogger(__name__)


async def run(
    config: GatewayConfig,
    catalogue: Catalogue,
    *,
    source: Source | None = None,
    stop: trio.Event | None = None,
    process: Process = Process(),
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The gateway, until `stop` is set (then it drains) or it is cancelled (then it does not).

    `started` hands over its addresses, once each neuron has reported or is marked away; the `process`
    tells the service manager. With a `source` the values are read again from there when it changes.
    """
    notify = process.notify
    async with opened(config, catalogue, process) as gateway:
        task_status.started(gateway.ports)
        notify.ready(f"{counted(len(config.neurons), 'neuron')} configured")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify.feed)
            if source is not None:
                nursery.start_soon(Reloader(source, gateway.tuning, notify).run)
            await (trio.Event() if stop is None else stop).wait()
            drain_s = gateway.tuning.config.limits.drain_s
            notify.stopping(drain_s + FAREWELL_S, "draining")
            await gateway.leave(drain_s, alone=process.crew.alone)
            nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that listens at `ports`."""

    ports: Ports
    ledger: Ledger
    tuning: Tuning
    _parts: Parts
    _fellows: Fellows

    async def leave(self, drain_s: float, *, alone: bool = False) -> None:
        """Nobody is served any more; where it goes `alone`, by this process, and others serve on."""
        api, page, report = self._parts.api, self._parts.page, self._parts.report
        log.info("gateway.draining in_flight=%d", api.in_flight)
        if alone:
            await api.withdraw()
        report.stopping = report.fleet.stopping = True
        await api.drain(drain_s)
        await page.drain(0.0)
        await self._fellows.farewell()
        log.info("gateway.stopped")


@asynccontextmanager
async def opened(
    config: GatewayConfig, catalogue: Catalogue, process: Process = Process()
) -> AsyncIterator[Gateway]:
    """A gateway at work. Leaving the block ends it hard, unless it was left before by `leave`."""
    catalogue = merge_aliases(catalogue, config.aliases, config.alias_sampling)
    async with trio.open_nursery() as nursery:
        parts, fellows = await _assemble(config, catalogue, nursery, process)
        tuning = Tuning(config, catalogue, parts, nursery)
        fellows.begin(parts, nursery)
        at = config.listen
        api = await nursery.start(partial(parts.api.run, at.host, at.port, shared=process.api))
        at = config.metrics_listen
        page = await nursery.start(partial(parts.page.run, at.host, at.port, shared=process.page))
        log.info("gateway.listening api=%s:%d metrics=%s:%d", *api, *page)
        for warning in parts.report.warnings:
            log.warning("gateway.warning what=%s", warning)
        nursery.start_soon(end_expired, lambda: tuning.config.keys, tuning.revoke)
        yield Gateway(Ports(api, page), parts.dispatch.ledger, tuning, parts, fellows)
        nursery.cancel_scope.cancel()


async def _assemble(
    config: GatewayConfig, catalogue: Catalogue, nursery: trio.Nursery, process: Process
) -> tuple[Parts, Fellows]:
    # As trio.current_time, of which it is the end: several of its calls are in each request.
    clock = trio.lowlevel.current_clock().current_time
    ledger = Ledger(clock, rules_of(config))
    metrics = Metrics(lambda model: bool(listing.has(model)), dropped_records=logs.dropped)
    boot_id = secrets.token_hex(8)
    headway = Headway(ledger)
    watch = Watch(ledger, headway, Happenings(boot_id))
    terms, outranks = terms_of(config), ledger.outranks
    loader = RemoteLoader(lambda: fleet, lambda: metrics.evicted("room"), watch, terms, outranks)
    patience = patience_of(config)
    dispatch = Dispatch(ledger, loader, patience, LoadBook(metrics, evicts=False))
    dispatch.on_join = loader.joined
    metrics.loads_from(lambda: len(ledger.loads))
    await nursery.start(dispatch.run)
    silent_s = config.limits.upstream_stall_s
    reactor = Reactor()
    fleet = Fleet(config.neurons, config.poll, dispatch, metrics, silent_s=silent_s, reactor=reactor)
    accounts = Accounts(config.keys, clock, workers=process.crew.workers)
    fleet.told = accounts.reported
    listing = Listing(catalogue, ledger, fleet, int(process.began))
    views = Views(listing, accounts)
    pins = Pins(listing, nursery)
    fleet.heeded = pins.heed
    fleet.forgotten = pins.forget
    fleet.noticed = watch.noticed
    seeker = Seeker(fleet, config.discovery)
    await nursery.start(seeker.run)
    await nursery.start(fleet.run)
    patience_s = max(patience.queue_s, patience.load_s)
    started_at = trio.current_time() - (time.time() - process.began)
    name = process.boot_id or boot_id
    report = Report(name, started_at, ledger, fleet, listing, patience_s, warnings_of(config))
    report.loads = headway.loads
    passage = Passage(boot_id, views, dispatch, config.limits, metrics)
    passage.express.nursery, passage.express.clock = nursery, clock
    app = build_app(report, views, dispatch, pins, watch, policy=lambda: api.policy)
    site = Site(passage.routes(), app, _first_policy(config, process.crew), scope_of)
    fellows = Fellows(process.crew, metrics)
    page = Door(metrics_site(metrics, config.trusted_networks, fellows.whole), config.limits)
    api = Door(site, config.limits, metrics, reactor)
    nursery.start_soon(watch_lag, metrics.lagged)
    nursery.start_soon(tell, metrics, report, accounts)
    return Parts(
        api, page, dispatch, fleet, listing, loader, passage, report, _policy, accounts, watch, seeker
    ), fellows


def _policy(config: GatewayConfig) -> Policy:
    return Policy(
        trusted_networks=config.trusted_networks,
        allowed_hosts=own_names(config.allowed_hosts),
        allowed_origins=frozenset(config.allowed_origins),
        trusted_proxies=config.trusted_proxies,
        credentials=tuple(
            Credential(key.name, key.sha256, frozenset(key.scopes), key.expires) for key in config.keys
        ),
        anonymous=config.anonymous,
    )


def _first_policy(config: GatewayConfig, crew: Crew) -> Policy:
    """With the memory of wrong keys that later ones take over: each worker holds off who tries more than
    its share of them."""
    guesses = Guesses(time.monotonic, max(1, share(MOST, crew.index, crew.workers)))
    return replace(_policy(config), guesses=guesses)
