"""Puts other values into a gateway that serves.

Owns which part each value reaches, and which only a restart brings in: those are told by
name. Everything is made before the first part is touched, and when a part does not take its
value, all get those of before again: a reload is whole or is not. Requests that are under
way keep what they began with; a key that is gone takes nobody from that moment on, and what
it has running ends within REVOKED_S, as does what one has that may do less than before.
"""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

import trio

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.models import merge_aliases
from cortex.config.whole import Whole
from cortex.dispatch import Dispatch, Patience
from cortex.evictor import Rules
from cortex.gateway.discovery import Seeker
from cortex.gateway.fleet import Fleet
from cortex.gateway.listing import Listing
from cortex.gateway.loading import RemoteLoader
from cortex.gateway.passage import Passage
from cortex.gateway.report import Report
from cortex.gateway.watch import Watch
from cortex.keys import Accounts
from cortex.ledger import Policy as LedgerPolicy
from cortex.web.door import Door
from cortex.web.guard import Policy
from cortex.web.listeners import metrics_policy
from cortex.wire.happenings import Reloaded
from cortex.wire.keeping import EvictionTerms

log = logging.getLogger(__name__)

# A little less than the minute that is promised.
REVOKED_S: Final = 50.0
_WILD: Final = re.compile(r"[*?\[]")
# Bound or opened once, at the start.
FIXED: Final = ("listen", "metrics_listen", "workers", "log_format")


def terms_of(config: GatewayConfig) -> EvictionTerms:
    """What neurons are told that say nothing of eviction themselves."""
    return EvictionTerms(
        strategy=config.eviction.strategy,
        min_residency_s=config.cold_load.min_residency_s,
        max_overtake_s=config.cold_load.max_overtake_s,
        defrag_after_cycles=config.eviction.defrag_after_cycles,
    )


def rules_of(config: GatewayConfig) -> LedgerPolicy:
    """How the ledger judges."""
    rules = Rules(config.eviction.strategy, config.cold_load.min_residency_s)
    return LedgerPolicy(rules, config.limits.queue, config.cold_load.max_overtake_s, delegates=True)


def patience_of(config: GatewayConfig) -> Patience:
    """How long requests wait."""
    return Patience(config.limits.queue_wait_s, config.cold_load.max_wait_s)


def warnings_of(config: GatewayConfig) -> tuple[str, ...]:
    """What an operator is to be reminded of for as long as it stands."""
    if config.keys or config.listen.host in ("127.0.0.1", "::1", "localhost"):
        return ()
    return ("no [[keys]]: every peer of trusted_networks may infer here",)


@dataclass(slots=True)
class Parts:
    """All that holds a value of the files. `policy` makes the rules of the API's door."""

    api: Door
    page: Door
    dispatch: Dispatch
    fleet: Fleet
    listing: Listing
    loader: RemoteLoader
    passage: Passage
    report: Report
    policy: Callable[[GatewayConfig], Policy]
    accounts: Accounts
    watch: Watch
    seeker: Seeker


@dataclass(frozen=True, slots=True)
class _Values:
    """What the parts take, made whole. `page` is the policy of the metrics."""

    config: GatewayConfig
    catalogue: Catalogue
    policy: Policy
    page: Policy
    patience: Patience
    terms: EvictionTerms
    rules: LedgerPolicy


class Tuning:
    """The values in force. What a revoked key has running is ended by tasks of `nursery`."""

    def __init__(
        self, config: GatewayConfig, catalogue: Catalogue, parts: Parts, nursery: trio.Nursery
    ) -> None:
        self._started_with, self._parts, self._nursery = config, parts, nursery
        self._values = self._made(config, catalogue)
        self._faults: tuple[str, ...] = ()

    @property
    def config(self) -> GatewayConfig:
        """What is in force, save what only a restart brings in."""
        return self._values.config

    def take(self, whole: Whole[GatewayConfig]) -> list[str]:
        """The values are in force; answers which differ from those of before. Whatever it raises,
        those of before are."""
        config, parts, before = whole.config, self._parts, self._values
        values = self._made(config, merge_aliases(whole.catalogue, config.aliases, config.alias_sampling))
        models_file = str(whole.models.absolute()) if whole.models else ""
        changed, revoked = _differing(before.config, config), _revoked(before.config, config)
        if values.catalogue != before.catalogue:
            changed.append("models.toml")
        if changed:
            self._change(before, values)
        parts.report.models_file, parts.report.models_sha256 = models_file, whole.digest
        # Who waits already waits by the limits of before.
        patience = values.patience
        parts.report.patience_s = max(parts.report.patience_s, patience.queue_s, patience.load_s)
        self._warn()
        if changed:
            parts.watch.happenings.tell(Reloaded(changed=changed))
        if revoked:
            self.revoke(revoked)
        return changed

    def revoke(self, names: frozenset[str]) -> None:
        """What keys of these names have under way ends within REVOKED_S."""
        self._nursery.start_soon(self._parts.api.revoke, names, REVOKED_S)

    def show(self, faults: list[str]) -> None:
        """`/health` tells what stands against the files; the values in force stay."""
        self._faults = tuple(f"the files were not taken over: {fault}" for fault in faults)
        self._warn()

    def _made(self, config: GatewayConfig, catalogue: Catalogue) -> _Values:
        return _Values(
            config,
            catalogue,
            self._parts.policy(config),
            metrics_policy(config.trusted_networks),
            patience_of(config),
            terms_of(config),
            rules_of(config),
        )

    def _change(self, before: _Values, values: _Values) -> None:
        try:
            self._spread(values)
        except Exception:
            try:
                # In the same order, so that it comes as far as the other did.
                self._spread(before)
            except Exception:
                log.exception("reload.not_undone")
            raise
        self._values = values

    def _spread(self, values: _Values) -> None:
        parts, config = self._parts, values.config
        parts.api.refit(values.policy, config.limits)
        parts.page.refit(values.page, config.limits)
        parts.accounts.renew(config.keys)
        parts.listing.catalogue = values.catalogue
        parts.passage.refit(config.limits)
        parts.loader.terms = values.terms
        parts.dispatch.be_patient(values.patience)
        parts.dispatch.ledger.go_by(values.rules)
        parts.fleet.reform(config.neurons, config.poll, silent_s=config.limits.upstream_stall_s)
        parts.seeker.refit(config.discovery)
        parts.dispatch.wake()

    def _warn(self) -> None:
        fixed = [
            f"gateway.{name} is changed in cortex.toml; restart the gateway for it"
            for name in FIXED
            if getattr(self.config, name) != getattr(self._started_with, name)
        ]
        # Who can reach it is a matter of where it listens, and not of where it would.
        in_force = replace(self.config, listen=self._started_with.listen)
        self._parts.report.warnings = (*warnings_of(in_force), *fixed)
        self._parts.report.faults = self._faults


def _differing(old: GatewayConfig, new: GatewayConfig) -> list[str]:
    """The names of keys and tables whose values differ."""
    names: list[str] = []
    for field in fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if is_dataclass(after) and field.name not in FIXED:
            inner = (
                key.name for key in fields(after) if getattr(before, key.name) != getattr(after, key.name)
            )
            names += [f"{field.name}.{key}" for key in inner]
        else:
            names.append(field.name)
    return names


def _revoked(old: GatewayConfig, new: GatewayConfig) -> frozenset[str]:
    """Names of keys that are gone, or may do less than before: fewer scopes, or fewer models. One that
    only has another name stays, and so does one that expires: that is the timer's."""
    kept = {key.sha256: key for key in new.keys}
    return frozenset(key.name for key in old.keys if _lessened(key, kept.get(key.sha256)))


def _lessened(before: Key, after: Key | None) -> bool:
    if after is None or not set(before.scopes) <= set(after.scopes):
        return True
    if not after.models:
        return False
    return not before.models or not all(_covered(glob, after.models) for glob in before.models)


def _covered(glob: str, globs: Iterable[str]) -> bool:
    """Whether the models of `glob` are among those of the others, as far as that is plain."""
    for other in globs:
        start, star, rest = other.partition("*")
        if glob == other or (star and not rest and not _WILD.search(start) and glob.startswith(start)):
            return True
        if not _WILD.search(glob) and fnmatchcase(glob, other):
            return True
    return False
