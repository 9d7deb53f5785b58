"""`cortex status --watch` on a terminal: what it draws, and how it leaves the terminal."""

import errno
import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from cortex.wire.fleet import CatalogueModel, FleetLoad, FleetNeuron, FleetReport, GatewayReport
from tests.fake_reports import Played, played_at
from tests.fake_terminal import ROOT, lines_until, running

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, CURSOR = b"\x1b[?25l", b"\x1b[?25h"
REPORT = FleetReport(
    status="degraded",
    gateway=GatewayReport(version="0.1.0", boot_id="b"),
    neurons=[FleetNeuron(name="n1", state="ok")],
    models=[CatalogueModel(id=f"model-{n}") for n in range(30)],
)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


@dataclass
class Terminal:
    """A command in a terminal of its own."""

    process: trio.Process
    master: int

    async def until(self, *words: bytes) -> bytes:
        """What came since the last call, up to where all of `words` were among it."""
        data = b""
        while not all(word in data for word in words):
            await trio.lowlevel.wait_readable(self.master)
            data += os.read(self.master, 65536)
        return data

    async def rest(self) -> bytes:
        """What comes until the process has left."""
        data = b""
        while True:
            await trio.lowlevel.wait_readable(self.master)
            try:
                more = os.read(self.master, 65536)
            except OSError as error:
                assert error.errno == errno.EIO
                return data
            data += more

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@asynccontextmanager
async def terminal(*words: str, **env: str) -> AsyncIterator[Terminal]:
    """80 columns and 24 rows."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "cortex", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            # Its own session, of which the terminal is the controlling one: else it hears of no resize.
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
            env={**os.environ, "TERM": "xterm", **env},
        )
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    finally:
        os.close(master)


async def test_the_picture_fits_the_window_and_ctrl_c_gives_the_terminal_back() -> None:
    async with (
        played_at(Played().says("GET /fleet", REPORT)) as url,
        terminal("status", "--watch", "--endpoint", url) as window,
    ):
        first = await window.until(ENTER, b"do not fit")
        assert b"model-0" in first and b"model-29" not in first
        window.resize(80, 50)
        await window.until(b"model-29")
        os.write(window.master, b"\x03")
        last = await window.rest()
        assert await window.process.wait() == 1
    _, left, after = last.partition(LEAVE)
    assert left and CURSOR in last
    # The last picture stays, and whole.
    assert b"cortex gateway 0.1.0" in after and b"model-29" in after


async def test_a_gateway_that_dies_and_comes_back_is_watched_on() -> None:
    played = Played().says("GET /fleet", REPORT)
    async with played_at(played) as url, terminal("status", "--watch", "--endpoint", url) as window:
        await window.until(ENTER, b"model-0")
        played.says("GET /fleet", b"<html>", 502)
        await window.until(b"no answer for", b"model-0")
        played.says("GET /fleet", FleetReport())
        await window.until(b"No neuron is configured")
        played.says("GET /fleet", b"<html>", 502)
        await window.until(b"no answer for")
        window.process.send_signal(signal.SIGTERM)
        last = await window.rest()
        assert await window.process.wait() == 2
    assert b"cortex: " in last.partition(LEAVE)[2]


async def test_no_colour_is_drawn_where_none_is_wanted() -> None:
    played = Played().says("GET /fleet", REPORT)
    for env, wanted in (({}, True), ({"NO_COLOR": "1"}, False)):
        async with (
            played_at(played) as url,
            terminal("status", "--watch", "--endpoint", url, **env) as window,
        ):
            assert (b"\x1b[33m" in await window.until(b"degraded", b"model-0")) is wanted


async def test_a_pipe_gets_one_picture_after_another_and_nothing_that_moves_a_cursor() -> None:
    played = Played().says("GET /fleet", REPORT)
    async with (
        played_at(played) as url,
        running("-m", "cortex", "status", "--watch", "--endpoint", url) as watcher,
    ):
        data = await lines_until(watcher.stdout, b"model-29")
        data += await lines_until(watcher.stdout, b"model-29")
        watcher.send_signal(signal.SIGINT)
        assert await watcher.wait() == 1
    assert b"\x1b" not in data and data.count(b"cortex gateway") == 2


async def test_a_load_shows_on_a_terminal_how_far_it_is() -> None:
    loads = [FleetLoad(model="m", neuron="n1", done_bytes=2**30, total_bytes=4 * 2**30, eta_s=75)]
    report = FleetReport(models=[CatalogueModel(id="m", aliases=["nick"])], loads=loads)
    played = Played().says("GET /fleet", report)
    played.says("POST /fleet/models/load", {"locations": [{"neuron": "n1"}]})
    there = played.waits["POST /fleet/models/load"] = trio.Event()
    async with played_at(played) as url, terminal("models", "load", "nick", "--endpoint", url) as window:
        await window.until(b"loading m on n1  1GiB of 4GiB (25%)  1m15s left")
        there.set()
        assert b"nick is loaded on n1" in await window.rest()
        assert await window.process.wait() == 0


@pytest.mark.parametrize(
    ("words", "route", "told"),
    [
        (["models", "load", "m"], "POST /fleet/models/load", b"stopped waiting; `cortex status` shows"),
        (["models", "unload", "m"], "POST /fleet/models/unload", b"stopped waiting; `cortex status` shows"),
        (["models", "list"], "GET /fleet", b"nothing was changed"),
        (["models", "pin", "m"], "POST /fleet/models/pin", b"`cortex status` shows what is pinned"),
        (["status"], "GET /fleet", b"nothing was changed"),
        (["plan", "m"], "GET /fleet/plan?model=m", b"nothing was changed"),
    ],
    ids=lambda each: " ".join(each[:2]) if isinstance(each, list) else "",
)
async def test_whoever_stops_waiting_is_told_so_and_gets_the_terminal_back(
    words: list[str], route: str, told: bytes
) -> None:
    played = Played().says("GET /fleet", FleetReport())
    played.waits[route] = trio.Event()
    async with played_at(played) as url, terminal(*words, "--endpoint", url) as window:
        await played.asked(route)
        os.write(window.master, b"\x03")
        shown = await window.rest()
        assert await window.process.wait() == 130
    assert told in shown and b"Traceback" not in shown
    assert shown.count(HIDDEN) <= shown.count(CURSOR)


async def test_whoever_saves_a_pin_and_stops_waiting_is_told_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[[models]]\nid = "m"\nsource = "hf:org/m"\n')
    digest = sha256(file.read_bytes()).hexdigest()
    gateway = GatewayReport(version="0.1.0", boot_id="b", models_file=str(file), models_sha256=digest)
    report = FleetReport(gateway=gateway, models=[CatalogueModel(id="m")], neurons=[FleetNeuron(name="n1")])
    # The file is never taken over: the command asks again and again whether it is.
    played = Played().says("GET /fleet", report)
    words = ("models", "pin", "m", "--neuron", "n1", "--save")
    async with played_at(played) as url, terminal(*words, "--endpoint", url) as window:
        await played.asked("GET /fleet", 3)
        os.write(window.master, b"\x03")
        shown = await window.rest()
        assert await window.process.wait() == 130
    assert 'pinned_on = ["n1"]' in file.read_text()
    assert b"models.toml: pinned_on of m is" in shown.replace(b"\r\n", b"")
