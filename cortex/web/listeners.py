"""What both roles' listeners have in common: addresses, who may call, the metrics page."""

import hashlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from cortex.metrics import Metrics
from cortex.web.guard import Credential, Network, Policy, Scope
from cortex.web.scrape import Scrape, Whole
from cortex.web.site import Site


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a role listens: (host, port) of its API and of its metrics."""

    api: tuple[str, int]
    metrics: tuple[str, int]


def own_names(allowed: Iterable[str]) -> frozenset[str]:
    """The names that a client may call this host by, besides those that every policy lets in."""
    host = socket.gethostname().lower()
    return frozenset({host, host.partition(".")[0], *(name.lower() for name in allowed)})


def fleet_credential(token: str) -> Credential:
    """The one key of a neuron: its gateways', which may do everything."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return Credential("fleet", digest, frozenset({"inference", "admin"}))


def metrics_site(metrics: Metrics, trusted: tuple[Network, ...], whole: Whole | None = None) -> Site:
    """The metrics listener: trusted networks only, and nothing but the page."""
    return Site({}, Scrape(metrics, whole), metrics_policy(trusted), _read)


def metrics_policy(trusted: tuple[Network, ...]) -> Policy:
    """Who may read metrics."""
    return Policy(trusted_networks=trusted, loopback_admin=False, any_host=True)


def _read(method: str, path: str) -> Scope:
    return "read"
