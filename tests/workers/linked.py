"""Workers of one gateway in this process, with a real exchange between them."""

import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import trio

from cortex.workers.crew import Worker
from cortex.workers.exchange import Exchange, Member
from cortex.workers.line import Line


@asynccontextmanager
async def linked(workers: int) -> AsyncIterator[tuple[Exchange, list[Worker]]]:
    """An exchange whose members serve, and the workers at the other ends."""
    async with trio.open_nursery() as nursery:
        exchange, crew = Exchange(nursery), list[Worker]()
        for index in range(workers):
            ours, theirs = socket.socketpair()
            nobody = cast("subprocess.Popen[bytes]", None)
            member = Member(index, nobody, Line(ours), began=0.0, ready=True)
            exchange.members.append(member)
            exchange.restarts[index] = 0
            worker = Worker(Line(theirs), index, workers)
            crew.append(worker)
            nursery.start_soon(member.line.run, lambda word, member=member: exchange.hear(member, word))
            nursery.start_soon(worker.run)
        yield exchange, crew
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], object]) -> None:
    """It has become so, in a room that tells nobody."""
    while not holds():  # noqa: ASYNC110
        await trio.sleep(0.002)
