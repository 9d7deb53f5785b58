"""The reactor waits in trio's place, and no task waits a moment longer for it."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf

import pytest
import trio
import trio.testing

from cortex.web import reactor
from cortex.web.hosting import Host
from cortex.web.reactor import GONE, NEW_AT_ONCE, TOGETHER, WRITE, Reactor


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture(params=["in trio's place", "by trio's loop"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by trio's loop":
        monkeypatch.setattr(reactor, "Host", type("NoHost", (), {"find": staticmethod(lambda: None)}))


class Told:
    """A watcher that does something for each byte that comes."""

    def __init__(self, sock: socket.socket, does: Callable[[], object]) -> None:
        self.sock, self.does, self.bugs, self.begins = sock, does, 0, False

    def ready(self, events: int) -> None:
        for _ in self.sock.recv(64):
            self.does()

    def broke(self, bug: Exception) -> None:
        self.bugs += 1


@contextmanager
def watched(loop: Reactor, does: Callable[[], object]) -> Iterator[tuple[socket.socket, Told]]:
    """The other end of a socket whose watcher does that."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        told = Told(ours, does)
        loop.watch(ours.fileno(), told)
        try:
            yield theirs, told
        finally:
            loop.leave(ours.fileno(), told)


@pytest.fixture
async def loop(_way: None, nursery: trio.Nursery) -> Reactor:
    loop = Reactor()
    await nursery.start(loop.run)
    return loop


class Steps(trio.abc.Instrument):
    """How often tasks took a step."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_trio_is_as_it_is_known_here() -> None:
    """Else everything works, and each wake costs several times as much."""
    assert Host.find() is not None


async def test_a_clock_of_tests_is_left_to_trio(mock_clock: trio.testing.MockClock) -> None:
    assert Host.find() is None


async def test_what_comes_while_no_task_has_anything_to_do_costs_no_step_of_a_task(
    nursery: trio.Nursery,
) -> None:
    loop, steps, heard = Reactor(), Steps(), trio.Event()
    await nursery.start(loop.run)
    many = 100

    def pass_on() -> None:
        nonlocal many
        many -= 1
        if many:
            theirs.send(b"x")
        else:
            heard.set()

    with watched(loop, pass_on) as (theirs, _):
        theirs.send(b"x")
        trio.lowlevel.add_instrument(steps)
        await heard.wait()
        trio.lowlevel.remove_instrument(steps)
    assert steps.count < 10


async def test_a_task_that_a_callback_wakes_runs(loop: Reactor) -> None:
    events = [trio.Event() for _ in range(20)]
    waiting = iter(events)
    with watched(loop, lambda: next(waiting).set()) as (theirs, _):
        for event in events:
            theirs.send(b"x")
            await event.wait()
    assert next(waiting, None) is None


async def test_a_deadline_that_a_callback_brings_nearer_is_kept(loop: Reactor) -> None:
    scope = trio.CancelScope(deadline=inf)

    def hurry() -> None:
        scope.deadline = trio.current_time() + 0.05

    with watched(loop, hurry) as (theirs, _):
        theirs.send(b"x")
        since = time.monotonic()
        with scope:
            await trio.sleep_forever()
        assert time.monotonic() - since < 5


async def test_a_task_that_a_callback_starts_or_cancels_runs(loop: Reactor, nursery: trio.Nursery) -> None:
    began, scope = trio.Event(), trio.CancelScope()

    async def begins() -> None:
        began.set()

    def act() -> None:
        if began.is_set():
            scope.cancel()
        else:
            nursery.start_soon(begins)

    with watched(loop, act) as (theirs, _):
        theirs.send(b"x")
        await began.wait()
        theirs.send(b"x")
        with scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_thread_and_a_socket_of_a_task_are_heard(loop: Reactor) -> None:
    """While callbacks are told again and again, and when all is still."""
    ours, far = trio.socket.socketpair()
    with watched(loop, lambda: None) as (theirs, _), ours, far:
        for _ in range(20):
            theirs.send(b"x")
            assert await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(lambda: 7)) == 7
            await far.send(b"y")
            assert await ours.recv(1) == b"y"
            await trio.sleep(0.001)


async def test_tasks_have_their_turns_while_callbacks_never_rest(loop: Reactor) -> None:
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        theirs.send(b"x")

    with watched(loop, again) as (theirs, _):
        theirs.send(b"x")
        with trio.fail_after(1):
            for _ in range(50):
                before = count
                await trio.sleep(0.001)
                assert count > before


async def test_a_crowd_that_begins_something_holds_up_nobody_who_has_begun(loop: Reactor) -> None:
    """Each of them has its turn, a few at a time."""
    turns: list[str] = []
    crowd, done = 4 * NEW_AT_ONCE, trio.Event()

    def begin() -> None:
        turns.append("begins")
        if turns.count("begins") == crowd:
            done.set()

    with ExitStack() as stack:
        runs, _ = stack.enter_context(watched(loop, lambda: turns.append("goes on")))
        for _ in range(crowd):
            newcomer, told = stack.enter_context(watched(loop, begin))
            told.begins = True
            newcomer.send(b"x")
        runs.send(b"x")
        await done.wait()
    assert turns.index("goes on") <= NEW_AT_ONCE
    assert len(turns) == crowd + 1


@contextmanager
def dialled() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, which wait for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield ours, theirs


def has(sock: socket.socket) -> bytes:
    try:
        return sock.recv(64)
    except BlockingIOError:
        return b""


class Sends:
    """`said`, one after another, each in a callback of its own in one go; and what had come of the first
    by then."""

    def __init__(self, loop: Reactor, callbacks: int) -> None:
        self.loop, self.callbacks = loop, callbacks
        self.came: list[bytes] = []
        self.over = trio.Event()

    async def go(self, ours: socket.socket, theirs: socket.socket) -> None:
        def send() -> None:
            self.came.append(has(theirs))
            assert self.loop.send(ours, b"x") == 1
            if len(self.came) == self.callbacks:
                self.over.set()

        with ExitStack() as stack:
            for _ in range(self.callbacks):
                wakes, _ = stack.enter_context(watched(self.loop, send))
                wakes.send(b"x")
            await self.over.wait()


async def test_what_is_sent_in_one_go_is_transmitted_at_its_end(loop: Reactor) -> None:
    with dialled() as (ours, theirs):
        sends = Sends(loop, 5)
        await sends.go(ours, theirs)
        assert sends.came == [b""] * 5
        await trio.lowlevel.wait_readable(theirs)
        assert has(theirs) == b"x" * 5


async def test_much_that_is_sent_in_one_go_waits_for_a_part_of_it(loop: Reactor) -> None:
    with dialled() as (ours, theirs):
        sends = Sends(loop, TOGETHER + 1)
        await sends.go(ours, theirs)
        assert sends.came == [b""] * TOGETHER + [b"x" * TOGETHER]


async def test_what_is_sent_alone_or_by_a_task_is_transmitted_at_once(loop: Reactor) -> None:
    with dialled() as (ours, theirs):
        assert loop.send(ours, b"y") == 1
        assert has(theirs) == b"y"
        sends = Sends(loop, 1)
        await sends.go(ours, theirs)
        assert has(theirs) == b"x"


async def test_what_was_sent_goes_out_although_the_socket_is_closed_or_a_watcher_has_a_bug(
    loop: Reactor,
) -> None:
    over = trio.Event()
    with dialled() as (ours, theirs), dialled() as (other, far):

        def send_and_close() -> None:
            loop.send(ours, b"x")
            ours.close()

        def send_and_fail() -> None:
            loop.send(other, b"y")
            over.set()
            raise ZeroDivisionError("a bug")

        with watched(loop, send_and_close) as (one, _), watched(loop, send_and_fail) as (two, told):
            one.send(b"x")
            two.send(b"x")
            await over.wait()
            await trio.lowlevel.wait_readable(theirs)
            await trio.lowlevel.wait_readable(far)
            assert (has(theirs), has(far), told.bugs) == (b"x", b"y", 1)


async def test_what_was_sent_goes_out_before_a_close_over_unread_bytes_resets(loop: Reactor) -> None:
    """As at a drain, to a client that has sent something ahead."""
    over = trio.Event()
    with dialled() as (ours, theirs):
        mine = Told(ours, int)
        loop.watch(ours.fileno(), mine, events=WRITE)
        loop.change(ours.fileno(), mine, events=GONE)  # as good as none: it is not read
        theirs.send(b"ahead")

        def answer_and_close() -> None:
            loop.send(ours, b"answer")
            loop.leave(ours.fileno(), mine)
            ours.close()
            over.set()

        with watched(loop, answer_and_close) as (one, _), watched(loop, int) as (two, _):
            one.send(b"x")
            two.send(b"x")  # in the same go
            await over.wait()
            assert has(theirs) == b"answer"


async def test_callbacks_are_told_though_another_process_took_what_trio_was_woken_for(loop: Reactor) -> None:
    """Several accept from one socket: who is second finds nothing, and is not to wait there for more."""
    over = trio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        listener.setblocking(False)

        def another_takes() -> None:
            stack.enter_context(listener.accept()[0])
            theirs.send(b"y")

        with watched(loop, another_takes) as (wakes, _), watched(loop, over.set) as (theirs, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.wait_readable, listener)
                await trio.testing.wait_all_tasks_blocked()
                stack.enter_context(socket.create_connection(listener.getsockname()))
                wakes.send(b"x")
                with trio.fail_after(1):
                    await over.wait()
                nursery.cancel_scope.cancel()


async def test_a_bug_in_a_callback_is_its_watchers_alone(loop: Reactor) -> None:
    event = trio.Event()
    with watched(loop, lambda: 1 / 0) as (broken, told), watched(loop, event.set) as (theirs, _):
        broken.send(b"x")
        theirs.send(b"x")
        await event.wait()
        assert told.bugs == 1


async def test_what_goes_wrong_beside_the_callbacks_ends_the_reactor() -> None:
    """It is told where the reactor runs, and nobody waits for callbacks that will not come."""

    class Broken(Told):
        def broke(self, bug: Exception) -> None:
            raise bug

    loop = Reactor()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            await nursery.start(loop.run)
            loop.watch(ours.fileno(), Broken(ours, lambda: 1 / 0))
            theirs.send(b"x")
            await trio.sleep_forever()


async def test_what_goes_wrong_in_the_waiting_ends_the_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio calls a hook that has raised never again: the process would live, and hear nobody."""

    def broken(self: Host) -> float:
        raise ZeroDivisionError("a bug")

    loop = Reactor()
    monkeypatch.setattr(Host, "_rests_s", broken)
    with trio.move_on_after(10) as patience, pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            await nursery.start(loop.run)
            with watched(loop, lambda: None) as (theirs, _):
                theirs.send(b"x")
                await trio.sleep_forever()
    assert not patience.cancelled_caught


async def test_who_waits_until_all_is_still_is_not_held_up(loop: Reactor) -> None:
    told = trio.Event()
    with watched(loop, told.set) as (theirs, _):
        theirs.send(b"x")
        with trio.fail_after(1):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert told.is_set()


async def test_a_cancelled_reactor_ends(_way: None) -> None:
    loop = Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(loop.run)
        with watched(loop, nursery.cancel_scope.cancel) as (theirs, _):
            theirs.send(b"x")
            await trio.sleep_forever()
    assert nursery.cancel_scope.cancelled_caught


async def test_two_reactors_hear_each_their_own(_way: None) -> None:
    """A gateway and a neuron in one process have one each."""
    one, other = Reactor(), Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(other.run)
        left, heard = 40, trio.Event()

        def to_other() -> None:
            second.send(b"x")

        def to_one() -> None:
            nonlocal left
            left -= 1
            if left:
                first.send(b"x")
            else:
                heard.set()

        with watched(one, to_other) as (first, _), watched(other, to_one) as (second, _):
            first.send(b"x")
            with trio.fail_after(1):
                await heard.wait()
            assert left == 0
        nursery.cancel_scope.cancel()
