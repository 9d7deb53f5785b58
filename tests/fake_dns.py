"""A name server on loopback: what it answers is state that a test sets.

Real UDP, real messages. `services` are targets and ports of the one SRV name, `hosts` the addresses
of targets. Its `mood` says how it answers that name; hosts it always knows.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

from cortex.config.network import Address

NAME = "_cortex._tcp.fleet.test"
Mood = Literal["answers", "empty", "nxdomain", "servfail", "garbage", "silent"]


@dataclass
class FakeDns:
    """`asked` counts the questions for services, `unable` those for hosts that it does not know; `held`
    delays answers about services until it is set."""

    address: Address
    services: list[tuple[str, int]] = field(default_factory=list)
    hosts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    mood: Mood = "answers"
    ttl: int = 0
    asked: int = 0
    unable: int = 0
    held: trio.Event | None = None
    _change: trio.Event = field(default_factory=trio.Event)

    async def was_asked(self, times: int = 1) -> None:
        """So many further questions for services have come."""
        goal = self.asked + times
        while self.asked < goal:
            await self._change.wait()

    async def was_unable(self, times: int) -> None:
        """So many further questions for hosts have come that nobody knows."""
        goal = self.unable + times
        while self.unable < goal:
            await self._change.wait()

    async def serve(self, sock: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                data, peer = await sock.recvfrom(4096)
                nursery.start_soon(self._one, sock, data, peer)

    async def _one(self, sock: trio.socket.SocketType, data: bytes, peer: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        service = query.question[0].rdtype == dns.rdatatype.SRV
        if service:
            self.asked += 1
            self._changed()
            if self.held is not None:
                await self.held.wait()
        answer = self._services(query) if service else self._addresses(query)
        if answer is not None:
            await sock.sendto(answer, peer)

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()

    def _services(self, query: dns.message.Message) -> bytes | None:
        if self.mood == "silent":
            return None
        if self.mood == "garbage":
            return query.to_wire()[:2] + b"\xff" * 40
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        codes = {"nxdomain": dns.rcode.NXDOMAIN, "servfail": dns.rcode.SERVFAIL}
        answer.set_rcode(codes.get(self.mood, dns.rcode.NOERROR))
        if self.mood == "answers" and self.services:
            texts = [f"0 0 {port} {target}." for target, port in self.services]
            answer.answer.append(
                dns.rrset.from_text_list(query.question[0].name, self.ttl, "IN", "SRV", texts)
            )
        return answer.to_wire()

    def _addresses(self, query: dns.message.Message) -> bytes:
        answer, question = dns.message.make_response(query), query.question[0]
        answer.flags |= dns.flags.RA
        known = self.hosts.get(question.name.to_text(omit_final_dot=True))
        if known is None:
            self.unable += 1
            self._changed()
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text_list(question.name, 1, "IN", "A", known))
        return answer.to_wire()


@asynccontextmanager
async def fake_dns(*services: tuple[str, int]) -> AsyncIterator[FakeDns]:
    """A name server whose targets all live on loopback."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        server = FakeDns(Address(*sock.getsockname()), list(services))
        server.hosts = {target: ("127.0.0.1",) for target, _ in services}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, sock)
            yield server
            nursery.cancel_scope.cancel()
