"""A signal may come at any moment of what a person waits for, and ends it all the same."""

import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType

import pytest
import trio
import trio.testing

from cortex.cli.interrupting import interruptible
from cortex.cli.trouble import Interrupted
from cortex.errors import Unfit
from tests.fake_terminal import ROOT

Work = Callable[[], Awaitable[str]]


class Interrupting:
    """Work, during which a signal comes when `moment` lines of Python have run."""

    def __init__(self, work: Work, moment: int, number: int = signal.SIGINT) -> None:
        self.came = False
        self._work, self._left, self._number = work, moment, number

    async def __call__(self) -> str:
        sys.settrace(self._trace)
        try:
            with trio.fail_after(20):
                return await self._work()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> object:
        self._left -= event == "line"
        if self._left <= 0:
            sys.settrace(None)
            self.came = True
            signal.raise_signal(self._number)
            return None
        return self._trace


async def tasks_and_a_connection() -> str:
    """As a request does that connects first."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), trio.aclose_forcefully, 0)
        with trio.fail_after(10):
            stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
            await stream.aclose()
        nursery.cancel_scope.cancel()
    return "done"


@pytest.mark.slow
def test_a_signal_ends_the_work_at_whatever_moment_it_comes() -> None:
    ended, moment = 0, 1
    while True:
        work = Interrupting(tasks_and_a_connection, moment)
        try:
            answer = interruptible(work, lambda: "stopped")
        except Interrupted as error:
            assert (error.number, error.message) == (signal.SIGINT, "stopped")
            ended += 1
        except KeyboardInterrupt:
            pass  # it came when hardly anything was left to end
        else:
            assert answer == "done" and not work.came
            break
        moment += 7
    assert ended > 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_done_by_then_is_told(number: int) -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("a part")
        signal.raise_signal(number)
        with trio.fail_after(20):
            await trio.sleep_forever()

    with pytest.raises(Interrupted) as raised:
        interruptible(work, lambda: f"stopped; {done[0]} is kept")
    assert (raised.value.number, raised.value.message) == (number, "stopped; a part is kept")


def test_nothing_follows_what_could_not_be_cancelled() -> None:
    async def work() -> str:
        with trio.CancelScope(shield=True):
            signal.raise_signal(signal.SIGINT)
            await trio.testing.wait_all_tasks_blocked()
        return "downloaded"

    with pytest.raises(Interrupted):
        interruptible(work, lambda: "stopped")


def test_an_error_comes_as_it_is() -> None:
    async def work() -> None:
        raise Unfit("it does not fit")

    with pytest.raises(Unfit):
        interruptible(work, lambda: "stopped")


async def test_the_second_signal_ends_the_process_though_the_work_hangs() -> None:
    program = (
        "import signal, trio\n"
        "from cortex.cli.interrupting import interruptible\n"
        "async def work():\n"
        "    with trio.CancelScope(shield=True):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        await trio.testing.wait_all_tasks_blocked()\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        await trio.sleep_forever()\n"
        "import trio.testing\n"
        "interruptible(work, lambda: 'stopped')\n"
    )
    with trio.fail_after(30):
        done = await trio.run_process([sys.executable, "-c", program], check=False, cwd=ROOT)
    assert done.returncode == 128 + signal.SIGTERM
