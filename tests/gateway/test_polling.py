"""When neurons are looked at and what each look changes, to the second: a fleet without a wire."""

import pytest
import trio

from cortex.config.gateway import NeuronRef, Poll
from cortex.dispatch import Dispatch, LoadBook, Patience
from cortex.errors import CortexError, Unreachable, UpstreamFailed
from cortex.evictor import Rules
from cortex.gateway.fleet import Fleet
from cortex.ledger import Ledger, Policy
from cortex.metrics import Metrics
from cortex.wire.neuron import DeviceHealth, Discovery, Health, ResidentReport, Residents


class Played:
    """The control calls to one neuron. `mute`, they are never answered; with an `error`, all fail. Each
    answer takes it `slow_s`."""

    def __init__(self) -> None:
        self.slow_s = 0.0
        self.mute = False
        self.error: CortexError | None = None
        self.boot, self.residents_boot = "b", "b"
        self.asked: list[float] = []
        self.discoveries = 0

    async def health(self) -> Health:
        self.asked.append(trio.current_time())
        if self.mute:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error
        await trio.sleep(self.slow_s)
        return Health(boot_id=self.boot, devices=[DeviceHealth(name="cpu", memory_total=9, memory_free=9)])

    async def models(self) -> Residents:
        return Residents(boot_id=self.residents_boot, models=[ResidentReport(id="a", age_s=60)])

    async def discovery(self) -> Discovery:
        self.discoveries += 1
        return Discovery(boot_id=self.boot)

    def retire(self) -> None:
        self.closed = True

    close = retire


class Swept:
    """A pool of connections that is only counted."""

    sweeps = 0
    closed = False
    refreshed = 0

    @property
    def names(self) -> "Swept":
        return self

    async def refresh(self) -> None:
        self.refreshed += 1

    def sweep(self) -> None:
        self.sweeps += 1

    def close(self) -> None:
        self.closed = True


class World:
    """A fleet of one neuron, its ledger, and the time since it began."""

    def __init__(self, poll: Poll) -> None:
        self.ledger = Ledger(trio.current_time, Policy(Rules("lru", 30.0), 9, 30.0, delegates=True))
        metrics = Metrics(lambda _: True)
        dispatch = Dispatch(self.ledger, None, Patience(9.0, 9.0), LoadBook(metrics))  # type: ignore[arg-type]
        refs = (NeuronRef("n1", "http://127.0.0.1:1"),)
        self.fleet = Fleet(refs, poll, dispatch, metrics, silent_s=30.0)
        self.neuron = self.fleet["n1"]
        self.remote = self.neuron.remote = Played()  # type: ignore[assignment]
        self.pool = self.neuron.pool = Swept()  # type: ignore[assignment]
        self.began = trio.current_time()

    async def at(self, seconds: float) -> bool:
        """Whether the neuron takes requests `seconds` after the beginning."""
        await trio.sleep_until(self.began + seconds)
        ready = self.ledger.place("n1").ready
        assert ready == (self.neuron.up and bool(self.ledger.holders("a")))
        return ready

    @property
    def looks(self) -> list[float]:
        return [when - self.began for when in self.remote.asked]


@pytest.fixture
async def world(nursery):
    made = World(Poll(interval_s=2.0, timeout_s=2.0, failures=3))
    await nursery.start(made.fleet.run)
    return made


async def test_a_neuron_that_hangs_is_asked_again_as_soon_as_a_look_has_failed(
    autojump_clock, world: World
) -> None:
    """Row 4: looked at every two seconds, away six after the first look that hangs, back at once."""
    assert await world.at(0)
    world.remote.mute = True
    assert await world.at(7.9)
    assert not await world.at(8.1)
    assert not await world.at(9.9)
    world.remote.mute = False
    assert await world.at(10.1)
    assert world.looks == pytest.approx([0, 2, 4, 6, 8, 10])


async def test_a_refused_connection_is_believed_at_once(autojump_clock, world: World) -> None:
    """Row 8: there is nobody to wait for."""
    assert await world.at(0.5)
    world.remote.error = Unreachable("refused")
    assert await world.at(1.9)
    assert not await world.at(2.1)
    assert world.neuron.why == "refused"


async def test_other_failures_count_only_in_a_row(autojump_clock, world: World) -> None:
    world.remote.error = UpstreamFailed("nonsense")
    assert await world.at(5.9)
    world.remote.error = None
    assert await world.at(6.1)
    world.remote.error = UpstreamFailed("nonsense")
    assert await world.at(11.9)
    assert not await world.at(12.1)


async def test_one_failed_look_is_enough_after_a_request_failed(autojump_clock, world: World) -> None:
    """It is looked at at once; till then nobody is sent there."""
    await world.at(0.5)
    world.remote.mute = True
    world.fleet.suspect("n1", UpstreamFailed("broke off"))
    await trio.sleep_until(world.began + 2.4)
    place = world.ledger.place("n1")
    assert place.doubt and not place.ready
    assert not await world.at(2.6)
    assert not place.doubt
    assert world.looks == pytest.approx([0, 0.5, 2.5])


async def test_a_suspicion_that_a_look_clears_leaves_nothing(autojump_clock, world: World) -> None:
    await world.at(0.5)
    world.fleet.suspect("n1", UpstreamFailed("broke off"))
    assert await world.at(0.6)
    assert await world.at(3.0)


async def test_requests_that_fail_by_the_hundred_have_it_looked_at_four_times_a_second(
    autojump_clock, world: World
) -> None:
    await world.at(0.5)
    for _ in range(99):
        world.fleet.suspect("n1", UpstreamFailed("broke off"))
        await trio.sleep(0.01)
    assert world.looks == pytest.approx([0, 0.5, 0.75, 1.0, 1.25])
    # Who wants to know otherwise does not wait for a suspicion.
    await world.at(4.1)
    await world.fleet.look_again("n1")
    assert trio.current_time() - world.began == pytest.approx(4.1)


async def test_a_look_that_tells_nothing_does_not_pass_for_one(mock_clock) -> None:
    """A gateway that is slow itself learns nothing; who has to know waits for a look that tells."""
    world = World(Poll(interval_s=2.0, timeout_s=2.0, failures=3))
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fleet.run)
        world.remote.mute = True
        told = trio.Event()

        async def look() -> None:
            await world.fleet.look_again("n1")
            told.set()

        nursery.start_soon(look)
        for _ in range(30):  # each round of the loop takes half a second
            mock_clock.jump(0.5)
            await trio.lowlevel.checkpoint()
        assert len(world.looks) > 2 and not told.is_set()
        world.remote.mute = False
        mock_clock.autojump_threshold = 0
        await told.wait()
        assert world.neuron.failures == 0
        nursery.cancel_scope.cancel()


async def test_a_look_at_an_address_that_was_left_is_nobodys_failure(autojump_clock, world: World) -> None:
    await world.at(0.5)
    world.remote.mute = True
    await world.at(2.5)
    # It was moved while it was asked, and the one who is asked from here on has not answered yet.
    world.neuron.remote = moved = Played()  # type: ignore[assignment]
    moved.mute = True
    assert await world.at(4.5)
    assert len(moved.asked) == 1
    assert world.neuron.failures == 0 and world.neuron.up


async def test_a_neuron_that_is_dismissed_at_the_start_holds_nobody_up(autojump_clock) -> None:
    world = World(Poll(interval_s=2.0, timeout_s=2.0, failures=3))
    world.remote.mute = True
    world.pool.retire = world.pool.close  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:

        async def dismiss() -> None:
            await trio.sleep(0.5)
            world.fleet.reform((), Poll(), silent_s=30.0)

        nursery.start_soon(dismiss)
        await nursery.start(world.fleet.run)
        assert trio.current_time() - world.began == pytest.approx(0.5)
        assert not list(world.fleet) and world.neuron.failures == 0
        nursery.cancel_scope.cancel()


async def test_reports_of_two_boots_are_not_mixed(autojump_clock, world: World) -> None:
    """Row 24: a restart between the questions of one look is a look that failed."""
    await world.at(0.5)
    world.remote.boot = "new"
    await trio.sleep_until(world.began + 2.1)
    assert world.neuron.discovery.boot_id == "b" and world.neuron.failures == 1
    world.remote.residents_boot = "new"
    assert await world.at(4.1)
    assert world.neuron.discovery.boot_id == "new" and world.neuron.failures == 0


async def test_discovery_is_asked_once_a_boot(autojump_clock, world: World) -> None:
    await world.at(9)
    assert world.remote.discoveries == 1
    world.remote.boot = world.remote.residents_boot = "new"
    assert await world.at(19)
    assert world.remote.discoveries == 2


async def test_idle_connections_are_swept_with_each_look_and_closed_at_the_end(autojump_clock) -> None:
    world = World(Poll())
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fleet.run)
        await world.at(5)
        assert world.pool.sweeps == len(world.looks) == 3
        nursery.cancel_scope.cancel()
    assert world.pool.closed


async def test_a_gateway_that_is_slow_itself_loses_no_neuron(mock_clock) -> None:
    """A burst of requests holds up the answers of all neurons alike; none of them is to blame."""
    world = World(Poll(interval_s=2.0, timeout_s=2.0, failures=3))
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fleet.run)
        world.remote.mute = True
        for _ in range(60):  # each round of the loop takes half a second
            mock_clock.jump(0.5)
            await trio.lowlevel.checkpoint()
        assert len(world.looks) > 4
        assert world.ledger.place("n1").ready and world.neuron.up
        mock_clock.autojump_threshold = 0
        await trio.sleep(9)
        assert not world.neuron.up
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("still_s", "up"), [(3.0, True), (1.2, True), (0.6, False)])
async def test_who_answered_while_the_gateway_stood_still_is_not_to_blame(
    still_s: float, up: bool, mock_clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A host that is overcommitted, or a long collection: the answer lies there as the deadline passes. One
    miss is enough for a neuron where a request has failed, as its own deadline did."""
    world = World(Poll(interval_s=2.0, timeout_s=2.0, failures=3))
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fleet.run)
        mock_clock.autojump_threshold = 0
        await trio.sleep(1)
        world.remote.slow_s = 5.0 if still_s < 2 else 0.5
        world.fleet.suspect("n1", UpstreamFailed("The connection broke off."))
        await trio.sleep(0.1)
        mock_clock.autojump_threshold = float("inf")
        mock_clock.jump(still_s)
        await trio.lowlevel.checkpoint()
        mock_clock.autojump_threshold = 0
        world.remote.slow_s = 0.0
        await trio.sleep(4)
        assert any("neuron.lost" in told for told in caplog.messages) is not up
        assert world.neuron.up and world.ledger.place("n1").ready
        nursery.cancel_scope.cancel()
