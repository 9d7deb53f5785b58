"""The neurons as places: asked every few seconds, believed until the next answer.

Owns the last reports and who is away. Each neuron has its own polling task, so that one
that hangs delays nobody. A neuron whose connection is refused is away at once; one that
is slow is away after `failures` misses. A new boot id drops all belief of the old boot,
and one that is stopping counts as empty. What it told last is remembered while it is away.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import trio

from cortex.config.gateway import NeuronRef, Poll
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, Stopping, TooSlow, Unreachable, UpstreamFailed
from cortex.gateway.member import Neuron, pool_of
from cortex.gateway.remote import Client, Remote
from cortex.metrics import Metrics
from cortex.places import Phase, Resident, Room
from cortex.wire import neuron as wire

__all__ = ["Fleet", "Neuron", "seats"]

log = logging.getLogger(__name__)

# So many requests in a row that a neuron spoilt, and for so long whoever has a choice goes
# elsewhere: one that fails fast is always the least busy, and would draw all work to itself.
STRIKES: Final = 3
STRUCK_S: Final = 10.0
# More than any device has: what a poisoned one is short of, whoever would leave it.
BEYOND_BYTES: Final = 2**62
DISMISSED: Final = "it was taken out of cortex.toml"


class Fleet:
    """All neurons of one gateway. `silent_s` without a report, and answers are given up."""

    def __init__(
        self,
        refs: tuple[NeuronRef, ...],
        client: Client,
        poll: Poll,
        dispatch: Dispatch,
        metrics: Metrics,
        *,
        silent_s: float,
    ) -> None:
        self._client, self._dispatch, self._metrics = client, dispatch, metrics
        self._poll, self._silent_s = poll, silent_s
        self._neurons: dict[str, Neuron] = {}
        self._nursery: trio.Nursery | None = None
        for ref in refs:
            self._enlist(ref)
        self._struck: dict[str, float] = {}
        self.stopping = False
        # Who counts what neurons tell of keys: a name, its tokens, and when it was asked.
        self.told: Callable[[str, wire.KeyTokens, float], None] = lambda name, tokens, asked_at: None

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

    def knowers(self, model: str) -> frozenset[str]:
        """Neurons that can load `model` from a catalogue of their own, those away included."""
        return frozenset(neuron.name for neuron in self if neuron.knows(model))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll until cancelled. Started once each neuron has reported or is marked away."""
        try:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as first:
                    for neuron in self:
                        first.start_soon(self._look, neuron)
                task_status.started()
                self._nursery = nursery
                for neuron in self:
                    nursery.start_soon(self._watch, neuron, name=f"poll {neuron.name}")
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for neuron in self:
                neuron.pool.close()

    # -- who belongs to it

    def reform(self, refs: tuple[NeuronRef, ...], poll: Poll, *, silent_s: float) -> None:
        """It is made of `refs` from here on, while it runs. Who is new is asked at once; who is not
        named takes nobody new. What is under way anywhere goes on."""
        self._poll, self._silent_s = poll, silent_s
        wanted = {ref.name: ref for ref in refs}
        for neuron in list(self):
            if neuron.name not in wanted:
                self._dismiss(neuron)
                continue
            if wanted[neuron.name] != neuron.ref:
                self._rewire(neuron, wanted[neuron.name])
            neuron.dismissed = False
            neuron.look_now.set()
        for ref in refs:
            if ref.name not in self._neurons:
                neuron = self._enlist(ref)
                if self._nursery is not None:
                    self._nursery.start_soon(self._watch, neuron, name=f"poll {ref.name}")

    def _enlist(self, ref: NeuronRef) -> Neuron:
        neuron = self._neurons[ref.name] = Neuron(ref, Remote(ref, self._client), pool_of(ref))
        self._dispatch.ledger.open(ref.name, ())
        self._dispatch.ledger.shut(ref.name, "it has not reported yet")
        return neuron

    def _rewire(self, neuron: Neuron, ref: NeuronRef) -> None:
        """Another token is used at once; behind another address is another neuron."""
        if ref.endpoint != neuron.ref.endpoint:
            if neuron.up:
                self._away(neuron, "its endpoint was changed")
            neuron.pool.retire()
            neuron.pool = pool_of(ref)
        neuron.ref, neuron.remote = ref, Remote(ref, self._client)

    def _dismiss(self, neuron: Neuron) -> None:
        if neuron.dismissed:
            return
        log.info("neuron.dismissed neuron=%s", neuron.name)
        neuron.dismissed = True
        ledger = self._dispatch.ledger
        ledger.shut(neuron.name, DISMISSED)
        for load in [load for load in ledger.loads.values() if load.place.name == neuron.name]:
            self._dispatch.call_off(load)
        if self._nursery is not None:
            self._nursery.start_soon(self._see_off, neuron, name=f"see off {neuron.name}")

    async def _see_off(self, neuron: Neuron) -> None:
        """The dismissed neuron is forgotten, unless it was taken back before its last left."""
        while neuron.dismissed and neuron.up and self._seated(neuron):
            await self._dispatch.changed()
        if not neuron.dismissed:
            return
        log.info("neuron.forgotten neuron=%s", neuron.name)
        del self._neurons[neuron.name]
        neuron.watching.cancel()
        neuron.pool.retire()
        self._metrics.neuron_gone(neuron.name)
        self._dispatch.abandon(self._dispatch.ledger.forget(neuron.name, DISMISSED))
        self._dispatch.wake()

    def _seated(self, neuron: Neuron) -> int:
        place = self._dispatch.ledger.place(neuron.name)
        return 0 if place is None else sum(resident.seats for resident in place)

    # -- what requests find out

    def suspect(self, name: str, error: CortexError) -> None:
        """A request failed on a neuron that may be gone, or is going, with all it had. Nobody is
        sent there until the next look, which follows at once, has told."""
        neuron = self._neurons.get(name)
        if neuron is None or not neuron.up or not isinstance(error, UpstreamFailed | Stopping):
            return
        self._dispatch.ledger.doubt(name, error.message)
        neuron.look_now.set()
        if not error.not_started:
            self._strike(neuron)

    def acquit(self, name: str) -> None:
        """A request was answered as it should be."""
        if (neuron := self._neurons.get(name)) is not None:
            neuron.strikes = 0

    def struck(self) -> frozenset[str]:
        """Neurons to which nobody goes who has a choice."""
        now = trio.current_time()
        self._struck = {name: until for name, until in self._struck.items() if now < until}
        return frozenset(self._struck)

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

    async def _watch(self, neuron: Neuron) -> None:
        with neuron.watching:
            while True:
                with trio.move_on_at(neuron.asked_at + self._poll.interval_s):
                    await neuron.look_now.wait()
                neuron.look_now = trio.Event()
                await self._look(neuron)
        neuron.looked.set()

    async def _look(self, neuron: Neuron) -> None:
        """One round of questions; a failed one is counted. Cancelled, nothing is believed."""
        neuron.asked_at = trio.current_time()
        neuron.pool.sweep()
        try:
            await self._ask(neuron)
        except (trio.TooSlowError, TooSlow):
            if not await self._lagging():
                self._missed(neuron, f"it did not answer within {self._poll.timeout_s:g} s", at_once=False)
        except CortexError as error:
            self._missed(neuron, error.message, at_once=isinstance(error, Unreachable))
        except Exception as bug:
            # One neuron's odd report must not end the polling of all.
            log.exception("neuron.unusable neuron=%s", neuron.name)
            self._missed(neuron, f"its report cannot be used: {bug}", at_once=False)
        neuron.looked_at = neuron.asked_at
        neuron.looked.set()
        neuron.looked = trio.Event()

    async def _ask(self, neuron: Neuron) -> None:
        remote = neuron.remote
        with trio.fail_after(self._poll.timeout_s):
            health = await remote.health()
            residents = await remote.models()
            known = neuron.discovery
            if known is None or known.boot_id != health.boot_id:
                known = await remote.discovery()
        if neuron.remote is not remote or neuron.watching.cancel_called:
            return  # whom these words are from is not asked any more
        if health.boot_id == residents.boot_id == known.boot_id:
            self._believe(neuron, known, health, residents)
        else:
            self._missed(neuron, "it was restarted while it was asked", at_once=False)

    async def _lagging(self) -> bool:
        """Whether this process is too slow itself to blame a neuron: a fleet must not be lost to
        a burst of requests here."""
        began = trio.current_time()
        for _ in range(2):  # of two rounds of the loop, one at least has everybody's turn in it
            await trio.lowlevel.checkpoint()
        lag_s = trio.current_time() - began
        # A look takes some ten rounds.
        if lag_s * 10 < self._poll.timeout_s:
            return False
        log.warning("gateway.lagging seconds=%.3f", lag_s)
        return True

    def _missed(self, neuron: Neuron, why: str, *, at_once: bool) -> None:
        neuron.failures += 1
        place = self._dispatch.ledger.place(neuron.name)
        doubted = place is not None and place.doubt
        if neuron.up and (at_once or doubted or neuron.failures >= self._poll.failures):
            self._away(neuron, why)
        elif not neuron.up:
            if neuron.failures == 1:
                log.log(self.news, "neuron.away neuron=%s why=%s", neuron.name, why)
                self._metrics.neuron_away(neuron.name)
            neuron.why = why
        if trio.current_time() - neuron.seen_at > self._silent_s:
            neuron.give_up()

    def _away(self, neuron: Neuron, why: str) -> None:
        log.log(self.news, "neuron.lost neuron=%s why=%s", neuron.name, why)
        neuron.discovery, neuron.why = None, why
        self._metrics.neuron_away(neuron.name)
        self._dispatch.abandon(self._dispatch.ledger.lost(neuron.name, why))
        self._dispatch.wake()

    def _believe(
        self, neuron: Neuron, discovery: wire.Discovery, health: wire.Health, residents: wire.Residents
    ) -> None:
        if neuron.discovery is not None and neuron.discovery.boot_id != discovery.boot_id:
            self._away(neuron, "it was restarted")
        if neuron.discovery is None:
            log.info(
                "neuron.up neuron=%s boot=%s models=%d", neuron.name, discovery.boot_id, len(residents.models)
            )
        neuron.discovery, neuron.health, neuron.residents = discovery, health, residents
        neuron.failures, neuron.why, neuron.seen_at = 0, "", trio.current_time()
        self.told(neuron.name, health.key_tokens, neuron.asked_at)
        ledger = self._dispatch.ledger
        ledger.report(neuron.name, _rooms(health, residents), _told(neuron), neuron.asked_at)
        if neuron.stopping:
            ledger.shut(neuron.name, "it is shutting down")
        elif neuron.dismissed:
            ledger.shut(neuron.name, DISMISSED)
        self._metrics.neuron_reported(
            neuron.name,
            health.devices,
            {report.id: sum(report.bytes.values()) for report in residents.models},
        )
        self._dispatch.wake()

    def _strike(self, neuron: Neuron) -> None:
        neuron.strikes += 1
        if neuron.strikes >= STRIKES:
            if neuron.name not in self._struck:
                log.warning("neuron.failing neuron=%s in_a_row=%d", neuron.name, neuron.strikes)
            self._struck[neuron.name] = trio.current_time() + STRUCK_S


def _rooms(health: wire.Health, residents: wire.Residents) -> list[Room]:
    """The devices. One that is poisoned or absent is among them, since it may be back, but nothing
    fits there."""
    rooms = []
    for device in health.devices:
        ours = sum(report.bytes.get(device.name, 0) for report in residents.models)
        lost = "poisoned" if device.poisoned else "absent" if device.absent else ""
        others = BEYOND_BYTES if lost else device.memory_total - device.memory_free - ours
        rooms.append(Room(device.name, device.memory_total, others, device.place, lost))
    return rooms


def _told(neuron: Neuron) -> list[Resident]:
    """Who lives there. Nobody once it is stopping: it takes no one new, and a copy may begin elsewhere."""
    if neuron.stopping:
        return []
    loads = {load.id: load for load in neuron.health.models}
    return [_resident(report, loads.get(report.id), neuron.asked_at) for report in neuron.residents.models]


def _resident(report: wire.ResidentReport, load: wire.ModelLoad | None, now: float) -> Resident:
    phases: dict[str, Phase] = {"loaded": "loaded", "loading": "loading", "leaving": "leaving"}
    return Resident(
        report.id,
        phases.get(report.state, "recovering"),
        dict(report.bytes),
        priority=report.priority,
        pinned=report.pinned,
        slots=seats(report),
        elsewhere=0 if load is None else load.in_flight + load.queue,
        loaded_at=now - report.age_s,
        last_used=now - report.idle_s,
        load_s=report.load_s,
        fault=None if report.servable.ok else report.servable.reason or "it says so",
    )


def seats(report: wire.ResidentReport) -> int | None:
    """How many requests the neuron takes for a resident: what it computes at once and what it
    lets wait. Beyond that they wait here, rather than be refused there."""
    return None if report.slots is None else report.slots + report.queue
