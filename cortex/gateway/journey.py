"""One request on its way through a gateway, as far as it has come.

Plain facts that `passage` writes down while it works; from them come the entry in the
books, the line of the log, and the order in which places are tried.
"""

import logging
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from cortex.ask import Sampling
from cortex.errors import CortexError
from cortex.events import Usage
from cortex.gateway.views import Views
from cortex.gateway.ways import COUNTS, VECTORS, Way
from cortex.ledger import Ticket
from cortex.logs import OPEN, Figure, Given, say
from cortex.metrics import NO_NEURON, Done, Outcome, Phase
from cortex.router import Route
from cortex.web.connection import Headers, Request
from cortex.web.meter import Meter
from cortex.web.progress import Progress
from cortex.web.streaming import Stream
from cortex.wire.openai import Peek, affinity_of

log = logging.getLogger(__name__)

_DONE: Final = (
    "request.done model=%s neuron=%s route=%s outcome=%s key=%s seconds=%.3f prompt=%d "
    "completion=%d estimated=%s cached=%d dialect=%s status=%s code=%s queue_s=%s ttft_s=%s"
)
# How the clients of today name a conversation, the most telling first.
SESSIONS: Final = ("x-session-affinity", "x-session-id", "x-claude-code-session-id", "session-id")


def named_in(headers: Headers) -> str:
    """The affinity of the conversation that `headers` name; "" where they name none."""
    named = next(filter(None, map(headers.get, SESSIONS)), None)
    return affinity_of(named.encode("latin-1")) if named else ""


class Answering(Protocol):
    """As much of a reply as is asked of it here, be it a task's or of callbacks."""

    @property
    def tags(self) -> dict[str, str]: ...

    @property
    def started(self) -> bool: ...

    @property
    def done(self) -> bool: ...

    @property
    def streaming(self) -> bool: ...

    @property
    def lost(self) -> bool: ...

    @property
    def stalled(self) -> bool: ...


@dataclass(slots=True)
class Journey:
    """`model` is an id of the catalogue, `name` what the client calls it and `label` what metrics do.
    `text_bytes` is the length of its body without pictures, `sampling` what its alias adds, `entry` what
    the catalogue says of a model whose tokens are counted. `seated` is the trio time of the first seat,
    `neuron` where the last one was and `route` what decided for it. `answered` once a neuron's answer is
    passed on, whole or not, and `told` once one has said in good order why there is none. `avoid` names
    neurons that refused, `full` is the refusal of one that has the model, and `error` what the client is
    told."""

    way: Way
    request: Request
    reply: Answering
    meter: Meter = field(init=False)
    model: str = ""
    name: str = ""
    label: str = ""
    body: bytes = b""
    text_bytes: int = 0
    streams: bool = False
    affinity: str = ""
    stream: Stream | None = None
    progress: Progress | None = None
    neuron: str = NO_NEURON
    route: Route | None = None
    sampling: Sampling | None = None
    entry: str = ""
    seated: float | None = None
    answered: bool = False
    told: bool = False
    retried: bool = False
    stale: int = 0
    avoid: frozenset[str] = frozenset()
    full: CortexError | None = None
    error: CortexError | None = None
    began: float = field(default_factory=trio.current_time)
    # Seconds that it waited for a seat, or was with neurons: all the rest is cortex's own share.
    elsewhere_s: float = 0.0

    def __post_init__(self) -> None:
        self.meter = Meter(self.way.dialect.wire)

    def read(self, views: Views, seen: Peek) -> None:
        """Who asks, for which model and what for, as `seen` in the body. Raises what `views` says of the
        name."""
        caller, headers = self.request.caller, self.request.headers
        self.model = model = views.resolve(caller, seen.model)
        self.name = views.called(caller, seen.model, model)
        self.streams = seen.stream and self.way not in (COUNTS, VECTORS)
        self.affinity = named_in(headers) or seen.affinity
        if seen.model != model:
            self.sampling = views.listing.catalogue.sampling(seen.model)

    def waits(self, ticket: Ticket) -> None:
        """The request stands in line."""
        if self.progress is not None:
            self.progress.waits(ticket)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The request is with a neuron in the block."""
        since = trio.current_time()
        try:
            yield
        finally:
            self.elsewhere_s += trio.current_time() - since

    def phase(self, loading: Container[str]) -> Phase:
        """How far the request has come; `loading` are the models that are being loaded."""
        if self.reply.stalled:
            return "stall"
        if self.seated is None:
            return "load" if self.model in loading else "queue"
        return "answer" if self.meter.first_content_at is None else "stream"

    def done(self, outcome: Outcome) -> Done:
        """The entry in the books."""
        first, now = self.meter.first_content_at, trio.current_time()
        return Done(
            model=self.label,
            dialect=self.way.label,
            outcome=outcome,
            duration_s=now - self.request.arrived,
            neuron=self.neuron,
            ttft_s=None if first is None else first - self.request.arrived,
            queue_s=None if self.seated is None else self.seated - self.request.arrived,
            usage=self.meter.usage if self.seated is not None else Usage(),
            cold=self.route == "cold",
            overhead_s=None if self.seated is None else now - self.began - self.elsewhere_s,
            key=self.request.caller,
        )

    def tell(self, done: Done) -> None:
        """The line of the log that it has."""
        ending = (
            self.model,
            self.seat,
            self.route or "-",
            done.outcome,
            self.request.caller or "-",
            OPEN,
            OPEN,
            OPEN,
            self.meter.estimated,
            OPEN,
            done.dialect,
            self._status(),
            "-" if self.error is None else self.error.code,
            OPEN,
            OPEN,
        )
        used, waited, first = done.usage, _figure(done.queue_s), _figure(done.ttft_s)
        figures = done.duration_s, used.prompt, used.completion, used.cached, waited, first
        tell(self.request.id, ending, figures)

    @property
    def seat(self) -> str:
        """The neuron where it was last, as the log has it."""
        return "-" if self.seated is None else self.neuron

    def _status(self) -> int | str:
        """What the client got, or is about to get."""
        if self.error is not None and not self.reply.started:
            return self.error.status
        return self.meter.status if self.reply.started else "-"

    @property
    def verdict(self) -> Outcome:
        """What an answer that was passed on whole says of itself."""
        if not self.meter.failed:
            return "ok"
        if self.meter.status in (503, 529):
            return "cortex"
        return "caller" if 400 <= self.meter.status < 500 else "engine"


def tell(request_id: str, ending: tuple[Given, ...], figures: tuple[Figure, ...]) -> None:
    """The one line of the log that every request has. `ending` is what it has in common with others, OPEN
    where it has figures of its own; those that it never had are "-"."""
    say(log, request_id, _DONE, ending, figures)


def _figure(seconds: float | None) -> float | str:
    return "-" if seconds is None else round(seconds, 3)
