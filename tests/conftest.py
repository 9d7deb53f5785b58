"""Rules of the suite.

1. A test is named by the fact it holds: `test_a_seat_is_given_back_when_the_client_hangs_up`.
2. Real before fake, fake before mock; `unittest.mock` is not used. Faked are engines, weights,
   memory sizes and time. Not faked: hypercorn, quart, httpx, threads, files, sockets.
3. Loopback and port 0; addresses come from `nursery.start`.
4. The autojump clock only where nothing outside trio is awaited; every other async test has a
   `fail_after(30)`: a hang guard, never a measurement.
5. After each cancellation test the ledger is as before.
6. A test over a second is marked `slow` and runs by default; `gpu` ones skip, with the reason,
   where there is no CUDA device.
7. Warnings are errors; unknown marks are errors.
8. No sleeps to let things happen: `wait_all_tasks_blocked`, or an event from the fake.
9. Nothing is written outside of pytest's own folders: `XDG_STATE_HOME` is one of them, in child
   processes too, and every neuron of `roles` has a state_dir of its own.
10. Nobody is called outside of this host: a hub is `fake_hub`, and the usual one is nowhere.
"""

import os
from collections.abc import Iterator
from functools import wraps
from inspect import iscoroutinefunction
from typing import Final

import pytest
import trio

# A file's own guard is a fixture, whose scope does not reach into its tests: they are tasks of their own.
HANGS_S: Final = 60.0


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test of a file that has a `_hang_guard` fails when it hangs; not one whose clock jumps."""
    clocks = {"mock_clock", "autojump_clock"}
    if isinstance(item, pytest.Function) and "_hang_guard" in (names := item.fixturenames):
        test = item.obj
        if iscoroutinefunction(test) and clocks.isdisjoint(names):

            @wraps(test)
            async def guarded(**given: object) -> None:
                with trio.fail_after(HANGS_S):
                    await test(**given)

            item.obj = guarded
    yield


@pytest.fixture(autouse=True, scope="session")
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STATE_DIRECTORY", raising=False)
        patch.setenv("XDG_STATE_HOME", os.fspath(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    cache = os.fspath(tmp_path_factory.mktemp("hub"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        # For child processes, and for this one, which may have read the environment already.
        for name, constant, value in (
            ("HF_ENDPOINT", "ENDPOINT", "http://127.0.0.1:9"),
            ("HF_HUB_CACHE", "HF_HUB_CACHE", cache),
            ("HF_TOKEN_PATH", "HF_TOKEN_PATH", f"{cache}/token"),
        ):
            patch.setenv(name, value)
            patch.setattr(f"huggingface_hub.constants.{constant}", value)
        yield
