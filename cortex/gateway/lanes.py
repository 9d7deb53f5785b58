"""What all requests have in common that one client sends for one model: found out once, and kept.

A `Lane` is for one request head and one name of a model, and lives with what the door knows of that head:
until the next reload, or until a neuron speaks otherwise than before. A `Road` is a lane to one neuron, as
the fleet reaches it. What else may change (who has a seat, where the neuron is) is looked at with each
request.
"""

from dataclasses import dataclass, field
from typing import Final

from cortex.ask import Sampling
from cortex.config.gateway import NeuronRef
from cortex.config.limits import Limits
from cortex.dispatch import Dispatch
from cortex.errors import CortexError
from cortex.gateway import sight
from cortex.gateway.fleet import Neuron
from cortex.gateway.journey import named_in
from cortex.gateway.member import Waits
from cortex.gateway.orders import LEAST_WAIT_S, Orders
from cortex.gateway.views import Views
from cortex.gateway.wants import want_of
from cortex.gateway.ways import COUNTS, VECTORS, Way
from cortex.ledger import Ticket, Want
from cortex.metrics.names import Dialect as Label
from cortex.web import relay
from cortex.web.answer import Answer
from cortex.web.closing import LAST_CHUNK
from cortex.web.framing import Framing
from cortex.web.head import END
from cortex.web.known import Known
from cortex.web.link import Link
from cortex.web.pool import Pool
from cortex.web.relay import Destination
from cortex.web.retell import retold_head
from cortex.web.stencil import Opening, Stencil
from cortex.wire import neuron as wire
from cortex.wire.openai import Peek

# What a client calls its request goes on as what it is called here.
_OWN: Final = frozenset({wire.REQUEST_ID})
# Answers that are looked at for what the next ones may have in common with them.
LESSONS: Final = 64


@dataclass(slots=True, eq=False)
class Road:
    """A lane to `neuron`, whose connections are those of `pool`. It `speaks` the client's dialect, or is told
    the request in another one. `head` begins each request: a text for `%` that wants its length and its id.
    `stencil` is of the last answer that came in an unknown form, and `opening` of the last stream of chat."""

    neuron: Neuron
    ref: NeuronRef
    # Kept beside the neuron, which may be found at another address meanwhile.
    pool: Pool
    waits: Waits
    speaks: bool
    head: bytes = field(repr=False)  # the fleet's token is in it
    stencil: Stencil | None = None
    opening: Opening | None = None
    _lessons: int = LESSONS
    _openings: int = LESSONS
    _boot_id: str = ""  # of whom they are

    def learn(self, lane: "Lane", link: Link, data: bytes, limits: Limits) -> None:
        """`data` came over `link`, to which no stencil fits: there may be one for the next that are like
        it. Given up where answers come in pieces, or each in another form, until the neuron is another
        process."""
        self._meet()
        if self._lessons and END in data:
            self._lessons -= 1
            if (stencil := stencil_of(lane, self, link, data, limits)) is not None:
                self.stencil = stencil

    def learn_opening(self, lane: "Lane", link: Link, data: bytes) -> None:
        """The same of a stream that begins with `data`."""
        self._meet()
        if self._openings and END in data and lane.known.route.dialect == "openai":
            self._openings -= 1
            if (opening := opening_of(lane, self, link, data)) is not None:
                self.opening = opening

    def _meet(self) -> None:
        """Another process has other forms."""
        if self._boot_id != self.neuron.boot_id:
            self._boot_id, self._lessons, self._openings = self.neuron.boot_id, LESSONS, LESSONS


@dataclass(slots=True, eq=False)
class Lane:
    """`asked` is the model's name as it was asked for, `model` its id and `name` what the client calls it.
    `affinity` is what the head says of that, `limited`: pictures are not counted against the key, `streams`:
    an answer may be a stream. `mute` are those who cannot be asked, as of that `edition` of the tongues."""

    way: Way
    known: Known
    asked: str
    model: str
    name: str
    sampling: Sampling | None
    affinity: str
    want: Want
    limited: bool
    streams: bool
    mute: frozenset[str]
    edition: int
    label: Label
    kept: bool = False
    roads: dict[str, Road] = field(default_factory=dict)


class Lanes:
    """One for each gateway."""

    def __init__(self, views: Views, dispatch: Dispatch, orders: Orders) -> None:
        self._views, self._dispatch, self._orders = views, dispatch, orders
        self._fleet, self._tongues = views.listing.fleet, views.listing.fleet.tongues

    def of(self, way: Way, known: Known, asked: str) -> Lane:
        """For requests with that head. Raises what `views` and `want_of` say of the name."""
        lane = known.notes.get(asked)
        if isinstance(lane, Lane) and lane.edition == self._tongues.edition:
            return lane
        return self._made(way, known, asked)

    def _made(self, way: Way, known: Known, asked: str) -> Lane:
        views, caller = self._views, known.caller
        model = views.resolve(caller, asked)
        mute, affinity = self._tongues.mute(way), named_in(known.head.headers)
        return Lane(
            way,
            known,
            asked,
            model,
            views.called(caller, asked, model),
            None if asked == model else views.listing.catalogue.sampling(asked),
            affinity,
            want_of(views, model, caller, affinity=affinity, avoid=mute),
            limited=bool(caller) and sight.possible(way),
            streams=way not in (COUNTS, VECTORS),
            mute=mute,
            edition=self._tongues.edition,
            label=way.label,
        )

    def seat(self, lane: Lane, seen: Peek) -> Ticket | None:
        """A free seat for the request in which that was `seen`. Only lanes of models that serve are kept:
        names that somebody invents are none."""
        dispatch = self._dispatch
        ticket = dispatch.seat_alone(lane.want)
        if ticket is None:
            affinity, caller = lane.affinity or seen.affinity, lane.known.caller
            ticket = dispatch.seat_alone(lane.want, affinity)
            if ticket is None:
                want = want_of(self._views, lane.model, caller, affinity=affinity, avoid=lane.mute)
                ticket = dispatch.seat_at_once(want)
        if ticket is not None and not lane.kept:
            lane.known.notes[lane.asked], lane.kept = lane, True
        return ticket

    def road(self, lane: Lane, name: str) -> Road:
        """To the neuron of that name."""
        neuron, road = self._fleet[name], lane.roads.get(name)
        if road is None or road.neuron is not neuron or road.ref is not neuron.ref:
            # Fleets whose neurons come and go under ever new names stay small.
            lane.roads = {each: known for each, known in lane.roads.items() if not known.neuron.dismissed}
            road = lane.roads[name] = self._built(lane, neuron)
        return road

    def own(self, lane: Lane) -> dict[str, str]:
        """What the gateway itself tells a neuron of each request, save its id."""
        patient_s = max(LEAST_WAIT_S, self._dispatch.patience.queue_s)
        return self._orders.of(lane.known.caller, lane.sampling, patient_s)

    def _built(self, lane: Lane, neuron: Neuron) -> Road:
        head, own = lane.known.head, self.own(lane)
        to = Destination(neuron.pool.authority, neuron.ref.token)
        if speaks := self._tongues.speaks(neuron.name, lane.way):
            taken = relay.forwarded(head.headers, _OWN)
            text = relay.request_head("POST", head.path, taken, 0, to=to, own=own)
        else:
            text = retold_head(0, to, own)
        return Road(neuron, neuron.ref, neuron.pool, neuron.waits, speaks, _form(text))


def _form(head: bytes) -> bytes:
    """A request's head as a text that wants its length and its id, in this order."""
    begin, length, rest = head.replace(b"%", b"%%").partition(b"\r\ncontent-length: 0\r\n")
    assert length  # noqa: S101 - it is written there
    return b"%b\r\ncontent-length: %%d\r\n%b: %%b\r\n%b" % (begin, wire.REQUEST_ID.encode(), rest)


def stencil_of(lane: Lane, road: Road, link: Link, data: bytes, limits: Limits) -> Stencil | None:
    """For answers like the one in `data`, if it is whole, plain and all there is; else None."""
    answer = Answer(link, asked_at=0.0, delivered=True)
    try:
        answer.feed(data)
        if not answer.headed:
            return None
        answer.check()
    except CortexError:
        return None
    body, headers = answer.take(), answer.headers
    kind = headers.get("content-type", "")
    framed = "content-length" in headers and "transfer-encoding" not in headers
    if not (framed and _plain(answer) and kind.startswith("application/json") and len(body) <= limits.body):
        return None
    form = Framing(lane.known.terms("")).form(relay.returned(headers, _extra(lane, road)), kind)
    return Stencil.of(data[: data.find(END) + len(END)], headers, form)


def opening_of(lane: Lane, road: Road, link: Link, data: bytes) -> Opening | None:
    """For streams of chat that begin like the one in `data`, if that is plain; else None."""
    answer, head = Answer(link, asked_at=0.0, delivered=True), data[: data.find(END) + len(END)]
    try:
        answer.feed(head + LAST_CHUNK)
        if not answer.headed:
            return None
        answer.check()
    except CortexError:
        return None
    headers = answer.headers
    kind = headers.get("content-type", "")
    framed = "transfer-encoding" in headers and "content-length" not in headers
    if not (framed and _plain(answer) and kind.startswith("text/event-stream")):
        return None
    # An event stream's cache-control is written by the framing itself.
    kept = [pair for pair in relay.returned(headers, _extra(lane, road)) if pair[0] != "cache-control"]
    return Opening.of(head, headers, Framing(lane.known.terms("")).opening(kept, kind))


def _plain(answer: Answer) -> bool:
    """Whether the answer came whole and in good order, and another one may follow."""
    return (
        answer.fault is None
        and answer.reusable
        and answer.status == 200
        and wire.NOT_STARTED not in answer.headers
        and answer.headers.get("content-encoding", "identity").lower() == "identity"
    )


def _extra(lane: Lane, road: Road) -> tuple[tuple[str, str], ...]:
    """What the client is told beside what the neuron says."""
    return ((wire.NEURON, road.neuron.name), (wire.MODEL, lane.name))
