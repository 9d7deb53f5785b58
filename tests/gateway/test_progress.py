"""Who asks for it sees in the stream what a request waits for; nobody else does."""

from pathlib import Path
from threading import Event

import msgspec
import pytest
import trio
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk, ParsedChatCompletion

from cortex.harness.scripted import Script
from cortex.ledger import Wait as Waits
from cortex.ledger.outlook import Outlook
from cortex.web.progress import Progress
from cortex.wire.sse import COMMENT
from tests.calls import CHAT, TEXT
from tests.fake_ledger import books, resident
from tests.fake_neuron import STREAM, STREAMED, Open, body, fake_neuron, open_gateway
from tests.fake_upstream import Wait
from tests.fake_web import Client, ask
from tests.roles import MIB, running_neuron, specs

SHOWN = {"x_cortex_progress": "reasoning"}


async def asked(gateway: Open, model: str, **headers: str) -> Client:
    client = await gateway.dial()
    await client.send(ask(CHAT, body(model, stream=True), **{**SHOWN, **headers}))
    return client


async def line(client: Client) -> str:
    """The next thought."""
    await client.until(b'"delta":')
    said = await client.until(b"}")
    return msgspec.json.decode(said)["reasoning_content"]


@pytest.mark.slow
async def test_a_load_is_told_as_it_comes_along_and_the_neurons_bytes_follow_untouched() -> None:
    async with fake_neuron(known=["a"], otherwise=STREAMED) as neuron:
        neuron.loading = trio.Event()
        row = {"bytes": {"cpu": 0}, "state": "loading", "phase": "load", "total_bytes": 40 * MIB, "age_s": 0}
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            began = trio.current_time()
            client = await asked(gateway, "a")
            await neuron.told_to_load()
            neuron.has("a", done_bytes=4 * MIB, **row)
            first = await line(client)
            assert 0.9 < trio.current_time() - began < 10, "the status stays open for a second"
            assert first.startswith("Loading a on n1: 10 % of 40MiB, about ") and first.endswith(" s left\n")
            neuron.has("a", done_bytes=20 * MIB, **row)
            second = await line(client)
            assert second.startswith("Loading a on n1: 50 % of 40MiB")
            assert trio.current_time() - began > 2.5, "no more than one line in two seconds"
            neuron.loading.set()
            neuron.has("a", age_s=0)
            rest = await client.until(b"\r\n0\r\n\r\n")
            assert STREAM in rest and b"reasoning_content" not in rest and COMMENT not in rest
            assert all("x-cortex-progress" not in dict(one.headers) for one in neuron.requests)


@pytest.mark.slow
async def test_who_waits_for_a_seat_hears_how_many_are_before_it() -> None:
    async with fake_neuron(otherwise=STREAMED) as neuron:
        neuron.has("a", slots=1, queue=0)
        async with open_gateway(neuron) as gateway:
            go_on = trio.Event()
            neuron.then(Wait(go_on), STREAMED)
            holder = await gateway.dial()
            await holder.send(ask(CHAT, body("a")))
            await neuron.seen(1)
            clients = []
            for number in range(1, 4):
                clients.append(await asked(gateway, "a"))
                await gateway.knows(lambda ledger, number=number: ledger.waiting == number)
            assert [await line(client) for client in clients] == [
                f"Waiting for a seat: {before} before you\n" for before in range(3)
            ]
            await clients[0].close()
            assert await line(clients[1]) == "Waiting for a seat: 0 before you\n"
            go_on.set()
            assert STREAM in await clients[2].until(b"\r\n0\r\n\r\n")


@pytest.mark.slow
async def test_a_quick_answer_and_one_who_did_not_ask_have_nothing_of_it() -> None:
    async with fake_neuron("a", otherwise=STREAMED) as neuron:
        neuron.has("full", slots=1, queue=0)
        async with open_gateway(neuron) as gateway:
            answer = await gateway.http.post(
                CHAT,
                json={"model": "a", "messages": [], "stream": True},
                headers={"x-cortex-progress": "reasoning"},
            )
            assert answer.content == STREAM
            go_on = trio.Event()
            neuron.then(Wait(go_on), STREAMED)
            holder, silent = await gateway.dial(), await gateway.dial()
            await holder.send(ask(CHAT, body("full")))
            await neuron.seen(2)
            await silent.send(ask(CHAT, body("full", stream=True)))
            assert b"reasoning" not in await silent.until(COMMENT)


@pytest.mark.parametrize("path", [TEXT, "/v1/messages"])
async def test_a_stream_without_thoughts_cannot_show_them(path: str) -> None:
    prompt = {"prompt": "x"} if path == TEXT else {"messages": [], "max_tokens": 9}
    async with fake_neuron("a", otherwise=STREAMED) as neuron, open_gateway(neuron) as gateway:
        asked_so = {"x-cortex-progress": "reasoning"}
        answer = await gateway.http.post(
            path, json={"model": "a", "stream": True, **prompt}, headers=asked_so
        )
        assert answer.status_code == 400 and "x-cortex-progress" in answer.text
        assert not neuron.requests


@pytest.mark.parametrize("said", ["yes", "", "Reasoning", "reasoning, reasoning"])
@pytest.mark.parametrize("stream", [False, True])
async def test_another_value_is_refused_by_the_name_of_the_header(said: str, stream: bool) -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        answer = await gateway.http.post(
            CHAT,
            json={"model": "a", "messages": [], "stream": stream},
            headers={"x-cortex-progress": said},
        )
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "x-cortex-progress"
        assert not neuron.requests


async def test_a_whole_answer_takes_the_header_without_effect() -> None:
    """Clients set it once for all that they ask."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        plain = await gateway.ask()
        same = await gateway.http.post(
            CHAT, json={"model": "a", "messages": []}, headers={"x-cortex-progress": "reasoning"}
        )
        assert same.content == plain.content


@pytest.mark.slow
async def test_the_official_client_reads_it_as_a_thought() -> None:
    async with fake_neuron(known=["a"], otherwise=STREAMED) as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:

            def talk() -> list[ChatCompletionChunk]:
                chunks = []
                with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
                    for chunk in client.chat.completions.create(
                        model="a",
                        messages=[{"role": "user", "content": "x"}],
                        stream=True,
                        extra_headers={"x-cortex-progress": "reasoning"},
                    ):
                        chunks.append(chunk)
                        trio.from_thread.run_sync(neuron.loading.set)
                return chunks

            first, *rest = await trio.to_thread.run_sync(talk)
            assert first.choices[0].delta.reasoning_content == "Loading a on n1\n"
            assert first.id.startswith("chatcmpl-") and first.model == "a"
            assert first.object == "chat.completion.chunk"
            assert first.created > 1e9 and first.choices[0].finish_reason is None
            words = [chunk.choices[0].delta.content or "" for chunk in rest]
            assert "".join(words) == "one tw\u00f6 three"
            assert rest[-1].choices[0].finish_reason == "stop"


@pytest.mark.slow
async def test_the_official_clients_helper_makes_one_message_of_it(tmp_path: Path) -> None:
    """Between real roles, whose chunks are complete: ours says no role, or it would have two."""
    loaded, catalogue = Event(), specs(tmp_path, "a")
    script = Script(reply="hi there", slow_load=loaded)
    async with running_neuron(tmp_path, catalogue, script) as neuron:
        async with open_gateway(neuron, catalogue=catalogue) as gateway:  # type: ignore[arg-type]

            def talk() -> ParsedChatCompletion[None]:
                with (
                    OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
                    client.chat.completions.stream(
                        model="a",
                        messages=[{"role": "user", "content": "x"}],
                        extra_headers={"x-cortex-progress": "reasoning"},
                    ) as stream,
                ):
                    for _ in stream:
                        loaded.set()
                    return stream.get_final_completion()

            with trio.fail_after(30):
                try:
                    whole = await trio.to_thread.run_sync(talk, abandon_on_cancel=True)
                finally:
                    loaded.set()
            (choice,) = whole.choices
            assert (choice.message.role, choice.message.content) == ("assistant", "hi there")
            assert choice.message.reasoning_content.startswith("Loading a on n1")
            assert choice.finish_reason == "stop"


# -- the words


def thought(progress: Progress) -> str:
    """What there is to say; "" for nothing."""
    said = progress.news()
    assert not said or said.endswith(b"\n\n")
    return msgspec.json.decode(said[6:])["choices"][0]["delta"]["reasoning_content"] if said else ""


def test_only_what_changed_is_said() -> None:
    book = books(100)
    ticket, load = book.begin("a")
    seen = [Outlook()]
    book.ledger.outlook = lambda model: seen[0]
    progress = Progress(book.ledger, "r")
    assert thought(progress) == "", "it does not wait yet"
    progress.waits(ticket)
    told = []
    for seen[0] in (
        Outlook(),
        Outlook(),
        Outlook("download", 1 * MIB, 100 * MIB),
        Outlook("download", 1 * MIB + 9, 100 * MIB, 90.2),  # the time alone is no news
        Outlook("verify", 1 * MIB, 100 * MIB),
        Outlook("load", 0, 0, 8.0),
        Outlook("load", 42 * MIB, 100 * MIB, 7.1),
        Outlook("queued"),
    ):
        told.append(thought(progress))
    assert told == [
        "Loading a on p\n",
        "",
        "Downloading a on p: 1 % of 100MiB\n",
        "",
        "Checking a on p: 1 % of 100MiB\n",
        "Loading a on p, about 8 s left\n",
        "Loading a on p: 42 % of 100MiB, about 8 s left\n",
        "About to load a on p\n",
    ]
    assert ticket in book.finish(load)
    assert thought(progress) == "", "it sits"


def test_who_waits_for_room_and_then_for_a_load_hears_of_both() -> None:
    book = books(100, resident("b", 100, loaded_at=1000.0))
    ticket, decision = book.arrive("a")
    assert isinstance(decision, Waits)
    progress = Progress(book.ledger, "r")
    progress.waits(ticket)
    assert thought(progress) == "Waiting for room for a\n"
    book.clock.pass_by(100)
    book.settle()
    assert thought(progress) == "Loading a on p\n"
