"""A newcomer's first minute: `cortex up`, its instructions followed to the letter, and Ctrl-C."""

import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cortex import demo
from tests import fake_bert
from tests.fake_terminal import ROOT, lines_until, running, told

pytestmark = pytest.mark.slow

HELLO = "Hello! How can I help you?"

SCRIPTED = """
import threading
import cortex.neuron.harnesses as harnesses
from cortex.cli import main
from cortex.harness.scripted import Script, ScriptedHarness

class Scripted(ScriptedHarness):
    def __init__(self):
        super().__init__(Script({script}))
        self.name = "llamacpp"

harnesses.LlamaCppHarness = Scripted
main(["up", "--port", "0", "--log-level", "info"])
"""


@asynccontextmanager
async def up(*words: str) -> AsyncIterator[tuple[trio.Process, str]]:
    """`cortex up` on free ports, ready, and what it printed."""
    async with running("-m", "cortex", "up", "--port", "0", *words) as process:
        yield process, (await lines_until(process.stdout, b"Ctrl-C stops.\n")).decode()


def url_in(printed: str) -> str:
    found = re.search(r"http://\S+/v1", printed)
    assert found is not None
    return found[0]


def block_after(printed: str, heading: str) -> str:
    """The indented lines below a heading."""
    lines = printed.partition(f"{heading}\n")[2].split("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines)


async def test_what_it_prints_of_a_model_that_makes_vectors_works_as_printed(tmp_path: Path) -> None:
    async with up(str(fake_bert.put(tmp_path))) as (_, printed):
        said = await trio.run_process(
            ["sh", "-c", f"{block_after(printed, 'Try it:')} -s"], capture_stdout=True
        )
        assert len(json.loads(said.stdout)["data"][0]["embedding"]) == fake_bert.WIDTH
        assert "client.embeddings.create(" in printed


async def test_what_it_prints_works_as_printed() -> None:
    async with up() as (process, printed):
        assert printed.startswith("cortex is ready at http://127.0.0.1:")
        assert f"serves {demo.MODEL_ID}\n" in printed
        line = block_after(printed, "Try it:")
        assert "\n" not in line
        said = await trio.run_process(["bash", "-c", f"{line} -s"], capture_stdout=True)
        assert json.loads(said.stdout)["choices"][0]["message"]["content"] == HELLO

        program = block_after(printed, "With the OpenAI SDK:")
        first, second, third = program.splitlines()
        script = f"{first}\n{second}\nprint({third}.choices[0].message.content)"
        async with running("-c", script) as client:
            assert HELLO.encode() in await lines_until(client.stdout, b"\n")

        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert time.monotonic() - began < 2
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b""
        assert process.stderr is not None
        assert await process.stderr.receive_some() == b""


async def test_the_example_client_chats() -> None:
    async with up() as (_, printed):
        said = await trio.run_process(
            [sys.executable, "examples/client.py", url_in(printed)],
            stdin=b"Hello\n\nWhat is the capital of Norway?\n",
            capture_stdout=True,
            cwd=ROOT,
        )
    first, *answers = said.stdout.decode().split("\n")
    assert first.startswith(f"{demo.MODEL_ID} at http://127.0.0.1:")
    assert answers[:2] == [HELLO, "The capital of Norway is Oslo."]


async def test_status_sees_the_model_as_soon_as_the_gateway_has_asked_its_neuron() -> None:
    async with up() as (_, printed):
        endpoint = url_in(printed).removesuffix("/v1")
        while True:
            said = await told("status", "--json", "--endpoint", endpoint)
            report = json.loads(said.stdout)
            if [model["state"] for model in report["models"]] == ["loaded"]:
                break
    assert said.returncode == 0
    assert [neuron["state"] for neuron in report["neurons"]] == ["ok"]
    assert [model["id"] for model in report["neurons"][0]["models"]] == [demo.MODEL_ID]


async def test_nothing_beside_the_given_file_is_offered(tmp_path: Path) -> None:
    data = demo.GGUF.read_bytes()
    for name in ("mine.gguf", "private.gguf"):
        (tmp_path / name).write_bytes(data)
    async with up(str(tmp_path / "mine.gguf")) as (_, printed):
        said = await trio.run_process(["curl", "-s", f"{url_in(printed)}/models"], capture_stdout=True)
    assert [model["id"] for model in json.loads(said.stdout)["data"]] == ["mine"]


async def test_a_hanging_client_does_not_keep_it() -> None:
    """faults.md row 87."""
    async with up() as (process, printed):
        port = int(url_in(printed).removesuffix("/v1").rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le")
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert time.monotonic() - began < 2


async def test_ctrl_c_over_a_stream_that_nobody_reads_is_quiet() -> None:
    """Gateway and neuron leave together: neither has to tell that the other is gone."""
    endless = {"1015": -100, "1017": -100}  # neither end of text nor of turn
    body = {"model": demo.MODEL_ID, "prompt": "x", "max_tokens": 1900, "stream": True, "logit_bias": endless}
    sent = json.dumps(body).encode()
    async with up() as (process, printed):
        port = int(url_in(printed).removesuffix("/v1").rpartition(":")[2])
        with socket.socket() as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            unread.connect(("127.0.0.1", port))
            head = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(sent)}\r\n\r\n"
            unread.sendall(head.encode() + sent)
            assert unread.recv(1)  # it has begun
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        assert await process.stderr.receive_some() == b""


async def test_a_model_that_no_engine_takes_ends_it_with_the_cause(tmp_path: Path) -> None:
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(demo.GGUF.read_bytes().replace(b"qwen3", b"qwenz"))
    with trio.fail_after(30):
        said = await told("up", str(odd), "--port", "0")
    assert said.returncode == 1
    assert said.stdout == b""
    assert said.stderr.decode().splitlines()[-1].startswith("cortex: odd: llama.cpp")
    assert b"Traceback" not in said.stderr


# -- leaving


async def ended(process: trio.Process, number: signal.Signals) -> tuple[int, float]:
    """The exit code after the signal, and how long that took."""
    began = time.monotonic()
    process.send_signal(number)
    return await process.wait(), time.monotonic() - began


async def rest_of(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([piece async for piece in stream]).decode()


async def ask(port: int) -> trio.SocketStream:
    """A client of an answer without end, of which the head has come."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    body = json.dumps(
        {"model": demo.MODEL_ID, "stream": True, "messages": [{"role": "user", "content": "a"}]}
    )
    await stream.send_all(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    await lines_until(stream, b"HTTP/1.1 200")
    return stream


def port_in(printed: bytes) -> int:
    return int(url_in(printed.decode()).removesuffix("/v1").rpartition(":")[2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_it_starts_ends_it_as_quietly_as_later(number: signal.Signals) -> None:
    script = SCRIPTED.format(script="slow_load=threading.Event()")
    async with running("-c", script) as process:
        await lines_until(process.stderr, b"load.started")
        code, took_s = await ended(process, number)
        assert (code, took_s < 2) == (0, True)
        assert await rest_of(process.stdout) == ""
        said = await rest_of(process.stderr)
    assert "stop.begun" in said
    assert not re.search("WARNING|ERROR|cortex: ", said)


async def test_twenty_streams_that_nobody_reads_do_not_keep_it() -> None:
    """faults.md row 87."""
    async with running("-c", SCRIPTED.format(script="endless=True")) as process:
        port = port_in(await lines_until(process.stdout, b"Ctrl-C stops.\n"))
        streams = [await ask(port) for _ in range(20)]
        code, took_s = await ended(process, signal.SIGINT)
        assert (code, took_s < 2) == (0, True)
        assert not re.search("WARNING|ERROR|cortex: ", await rest_of(process.stderr))
        for stream in streams:
            await stream.aclose()


async def test_an_engine_that_hangs_does_not_keep_it() -> None:
    """faults.md row 87."""
    script = SCRIPTED.format(script="stall=threading.Event()")
    async with running("-c", script) as process:
        port = port_in(await lines_until(process.stdout, b"Ctrl-C stops.\n"))
        async with await ask(port):
            code, took_s = await ended(process, signal.SIGINT)
        assert (code, took_s < 2) == (0, True)
        assert "stop.forced" in await rest_of(process.stderr)
