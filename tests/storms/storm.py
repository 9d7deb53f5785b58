"""A storm: many clients, real roles over loopback, and the three ledgers that are joined behind it.

The client's ledger is what `Storm.asking` lived through, the gateway's are its own `request.done` lines,
and the engines' is the `Tally`: the scripted engine computes the numbers 0, 1, 2, ... of each answer
on its device's thread, and it is noted there. Sizes are for the suite; `CORTEX_STORM=4` in the
environment makes every storm four times as large, for a run by hand.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_network
from itertools import pairwise
from typing import Protocol

import trio

from cortex import logs
from cortex.config.gateway import GatewayConfig, Poll
from cortex.config.keys import Key
from cortex.harness.base import Job
from cortex.harness.scripted import Script
from cortex.keys import digest
from cortex.wire import neuron as wire
from tests.calls import CHAT, Answered, Caller, calling, figures, hello, until
from tests.checker import Asked, End, Finding, Ledgers, Ran, asked_of, booked_of
from tests.fake_neuron import Open
from tests.roles import MIB, Running

TIMES = int(os.environ.get("CORTEX_STORM", "1"))
TOKENS = 4
# What the contract gives: a device's slot is free within a second.
FREE_S = 1.0
# Clients, gateways and neurons share one loop here, which is busy: nobody is away because of that.
STEADY = Poll(interval_s=0.1, timeout_s=20.0)
WAYS = ("fin", "rst", "half", "ahead")


def keyed(config: GatewayConfig, **shares: float) -> GatewayConfig:
    """`config` with these keys, each of which opens with its name, and with callers without one."""
    keys = tuple(Key(name, digest(f"sk-{name}"), share=share) for name, share in shares.items())
    anyone = (ip_network("127.0.0.0/8"),)
    return replace(config, keys=keys, anonymous=True, trusted_networks=anyone)


@dataclass(eq=False)
class _Run:
    """One job of an engine, noted on its thread. It gives out its tokens."""

    id: str
    model: str
    count: int
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    said: int = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.said >= self.count:
            raise StopIteration
        self.last = time.monotonic()
        self.said += 1
        return b" %d" % (self.said - 1) if self.said > 1 else b"0"


class Tally:
    """What the scripted engines of one neuron have computed, and how often each model was loaded."""

    def __init__(self, name: str = "n1") -> None:
        self.name = name
        self.runs: list[_Run] = []
        self.loads: list[str] = []
        self.loaded_at: list[float] = []

    def script(self, model: str = "a", *, turn_s: float = 0.0, mib: int = 1, **more: object) -> Script:
        """How `model` answers: each turn takes so long."""
        pace = {"on_turn": lambda _: time.sleep(turn_s)} if turn_s else {}
        return Script(
            reply=lambda job: self._run(model, job),
            on_load=lambda: self._load(model),
            bytes=mib * MIB,
            **pace,  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        )

    def _load(self, model: str) -> None:
        self.loads.append(model)
        self.loaded_at.append(time.monotonic())

    def lives(self, *models: str) -> list[float]:
        """Seconds between the loads of those models, which have the same room one after another."""
        times = [at for model, at in zip(self.loads, self.loaded_at, strict=True) if model in models]
        return [after - before for before, after in pairwise(times)]

    def _run(self, model: str, job: Job) -> _Run:
        self.runs.append(_Run(job.request_id, model, job.max_tokens or TOKENS))
        return self.runs[-1]

    def ran(self) -> list[Ran]:
        """As the checker takes it. Whoever did not come to the end was broken off."""
        return [
            Ran(
                run.id,
                self.name,
                "",
                run.began,
                run.last,
                run.said,
                "complete" if run.said == run.count else "left",
            )
            for run in list(self.runs)
        ]


class Computes(Protocol):
    """A tally, or a fake neuron's process."""

    name: str

    def ran(self) -> list[Ran]: ...


class At(Protocol):
    """Where a gateway listens."""

    @property
    def url(self) -> str: ...


class Books(logging.Handler):
    """The lines of every gateway of this process, as an outlet forms them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logs.Text(journal=False))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # A neuron in the same process has lines of the same name.
        if record.name.startswith("cortex.gateway."):
            self.lines.append(self.format(record))

    def said(self, event: str) -> list[str]:
        """The lines of that event."""
        return [line for line in self.lines if f" {event} " in line]


@dataclass
class Call:
    """One request of a client with a socket of its own, its body sent."""

    id: str
    caller: Caller
    sent: float
    over: bool = False
    left: bool = False

    async def answer(self) -> Answered:
        """What came of it, until its end or the connection's."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.caller.all()
        self.over = True
        return self.caller.answer

    async def until(self, part: bytes) -> None:
        """`part` of the answer has come."""
        while part not in self.caller.answer.body:
            assert not self.caller.answer.complete, f"{self.id} ended: {self.caller.answer}"
            assert await self.caller._more(), f"{self.id} was cut: {self.caller.answer}"

    async def leave(self, how: str) -> None:
        """The client hangs up, whoever else waits for the answer."""
        self.left = True
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.caller.leave(how)


@dataclass
class Storm:
    """All that was asked in a test, by whom it was computed, and what does not fit between them."""

    computers: tuple[Computes, ...]
    books: Books
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, Answered] = field(default_factory=dict)
    kills: list[float] = field(default_factory=list)
    # Lines of gateways that are processes of their own.
    elsewhere: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def asking(
        self, at: At, id: str, model: str = "a", *, key: str = "", stream: bool = True, tokens: int = TOKENS
    ) -> AsyncIterator[Call]:
        """A request is on its way; whoever leaves the block before the answer's end has hung up."""
        who = {"x_api_key": f"sk-{key}"} if key else {}
        async with calling(at) as caller:  # type: ignore[arg-type]
            call = Call(id, caller, time.monotonic())
            try:
                body = hello(model, stream=stream, max_tokens=tokens)
                await caller.ask(CHAT, body, x_request_id=id, **who)
                yield call
            finally:
                self.answers[id] = caller.answer
                left = call.left or not call.over
                asked = asked_of(id, caller.answer, sent=call.sent, ended=time.monotonic(), left=left)
                self.asked.append(asked)

    async def ask(
        self,
        at: At,
        id: str,
        model: str = "a",
        *,
        task_status: trio.TaskStatus[Call] = trio.TASK_STATUS_IGNORED,
        **more: object,
    ) -> Answered:
        """The answer, whatever it is. `started` comes when the request is out."""
        async with self.asking(at, id, model, **more) as call:  # type: ignore[arg-type]
            task_status.started(call)
            return await call.answer()

    def soon(self, nursery: trio.Nursery, at: At, id: str, model: str = "a", **more: object) -> None:
        """As `ask`, by a task of `nursery`."""
        nursery.start_soon(partial(self.ask, at, id, model, **more), name=id)

    def ends(self, ids: Iterable[str] | None = None) -> Counter[End | None]:
        """How many came to which end."""
        wanted = None if ids is None else set(ids)
        return Counter(asked.end for asked in self.asked if wanted is None or asked.id in wanted)

    def served_by(self, neuron: str) -> int:
        """How many answers were its."""
        return sum(answer.headers.get(wire.NEURON) == neuron for answer in self.answers.values())

    def ran(self) -> list[Ran]:
        """All that was computed."""
        return [run for computer in self.computers for run in computer.ran()]

    def twice(self) -> list[str]:
        """What was begun more than once, one after the other or at the same time."""
        return [id for id, count in Counter(run.id for run in self.ran()).items() if count > 1]

    async def findings(self) -> list[Finding]:
        """What was lost, what came twice, and what still works for nobody."""
        with trio.move_on_after(FREE_S):  # a client has its answer a moment before it is in the books
            while self._judged():  # noqa: ASYNC110 - files and logs tell nobody
                await trio.sleep(0.01)
        return self._judged()

    def _judged(self) -> list[Finding]:
        booked = booked_of([*self.books.lines, *self.elsewhere])
        assert booked, "no gateway kept books"
        return Ledgers(self.asked, booked, self.ran(), time.monotonic(), self.kills).findings()


@contextmanager
def storm(*computers: Computes) -> Iterator[Storm]:
    """A storm over gateways of this process, whose books are kept meanwhile."""
    books, log = Books(), logging.getLogger("cortex.gateway")
    before = log.level
    log.addHandler(books)
    log.setLevel(logging.INFO)
    try:
        yield Storm(computers, books)
    finally:
        log.setLevel(before)
        log.removeHandler(books)


async def quiet(*gateways: Open, neurons: Iterable[Running] = (), within_s: float = FREE_S) -> None:
    """Within a second nobody sits or waits anywhere, no request has a handler, no engine a job."""

    async def so() -> bool:
        for gateway in gateways:
            parts = gateway.gateway._parts
            if "seats=0 waiting=0 loads=0" not in repr(gateway.ledger) or parts.api.in_flight:
                return False
        for neuron in neurons:
            if any(engine._live for engine in neuron.engines.values() if not engine.unloaded):
                return False
            if any(any(row) for row in (await figures(neuron)).values()):
                return False
        return True

    await until(so, within_s)


def idle_links_closed(*gateways: Open) -> None:
    """Connections to neurons that are kept for the next request are not kept any longer."""
    for gateway in gateways:
        for neuron in gateway.gateway._parts.fleet:
            neuron.pool._idle_s = 0.0
            neuron.pool.sweep()
