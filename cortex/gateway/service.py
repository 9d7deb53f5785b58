"""A gateway from its first socket to its last: wiring, and the order of start and stop."""

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from cortex import logs
from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig
from cortex.config.models import merge_aliases
from cortex.dispatch import Dispatch, LoadBook
from cortex.gateway.app import build_app, scope_of
from cortex.gateway.discovery import Seeker
from cortex.gateway.expiry import end_expired
from cortex.gateway.fleet import Fleet
from cortex.gateway.happenings import Happenings
from cortex.gateway.headway import Headway
from cortex.gateway.listing import Listing
from cortex.gateway.loading import RemoteLoader
from cortex.gateway.passage import Passage
from cortex.gateway.pins import Pins
from cortex.gateway.reload import Reloader, Source
from cortex.gateway.report import Report
from cortex.gateway.telling import tell
from cortex.gateway.tuning import Parts, Tuning, patience_of, rules_of, terms_of, warnings_of
from cortex.gateway.views import Views
from cortex.gateway.watch import Watch
from cortex.keys import Accounts
from cortex.ledger import Ledger
from cortex.metrics import Metrics
from cortex.notify import Notify
from cortex.units import counted
from cortex.web.door import Door, Site
from cortex.web.guard import Credential, Policy
from cortex.web.lag import watch_lag
from cortex.web.listeners import Ports, metrics_site, own_names
from cortex.web.reactor import Reactor
from cortex.web.visit import FAREWELL_S

log = logging.getLogger(__name__)


async def run(
    config: GatewayConfig,
    catalogue: Catalogue,
    *,
    source: Source | None = None,
    stop: trio.Event | None = None,
    notify: Notify = Notify(),
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The gateway, until `stop` is set (then it drains) or it is cancelled (then it does not).

    `started` hands over its addresses, once each neuron has reported or is marked away; `notify`
    tells the service manager. With a `source` the values are read again from there when it changes.
    """
    async with opened(config, catalogue) as gateway:
        task_status.started(gateway.ports)
        notify.ready(f"{counted(len(config.neurons), 'neuron')} configured")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify.feed)
            if source is not None:
                nursery.start_soon(Reloader(source, gateway.tuning, notify).run)
            await (trio.Event() if stop is None else stop).wait()
            drain_s = gateway.tuning.config.limits.drain_s
            notify.stopping(drain_s + FAREWELL_S, "draining")
            await gateway.leave(drain_s)
            nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that listens at `ports`."""

    ports: Ports
    ledger: Ledger
    tuning: Tuning
    _parts: Parts

    async def leave(self, drain_s: float) -> None:
        """Nobody is served any more."""
        api, page, report = self._parts.api, self._parts.page, self._parts.report
        log.info("gateway.draining in_flight=%d", api.in_flight)
        report.stopping = report.fleet.stopping = True
        await api.drain(drain_s)
        await page.drain(0.0)
        log.info("gateway.stopped")


@asynccontextmanager
async def opened(config: GatewayConfig, catalogue: Catalogue) -> AsyncIterator[Gateway]:
    """A gateway at work. Leaving the block ends it hard, unless it was left before by `leave`."""
    catalogue = merge_aliases(catalogue, config.aliases, config.alias_sampling)
    async with trio.open_nursery() as nursery:
        parts = await _assemble(config, catalogue, nursery)
        tuning = Tuning(config, catalogue, parts, nursery)
        api = await nursery.start(parts.api.run, config.listen.host, config.listen.port)
        page = await nursery.start(parts.page.run, config.metrics_listen.host, config.metrics_listen.port)
        log.info("gateway.listening api=%s:%d metrics=%s:%d", *api, *page)
        for warning in parts.report.warnings:
            log.warning("gateway.warning what=%s", warning)
        nursery.start_soon(end_expired, lambda: tuning.config.keys, tuning.revoke)
        yield Gateway(Ports(api, page), parts.dispatch.ledger, tuning, parts)
        nursery.cancel_scope.cancel()


async def _assemble(config: GatewayConfig, catalogue: Catalogue, nursery: trio.Nursery) -> Parts:
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
    accounts = Accounts(config.keys, clock)
    fleet.told = accounts.reported
    listing = Listing(catalogue, ledger, fleet)
    views = Views(listing, accounts)
    pins = Pins(listing, nursery)
    fleet.heeded = pins.heed
    fleet.forgotten = pins.forget
    fleet.noticed = watch.noticed
    seeker = Seeker(fleet, config.discovery)
    await nursery.start(seeker.run)
    await nursery.start(fleet.run)
    patience_s = max(patience.queue_s, patience.load_s)
    started_at = trio.current_time()
    report = Report(boot_id, started_at, ledger, fleet, listing, patience_s, warnings_of(config))
    report.loads = headway.loads
    passage = Passage(boot_id, views, dispatch, config.limits, metrics)
    passage.express.nursery = nursery
    app = build_app(report, views, dispatch, pins, watch, policy=lambda: api.policy)
    site = Site(passage.routes(), app, _policy(config), scope_of)
    page = Door(metrics_site(metrics, config.trusted_networks), config.limits)
    api = Door(site, config.limits, metrics, reactor)
    nursery.start_soon(watch_lag, metrics.lagged)
    nursery.start_soon(tell, metrics, report, accounts)
    return Parts(
        api, page, dispatch, fleet, listing, loader, passage, report, _policy, accounts, watch, seeker
    )


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
