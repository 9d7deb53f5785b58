"""Each toxic does what its name says, alone and in a row: by a mock clock, and on sockets."""

import pytest
import trio
import trio.testing

from tests.toxic import (
    Bandwidth,
    Cut,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
    Toxics,
    hole,
    toxic_proxy,
)

WORDS = b"0123456789" * 10


async def played(*down: Toxic, said: bytes = WORDS, within_s: float = 1e6) -> list[tuple[float, bytes]]:
    """When and what comes out at the client's end when a neuron says `said` and closes; the end is
    b"", a connection that was cut b"cut"."""
    client, near = trio.testing.memory_stream_pair()
    far, neuron = trio.testing.memory_stream_pair()
    came: list[tuple[float, bytes]] = []
    began = trio.current_time()

    async def carry() -> None:
        try:
            await Toxics(down=list(down)).carry(near, far)
        except Cut as cut:
            came.append((trio.current_time() - began, b"reset" if cut.hard else b"cut"))

    async def listen() -> None:
        while data := bytes(await client.receive_some(65536)):
            came.append((trio.current_time() - began, data))
        came.append((trio.current_time() - began, b""))

    with trio.move_on_after(within_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            nursery.start_soon(listen)
            await neuron.send_all(said)
            await neuron.send_eof()
            await trio.sleep(within_s)
    return came


def whole(came: list[tuple[float, bytes]]) -> bytes:
    return b"".join(data for _, data in came if data not in (b"cut", b"reset"))


async def test_a_wire_without_toxics_passes_everything_at_once(autojump_clock) -> None:
    assert await played() == [(0, WORDS), (0, b"")]


async def test_latency_delays_bytes_and_end_alike(autojump_clock) -> None:
    assert await played(Latency(3)) == [(3, WORDS), (6, b"")]


async def test_bandwidth_passes_so_many_bytes_a_second_in_small_pieces(autojump_clock) -> None:
    came = await played(Bandwidth(50))
    assert whole(came) == WORDS
    assert [data for _, data in came[:-1]] == [WORDS[i : i + 2] for i in range(0, 100, 2)]
    assert came[-1][0] == pytest.approx(2.0)


async def test_a_slow_close_holds_back_the_end_alone(autojump_clock) -> None:
    assert await played(SlowClose(5)) == [(0, WORDS), (5, b"")]


async def test_a_timeout_swallows_and_then_cuts(autojump_clock) -> None:
    assert await played(Timeout(4)) == [(4, b"cut")]


async def test_a_hole_swallows_and_says_nothing_ever(autojump_clock) -> None:
    assert await played(hole()) == []


async def test_a_slicer_cuts_into_pieces_with_pauses(autojump_clock) -> None:
    assert await played(Slicer(40, pause_s=1)) == [
        (0, WORDS[:40]),
        (1, WORDS[40:80]),
        (2, WORDS[80:]),
        (2, b""),
    ]


async def test_a_slicer_cuts_at_given_positions_of_the_stream(autojump_clock) -> None:
    came = await played(Slicer(60), Slicer(at=(1, 59, 60, 99)))
    assert [len(data) for _, data in came] == [1, 58, 1, 39, 1, 0]
    assert whole(came) == WORDS


async def test_a_limit_of_data_is_exact_to_the_byte(autojump_clock) -> None:
    for most in (0, 1, 33, 99):
        came = await played(Slicer(7), LimitData(most))
        assert whole(came) == WORDS[:most] and came[-1] == (0, b"cut")
    assert (await played(LimitData(5, hard=True)))[-1] == (0, b"reset")


async def test_a_limit_that_is_not_reached_ends_with_the_stream(autojump_clock) -> None:
    came = await played(LimitData(1000))
    assert whole(came) == WORDS and came[-1] == (0, b"cut")


async def test_a_reset_comes_after_its_time_and_nothing_before_it(autojump_clock) -> None:
    assert await played(ResetPeer(2)) == [(2, b"reset")]


async def test_toxics_stand_in_a_row(autojump_clock) -> None:
    came = await played(Slicer(50), Latency(1), LimitData(75))
    assert came == [(1, WORDS[:50]), (2, WORDS[50:75]), (2, b"cut")]


# -- on sockets


@pytest.fixture(autouse=True)
async def _hang_guard(request: pytest.FixtureRequest):
    if "autojump_clock" in request.fixturenames:
        yield
        return
    with trio.fail_after(30):
        yield


async def echo(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            while data := await stream.receive_some(65536):
                await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def listening(nursery: trio.Nursery) -> int:
    listeners = await nursery.start(trio.serve_tcp, echo, 0)
    return listeners[0].socket.getsockname()[1]


async def test_toxics_come_and_go_while_a_connection_is_open(nursery) -> None:
    async with toxic_proxy(await listening(nursery)) as proxy:
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
            await client.send_all(b"one")
            assert await client.receive_some(99) == b"one"
            with proxy.put(hole()), trio.move_on_after(0.05) as waited:
                await client.send_all(b"two")
                await client.receive_some(99)
            assert waited.cancelled_caught
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
            await client.send_all(b"three")
            assert await client.receive_some(99) == b"three"
            with proxy.put(ResetPeer(), "up"):
                await client.send_all(b"four")
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some(99)
        assert proxy.connections == 2


async def test_the_end_of_either_side_reaches_the_other(nursery) -> None:
    async with toxic_proxy(await listening(nursery)) as proxy:
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
            await client.send_all(b"bye")
            await client.send_eof()
            assert await client.receive_some(99) == b"bye"
            assert await client.receive_some(99) == b""


async def test_a_closed_proxy_refuses_a_deaf_one_hangs_and_both_come_back(nursery) -> None:
    async with toxic_proxy(await listening(nursery)) as proxy:
        where = ("127.0.0.1", proxy.port)
        proxy.close()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*where)
        proxy.deafen()
        with trio.move_on_after(0.2) as waited:
            await (await trio.open_tcp_stream(*where)).aclose()
        assert waited.cancelled_caught
        await proxy.listen()
        async with await trio.open_tcp_stream(*where) as client:
            await client.send_all(b"back")
            assert await client.receive_some(99) == b"back"


async def test_connections_can_be_dropped_and_made_anew(nursery) -> None:
    async with toxic_proxy(await listening(nursery)) as proxy:
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
            await client.send_all(b"one")
            assert await client.receive_some(99) == b"one"
            await proxy.drop()
            assert await client.receive_some(99) == b""
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
            await client.send_all(b"two")
            assert await client.receive_some(99) == b"two"


async def test_nobody_behind_a_proxy_is_a_reset(nursery) -> None:
    async with toxic_proxy(1) as proxy, await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some(99)
