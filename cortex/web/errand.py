"""One exchange with a neuron by callbacks: the request out, the answer back to the client, no task.

Does what `relay` does, in the cases that are nearly all: an event stream or a whole JSON answer, passed
on as it comes. Whatever else happens ends the errand, and its `Keeper` sees to the rest with tasks: an
answer of another kind is handed to it with its head read, a failure with the reason, a client that left,
a stop. Times are the reactor's. A slow client pauses the neuron; nothing is kept but what one read brought.
"""

from collections.abc import Iterable
from contextlib import suppress
from math import inf

import trio

from cortex.config.limits import Limits
from cortex.errors import CortexError, TooSlow, UpstreamFailed
from cortex.web import relay
from cortex.web.answer import Answer
from cortex.web.duties import Client, Keeper
from cortex.web.flow import Flow
from cortex.web.framing import Framing
from cortex.web.link import Link
from cortex.web.meter import Meter
from cortex.web.refusal import NO_LENGTH, too_long, unsent
from cortex.web.streaming import BEAT_S, GRACE_S, beat
from cortex.web.tail import TOO_BIG, EventTail, Tail
from cortex.wire import neuron

Pairs = Iterable[tuple[str, str]]


class Errand:
    """`follow` what was sent over the link, for which the guest waits. `extra` are headers for the client."""

    def __init__(self, guest: Client, framing: Framing, link: Link, *, limits: Limits, now: float) -> None:
        self.guest, self.framing, self.link = guest, framing, link
        self.meter = Meter(framing.terms.dialect)
        self.answer = Answer(link, asked_at=now, delivered=True)
        self.extra: Pairs = ()
        self._keeper: Keeper
        self._limits = limits
        self._tail: Tail | None = None
        self._events: EventTail
        self._body: list[bytes] = []
        self._size = 0
        self._over = False
        self._end_of_it = b""  # that waits for what the client has yet to take
        # Whether whole chunks may pass as they come: both sides are between two of them.
        self._flows = False
        self._flow: Flow
        self._delivered = True
        self._beat_at = self._late_at = self._dial_by = inf
        self.due = inf

    def follow(self, keeper: Keeper, *, streams: bool, connect_s: float) -> None:
        """The request is with the neuron, or will be once that is connected, within `connect_s`. `streams`
        says what was asked for: who waits for a stream gets signs of life."""
        self._keeper, now = keeper, self.answer.asked_at
        self.link.listener = self
        if streams:
            self._beat_at = now + GRACE_S
            self._late_at = now + self._limits.first_token_s
        if self.link.dialling:
            self._dial_by = now + connect_s
        self._plan()

    def told(self, data: bytes) -> None:
        """`data` was the whole answer, of which the client has yet to take a part."""
        self.answer.feed(data)
        body = self.answer.take()
        self.meter.read_whole(200, body)
        self.meter.bytes, self.meter.complete = len(body), True
        self.framing.adopt(self.answer.headers.get("content-type", ""), chunked=False)
        self._over = True
        self.hold()

    def goes_on(self, head: bytes, last: bytes, late_at: float) -> None:
        """The client has a head for the neuron's `head`, and plain events, of which `last` came last. They
        are in the figures."""
        self.answer.goes_on(head)
        self.framing.adopt(self.answer.headers.get("content-type", ""), chunked=True)
        self._tail = self._listens()
        tail = self._events
        tail.begun = self._flows = True
        tail.passed(last, self.meter.bytes)
        if tail.ended:
            self.meter.ended({}, failed=tail.failed)
        self._beat_at, self._late_at = inf, late_at
        self._plan()
        self.guest.wants_look(self.due)

    def told_end(self, data: bytes) -> None:
        """`data` was the end of the stream, of which the client has yet to take a part."""
        self.answer.feed(data)
        self.answer.take()
        self._end(self._events)
        self.hold()

    def join(self, answer: Answer, keeper: Keeper) -> None:
        """The same of an answer whose head others have read, and found to be that of a stream to be passed
        on: the rest goes to the client from here on."""
        self.answer, self._keeper = answer, keeper
        self.link.listener = self
        try:
            self._begin_stream(answer.headers.get("content-type", ""))
        except CortexError as error:
            self._broken(error)

    # -- what the neuron says

    def heard(self, data: bytes) -> None:
        if self._over:
            return  # the client has yet to take the end of it
        if self._flows and self._flow.passes(data, self.guest.now):
            self._flowed(data)
            return
        answer, self._flows = self.answer, False
        try:
            answer.feed(data)
            if not answer.headed:
                if answer.fault is not None:
                    raise answer.fault
                return
            if self._tail is not None:
                self._pass_on()
            elif self._size or self._body:
                self._gather()
            else:
                self._begin_answer()
        except CortexError as error:
            self._broken(error)

    def _broken(self, error: CortexError) -> None:
        """There is nothing good behind what has come."""
        tail = self._tail
        if tail is not None and tail.ended and isinstance(error, UpstreamFailed):
            # A close that comes too early cuts nothing once the end mark was passed on.
            self._send_end(tail)
            return
        self._fail(error if self._delivered or self.answer.headed else unsent(error))

    def unreached(self, problem: OSError | None) -> None:
        self._fail(self._keeper.unreached(problem))

    def unwritten(self) -> None:
        self._delivered = False

    def give_up(self, error: CortexError) -> None:
        """The neuron gives no sign of life: `error` says so."""
        if not self._over:
            self._fail(error)

    def _begin_answer(self) -> None:
        """The head of the answer has come."""
        answer = self.answer
        answer.check()
        kind = answer.headers.get("content-type", "")
        plain = (
            answer.status == 200
            and neuron.NOT_STARTED not in answer.headers
            and answer.headers.get("content-encoding", "identity").lower() == "identity"
        )
        if plain and kind.startswith("text/event-stream"):
            self._begin_stream(kind)
        elif plain and self._passes_whole(kind):
            self._keeper.headed()
            self._size = 1  # it has begun
            # Nothing may go out before the whole answer.
            self._beat_at, self._late_at = inf, self.guest.now + self._limits.upstream_stall_s
            self._aim()
            self._gather()
        else:
            self._leave()
            self._keeper.odd(answer)

    def _passes_whole(self, kind: str) -> bool:
        """Whether a body of that `kind` goes to the client when all of it is there."""
        return kind.startswith("application/json") and not self.framing.started

    def _begin_stream(self, kind: str) -> None:
        self._keeper.headed()
        if not self.framing.started:
            self._start(kind)
        self._beat_at = inf
        if self._late_at == inf:
            self._late_at = self.answer.asked_at + self._limits.first_token_s
        self._aim()
        self._tail = self._listens()
        self._pass_on()

    def _start(self, kind: str) -> None:
        headers = relay.returned(self.answer.headers, self.extra)
        # An event stream's cache-control is written by the reply itself.
        self.framing.start(200, [pair for pair in headers if pair[0] != "cache-control"], kind)

    def _listens(self) -> Tail:
        """Who knows where the stream ends."""
        self._events = EventTail(self.meter.dialect)
        self._flow = Flow(self._events, self.meter, self.framing)
        return self._events

    def _pass_on(self) -> None:
        """Every whole event that has come goes to the client, as `relay` has it."""
        answer, tail = self.answer, self._events
        if data := answer.take():
            tail.feed(data)
            if tail.whole and self._told(tail):
                return
            if tail.fault is not None:
                reason = "oversize" if tail.fault == TOO_BIG else "protocol"
                raise UpstreamFailed(tail.fault, reason=reason)
            chunks_pass = answer.between_chunks and self.framing.passes_chunks
            self._flows = chunks_pass and tail.between_events
        if answer.complete:
            if not tail.ended:
                raise UpstreamFailed(relay.NO_END, reason="no_end")
            self._send(self._end(tail))
        elif answer.fault is not None:
            raise answer.fault

    def _flowed(self, data: bytes) -> None:
        """`data` went by untouched."""
        self._alive_at(self.guest.now)
        if not self.guest.send(data):
            self.hold()

    def _told(self, tail: EventTail) -> bool:
        """The whole events go to the client; whether the stream ends with them."""
        events, now = tail.whole, self.guest.now
        self.meter.bytes += len(events)
        self.meter.passed(events, now)
        if tail.ended:
            self.meter.ended({}, failed=tail.failed)
        if tail.begun:
            self._alive_at(now)
        ends = self.answer.complete and tail.ended and tail.fault is None
        self._send(self.framing.data(events) + (self._end(tail) if ends else b""))
        return ends

    def _alive_at(self, now: float) -> None:
        """The neuron has shown that it lives."""
        self._late_at = now + self._limits.upstream_stall_s
        if self.due > self._late_at:
            self._aim()

    def _send_end(self, tail: Tail) -> None:
        """The end goes out, behind what the client has yet to take."""
        end = self._end(tail)
        if self.guest.full:
            self._end_of_it = end
        else:
            self._send(end)

    def _end(self, tail: Tail) -> bytes:
        self.meter.ended(self.answer.trailers, failed=tail.failed)
        self._over = True
        return self.framing.end()

    def _gather(self) -> None:
        """A whole answer is passed on when all of it is there."""
        answer = self.answer
        if piece := answer.take():
            self._body.append(piece)
            self._size += len(piece)
            self._late_at = self.guest.now + self._limits.upstream_stall_s
            self._aim()
        if self._size - 1 > self._limits.body:
            raise too_long(self._limits.body)
        if not answer.complete:
            if answer.fault is not None:
                raise answer.fault
            return
        if answer.by_close:
            raise UpstreamFailed(NO_LENGTH, reason="no_end")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self.meter.read_whole(200, body)
        self.meter.bytes, self.meter.complete = len(body), True
        kind = answer.headers.get("content-type", "")
        whole = self.framing.whole(200, body, relay.returned(answer.headers, self.extra), kind)
        self.framing.opened()
        self._over = True
        self._send(whole)

    # -- what the client takes

    def _send(self, data: bytes) -> None:
        if not self.guest.send(data):
            self.hold()
        elif self._over:
            self._finish()

    def hold(self) -> None:
        """The neuron waits for the client."""
        self.link.pause()
        self.due = min(self.due, self.guest.stall_at)
        self.guest.wants_look(self.due)

    def drained(self) -> None:
        if self._end_of_it:
            end, self._end_of_it = self._end_of_it, b""
            self._send(end)
            return
        if self._over:
            self._finish()
            return
        # A slow client is not the neuron's delay.
        self._late_at = max(self._late_at, self.guest.now + self._limits.upstream_stall_s)
        self._aim()
        self.link.go_on()

    def _finish(self) -> None:
        self.framing.sent()
        self.link.listener = None
        self._keeper.done()
        # They hold each other: of thousands such pairs the collector of garbage has work for 100 ms.
        del self._keeper

    # -- time

    def look(self, now: float) -> None:
        if self.guest.full:
            if now >= self.guest.stall_at:
                self.guest.give_up()
                return
            self.due = self.guest.stall_at
            return
        if now >= self._dial_by and self.link.dialling:
            self.unreached(None)
            return
        if now >= self._late_at:
            self._late()
            return
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            self._say_something()
        self._plan()

    def _late(self) -> None:
        begun = self._tail is not None and self._tail.begun
        self._fail(TooSlow(relay.SILENT, reason="stall" if begun else "late"))

    def _plan(self) -> None:
        """When there is something to be looked at."""
        self.due = min(self._beat_at, self._late_at, self._dial_by if self.link.dialling else inf)

    def _say_something(self) -> None:
        """The client hears that its request is being worked at."""
        if not self.framing.started:
            self.framing.start(200)
        self._send(self.framing.data(beat(self.framing.terms.dialect)))

    def _aim(self) -> None:
        if min(self._beat_at, self._late_at) < self.due:
            self.due = min(self._beat_at, self._late_at)
            self.guest.wants_look(self.due)

    # -- other ends

    def _fail(self, error: CortexError) -> None:
        self._leave()
        self._keeper.failed(error)

    def lost(self) -> None:
        self._leave()
        self._keeper.left()

    async def hear_out(self) -> None:
        """What the neuron says behind the end mark is known, if it comes soon. For a task, of an errand
        that the client has `left` although it was told all."""
        tail, answer = self._tail, self.answer
        if tail is None or not tail.ended:
            return
        with trio.move_on_after(relay.LAST_S), suppress(UpstreamFailed):
            while not answer.complete:
                await answer.receive()
        self.meter.ended(answer.trailers, failed=tail.failed)

    def stop(self, why: CortexError | None) -> None:
        self._leave()
        self._keeper.stopped(why)

    def crash(self) -> None:
        self.drop(bug=True)

    def drop(self, *, bug: bool) -> None:
        self._leave()
        if bug:
            self.guest.crashed()
        self._keeper.dropped(bug=bug)

    def _leave(self) -> None:
        """Nothing more is heard by callbacks: not even that the neuron closes."""
        self.link.listener = None
        self.link.unwatched()
