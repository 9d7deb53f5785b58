"""What the service manager hears: real datagrams on a real socket, time on trio's mock clock."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cortex.notify import EXTEND_S, LAG_S, Notify
from tests.fake_manager import Manager


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "n.sock") if request.param == "file" else f"@cortex-test-{os.getpid()}"
    made = Manager(address)
    yield made
    made.close()


def env_of(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


def test_the_three_moments_of_a_service_are_told(manager: Manager) -> None:
    notify = Notify.taken_from(env_of(manager))
    notify.starting("loading a")
    notify.ready("2 models")
    notify.stopping(50.0, "draining")
    assert manager.heard() == [
        [f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}", "STATUS=loading a"],
        ["READY=1", "STATUS=2 models"],
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=50000000", "STATUS=draining"],
    ]


def test_a_reload_is_told_with_the_time_at_which_it_began(manager: Manager) -> None:
    """systemd drops a READY that belongs to an earlier reload: it compares on this clock."""
    notify = Notify.taken_from(env_of(manager))
    notify.reloading("reading", 17)
    assert manager.heard() == [["RELOADING=1", "MONOTONIC_USEC=17", "STATUS=reading"]]


def test_a_status_stays_one_line(manager: Manager) -> None:
    """A model's name must not become a field of its own."""
    Notify.taken_from(env_of(manager)).ready("a\nSTOPPING=1")
    assert manager.heard() == [["READY=1", "STATUS=a STOPPING=1"]]


def test_children_do_not_inherit_the_line(manager: Manager) -> None:
    env = env_of(manager, WATCHDOG_USEC="1", WATCHDOG_PID="2", HOME="/")
    Notify.taken_from(env)
    assert env == {"HOME": "/"}


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_socket_nothing_is_said(env: dict[str, str], caplog) -> None:
    notify = Notify.taken_from(env)
    notify.ready("here")
    assert (notify, caplog.records) == (Notify(), [])


def test_a_manager_that_is_gone_costs_a_warning_and_no_more(tmp_path: Path, caplog) -> None:
    Notify.taken_from({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("here")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog_s"),
    [
        ("20000000", "", 20.0),
        ("20000000", str(os.getpid()), 20.0),
        ("20000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("x", "", None),
        ("²", "", None),
        ("9" * 400, "", None),
    ],
)
def test_the_watchdog_is_fed_only_when_it_is_ours(usec: str, pid: str, watchdog_s: float | None) -> None:
    env = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notify.taken_from(env).watchdog_s == watchdog_s


async def test_the_watchdog_is_fed_while_all_is_well(manager: Manager, autojump_clock) -> None:
    notify = Notify.taken_from(env_of(manager, WATCHDOG_USEC="20000000"))
    with trio.move_on_after(20.5):
        await notify.feed()
    assert manager.heard() == [["WATCHDOG=1"]] * 3


async def test_a_device_that_shows_no_life_leaves_the_watchdog_unfed(
    manager: Manager, mock_clock: MockClock, caplog
) -> None:
    """Row 77. Told once; fed again when the device comes back."""
    notify, sick = Notify.taken_from(env_of(manager, WATCHDOG_USEC="3000000")), [""]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify.feed, lambda: sick[0] or None)
        fed = []
        for sick[0] in ("", "cpu-dev-0 hangs", "cpu-dev-0 hangs", ""):
            await wait_all_tasks_blocked()
            mock_clock.jump(1.0)
            await wait_all_tasks_blocked()
            fed.append(len(manager.heard()))
        nursery.cancel_scope.cancel()
    assert fed == [1, 0, 0, 1]
    assert ["cpu-dev-0 hangs" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(("late_s", "fed"), [(LAG_S - 0.1, 1), (LAG_S + 0.1, 0)])
async def test_a_loop_that_lags_leaves_the_watchdog_unfed(
    manager: Manager, mock_clock: MockClock, late_s: float, fed: int
) -> None:
    """Row 89: work of ours that blocks the loop shows in when it comes round."""
    notify = Notify.taken_from(env_of(manager, WATCHDOG_USEC="3000000"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify.feed)
        await wait_all_tasks_blocked()
        mock_clock.jump(1.0 + late_s)
        await wait_all_tasks_blocked()
        assert len(manager.heard()) == fed
        nursery.cancel_scope.cancel()
