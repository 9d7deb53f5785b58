"""Where tokens are counted: at a neuron that has the model, else at one that has its files.

A count takes no seat and nobody's room, and no model is loaded for it: so it does not stand in the
line of those who want to generate. Neurons say which models they know, and not what lies on their
disks; they are asked in turn, those first that can say most likely. Who answered is asked first the
next time. A count has no effect, so one that failed is tried elsewhere, whatever went wrong.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

import trio

from cortex.ask import Sampling
from cortex.catalogue import valid_id
from cortex.config.models import spec_to_text
from cortex.errors import CortexError, NoRoom, NotHereNow, NotResident, Unreachable
from cortex.gateway.fleet import Fleet, Neuron
from cortex.gateway.journey import Journey
from cortex.gateway.listing import Listing
from cortex.metrics import Metrics
from cortex.web.connection import Reply
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

# One neuron may be to blame for a failure; what fails on two is the request's own.
MOST_FAILURES: Final = 2
# Nobody is asked for so long after all said that they have not the files.
NOWHERE_S: Final = 5.0
# A head of 16 KiB has other headers, too; an entry of a catalogue has some hundred bytes.
LONGEST_ENTRY: Final = 8 * 2**10
# More models than one gateway has counts of at a time; then all is asked anew.
MOST_KNOWN: Final = 1024

Exchange: TypeAlias = Callable[[Journey, Reply, Neuron], Awaitable[None]]


class Counting:
    """`exchange` passes a request on to a neuron, and its answer back; it raises refusals."""

    def __init__(self, listing: Listing, metrics: Metrics, exchange: Exchange) -> None:
        self._listing, self._metrics = listing, metrics
        self._exchange = exchange
        self._answered: dict[str, str] = {}
        self._nowhere: dict[str, float] = {}

    @property
    def _fleet(self) -> Fleet:
        return self._listing.fleet

    async def travel(self, journey: Journey, reply: Reply) -> None:
        """The client has its count. Raises what it is to be told when nobody can tell."""
        journey.reply.tags[wire.MODEL] = journey.name
        self._describe(journey)
        asked, failures = 0, list[CortexError]()
        for neuron in self._candidates(journey):
            asked += 1
            error = await self._ask(journey, reply, neuron)
            if error is None:
                self._remember(journey.model, neuron.name)
                return
            if not isinstance(error, NotHereNow):
                failures.append(error)
            if len(failures) == MOST_FAILURES:
                break
            log.info("count.again neuron=%s code=%s", neuron.name, error.code)
            self._metrics.retried(error)
        if failures:
            raise _told(journey, failures[-1]) from failures[-1]
        if not asked:
            raise NoRoom(f"No neuron that could count for '{journey.model}' is there; try again in a moment")
        self._nowhere[journey.model] = trio.current_time() + NOWHERE_S
        raise _missing(journey)

    async def _ask(self, journey: Journey, reply: Reply, neuron: Neuron) -> CortexError | None:
        """None when the neuron answered; else why another one may be asked."""
        journey.neuron = journey.reply.tags[wire.NEURON] = neuron.name
        journey.answered = journey.told = False
        try:
            await self._exchange(journey, reply, neuron)
        except CortexError as error:
            # What failed behind a neuron, at an upstream say, is no reason to take the rest from it.
            if not (journey.told and error.blame == "engine"):
                self._fleet.suspect(neuron.name, error)
            if error.blame == "engine":
                self._metrics.upstream_failed(neuron.name, error)
            if journey.reply.started or error.blame == "caller":
                raise
            return error
        return None

    def _describe(self, journey: Journey) -> None:
        """A neuron that does not know the model is told what the catalogue says. Raises for a model that
        nobody knows, and for one that nobody had a moment ago."""
        listing, model = self._listing, journey.model
        spec, holders = listing.spec(model), self._listing.ledger.holders(model)
        if not valid_id(model) or (spec is None and not holders):
            raise listing.missing(model)
        if not holders and trio.current_time() < self._nowhere.get(model, 0.0):
            raise _missing(journey)
        if model in listing.catalogue.specs and spec is not None:
            # How it samples and its other names make an entry long, and no count different.
            entry = spec_to_text(replace(spec, aliases=(), sampling=Sampling()))
            journey.entry = entry if len(entry) <= LONGEST_ENTRY else ""

    def _candidates(self, journey: Journey) -> Iterator[Neuron]:
        """Whom to ask, in order; each looked at when it is its turn."""
        seen = self._fleet.tongues.mute(journey.way)
        for name in self._likely(journey.model):
            place = self._listing.ledger.place(name)
            if name not in seen and place is not None and place.ready and not place.doubt:
                yield self._fleet[name]
            seen |= {name}

    def _likely(self, model: str) -> Iterator[str]:
        yield from sorted(place.name for place, at in self._listing.ledger.holders(model) if at.servable)
        if model in self._answered:
            yield self._answered[model]
        yield from self._fleet.knowers.of(model)
        yield from self._listing.model(model).feasible_on

    def _remember(self, model: str, neuron: str) -> None:
        for known in (self._answered, self._nowhere):
            if len(known) > MOST_KNOWN:
                known.clear()
        self._answered[model] = neuron
        self._nowhere.pop(model, None)


def _missing(journey: Journey) -> NotResident:
    return NotResident(
        f"Model '{journey.model}' is loaded nowhere, and its files are on no neuron's disk, so nobody knows "
        "its tokens: load it, or send it a request, then count again",
        param="model",
    )


def _told(journey: Journey, error: CortexError) -> CortexError:
    """What becomes of `error` when there is nobody left to try."""
    if isinstance(error, Unreachable):
        return NoRoom(
            f"No neuron that could count for '{journey.model}' can be reached; try again in a moment"
        )
    return error
