"""What one turn of an engine brings for a stream is one write, and no stream waits for another."""

from dataclasses import replace
from itertools import repeat
from pathlib import Path

import msgspec
import pytest
import trio

from cortex.config.limits import Limits
from cortex.harness.scripted import Gate, Script
from cortex.text.projection import Projection
from tests.calls import CHAT, Caller, calling, figures, hello, settings, until
from tests.fake_web import Client, ask
from tests.roles import Running, running_neuron, specs

# A hundred of them are more than the buffers of a connection hold.
LONG = b"word " + b"x" * 60_000


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def chunk_of(client: Client) -> bytes:
    """The data of the next chunk."""
    size = int(await client.until(b"\r\n"), 16)
    data = b""
    while len(data) < size + 2:
        data += await client.until(b"\n")
    return data[:-2]


async def test_frames_of_one_turn_are_one_chunk_and_turns_are_chunks_of_their_own(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(endless=True, hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role, calling(role) as caller:
        client = Client(caller.stream)
        await client.send(ask(CHAT, msgspec.json.encode(hello(stream=True, n=4))))
        gate.let(1)
        await client.until(b"\r\n\r\n")
        first = await chunk_of(client)
        assert first.count(b'"role"') == 4 and first.count(b'"content":"0"') == 4
        for number in range(1, 4):
            gate.let(1)
            assert (await chunk_of(client)).count(b'"content":" %d"' % number) == 4


async def _narrow(role: Running) -> trio.SocketStream:
    """A connection whose client has as little room as the kernel allows."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    host, _, port = role.url.removeprefix("http://").partition(":")
    await sock.connect((host, int(port)))
    return trio.SocketStream(sock)


async def test_a_reader_that_stalls_holds_nobody_and_is_cut_at_the_stall_limit(tmp_path: Path) -> None:
    """Row 32: neither the engine nor the others wait for it, and then its seat is free."""
    streams, turns, gate = 8, 100, Gate()
    config = replace(settings(slots=streams), limits=Limits(drain_s=0.1, stall_s=1.0))
    script = Script(reply=lambda job: repeat(LONG), hold=gate)
    known = specs(tmp_path, "a")
    async with running_neuron(tmp_path, known, script, config=config) as role:
        async with await _narrow(role) as stream:
            await Caller(stream).ask(CHAT, hello(stream=True))

            async def listen() -> None:
                async with calling(role) as caller:
                    await caller.ask(CHAT, hello(stream=True))
                    while caller.answer.body.count(b"word ") < turns:
                        await caller._more()

            async with trio.open_nursery() as others:
                for _ in range(streams - 1):
                    others.start_soon(listen)
                await until(lambda: _sit(role, streams), 10.0)
                gate.let(turns)
            await until(lambda: _sit(role, 0), 5.0)
            assert role.engines["a"].turns == turns, "no step is taken for those who have gone"
            page = (await role.http.get(role.metrics_url)).text
            assert 'phase="stall"} 1.0' in page


async def _sit(role: Running, count: int) -> bool:
    return (await figures(role)).get("a") == (count, 0)


async def test_a_bug_in_what_reads_one_stream_ends_that_one_with_an_error_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is met where the turn is handed over, which belongs to all."""
    gate = Gate()
    read = Projection._read

    def breaks(projection: Projection, event):
        if event.data == b" bad":
            raise ZeroDivisionError("a bug")
        return read(projection, event)

    monkeypatch.setattr(Projection, "_read", breaks)
    script = Script(reply=lambda job: job.prompt.rpartition("> ")[0].rpartition("> ")[2], hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        async with calling(role) as bad, calling(role) as good:
            for caller, words in ((bad, "one bad two three"), (good, "one good two three")):
                asked = {"model": "a", "stream": True, "messages": [{"role": "user", "content": words}]}
                await caller.ask(CHAT, asked)
            await until(lambda: _sit(role, 2), 5.0)
            gate.let(1)
            for caller in (bad, good):
                await caller.until(b'"one"')
            gate.open()
            answers = [await caller.all() for caller in (bad, good)]
        assert [answer.complete for answer in answers] == [True, True]
        assert b'"code":"internal"' in answers[0].body and b"[DONE]" not in answers[0].body
        assert answers[1].data[-1] == "[DONE]"
        await until(lambda: _sit(role, 0), 5.0)
