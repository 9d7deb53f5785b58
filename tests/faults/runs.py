"""One run of clients, a gateway and fake neurons, whose ledgers the checker joins.

`Run.ask` is a client with a socket of its own; what it lived through is in `asked`. The gateway's books
are read from its log, as an operator's collector would.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from cortex import logs
from cortex.config.gateway import GatewayConfig, Poll
from cortex.config.limits import Limits
from cortex.wire import neuron as wire
from tests.calls import CHAT, Answered, Caller, calling, hello
from tests.checker import Asked, Finding, Ledgers, Ran, asked_of, booked_of
from tests.fake_neuron import QUICK, Open, open_gateway
from tests.fake_process import NeuronProcess
from tests.toxic import Proxy

# A gateway that loses patience within a test, and one whose timers play no part in it.
HASTY = GatewayConfig(limits=Limits(first_token_s=0.8, upstream_stall_s=0.6, drain_s=0.5))
PATIENT = GatewayConfig(limits=Limits(drain_s=0.5))


class Books(logging.Handler):
    """The lines of a gateway's log, formed where they are made, as its outlet does."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logs.Text(journal=False))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def said(self, event: str) -> list[str]:
        """The lines of that event."""
        return [line for line in self.lines if f" {event} " in line]


@dataclass
class Run:
    """A gateway at work, the neurons behind it, and all that was asked since it began."""

    gateway: Open
    neurons: tuple[NeuronProcess, ...]
    books: Books
    asked: list[Asked] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def url(self) -> str:
        return self.gateway.url

    async def ask(self, id: str, model: str = "a", *, stream: bool = True, **more: object) -> Answered:
        """The answer, whatever it is. All requests are of one session, so that one neuron is asked first."""
        async with calling(self) as caller:  # type: ignore[arg-type]
            sent = time.monotonic()
            body = hello(model, stream=stream, **more)
            await caller.ask(CHAT, body, x_request_id=id, x_session_id="one")
            return await self.heard(caller, id, sent)

    async def heard(self, caller: Caller, id: str, sent: float) -> Answered:
        """The answer to what was asked by hand."""
        answer = await caller.all()
        self.asked.append(asked_of(id, answer, sent=sent, ended=time.monotonic()))
        return answer

    async def first(self) -> tuple[NeuronProcess, NeuronProcess]:
        """Which of the two neurons is asked first, and the other."""
        chosen = where(await self.ask(f"probe-{len(self.asked)}"))
        # A report of meanwhile says that the chosen one is busy; it may still be on its way.
        fleet, ledger = self.gateway.gateway._parts.fleet, self.gateway.ledger
        while True:
            for neuron in self.neurons:
                await fleet.look_again(neuron.name)
            if not any(each.elsewhere for place in ledger for each in place):
                break
        one, two = self.neurons
        return (one, two) if one.name == chosen else (two, one)

    def ran(self) -> list[Ran]:
        """What was computed since the run began."""
        return [run for neuron in self.neurons for run in neuron.ran() if run.began >= self.began]

    def ran_at(self, id: str) -> list[str]:
        """Which neurons computed for the request, once for each time."""
        return [run.neuron for run in self.ran() if run.id == id]

    async def findings(self) -> list[Finding]:
        """What was lost, what came twice, and what still works for nobody."""
        await self.gateway.knows(lambda ledger: "seats=0 waiting=0" in repr(ledger))
        with trio.move_on_after(
            1
        ):  # a client has its answer a moment before the others have it in their books
            while self._judged():  # noqa: ASYNC110 - files and logs tell nobody
                await trio.sleep(0.01)
        return self._judged()

    def _judged(self) -> list[Finding]:
        booked, thaws = booked_of(self.books.lines), {each.name: each.thawed_at for each in self.neurons}
        return Ledgers(self.asked, booked, self.ran(), time.monotonic(), thaws=thaws).findings()

    async def heard_of(self, event: str, *parts: str) -> str:
        """A line of that event with all those parts has been logged."""
        while True:
            for line in self.books.said(event):
                if all(part in line for part in parts):
                    return line
            await trio.sleep(0.002)

    def failure(self, id: str) -> str:
        """The one line that tells of a request's failure: who, where, what, and nothing of its content."""
        [line] = [line for line in self.books.said("request.failed") if line.endswith(f" request={id}")]
        assert " WARNING " in line and "secret" not in line and "one two" not in line
        return line

    def tokens(self, id: str) -> tuple[int, ...]:
        """What came of the answer to `id`."""
        return next(asked.tokens for asked in self.asked if asked.id == id)

    async def state(self, name: str, *states: str) -> dict[str, object]:
        """GET /fleet's row of the neuron, once it is in one of the states."""
        while True:
            rows = (await self.gateway.http.get("/fleet")).json()["neurons"]
            row: dict[str, object] = next(row for row in rows if row["name"] == name)
            if row["state"] in states:
                return row


def error_of(answer: Answered) -> dict[str, object]:
    """The error object of a refusal, or of the event that ended a stream."""
    error: dict[str, object] = json.loads(answer.data[-1] if answer.data else answer.body)["error"]
    return error


def where(answer: Answered) -> str:
    """Which neuron answered."""
    return answer.headers[wire.NEURON]


@asynccontextmanager
async def running(
    *neurons: NeuronProcess | Proxy,
    behind: Iterable[NeuronProcess] = (),
    config: GatewayConfig = HASTY,
    poll: Poll = QUICK,
    catalogue: Iterable[str] = (),
) -> AsyncIterator[Run]:
    """A gateway in front of `neurons`, or of proxies with those `behind` them."""
    books, log = Books(), logging.getLogger("cortex")
    before = log.level
    log.addHandler(books)
    log.setLevel(logging.DEBUG)
    processes = (*behind, *(each for each in neurons if isinstance(each, NeuronProcess)))
    try:
        async with open_gateway(*neurons, config=config, poll=poll, catalogue=catalogue) as gateway:  # type: ignore[arg-type]
            yield Run(gateway, processes, books)
    finally:
        log.setLevel(before)
        log.removeHandler(books)
