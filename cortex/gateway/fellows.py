"""What a worker of a gateway shares with the others that serve with it.

To neurons, workers are several gateways: each asks how they are, routes under a boot id of its own, and
sees of the others' requests what neurons report. Here is what several gateways would not need, since one
address stands for all of them: whoever asks one worker after another must not be told of another past. What
was changed at a neuron is looked at by all before it is said to be done; a model is loaded by one; who
waits is counted everywhere; and the page of metrics is of all. Limits are divided before they come here.
"""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from cortex.dispatch import Revised
from cortex.gateway.report import Elsewhere
from cortex.gateway.tuning import Parts
from cortex.ledger import Load
from cortex.metrics import NO_KEY, NO_NEURON, OTHER, Metrics
from cortex.metrics.joining import rule_of
from cortex.workers import words
from cortex.workers.crew import Crew
from cortex.workers.pages import added, without

log = logging.getLogger(__name__)

# As often as who waits elsewhere is asked for.
ASK_S: Final = 1.0
# Until whoever loads a model shows at its neuron, and then the load is ours.
SHOWN_S: Final = 5.0
AGAIN_S: Final = 0.05
_LABEL: Final = re.compile(r'\b(neuron|key)="((?:[^"\\]|\\.)*)"')


class State(msgspec.Struct, frozen=True):
    """What a worker tells of itself: who waits there, and whether nothing moves."""

    waiting: dict[str, int]
    stuck: bool


class Broke(msgspec.Struct, frozen=True):
    """A neuron broke over loading a model."""

    model: str
    neuron: str


class Fellows:
    """The others, of one worker of a `crew`. `begin` makes the parts go by them."""

    def __init__(self, crew: Crew, metrics: Metrics) -> None:
        self.crew, self._metrics = crew, metrics
        self._parts: Parts
        self._state = msgspec.json.Decoder(State)

    def begin(self, parts: Parts, nursery: trio.Nursery) -> None:
        """From here on they are asked, told, and answered."""
        crew, self._parts = self.crew, parts
        if crew.workers == 1:
            return
        crew.answers.update({words.PAGE: self._own_page, "state": self._own_state, "look": self._look})
        crew.hears.update({"look": lambda body: parts.fleet.look_soon(body.decode()), "broke": self._broke})
        parts.loader.alone = self.alone
        parts.loader.broke = lambda model, neuron: crew.note(
            "broke", msgspec.json.encode(Broke(model, neuron))
        )
        parts.loader.came_in = lambda neuron: crew.note("look", neuron.encode())
        parts.fleet.told_all = self.told_all
        nursery.start_soon(self._ask)

    # -- the page

    async def whole(self, own: bytes) -> bytes | None:
        """The page of all, with ours as it is. None while the supervisor hangs: ours alone would have
        every counter fall."""
        if self.crew.workers == 1:
            return own
        theirs = await self.crew.gather(words.PAGE, own)
        if not theirs:  # what the supervisor itself counts is always there
            return None
        pages = [own, *theirs]
        known = {
            "neuron": {NO_NEURON, OTHER, *(neuron.name for neuron in self._parts.fleet)},
            "key": {NO_KEY, OTHER, *self._parts.accounts.names()},
        }

        def gone(sample: str) -> bool:
            """Of a neuron, or a key, that is no more: what a worker counted that is gone, too, nobody
            else would forget."""
            return any(name not in known[label] for label, name in _LABEL.findall(sample))

        return await trio.to_thread.run_sync(lambda: without(added(pages, rule_of), gone))

    async def farewell(self) -> None:
        """What was counted here is with them, for this process goes."""
        await self.crew.farewell(self._metrics.last)

    async def _own_page(self, body: bytes) -> bytes:
        return await trio.to_thread.run_sync(self._metrics.render)

    # -- how it goes

    async def _ask(self) -> None:
        while True:
            told = [self._state.decode(body) for body in await self.crew.gather("state") if body]
            waiting: dict[str, int] = {}
            for state in told:
                for model, count in state.waiting.items():
                    waiting[model] = waiting.get(model, 0) + count
            missing = self.crew.workers - 1 - len(told)
            self._parts.report.elsewhere = Elsewhere(waiting, any(state.stuck for state in told), missing)
            await trio.sleep(ASK_S)

    async def _own_state(self, body: bytes) -> bytes:
        report = self._parts.report
        return msgspec.json.encode(State(report.ledger.lines(), not report.moving()))

    # -- what changes at neurons

    async def told_all(self, neuron: str) -> None:
        """Every worker has looked at the neuron since this call, those that do in time."""
        await self.crew.gather("look", neuron.encode())

    async def _look(self, body: bytes) -> bytes:
        await self._parts.fleet.look_again(body.decode())
        return b""

    def _broke(self, body: bytes) -> None:
        broke = msgspec.json.decode(body, type=Broke)
        self._parts.loader.suspect(broke.model, broke.neuron)

    # -- loads

    @asynccontextmanager
    async def alone(self, load: Load) -> AsyncIterator[None]:
        """Nobody else loads the model in the block, or does so at the same neuron, which joins the two.
        Revised when another worker has it loaded elsewhere: whoever waits here waits for that."""
        model, neuron = load.want.model, load.place.name
        try:
            await self._claim(load, model, neuron)
            yield
        finally:
            # Also of who was cancelled before he heard that it is his.
            self.crew.release(model)

    async def _claim(self, load: Load, model: str, neuron: str) -> None:
        with trio.move_on_after(SHOWN_S):
            while (other := await self.crew.claim(model, neuron)) != neuron:
                await self._look_at(other)
                if self._shows(model, other):
                    log.info("load.elsewhere model=%s place=%s instead_of=%s", model, other, neuron)
                    # What was promised to this load there is free when the next report has come.
                    self._parts.fleet.look_soon(neuron)
                    raise Revised(load.want.need_bytes)
                await trio.sleep(AGAIN_S)

    async def _look_at(self, neuron: str) -> None:
        with trio.move_on_after(1.0):
            await self._parts.fleet.look_again(neuron)

    def _shows(self, model: str, neuron: str) -> bool:
        holders = self._parts.dispatch.ledger.holders(model)
        return any(place.name == neuron and one.phase != "leaving" for place, one in holders)
