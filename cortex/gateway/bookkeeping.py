"""What is written down of each request, however it ends: metrics, the log, and its key's tokens.

Contents are never logged.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cortex.dispatch import Dispatch
from cortex.errors import CortexError
from cortex.events import Usage
from cortex.gateway.hop import Hop
from cortex.gateway.journey import Journey, tell
from cortex.gateway.views import Views
from cortex.logs import OPEN
from cortex.metrics import Done, Metrics, Outcome

log = logging.getLogger(__name__)

_NOTHING: Final = Usage()


class Bookkeeping:
    """One for each gateway."""

    def __init__(self, metrics: Metrics, views: Views, dispatch: Dispatch) -> None:
        self._metrics, self._views, self._dispatch = metrics, views, dispatch

    @contextmanager
    def entry(self, journey: Journey) -> Iterator[None]:
        """Whatever becomes of the request in the block is in the books."""
        outcome: Outcome = "hung_up"
        try:
            yield
            outcome = journey.verdict
        except CortexError as error:
            outcome = error.blame
            self._note(journey, error)
            raise
        except Exception:
            outcome = "bug"
            raise
        finally:
            if outcome == "hung_up":
                outcome = self.left(journey)
            self.close(journey, outcome)

    def close(self, journey: Journey, outcome: Outcome) -> None:
        """The request has come to its end."""
        done = journey.done(outcome)
        self._metrics.request_done(done)
        self._settle(done, journey)
        journey.tell(done)

    def enter(self, hop: Hop, neuron: str, usage: Usage | None, over_at: float, now: float) -> None:
        """The same of a request that went as it should at `neuron`, and whose answer was there at a time: it
        had a seat as soon as it came."""
        lane = hop.lane
        caller, label, used = lane.known.caller, lane.label, usage or _NOTHING
        row = self._metrics.row(hop.label, neuron, label, "ok", caller)
        series = row.add(now - hop.began, 0.0, now - over_at, used)
        first_at, ttft_s = hop.first_at, None
        if first_at is not None:
            ttft_s = first_at - hop.began
            series.streamed(ttft_s, now - hop.began, used.completion)
        self._views.accounts.spent(caller, neuron, used)
        route, estimated = hop.ticket.route or "-", usage is None or usage.estimated
        ending = (
            lane.model,
            neuron,
            route,
            "ok",
            caller or "-",
            OPEN,
            OPEN,
            OPEN,
            estimated,
            OPEN,
            label,
            200,
            "-",
            OPEN,
            OPEN,
        )
        first = "-" if ttft_s is None else round(ttft_s, 3)
        tell(hop.id, ending, (now - hop.began, used.prompt, used.completion, used.cached, 0.0, first))

    def judge(self, journey: Journey) -> None:
        """What an answer that was passed on whole says of its neuron."""
        if journey.verdict in ("ok", "caller"):
            self._views.listing.fleet.acquit(journey.neuron)
        elif journey.verdict == "engine":
            self._metrics.upstream_failed(journey.neuron)

    def left(self, journey: Journey) -> Outcome:
        """How a request came to its end that was cancelled."""
        # The client has all of it, and was quick to leave.
        if journey.reply.done or (journey.reply.streaming and journey.meter.complete):
            return journey.verdict
        if not journey.reply.lost:
            return "cut"
        self._metrics.client_left(journey.phase(self._dispatch.ledger.loads))
        return "hung_up"

    def _note(self, journey: Journey, error: CortexError) -> None:
        """A failure as the log has it, and a refusal as the books do."""
        journey.error = error
        if journey.seated is None:
            self._metrics.rejected(error)
        if error.blame == "caller":
            # Its message may quote the body.
            log.debug("request.refused code=%s param=%s", error.code, error.param)
        else:
            log.log(
                self._views.listing.fleet.news,
                "request.failed model=%s neuron=%s code=%s cause=%s",
                journey.model,
                journey.seat,
                error.code,
                error.message,
            )

    def _settle(self, done: Done, journey: Journey) -> None:
        """The key's tokens of the day are right from here on, and once the neuron reports."""
        accounts, caller, neuron = self._views.accounts, journey.request.caller, done.neuron
        if done.outcome in ("hung_up", "cut") and journey.seated is not None:
            accounts.left(caller, neuron, done.usage, journey.text_bytes)
        else:
            accounts.spent(caller, neuron, done.usage)
