"""The neurons as places: who belongs to the fleet, what is believed of each, and who is away.

Owns the last reports. A neuron whose connection is refused is away at once; one that is slow is
away after `failures` misses. A new boot id drops all belief of the old boot, a report that is older
than what is known is dropped itself, and of two who claim one boot id the second is refused.
What it told last is remembered while it is away. `polling` asks the questions, `belief` reads the
answers, `probation` keeps who has to prove itself.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import Final

import trio

from cortex.config.gateway import NeuronRef, Poll
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, Stopping, TooSlow, Unreachable, UpstreamFailed
from cortex.gateway import belief
from cortex.gateway.knowers import Knowers
from cortex.gateway.member import Found, Neuron, Waits, pool_of, together
from cortex.gateway.polling import Polling
from cortex.gateway.probation import Probation
from cortex.gateway.remote import Remote
from cortex.gateway.ways import Tongues
from cortex.metrics import Ejection, Metrics
from cortex.web.lag import watch_lag
from cortex.web.names import Resolve, resolve
from cortex.web.pool import Pool
from cortex.web.reactor import Reactor
from cortex.wire import neuron as wire

__all__ = ["Fleet", "Neuron"]

log = logging.getLogger(__name__)

DISMISSED: Final = "it was taken out of cortex.toml"
UNNAMED: Final = "DNS does not name it any more"
# For so long a clash is shown after it was seen last: two processes at one address take turns.
CLASH_S: Final = 60.0


async def _nobody_else(name: str) -> None:
    """This process is the whole gateway."""


class Fleet:
    """All neurons of one gateway. `silent_s` without a report, and answers are given up."""

    def __init__(
        self,
        refs: tuple[NeuronRef, ...],
        poll: Poll,
        dispatch: Dispatch,
        metrics: Metrics,
        *,
        silent_s: float,
        reactor: Reactor | None = None,
    ) -> None:
        self._reactor = reactor
        self._dispatch, self._metrics = dispatch, metrics
        self._polling, self._silent_s = Polling(self, poll), silent_s
        self.probation = Probation(trio.current_time, self._bound)
        self._neurons: dict[str, Neuron] = {}
        self._by_boot: dict[str, Neuron] = {}
        self._nursery: trio.Nursery | None = None
        self._listed, self._found = refs, tuple[Found, ...]()
        self._lookup: Resolve = resolve
        self.tongues = Tongues()
        # Who can load what from a catalogue of its own, those away included.
        self.knowers = Knowers()
        # Changes whenever a neuron is there that was not, or the other way round.
        self.comings = 0
        for ref in refs:
            self._enlist(ref)
        self.stopping = False
        # What stands against finding neurons, for /health; "" for nothing.
        self.trouble = ""
        # Who counts what neurons tell of keys: a name, its tokens, and when it was asked.
        self.told: Callable[[str, wire.KeyTokens, float], None] = lambda name, tokens, asked_at: None
        # Who tells what has changed, after each look and when one is dismissed.
        self.noticed: Callable[[Neuron], None] = lambda neuron: None
        # Who looks whether residents are kept as the catalogue says.
        self.heeded: Callable[[Neuron], None] = lambda neuron: None
        # Who has all others look at a neuron that serve with this gateway, and waits for them.
        self.told_all: Callable[[str], Awaitable[None]] = _nobody_else
        # Who remembers something of a neuron by its name, which may be another's one day.
        self.forgotten: Callable[[str], None] = lambda name: None

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self._neurons.values())

    def __getitem__(self, name: str) -> Neuron:
        if name not in self._neurons:
            raise Unreachable(f"Neuron '{name}' was taken out of the fleet. Nothing ran; try again.")
        return self._neurons[name]

    @property
    def news(self) -> int:
        """The level at which a failure is logged: no warning of what goes with a gateway that goes."""
        return logging.INFO if self.stopping else logging.WARNING

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll until cancelled. Started once each neuron has reported or is marked away."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, members = nursery, list(self)
                nursery.start_soon(watch_lag, self._polling.lagged)
                async with trio.open_nursery() as first:
                    for neuron in members:
                        first.start_soon(nursery.start, self._polling.watch, neuron)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for neuron in self:
                neuron.pool.close()
                neuron.remote.close()

    # -- who belongs to it

    def reform(self, refs: tuple[NeuronRef, ...], poll: Poll, *, silent_s: float) -> None:
        """Its file has `refs` from here on, while it runs. Who is new is asked at once; who is not
        named any more takes nobody new. What is under way anywhere goes on."""
        self._polling.poll, self._silent_s = poll, silent_s
        self._listed = refs
        self._regroup()

    def found(self, refs: tuple[Found, ...], lookup: Resolve) -> None:
        """DNS names these, whose hosts `lookup` finds. The same as `reform`, for these."""
        if refs != self._found:
            self._found, self._lookup = refs, lookup
            self._regroup()

    def _regroup(self) -> None:
        members = together(self._listed, self._found)
        for neuron in list(self):
            ref = members.get(neuron.name)
            if ref is None:
                self._dismiss(neuron, UNNAMED if isinstance(neuron.ref, Found) else DISMISSED)
                continue
            if ref != neuron.ref:
                self._rewire(neuron, ref)
            neuron.dismissed = ""
            neuron.look_now.set()
        for name, ref in members.items():
            if name not in self._neurons:
                neuron = self._enlist(ref)
                if self._nursery is not None:
                    self._nursery.start_soon(self._polling.watch, neuron, name=f"poll {neuron.name}")

    def _enlist(self, ref: NeuronRef) -> Neuron:
        pool = self._pool_of(ref)
        neuron = self._neurons[ref.name] = Neuron(ref, Remote(ref, pool), pool)
        self._dispatch.ledger.open(ref.name, ())
        self._dispatch.ledger.shut(ref.name, "it has not reported yet")
        return neuron

    def _pool_of(self, ref: NeuronRef) -> Pool:
        return pool_of(ref, self._lookup if isinstance(ref, Found) else resolve, self._reactor)

    def _rewire(self, neuron: Neuron, ref: NeuronRef) -> None:
        """Another token is used at once; behind another address is another neuron."""
        if ref.endpoint != neuron.ref.endpoint:
            if neuron.up:
                self._away(neuron, "its endpoint was changed")
            self._accompany(neuron)
            neuron.pool.retire()
            neuron.pool, neuron.waits = self._pool_of(ref), Waits(ref.name)
            neuron.boot_id, neuron.seen_at = "", -inf
            neuron.boots.clear()
            self.probation.forget(neuron.name)
        else:
            neuron.remote.retire()
        neuron.ref, neuron.remote = ref, Remote(ref, neuron.pool)

    def _dismiss(self, neuron: Neuron, why: str) -> None:
        if neuron.dismissed:
            return
        log.info("neuron.dismissed neuron=%s why=%s", neuron.name, why)
        neuron.dismissed = why
        ledger = self._dispatch.ledger
        ledger.shut(neuron.name, why)
        for load in [load for load in ledger.loads.values() if load.place.name == neuron.name]:
            self._dispatch.call_off(load)
        self.noticed(neuron)
        if self._nursery is not None:
            self._nursery.start_soon(self._see_off, neuron, name=f"see off {neuron.name}")

    async def _see_off(self, neuron: Neuron) -> None:
        """The dismissed neuron is forgotten, unless it was taken back before its last left."""
        while neuron.dismissed and neuron.up and self._seated(neuron):
            await self._dispatch.changed()
        if not neuron.dismissed or self._neurons.get(neuron.name) is not neuron:
            return  # or it was dismissed twice, and the other task was quicker
        log.info("neuron.forgotten neuron=%s", neuron.name)
        del self._neurons[neuron.name]
        self._release(neuron)
        neuron.watching.cancel()
        self._accompany(neuron)
        neuron.pool.retire()
        self.comings += 1
        self.knowers.forget(neuron.name)
        self.forgotten(neuron.name)
        self.tongues.forget(neuron.name)
        self.probation.forget(neuron.name)
        # Last: whoever tells of it again takes a name that another neuron could have.
        self._metrics.neuron_gone(neuron.name)
        self._dispatch.abandon(self._dispatch.ledger.forget(neuron.name, neuron.dismissed))
        self._dispatch.wake()

    def _seated(self, neuron: Neuron) -> int:
        place = self._dispatch.ledger.place(neuron.name)
        return 0 if place is None else sum(resident.seats for resident in place)

    def _accompany(self, neuron: Neuron) -> None:
        """Its address is looked at no more, and somebody may wait for an answer from there."""
        if neuron.waits and self._nursery is not None:
            self._nursery.start_soon(self._linger, neuron.remote, neuron.waits)
        else:
            neuron.remote.retire()

    async def _linger(self, remote: Remote, waits: Waits) -> None:
        """Those who wait have their answers, or were told that nobody lives there."""
        heard_at = trio.current_time()
        try:
            while waits:
                with trio.move_on_after(self._polling.poll.timeout_s):
                    try:
                        await remote.health()
                        heard_at = trio.current_time()
                    except CortexError as error:
                        log.debug("neuron.silent cause=%s", error.message)
                if trio.current_time() - heard_at > self._silent_s:
                    waits.give_up()
                await trio.sleep(self._polling.poll.interval_s)
        finally:
            remote.retire()

    # -- what requests find out

    def suspect(self, name: str, error: CortexError) -> None:
        """A request failed on a neuron that may be gone, or is going, with all it had. Nobody is
        sent there until the next look, which follows at once, has told."""
        neuron = self._neurons.get(name)
        if neuron is None or not neuron.up:
            return
        if isinstance(error, UpstreamFailed | Stopping):
            self._dispatch.ledger.doubt(name, error.message)
            neuron.suspected = True
            neuron.look_now.set()
        if not isinstance(error, UpstreamFailed | TooSlow) or error.not_started:
            return
        if self.probation.spoilt(name):
            log.warning("neuron.ejected neuron=%s why=%s", name, self.probation.why(name))
            self._metrics.ejected(name, "failing")

    def acquit(self, name: str) -> None:
        """A request was answered as it should be."""
        self.probation.passed(name)

    def look_soon(self, name: str) -> None:
        """The neuron is asked anew without waiting for its turn: it has changed."""
        if (neuron := self._neurons.get(name)) is not None:
            neuron.look_now.set()

    async def look_again(self, name: str) -> None:
        """What the neuron has is known as it was after this call, or it is marked as missed."""
        neuron, called_at = self._neurons.get(name), trio.current_time()
        if neuron is None:
            return
        neuron.look_now.set()
        while neuron.looked_at < called_at and not neuron.watching.cancel_called:
            await neuron.looked.wait()

    # -- what the neurons tell

    def missed(self, neuron: Neuron, why: str, *, at_once: bool) -> None:
        """It did not answer, or what it said is not believed."""
        neuron.failures += 1
        place = self._dispatch.ledger.place(neuron.name)
        doubted = place is not None and place.doubt
        if neuron.up and (at_once or doubted or neuron.failures >= self._polling.poll.failures):
            self._away(neuron, why, "unreachable" if at_once else "silent")
        elif not neuron.up:
            if neuron.failures == 1:
                log.log(self.news, "neuron.away neuron=%s why=%s", neuron.name, why)
                self._metrics.neuron_away(neuron.name)
            neuron.why = why
        if trio.current_time() - neuron.seen_at > self._silent_s:
            neuron.waits.give_up()
        self.noticed(neuron)

    def believe(
        self, neuron: Neuron, discovery: wire.Discovery, health: wire.Health, residents: wire.Residents
    ) -> None:
        """It says so, and nothing speaks against it."""
        doubt = belief.doubt(neuron, health, residents, self._by_boot.get(health.boot_id))
        if doubt is not None:
            self._disbelieve(neuron, health.boot_id, doubt)
            return
        if neuron.up and neuron.boot_id != health.boot_id:
            self._away(neuron, "it was restarted", "restarted")
        if not neuron.up:
            self._greet(neuron, health.boot_id, len(residents.models))
        neuron.discovery, neuron.health, neuron.residents = discovery, health, residents
        self.tongues.learn(neuron.name, neuron.ref.dialects or discovery.dialects)
        self.knowers.learn(neuron.name, neuron.knows())
        neuron.seq = max(health.seq, residents.seq)
        neuron.failures, neuron.why, neuron.seen_at = 0, "", trio.current_time()
        self.told(neuron.name, health.key_tokens, neuron.asked_at)
        self._enter(neuron)
        self.probation.seen(neuron.name)
        self._metrics.neuron_reported(
            neuron.name,
            health.devices,
            {report.id: sum(report.bytes.values()) for report in residents.models},
        )
        self._dispatch.wake()
        self.noticed(neuron)
        self.heeded(neuron)

    def _enter(self, neuron: Neuron) -> None:
        """The ledger knows what it told."""
        ledger, name = self._dispatch.ledger, neuron.name
        ledger.report(name, belief.rooms(neuron), belief.told(neuron), neuron.asked_at)
        if neuron.stopping:
            ledger.shut(name, "it is shutting down")
        elif neuron.dismissed:
            ledger.shut(name, neuron.dismissed)
        elif (why := belief.engineless(neuron)) and not neuron.residents.models:
            ledger.shut(name, why)

    def _greet(self, neuron: Neuron, boot_id: str, models: int) -> None:
        """It is there, for the first time or again."""
        self.comings += 1
        log.info("neuron.up neuron=%s boot=%s models=%d", neuron.name, boot_id, models)
        if neuron.boot_id != boot_id:
            if neuron.boot_id:
                neuron.boots.append(neuron.boot_id)
            neuron.boot_id = boot_id
        self._by_boot[boot_id] = neuron
        if neuron.heard:
            self.probation.returned(neuron.name)
        self._metrics.on_probation(neuron.name, tried=self.probation.standing(neuron.name) != "trusted")

    def _away(self, neuron: Neuron, why: str, kind: Ejection | None = None) -> None:
        log.log(self.news, "neuron.lost neuron=%s why=%s", neuron.name, why)
        self._release(neuron)
        # Whoever answers there from here on is the one, be it who was taken for another before.
        neuron.boots.clear()
        neuron.discovery, neuron.why = None, why
        self.comings += 1
        self.knowers.learn(neuron.name, neuron.knows())
        self._metrics.neuron_away(neuron.name)
        if kind is not None:
            self._metrics.ejected(neuron.name, kind)
        self._dispatch.abandon(self._dispatch.ledger.lost(neuron.name, why))
        self._dispatch.wake()

    def _release(self, neuron: Neuron) -> None:
        """Another neuron may have its boot id."""
        if self._by_boot.get(neuron.boot_id) is neuron:
            del self._by_boot[neuron.boot_id]

    def _disbelieve(self, neuron: Neuron, boot_id: str, doubt: belief.Doubt) -> None:
        kind, why = doubt
        if kind == "duplicate":
            if why != neuron.clash[0]:
                known = neuron.boot_id
                log.error(
                    "neuron.refused neuron=%s boot=%s known=%s why=%s", neuron.name, boot_id, known, why
                )
            neuron.clash = why, trio.current_time()
        else:
            log.warning("report.stale neuron=%s boot=%s why=%s", neuron.name, boot_id, why)
        self._metrics.disbelieved(neuron.name, kind)
        self.missed(neuron, why, at_once=False)

    def _bound(self, name: str, most: int | None) -> None:
        if name not in self._neurons:
            return
        if most != 0:  # that it is ejected, and why, is told where it is
            log.info("neuron.probation neuron=%s at_a_time=%s", name, "all" if most is None else most)
        self._dispatch.ledger.bound(name, most)
        self._metrics.on_probation(name, tried=most is not None)
