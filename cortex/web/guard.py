"""Who may call what: decided from the head alone, before a byte of the body is read.

A policy and the facts of one request in, the caller's name out, or the refusal. Networks,
keys, `Host` and `Origin` are looked at here and nowhere else; the policy remembers who tries
wrong keys. Whether a key may use a model, and how much, is asked later by those who count.
"""

import hashlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from cortex.errors import BadFraming, CortexError, Denied, Unauthorised
from cortex.keys import Guesses
from cortex.web.connection import Headers

# "open" routes give a bare status; "read" wants any key, "admin" the admin scope.
Scope: TypeAlias = Literal["open", "read", "inference", "admin"]
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

log = logging.getLogger(__name__)

_READ: Final = "x-forwarded-for"
FORWARDED: Final = (_READ, "forwarded", "x-real-ip")
# LiteLLM, and aider with it, tells a refused key from a bad request by these words alone.
_WRONG: Final = "Incorrect API key provided"
_LOCAL_NAMES: Final = ("localhost",)
_LOCAL_SUFFIXES: Final = (".localhost", ".internal", ".local")


# Headers that hold keys.
CREDENTIALS: Final = frozenset({"authorization", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A key: its name, the lower-case hex SHA-256 of the key, what it may do, and until when."""

    name: str
    sha256: str = field(repr=False)
    scopes: frozenset[str] = frozenset({"inference"})
    expires: datetime | None = None


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is let in. Without credentials the network decides, and `loopback_admin` keeps the
    admin routes to this host. `allowed_hosts` are names (lower-case, no port); `any_host`
    is for a listener that gives away nothing a web page could want. `allowed_origins` are
    whole origins, as browsers send them. `anonymous` lets trusted networks infer without a key.
    `now` is the time by which keys expire.
    """

    trusted_networks: tuple[Network, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    trusted_proxies: tuple[Network, ...] = ()
    credentials: tuple[Credential, ...] = ()
    anonymous: bool = False
    loopback_admin: bool = True
    any_host: bool = False
    now: Callable[[], datetime] = _utc_now
    guesses: Guesses = field(default_factory=lambda: Guesses(time.monotonic), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a request comes from. `relayed`: it may be somebody else's, passed on by a proxy that is not
    trusted, or by a trusted one that does not name him. `unread` is the header in which such a one
    names him all the same."""

    address: Address
    relayed: bool = False
    unread: str = ""


def visitor(policy: Policy, peer: str, headers: Headers) -> Visitor:
    """The client behind the TCP `peer`: itself, or whom a trusted proxy names."""
    address = _address(peer)
    if not _within(address, policy.trusted_proxies):
        return Visitor(address, any(headers.get(name) is not None for name in FORWARDED))
    hops = [hop for line in headers.all(_READ) for hop in line.split(",")]
    if not hops:
        # Whoever calls a proxy can send it the other headers, and most pass them on as they come.
        unread = next((name for name in FORWARDED if headers.get(name) is not None), "")
        return Visitor(address, relayed=True, unread=unread)
    # From the right: each trusted proxy vouches for the hop before it, and for no more.
    for hop in reversed(hops):
        address = _address(hop.strip())
        if not _within(address, policy.trusted_proxies):
            break
    return Visitor(address)


def admit(policy: Policy, *, headers: Headers, visitor: Visitor, scope: Scope) -> str:
    """The caller's name, "" for one without a key. Raises Denied or Unauthorised."""
    _check_origin(policy, headers)
    if policy.credentials and scope == "open":
        return ""
    if policy.credentials:
        credential = _credential(policy, headers, visitor)
        if credential is not None:
            _check_scope(credential, scope)
            return credential.name
        if not (policy.anonymous and scope == "inference"):
            raise Unauthorised(
                "An API key is needed: send it as Authorization: Bearer <key> or as x-api-key."
            )
    _check_network(policy, visitor, scope)
    _check_host(policy, headers)
    return ""


def cross_origin(policy: Policy, headers: Headers) -> tuple[tuple[str, str], ...]:
    """The headers that let the web page of an allowed origin read an answer; else none."""
    origin = headers.get("origin")
    if origin is None or origin not in policy.allowed_origins:
        return ()
    return (
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", "*"),
        ("vary", "origin"),
    )


def preflight(policy: Policy, method: str, headers: Headers) -> tuple[tuple[str, str], ...] | None:
    """What a browser's preflight is told beside `cross_origin`, or None when the request is not one.

    It carries no key and does nothing; a page of any other origin is refused.
    """
    wanted = headers.get("access-control-request-method")
    if method != "OPTIONS" or wanted is None or headers.get("origin") is None:
        return None
    _check_origin(policy, headers)
    asked = headers.get("access-control-request-headers") or "authorization, content-type"
    return (
        ("access-control-allow-methods", wanted),
        ("access-control-allow-headers", asked),
        ("access-control-max-age", "600"),
    )


def _credential(policy: Policy, headers: Headers, visitor: Visitor) -> Credential | None:
    """The credential that the headers hold; None when they hold none."""
    given = set(_keys(headers))
    if not given:
        return None
    if len(given) > 1:
        raise Unauthorised("The request carries two different API keys; send one.")
    digest = hashlib.sha256(given.pop().encode("latin-1", "replace")).hexdigest()
    found: Credential | None = None
    # Over all, without an early exit: the time taken tells nothing about which one matched.
    for credential in policy.credentials:
        if hmac.compare_digest(credential.sha256.encode(), digest.encode()):
            found = credential
    if found is None:
        # Only who has none that is good is held off: others may call from the same address.
        policy.guesses.check(visitor.address)
        # Of the key only what tells one wrong one from another.
        if policy.guesses.wrong(visitor.address, digest):
            log.warning("auth.refused peer=%s fingerprint=%s", visitor.address, digest[:8])
        raise Unauthorised(f"{_WRONG}: it is not known here.")
    if found.expires is not None and policy.now() >= found.expires:
        raise Unauthorised(
            f"{_WRONG}: {found.name!r} expired at {found.expires:%Y-%m-%d %H:%M} UTC. "
            "Ask the operator for another one."
        )
    return found


def _keys(headers: Headers) -> Iterable[str]:
    yield from headers.all("x-api-key")
    for value in headers.all("authorization"):
        kind, _, key = value.partition(" ")
        # Another scheme, or no key behind it, is a key that nobody has: never an anonymous call.
        yield key.strip() if kind.lower() == "bearer" else ""


def _check_scope(credential: Credential, scope: Scope) -> None:
    if scope in ("inference", "admin") and scope not in credential.scopes:
        raise Denied(
            f"The key {credential.name!r} lacks the scope {scope!r}; its entry names its scopes.",
            reason="scope",
        )


def _check_network(policy: Policy, visitor: Visitor, scope: Scope) -> None:
    if visitor.unread:
        raise Denied(
            f"The proxy {visitor.address} names its client in {visitor.unread}, which is not read: anybody "
            "could have written it. Let the proxy send X-Forwarded-For, or call with a key.",
            reason="network",
        )
    if not _within(visitor.address, policy.trusted_networks):
        raise Denied(
            f"{visitor.address} is outside trusted_networks, and no key was given. "
            "Call from such a network, or have the operator add keys.",
            reason="network",
        )
    if scope != "admin" or not policy.loopback_admin:
        return
    if not visitor.address.is_loopback:
        raise Denied(
            "Without keys, admin routes answer this host only. Configure a key with scope admin.",
            reason="scope",
        )
    if visitor.relayed:
        raise Denied(
            "Without keys, admin routes answer this host only, and a proxy may have passed this request on. "
            "Name the proxy in trusted_proxies and let it send X-Forwarded-For, or configure a key with "
            "scope admin.",
            reason="scope",
        )


def _check_origin(policy: Policy, headers: Headers) -> None:
    """A web page must not reach a local service, unless its origin is allowed."""
    for origin in headers.all("origin"):
        if origin not in policy.allowed_origins:
            raise Denied(f"The web origin {origin[:200]!r} is not in allowed_origins.", reason="origin")


def _check_host(policy: Policy, headers: Headers) -> None:
    """A name that somebody else's DNS points here (rebinding) is refused where no key protects."""
    name = host_name(headers.get("host") or "")
    if policy.any_host or not name or _is_literal(name):
        return  # no browser leaves the name out
    if name in _LOCAL_NAMES or name.endswith(_LOCAL_SUFFIXES) or name in policy.allowed_hosts:
        return
    raise Denied(
        f"The host name {name[:200]!r} is not in allowed_hosts; use an IP address, or add it.", reason="host"
    )


def host_name(host: str) -> str:
    """The name in a Host header: lower-case, without port, brackets and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _address(text: str) -> Address:
    """An address in any form that proxies and sockets write: with port, brackets, zone, or mapped."""
    bare = text[1:].partition("]")[0] if text.startswith("[") else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError as error:
        raise _unreadable(text) from error
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _unreadable(text: str) -> CortexError:
    return BadFraming(
        f"X-Forwarded-For names {text[:100]!r}, which is not an address.", param="x-forwarded-for"
    )


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
