"""Neurons that DNS names: the SRV records of one name, looked up again and again.

Each target and port is a neuron. Priority and weight are not looked at, since the gateway knows
better who is busy. Who is not in the answer any more is taken out as if the file did not list him; a
lookup that fails, or names nobody, changes nothing, since a fleet must not be lost to its name
server: who is really gone is found out by asking him. What is wrong is logged once, and stands in
/health until it is mended. The addresses of targets are looked up by those who connect, at the same
name servers.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver
import trio
from dns.rdtypes.IN.SRV import SRV

from cortex.config.gateway import Discovery
from cortex.config.network import Address, read_endpoint
from cortex.gateway.fleet import Fleet
from cortex.gateway.member import Found
from cortex.web import names

log = logging.getLogger(__name__)

# Row 23 of the fault matrix.
ANSWER_S: Final = 2.0
# A failed lookup is tried again after this, where the interval is longer.
AGAIN_S: Final = 5.0
# Within its TTL an answer is the same; one that is valid for longer is asked for nevertheless.
LONGEST_S: Final = 300.0


class Seeker:
    """Keeps `fleet` as DNS has it. `run` it before the fleet, which then begins with those found."""

    def __init__(self, fleet: Fleet, discovery: Discovery) -> None:
        self._fleet, self._discovery = fleet, discovery
        self._changed = trio.Event()

    def refit(self, discovery: Discovery) -> None:
        """Looks there from here on, at once; without a name, nobody is found any more."""
        if discovery != self._discovery:
            self._discovery = discovery
            self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled. Started after the first lookup, whatever came of it."""
        wait_s = await self._look()
        task_status.started()
        while True:
            with trio.move_on_after(wait_s):
                await self._changed.wait()
            self._changed = trio.Event()
            wait_s = await self._look()

    def lookup(self, host: str, port: int) -> list[names.Address]:
        """The addresses of a target, which blocks: for `web.names`, which asks in a thread."""
        if not self._discovery.nameservers:
            return names.resolve(host, port)
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = _servers(self._discovery.nameservers)
        try:
            found = list(resolver.resolve_name(host, lifetime=ANSWER_S).addresses())
        except dns.exception.DNSException as error:
            raise OSError(f"no address for {host}: {error}") from error
        return [each for address in found[: names.MOST] for each in names.resolve(address, port)]

    async def _look(self) -> float:
        """One lookup; answers after how many seconds the next is due."""
        discovery = self._discovery
        if discovery.dns is None:
            self._tell("")
            self._fleet.found((), self.lookup)
            return inf
        try:
            answer = await _asked(discovery.dns, discovery.nameservers)
            refs, odd = _members(answer, discovery.token)
        except (dns.exception.DNSException, OSError, trio.TooSlowError) as error:
            return self._failed(discovery, discovery.dns, _cause(error))
        except Exception as bug:
            # One odd answer must not end the gateway.
            log.exception("discovery.unusable name=%s", discovery.dns)
            return self._failed(discovery, discovery.dns, f"its answer cannot be used: {bug}")
        if discovery is not self._discovery:
            return 0.0  # it was asked for by a file that is not in force any more
        self._tell(
            f"discovery: '{discovery.dns}' names what no neuron can be: {', '.join(odd)}" if odd else ""
        )
        if refs:
            self._fleet.found(refs, self.lookup)
        ttl = 0 if answer.rrset is None else answer.rrset.ttl
        return max(discovery.interval_s, min(float(ttl), LONGEST_S))

    def _failed(self, discovery: Discovery, name: str, cause: str) -> float:
        """Who is known stays; answers when to look again."""
        if discovery is self._discovery:
            self._tell(f"discovery: '{name}' cannot be looked up ({cause}); the neurons that are known stay")
        return min(discovery.interval_s, AGAIN_S)

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._fleet.trouble:
            log.warning("discovery.failed why=%s", trouble)
        elif not trouble and self._fleet.trouble:
            log.info("discovery.back")
        self._fleet.trouble = trouble


async def _asked(name: str, nameservers: tuple[Address, ...]) -> dns.resolver.Answer:
    """The answer of the name servers, the system's if none are given, within ANSWER_S."""
    resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    if nameservers:
        resolver.nameservers = _servers(nameservers)
    backend = dns.asyncbackend.get_backend("trio")
    with trio.fail_after(ANSWER_S):
        return await resolver.resolve(
            name, dns.rdatatype.SRV, lifetime=ANSWER_S, search=False, backend=backend
        )


def _servers(nameservers: tuple[Address, ...]) -> list[str | dns.nameserver.Nameserver]:
    return [dns.nameserver.Do53Nameserver(server.host, server.port) for server in nameservers]


def _members(answer: dns.resolver.Answer, token: str | None) -> tuple[tuple[Found, ...], list[str]]:
    """The neurons in an answer, by name, and what of it can be none."""
    places: set[tuple[str, int]] = set()
    odd: list[str] = []
    for record in answer:
        assert isinstance(record, SRV)  # noqa: S101 - it was asked for
        host, port = record.target.to_text(omit_final_dot=True).lower(), record.port
        try:
            read_endpoint(f"http://{host}:{port}")
        except ValueError:
            odd.append(f"{host}:{port}")
        else:
            places.add((host, port))
    return tuple(_named(places, token)), sorted(odd)


def _named(places: Iterable[tuple[str, int]], token: str | None) -> Iterable[Found]:
    """The same answer gives the same names, at every gateway: the host's, and the port where several
    share a host."""
    places = sorted(places)
    shared = Counter(host for host, _ in places)
    for host, port in places:
        name = host if shared[host] == 1 else f"{host}-{port}"
        yield Found(name, f"http://{host}:{port}", token)


def _cause(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError | dns.exception.Timeout):
        return f"no answer within {ANSWER_S:g} s"
    return " ".join(str(error).split()) or type(error).__name__
