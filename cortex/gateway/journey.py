"""One request on its way through a gateway, as far as it has come.

Plain facts that `passage` writes down while it works; from them come the entry in the
books and the order in which places are tried.
"""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from cortex.ask import Sampling
from cortex.errors import CortexError
from cortex.events import Usage
from cortex.gateway.ways import Way
from cortex.ledger import Ticket
from cortex.metrics import Done, Outcome, Phase
from cortex.router import Route
from cortex.web.connection import Reply, Request
from cortex.web.meter import Meter
from cortex.web.progress import Progress
from cortex.web.streaming import Stream


@dataclass(slots=True)
class Journey:
    """`model` is an id of the catalogue, `label` what metrics call it. `sampling` is what
    its alias adds. `seated` is the trio time of the first seat, `neuron` where the last one was and
    `route` what decided for it. `avoid` names neurons that refused, `full` is the refusal of one that
    has the model."""

    way: Way
    request: Request
    reply: Reply
    meter: Meter = field(init=False)
    model: str = ""
    label: str = ""
    body: bytes = b""
    streams: bool = False
    affinity: str = ""
    stream: Stream | None = None
    progress: Progress | None = None
    neuron: str = "none"
    route: Route | None = None
    sampling: Sampling | None = None
    seated: float | None = None
    retried: bool = False
    stale: int = 0
    avoid: frozenset[str] = frozenset()
    full: CortexError | None = None
    began: float = field(default_factory=trio.current_time)
    # Seconds that it waited for a seat, or was with neurons: all the rest is cortex's own share.
    elsewhere_s: float = 0.0

    def __post_init__(self) -> None:
        self.meter = Meter(self.way.dialect.wire)

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
            dialect=self.way.dialect.name,
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

    @property
    def verdict(self) -> Outcome:
        """What an answer that was passed on whole says of itself."""
        if not self.meter.failed:
            return "ok"
        if self.meter.status in (503, 529):
            return "cortex"
        return "caller" if 400 <= self.meter.status < 500 else "engine"
