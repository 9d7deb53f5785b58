"""An errand whose answer is told to the client in another dialect than the neuron's.

The neuron is asked for a stream in any case, which keeps its signs of life coming; a client that wants a
whole answer has it when that has come to its end. Limits, ends and errors are those of `Errand`; what
is said is `Retold`'s.
"""

from cortex.config.limits import Limits
from cortex.translator.retold import Retold
from cortex.web.duties import Client
from cortex.web.errand import Errand
from cortex.web.framing import Framing
from cortex.web.link import Link
from cortex.web.tail import Tail


class Teller(Errand):
    """`told` is the answer, of which nothing has come."""

    def __init__(
        self, guest: Client, framing: Framing, link: Link, told: Retold, *, limits: Limits, now: float
    ) -> None:
        super().__init__(guest, framing, link, limits=limits, now=now)
        self._told_of = told
        self._whole = b""

    def _passes_whole(self, kind: str) -> bool:
        """It was asked for a stream."""
        return False

    def _start(self, kind: str) -> None:
        if self._told_of.streams:
            self.framing.start(200, self.extra, "text/event-stream")

    def _listens(self) -> Tail:
        return self._told_of

    def _pass_on(self) -> None:
        """Whatever the events that have come tell goes to the client."""
        answer, told = self.answer, self._told_of
        data, out = answer.take(), b""
        if not told.ended:
            told.feed(data)
            if answer.complete and told.fault is None:
                told.close()
            out = self._said(told)
        # What follows the end mark is of no use but for its trailers.
        if answer.complete and told.ended:
            out += self._end(told)
        if out:
            self._send(out)
        if told.fault is not None:
            raise told.fault
        if answer.fault is not None and not answer.complete:
            raise answer.fault

    def _said(self, told: Retold) -> bytes:
        """What goes to the client of what was told last; it is in the figures."""
        now, meter = self.guest.now, self.meter
        if told.spoken and meter.first_content_at is None:
            meter.began(now)
        if told.ended:
            meter.told(told.usage)
            meter.ended({}, failed=False)
            self._whole = b"" if told.streams else told.answer()
        # Whoever waits for a whole answer waits for as long as the neuron shows that it lives.
        if told.stirred and (told.begun or not told.streams):
            self._alive_at(now)
        said = told.take()
        if not said:
            return b""
        meter.bytes += len(said)
        meter.passed(said, now)
        return self.framing.data(said)

    def _end(self, tail: Tail) -> bytes:
        if self._told_of.streams:
            return super()._end(tail)
        self.meter.ended(self.answer.trailers, failed=False)
        self.meter.bytes = len(self._whole)
        self._over = True
        whole = self.framing.whole(200, self._whole, self.extra)
        self.framing.opened()
        return whole

    def _late(self) -> None:
        """A neuron that says no more after the end mark has said all that the client waits for."""
        if self._told_of.ended:
            self._send_end(self._told_of)
        else:
            super()._late()
