"""Several processes accept from one socket: who has fewer connections takes the next one."""

import os
import socket

import pytest
import trio

from cortex.config.limits import Limits
from cortex.web.door import Door
from cortex.web.listening import Shared, listen
from cortex.workers.crowd import Crowd, make_crowd
from tests.fake_web import Stage, make_site
from tests.workers.linked import until


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(20):
        yield


@pytest.fixture
def memory():
    fd = make_crowd(2)
    Crowd(fd, 0, 2).open()
    yield fd
    os.close(fd)


async def test_whoever_has_more_than_another_one_yields(memory: int) -> None:
    one, two = Crowd(memory, 0, 2), Crowd(memory, 1, 2)
    one.has(3)
    assert not one.yields(), "the other one is away"
    two.has(3)
    assert not one.yields() and not two.yields()
    one.has(4)
    assert one.yields() and not two.yields()
    two.away()
    assert not one.yields()


async def test_connections_are_spread_and_nobody_waits_for_who_does_not_take_his(memory: int) -> None:
    listener = await listen("127.0.0.1", 0)
    shared = [Shared(each, Crowd(memory, i, 2)) for i, each in enumerate([listener, listener.dup()])]
    doors = [Door(make_site(Stage()), Limits()) for _ in shared]
    clients: list[trio.SocketStream] = []
    port = listener.getsockname()[1]

    def open_now() -> list[int]:
        return [door.connections for door in doors]

    async def connect(count: int) -> None:
        for _ in range(count):
            clients.append(await trio.open_tcp_stream("127.0.0.1", port))
            await until(lambda: sum(open_now()) == len(clients))

    async with trio.open_nursery() as nursery:
        for door, own in zip(doors, shared, strict=True):
            await nursery.start(
                lambda task_status, door=door, own=own: door.run("", 0, shared=own, task_status=task_status)
            )
        await connect(20)
        before = open_now()
        # On a busy machine a millisecond may be over before the other one had a turn.
        assert abs(before[0] - before[1]) <= 6
        # One whose number stands, and who takes nobody: it hangs.
        await doors[1].withdraw()
        Crowd(memory, 1, 2).has(0)
        await connect(4)
        assert open_now() == [before[0] + 4, before[1]]
        for client in clients:
            await client.aclose()
        await until(lambda: open_now() == [0, 0])
        assert not Crowd(memory, 0, 2).yields()
        nursery.cancel_scope.cancel()


async def test_nobody_is_taken_before_the_supervisor_opens() -> None:
    """Whoever serves first would have all who come, and they stay."""
    fd = make_crowd(1)
    listener = await listen("127.0.0.1", 0)
    address = listener.getsockname()
    door = Door(make_site(Stage()), Limits())
    async with trio.open_nursery() as nursery:
        shared = Shared(listener, Crowd(fd, 0, 1))
        await nursery.start(lambda task_status: door.run("", 0, shared=shared, task_status=task_status))
        client = await trio.open_tcp_stream(*address)
        await trio.testing.wait_all_tasks_blocked()
        assert door.connections == 0
        Crowd(fd, 0, 1).open()
        await until(lambda: door.connections == 1)
        await client.aclose()
        nursery.cancel_scope.cancel()
    os.close(fd)


async def test_who_withdraws_takes_nobody_and_serves_who_is_there(memory: int) -> None:
    listener = await listen("127.0.0.1", 0)
    other: socket.socket = listener.dup()
    door = Door(make_site(Stage()), Limits())
    async with trio.open_nursery() as nursery:
        shared = Shared(listener, Crowd(memory, 0, 2))
        await nursery.start(lambda task_status: door.run("", 0, shared=shared, task_status=task_status))
        client = await trio.open_tcp_stream(*other.getsockname())
        await until(lambda: door.connections == 1)
        await door.withdraw()
        late = await trio.open_tcp_stream(*other.getsockname())
        await client.send_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 ")
        assert door.connections == 1, "the late one waits for somebody else"
        accepted, _ = other.accept()
        with accepted:
            assert accepted.getpeername() == late.socket.getsockname()
        await client.aclose()
        await late.aclose()
        nursery.cancel_scope.cancel()
    other.close()
