"""Programs run as a person runs them: their own process, their output as it comes."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

ROOT = Path(__file__).parent.parent


@asynccontextmanager
async def running(*words: str, **env: str) -> AsyncIterator[trio.Process]:
    """A Python process, which is gone after the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **env},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        try:
            with trio.fail_after(30):
                yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def lines_until(stream: trio.abc.ReceiveStream | None, word: bytes) -> bytes:
    """What came until `word` was among it."""
    assert stream is not None
    data = b""
    while word not in data:
        more = await stream.receive_some()
        assert more, f"the process ended with {data!r}"
        data += more
    return data


async def told(*words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A command as its own process."""
    return await trio.run_process(
        [sys.executable, "-m", "cortex", *words],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **env},
    )
