"""The neurons as places: asked every few seconds, believed until the next answer.

Owns the last reports and who is away. Each neuron has its own polling task, so that one
that hangs delays nobody. A neuron whose connection is refused is away at once; one that
is slow is away after `failures` misses. A new boot id drops all belief of the old boot,
and one that is stopping counts as empty. What it told last is remembered while it is away.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Final
from urllib.parse import urlsplit

import trio

from cortex.config.gateway import NeuronRef, Poll
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, Stopping, TooSlow, Unreachable, UpstreamFailed
from cortex.gateway.remote import Client, Remote
from cortex.metrics import Metrics
from cortex.places import Phase, Resident, Room
from cortex.web.pool import Pool
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

# So many requests in a row that a neuron spoilt, and for so long whoever has a choice goes
# elsewhere: one that fails fast is always the least busy, and would draw all work to itself.
STRIKES: Final = 3
STRUCK_S: Final = 10.0
# More than any device has: what a poisoned one is short of, whoever would leave it.
BEYOND_BYTES: Final = 2**62


@dataclass(slots=True)
class Neuron:
    """One neuron as this gateway knows it. Times are trio's, -inf before the first report."""

    ref: NeuronRef
    remote: Remote
    pool: Pool
    discovery: wire.Discovery | None = None
    health: wire.Health = field(default_factory=wire.Health)
    residents: wire.Residents = field(default_factory=wire.Residents)
    failures: int = 0
    strikes: int = 0
    why: str = ""
    asked_at: float = -inf  # when the last look began, and
    looked_at: float = -inf  # when the last one began that is over
    seen_at: float = -inf
    look_now: trio.Event = field(default_factory=trio.Event)
    looked: trio.Event = field(default_factory=trio.Event)
    _waits: set[trio.CancelScope] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def up(self) -> bool:
        """Whether its last report counts."""
        return self.discovery is not None

    @property
    def heard(self) -> bool:
        """Whether it has ever reported to this gateway."""
        return self.seen_at > -inf

    @property
    def stopping(self) -> bool:
        return self.health.activation.state == "stopping"

    def knows(self, model: str) -> bool:
        """Whether it can load `model` from a catalogue of its own. Of one that is away or going:
        whether it could, or had it."""
        gone = not self.up or self.stopping
        had = gone and any(report.id == model for report in self.residents.models)
        return had or model in self.residents.known

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """The block waits for an answer that takes as long as it takes. TooSlow when the neuron
        shows no sign of life meanwhile."""
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            raise TooSlow(
                f"Neuron '{self.name}' gives no sign of life. The request may have run; send it again."
            )

    def give_up(self) -> None:
        """Nobody waits for its answers any longer."""
        for scope in self._waits:
            scope.cancel()


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
        self._poll, self._dispatch, self._metrics = poll, dispatch, metrics
        self._silent_s = silent_s
        self._neurons = {ref.name: Neuron(ref, Remote(ref, client), _pool(ref)) for ref in refs}
        self._struck: dict[str, float] = {}
        self.stopping = False
        # Who counts what neurons tell of keys: a name, its tokens, and when it was asked.
        self.told: Callable[[str, wire.KeyTokens, float], None] = lambda name, tokens, asked_at: None

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self._neurons.values())

    def __getitem__(self, name: str) -> Neuron:
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
                        self._dispatch.ledger.open(neuron.name, ())
                        self._dispatch.ledger.shut(neuron.name, "it has not reported yet")
                        first.start_soon(self._look, neuron)
                task_status.started()
                for neuron in self:
                    nursery.start_soon(self._watch, neuron, name=f"poll {neuron.name}")
        finally:
            for neuron in self:
                neuron.pool.close()

    # -- what requests find out

    def suspect(self, name: str, error: CortexError) -> None:
        """A request failed on a neuron that may be gone, or is going, with all it had. Nobody is
        sent there until the next look, which follows at once, has told."""
        neuron = self._neurons[name]
        if not neuron.up or not isinstance(error, UpstreamFailed | Stopping):
            return
        self._dispatch.ledger.doubt(name, error.message)
        neuron.look_now.set()
        if not error.not_started:
            self._strike(neuron)

    def acquit(self, name: str) -> None:
        """A request was answered as it should be."""
        self._neurons[name].strikes = 0

    def struck(self) -> frozenset[str]:
        """Neurons to which nobody goes who has a choice."""
        now = trio.current_time()
        self._struck = {name: until for name, until in self._struck.items() if now < until}
        return frozenset(self._struck)

    def look_soon(self, name: str) -> None:
        """The neuron is asked anew without waiting for its turn: it has changed."""
        self._neurons[name].look_now.set()

    async def look_again(self, name: str) -> None:
        """What the neuron has is known as it was after this call, or it is marked as missed."""
        neuron, called_at = self._neurons[name], trio.current_time()
        neuron.look_now.set()
        while neuron.looked_at < called_at:
            await neuron.looked.wait()

    # -- what the neurons tell

    async def _watch(self, neuron: Neuron) -> None:
        while True:
            with trio.move_on_at(neuron.asked_at + self._poll.interval_s):
                await neuron.look_now.wait()
            neuron.look_now = trio.Event()
            await self._look(neuron)

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
        with trio.fail_after(self._poll.timeout_s):
            health = await neuron.remote.health()
            residents = await neuron.remote.models()
            known = neuron.discovery
            if known is None or known.boot_id != health.boot_id:
                known = await neuron.remote.discovery()
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


def _pool(ref: NeuronRef) -> Pool:
    parts = urlsplit(ref.endpoint)
    return Pool(parts.hostname or "", parts.port or 80)


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
