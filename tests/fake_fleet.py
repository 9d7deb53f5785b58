"""Neurons and gateways without HTTP: the real ledgers and dispatchers of both roles, on a mock clock.

A `FakeNeuron` has devices, a disk and slots; loads take the time that their bytes take. A
`FakeGateway` asks neurons for reports, orders loads and passes requests on by the rules of
`gateway.passage`. Faked are bytes, tokens and the network; each decision is the product's own.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import trio

from cortex.catalogue import ModelSpec
from cortex.dispatch import Dispatch, Patience
from cortex.errors import CortexError, NoRoom, NotHereNow, Recovering, Unreachable, UpstreamFailed
from cortex.gateway.passage import MOST_STALE
from cortex.gateway.raising import Raising
from cortex.ledger import Ledger, Load, Policy, Want
from cortex.places import Resident, Room

GIB = 2**30
PATIENCE = Patience(queue_s=60.0, load_s=300.0)
DEVICES = "devices"  # the one place of a neuron: all its devices


@dataclass(frozen=True, slots=True)
class Make:
    """A kind of host: bytes of each device, and bytes a second that its disk and its devices read."""

    devices: tuple[int, ...]
    disk_bps: float = 1e9
    device_bps: float = 1e12
    unload_s: float = 0.5

    def rooms(self) -> list[Room]:
        return [Room(f"cuda:{number}", size, GIB, "0") for number, size in enumerate(self.devices)]


@dataclass(frozen=True, slots=True)
class Errand:
    """One request: `seconds` tells how long it sits, by the neuron that serves it."""

    model: str
    seconds: Callable[["FakeNeuron"], float]
    affinity: str = ""
    key: str = ""
    share: float = 1.0


@dataclass(slots=True)
class Deeds:
    """What was done, in order: (trio time, what, model). The witness of a dispatcher."""

    done: list[tuple[float, str, str]] = field(default_factory=list)
    bytes_read: int = 0
    swaps: int = 0
    loads: int = 0

    def note(self, what: str, model: str) -> None:
        self.done.append((trio.current_time(), what, model))

    def balance(self, model: str) -> int:
        """How often it came in without having gone since. A crash takes all along."""
        count = 0
        for _, what, whom in self.done:
            if what == "crashed":
                count = 0
            elif whom == model:
                count += {"loaded": 1, "unloaded": -1, "dropped": -1}.get(what, 0)
        return count

    def load_done(self, model: str, seconds: float, victims: Iterable[str]) -> None:
        self.loads += 1
        self.swaps += bool(tuple(victims))

    def load_failed(self, model: str, error: CortexError) -> None:
        self.note("failed", model)


class FakeNeuron:
    """Implements `dispatch.Loader`. `news` grows when there is something else to report; each `crash` is
    the end of a boot, with all that was there."""

    def __init__(
        self,
        name: str,
        make: Make,
        policy: Policy,
        *,
        slots: int = 4,
        patience: Patience = PATIENCE,
    ) -> None:
        self.name, self.make, self._slots, self._patience = name, make, slots, patience
        self._policy = replace(policy, delegates=False, queue_per_model=True)
        self.deeds = Deeds()
        self.boot, self.reachable, self.news = 0, False, 0
        # Asked of whoever loads a model: raises what its load comes to.
        self.trial: Callable[[str], None] = lambda model: None
        self._revived = trio.Event()
        self._life = trio.CancelScope()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.ledger = Ledger(trio.current_time, self._policy)
        self.ledger.open(DEVICES, self.make.rooms())
        self.dispatch = Dispatch(self.ledger, self, self._patience, self.deeds)
        self._disk = trio.Lock()
        self._exchanges: set[trio.CancelScope] = set()
        self.boot, self.news = self.boot + 1, self.news + 1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Boot after boot, until cancelled."""
        while True:
            with trio.CancelScope() as self._life:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.dispatch.run)
                    self.reachable = True
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await trio.sleep_forever()
            await self._revived.wait()
            self._begin_anew()

    def crash(self) -> None:
        """The process is gone, and every connection to it is broken."""
        if self.reachable:
            self.reachable, self._revived = False, trio.Event()
            self.deeds.note("crashed", "")
            for exchange in self._exchanges:
                exchange.cancel()
            self._life.cancel()

    def revive(self) -> None:
        """It boots again, with nothing loaded."""
        self._revived.set()

    async def load(self, load: Load) -> Resident:
        """Victims leave, then the bytes are read. Cancelled or failed, nothing of it is left."""
        spec = load.want.spec
        assert spec is not None
        self.news += 1
        try:
            while staying := load.staying:
                await self._unload(staying[0].model)
            async with self._disk:
                await trio.sleep(load.resident.bytes / self.make.disk_bps)
            self.trial(spec.id)
        finally:
            self.news += 1
        self.deeds.bytes_read += load.resident.bytes
        self.deeds.note("loaded", spec.id)
        measured = Resident(spec.id, "loaded", dict(load.resident.room_bytes), slots=self._slots)
        measured.priority, measured.pinned = spec.priority, load.resident.pinned
        return measured

    async def _unload(self, model: str) -> None:
        try:
            await trio.sleep(self.make.unload_s)
        finally:
            self.deeds.note("unloaded", model)
            self.ledger.gone(DEVICES, model)

    # -- what a gateway says to it

    async def order(self, want: Want) -> Resident:
        """As POST /models/load, and /models/pin."""
        with self._exchange():
            return await self.dispatch.bring(want)

    @asynccontextmanager
    async def seat(self, model: str, key: str = "", share: float = 1.0) -> AsyncIterator[None]:
        """As an inference request of a gateway: nothing is loaded for it."""
        with self._exchange():
            async with self.dispatch.seat(Want(model, may_load=False, key=key, share=share)):
                yield

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """One HTTP exchange, which breaks with the process: its connection is reset."""
        self._ensure_reachable()
        self.news += 1
        with trio.CancelScope() as scope:
            self._exchanges.add(scope)
            try:
                yield
            finally:
                self._exchanges.discard(scope)
                self.news += 1
        if scope.cancelled_caught:
            raise UpstreamFailed(f"Neuron '{self.name}' broke the connection")

    def report(self) -> list[Resident]:
        """As GET /models and GET /health, read by a gateway."""
        self._ensure_reachable()
        return [self.told(one) for place in self.ledger for one in place]

    def told(self, one: Resident) -> Resident:
        """One row of GET /models, as a gateway takes it."""
        queue = self.ledger.policy.queue
        return Resident(
            one.model,
            one.phase,
            dict(one.room_bytes),
            priority=one.priority,
            pinned=one.pinned,
            slots=None if one.slots is None else one.slots + queue,
            elsewhere=one.seats + self.ledger.waiting_for(one.model),
            loaded_at=one.loaded_at,
            last_used=trio.current_time() if one.seats else one.last_used,
            load_s=0.0 if one.phase == "loading" else one.load_s,
            fault=one.fault,
        )

    def _ensure_reachable(self) -> None:
        if not self.reachable:
            raise Unreachable(f"Neuron '{self.name}' cannot be reached")


class FakeGateway:
    """Implements `dispatch.Loader`. `needs` are the bytes that models take; each neuron is asked every
    `interval_s`, and its answer is `lag_s` old when it is believed."""

    def __init__(
        self,
        neurons: Iterable[FakeNeuron],
        needs: dict[str, int],
        policy: Policy,
        *,
        interval_s: float = 2.0,
        lag_s: float = 0.0,
        patience: Patience = PATIENCE,
    ) -> None:
        self.neurons = {neuron.name: neuron for neuron in neurons}
        self.specs = {model: ModelSpec(model, footprint=need) for model, need in needs.items()}
        self.ledger = Ledger(trio.current_time, replace(policy, delegates=True))
        self.orders = Deeds()
        self.dispatch = Dispatch(self.ledger, self, patience, self.orders)
        self._raising = Raising(self.ledger.outranks)
        self.dispatch.on_join = self._raising.joined
        self._interval_s, self._lag_s = interval_s, lag_s
        self._boots: dict[str, int] = {}
        self._looks: dict[str, int] = dict.fromkeys(self.neurons, 0)
        self._heard: dict[str, int] = {}
        for name in self.neurons:
            self.ledger.open(name, ())
            self.ledger.shut(name, "it has not reported yet")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask and dispatch until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.dispatch.run)
            for name in self.neurons:
                self.look(name)
            task_status.started()
            pause = self._interval_s / len(self.neurons)
            while True:
                for name, neuron in self.neurons.items():
                    await trio.sleep(pause)
                    # One that has nothing else to tell than before is not asked: it would change nothing.
                    if self._heard.get(name) != neuron.news or not neuron.reachable:
                        nursery.start_soon(self._ask, name)

    async def _ask(self, name: str) -> None:
        """An answer that comes late. When the neuron was looked at meanwhile it is not needed."""
        looks, neuron, asked = self._looks[name], self.neurons[name], trio.current_time()
        told, boot, news = neuron.report() if neuron.reachable else None, neuron.boot, neuron.news
        await trio.sleep(self._lag_s)
        if looks == self._looks[name]:
            self._take(name, told, boot, asked)
            # Those who sit or wait there show in the next report as well.
            quiet = told is not None and not any(one.elsewhere or one.phase != "loaded" for one in told)
            self._heard[name] = news if quiet else -1

    def look(self, name: str) -> None:
        """What the neuron tells is believed at once."""
        neuron = self.neurons[name]
        told = neuron.report() if neuron.reachable else None
        self._take(name, told, neuron.boot, trio.current_time())

    def _take(self, name: str, told: list[Resident] | None, boot: int, asked: float) -> None:
        neuron = self.neurons[name]
        self._looks[name] += 1
        if told is None:
            self._lose(name, "the connection was refused")
            return
        if self._boots.get(name, boot) != boot:
            self._lose(name, "it was restarted")
        self._boots[name] = boot
        self.ledger.report(name, neuron.make.rooms(), told, asked)
        self.dispatch.wake()

    def _lose(self, name: str, why: str) -> None:
        self._boots.pop(name, None)
        self.dispatch.abandon(self.ledger.lost(name, why))
        self.dispatch.wake()

    async def load(self, load: Load) -> Resident:
        """As gateway.loading does it."""
        spec = load.want.spec
        assert spec is not None
        neuron = self.neurons[load.place.name]
        self.orders.note("ordered", spec.id)
        order = Want(spec.id, spec, load.want.need_bytes, 0, prefer=load.victims)

        async def send(want: Want) -> Resident:
            return await neuron.order(replace(order, key=want.key, share=want.share))

        try:
            facts = await self._raising.hold(load, send)
        except UpstreamFailed as error:
            # It speaks of the place: another one may be tried.
            error.not_started = True
            raise
        told = neuron.told(facts)
        return Resident(told.model, "loaded", told.room_bytes, told.priority, told.pinned, told.slots)

    async def serve(self, errand: Errand, on_seat: Callable[[FakeNeuron, bool], None]) -> None:
        """As gateway.passage does it. Raises what the client would be told."""
        stale, avoid, full = 0, frozenset[str](), None
        while True:
            spec = self.specs[errand.model]
            want = Want(spec.id, spec, spec.footprint or 0, affinity=errand.affinity, avoid=avoid)
            want = replace(want, key=errand.key, share=errand.share)
            try:
                async with self.dispatch.seat(want) as ticket:
                    assert ticket.place is not None
                    neuron = self.neurons[ticket.place.name]
                    try:
                        async with neuron.seat(errand.model, errand.key, errand.share):
                            on_seat(neuron, ticket.route == "cold")
                            await trio.sleep(errand.seconds(neuron))
                            return
                    except CortexError as error:
                        refusal = error
            except CortexError as error:
                raise full or error from None
            if isinstance(refusal, NotHereNow):
                stale += 1
                if stale >= MOST_STALE:
                    raise Recovering(f"Model '{errand.model}' is moving between neurons")
                self.ledger.gone(neuron.name, errand.model)
                self.look(neuron.name)
            elif avoid or not refusal.not_started:
                raise NoRoom("no neuron can be reached") if isinstance(refusal, Unreachable) else refusal
            else:
                self.look(neuron.name)
                avoid, full = avoid | {neuron.name}, None if isinstance(refusal, Unreachable) else refusal
