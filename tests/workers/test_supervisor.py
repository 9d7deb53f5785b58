"""A supervisor with workers that do nothing but begin and end."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from cortex.cli.running import Bell
from cortex.workers import words
from cortex.workers.crowd import make_crowd
from cortex.workers.exchange import Exchange, Member
from cortex.workers.failure import WorkerFailed
from cortex.workers.line import Line
from cortex.workers.spawn import Born, Plan, start
from cortex.workers.supervisor import Order, Supervisor
from tests.workers.linked import until


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


class Manager:
    """What a service manager hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.up = trio.Event()

    def ready(self, status: str) -> None:
        self.heard.append(f"ready {status}")
        self.up.set()

    def reloading(self, status: str, began_us: int) -> None:
        self.heard.append("reloading")

    def stopping(self, takes_s: float, status: str) -> None:
        self.heard.append("stopping")

    async def feed(self) -> None:
        await trio.sleep_forever()


class Doomed:
    """`workers` of `doomed`, whose ends are by worker and life: `{"1.1": "3"}`."""

    def __init__(self, folder: Path, workers: int, ends: dict[str, str]) -> None:
        self.lives = folder / "lives"
        self.manager = Manager()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._crowd = make_crowd(workers)
        plan = Plan(
            entry="tests.workers.doomed",
            command="cortex doomed",
            about={"lives": str(self.lives), **ends},
            workers=workers,
            api=self.listener.fileno(),
            page=self.listener.fileno(),
            crowd=self._crowd,
        )
        self.bell = Bell()
        self.supervisor = Supervisor(Order(plan, (self.listener,), self.manager, self.bell.wait))

    def born(self) -> list[str]:
        return self.lives.read_text().split() if self.lives.exists() else []

    def close(self) -> None:
        self.listener.close()
        os.close(self._crowd)


def failure_of(group: BaseExceptionGroup) -> WorkerFailed:
    (error,) = [each for each in leaves(group)]
    assert isinstance(error, WorkerFailed)
    return error


def leaves(error: BaseException):
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


async def test_a_first_worker_that_cannot_start_ends_all_before_another_is_begun(tmp_path: Path) -> None:
    """No loop, and its own exit code."""
    doomed = Doomed(tmp_path, 3, {"0.1": "2"})
    with pytest.raises(BaseExceptionGroup) as ended:
        await doomed.supervisor.run(trio.Event())
    assert failure_of(ended.value).exit_code == 2
    assert doomed.born() == ["0"] and doomed.manager.heard == []
    doomed.close()


async def test_a_later_one_that_cannot_start_is_tried_again_while_others_serve(tmp_path: Path) -> None:
    doomed, stop = Doomed(tmp_path, 2, {"1.1": "2", "1.2": "2", "stops": "y"}), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, stop)
        await doomed.manager.up.wait()
        stop.set()
    assert doomed.born() == ["0", "1", "1", "1"]
    assert doomed.manager.heard == ["ready there"], "when all serve, and not before"
    doomed.close()


async def test_when_nobody_serves_and_the_next_one_cannot_start_it_is_over(tmp_path: Path) -> None:
    doomed = Doomed(tmp_path, 1, {"0.1": "die", "0.2": "70"})
    with pytest.raises(BaseExceptionGroup) as ended:
        await doomed.supervisor.run(trio.Event())
    assert failure_of(ended.value).exit_code == 70
    assert doomed.born() == ["0", "0"]
    doomed.close()


async def test_who_does_not_stop_in_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.workers.supervisor.GRACE_S", 0.2)
    doomed, stop = Doomed(tmp_path, 2, {}), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, stop)
        await doomed.manager.up.wait()
        stop.set()
    assert doomed.listener.fileno() == -1, "nobody can come to a listener that nobody has"
    doomed.close()


async def test_who_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.workers.supervisor.PING_S", 0.05)
    monkeypatch.setattr("cortex.workers.supervisor.HUNG_S", 0.2)
    doomed, stop = Doomed(tmp_path, 1, {}), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, stop)
        # It says that it serves, and never a word again.
        await until(lambda: len(doomed.born()) == 2)
        nursery.cancel_scope.cancel()
    doomed.close()


async def test_who_hangs_before_it_serves_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.workers.supervisor.PING_S", 0.05)
    doomed = Doomed(tmp_path, 2, {"0.1": "lively", "1.1": "mute"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, trio.Event())
        await until(lambda: doomed.born() == ["0", "1"])
        monkeypatch.setattr("cortex.workers.supervisor.HUNG_AT_START_S", 0.2)
        await until(lambda: doomed.born().count("1") == 2)
        nursery.cancel_scope.cancel()
    doomed.close()


async def test_nobody_is_taken_for_hanging_while_the_supervisor_itself_stood_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that was paused, or a terminal's Ctrl-Z: nobody was asked, so that nobody owes an answer."""
    monkeypatch.setattr("cortex.workers.supervisor.PING_S", 0.2)
    monkeypatch.setattr("cortex.workers.supervisor.HUNG_S", 1.0)
    doomed = Doomed(tmp_path, 1, {"0.1": "lively"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, trio.Event())
        await doomed.manager.up.wait()
        asked: list[int] = []
        (member,) = doomed.supervisor._exchange.members
        monkeypatch.setattr(doomed.supervisor._exchange, "ping", lambda member: asked.append(1))
        time.sleep(1.5)  # noqa: ASYNC251 - the loop stands still
        # It is looked at once more, and found well.
        await until(lambda: asked or member.process.poll() is not None)
        assert asked and member.process.poll() is None
        nursery.cancel_scope.cancel()
    doomed.close()


async def test_a_host_without_room_for_one_more_process_costs_no_worker_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fork fails when memory or process ids have run out; it is tried again."""
    refusals = [OSError(12, "Cannot allocate memory"), OSError(11, "Resource temporarily unavailable")]

    def starts(plan: Plan, index: int) -> Born:
        if index == 1 and refusals:
            raise refusals.pop()
        return start(plan, index)

    monkeypatch.setattr("cortex.workers.supervisor.start", starts)
    doomed, stop = Doomed(tmp_path, 2, {"stops": "y"}), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, stop)
        await doomed.manager.up.wait()
        stop.set()
    assert doomed.born() == ["0", "1"] and not refusals
    doomed.close()


async def test_who_waits_for_the_others_says_so_and_for_whom_it_waits_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cortex.workers.supervisor.OPEN_S", 0.2)
    caplog.set_level("INFO")
    doomed = Doomed(tmp_path, 2, {"1.1": "mute"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doomed.supervisor.run, trio.Event())
        await until(lambda: "workers.gathering workers=2 seconds=0" in caplog.messages)
        assert not doomed.supervisor._crowds[0].is_open
        await until(lambda: "workers.late workers=2 serving=1" in caplog.messages)
        await until(lambda: doomed.supervisor._crowds[0].is_open)
        nursery.cancel_scope.cancel()
    doomed.close()


async def test_a_reload_beside_the_start_says_ready_when_both_are_over(tmp_path: Path) -> None:
    doomed = Doomed(tmp_path, 2, {})
    heard, supervisor = doomed.manager.heard, doomed.supervisor
    async with rereading(doomed) as (one, *_):
        doomed.bell.ring()
        await until(lambda: heard)
        say(supervisor, one, "RELOADING=1", f"MONOTONIC_USEC={supervisor._asked_us}")
        say(supervisor, one, "READY=1", "STATUS=one")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert heard == ["reloading"], "not all serve yet"
        doomed.bell.ring()
        await until(lambda: len(heard) == 2)
        supervisor._up = True
        supervisor._ready()
        assert heard == ["reloading"] * 2, "the files are still read"
        say(supervisor, one, "RELOADING=1", f"MONOTONIC_USEC={supervisor._asked_us}")
        say(supervisor, one, "READY=1", "STATUS=two")
        await until(lambda: heard[2:] == ["ready two"])
    doomed.close()


async def test_a_reload_that_began_before_it_was_asked_for_is_not_its_end(tmp_path: Path) -> None:
    """Files that have changed are read without a word, too."""
    doomed = Doomed(tmp_path, 1, {})
    heard, supervisor = doomed.manager.heard, doomed.supervisor
    supervisor._up = True
    async with rereading(doomed) as (one, *_):
        doomed.bell.ring()
        await until(lambda: heard)
        for began_us, after in ((-1, ["reloading"]), (1, ["reloading", "ready there"])):
            say(supervisor, one, "RELOADING=1", f"MONOTONIC_USEC={supervisor._asked_us + began_us}")
            say(supervisor, one, "READY=1", "STATUS=there")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert heard == after
    doomed.close()


@asynccontextmanager
async def rereading(doomed: Doomed) -> AsyncIterator[list[Member]]:
    """Its supervisor hears the bell, and has one worker that serves."""
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        exchange = doomed.supervisor._exchange = Exchange(nursery)
        nobody = cast("subprocess.Popen[bytes]", None)
        exchange.members.append(Member(0, nobody, Line(ours), began=0.0, ready=True))
        nursery.start_soon(doomed.supervisor._reload)
        yield exchange.members
        nursery.cancel_scope.cancel()
    ours.close()
    theirs.close()


def say(supervisor: Supervisor, member: Member, *lines: str) -> None:
    supervisor._hear(member, words.State([*lines]))


async def test_a_supervisor_imports_nothing_of_what_its_workers_serve_with() -> None:
    code = (
        "import sys, cortex.cli.door, cortex.cli.roles, cortex.cli.crews; "
        "print(*(name for name in sys.modules if name.split('.')[0] in set(sys.argv[1:]) or "
        "name.startswith(('cortex.gateway', 'cortex.neuron', 'cortex.web.door', 'cortex.metrics'))))"
    )
    heavy = (
        "quart",
        "hypercorn",
        "httpx",
        "httptools",
        "prometheus_client",
        "tokenizers",
        "torch",
        "xllamacpp",
    )
    done = await trio.run_process([sys.executable, "-c", code, *heavy], capture_stdout=True)
    assert done.stdout.decode().split() == []
