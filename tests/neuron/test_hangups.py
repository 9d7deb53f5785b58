"""A client that leaves, in every phase and every way: its seat and its slot are free at once."""

from pathlib import Path
from threading import Event

import pytest
import trio

from cortex.demo import MODEL_ID
from cortex.harness.scripted import Gate, Script
from tests.calls import (
    CHAT,
    TEXT,
    calling,
    figures,
    hello,
    residents,
    settings,
    text_of,
    until,
)
from tests.roles import Running, demo_neuron, running_neuron, specs

WAYS = ("fin", "rst", "half", "ahead")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def live(role: Running, model: str = "a") -> int:
    """How many jobs the engine has."""
    return len(role.engines[model]._live) if model in role.engines else 0


async def reaches(role: Running, seats: int, waiting: int, within_s: float = 1.0) -> None:
    """So many sit and wait, and the engine has as many jobs as sit."""

    async def so() -> bool:
        return (await figures(role)).get("a") == (seats, waiting) and live(role) == seats

    await until(so, within_s)


async def serves(role: Running, gate: Gate) -> None:
    """The model still answers, with all that was taken given back."""
    gate.open()
    answer = await role.http.post(CHAT, json=hello(max_tokens=2))
    assert text_of(answer) == "0 1"
    assert await figures(role) == {"a": (0, 0)}


@pytest.mark.parametrize("how", WAYS)
async def test_a_stream_is_cut_and_its_slot_is_free_without_another_step(tmp_path: Path, how: str) -> None:
    """Rows 30 and 31: the gate is shut, so no step is taken after the client has gone."""
    gate = Gate(3)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(endless=True, hold=gate)) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello(stream=True))
            await caller.until(b" 2")
            await reaches(role, 1, 0)
            await caller.leave(how)
            await reaches(role, 0, 0)
        assert role.engines["a"].turns == 3
        await serves(role, gate)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("turns", [0, 3], ids=["prefill", "decode"])
async def test_a_whole_answer_is_given_up_when_nobody_waits_for_it(
    tmp_path: Path, how: str, turns: int
) -> None:
    """Row 30 without streaming, and in prefill: not a byte was sent to find it out by."""
    gate = Gate(turns)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(endless=True, hold=gate)) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello())
            await reaches(role, 1, 0)
            await caller.leave(how)
            await reaches(role, 0, 0)
        assert role.engines["a"].turns <= turns
        await serves(role, gate)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_who_leaves_the_line_leaves_the_others_their_places(
    tmp_path: Path, how: str, stream: bool
) -> None:
    """Row 29: the one behind moves up, the one before is not disturbed."""
    gate = Gate(1)
    script = Script(endless=True, hold=gate)
    config = settings(slots=1)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with calling(role) as first, calling(role) as second, calling(role) as third:
            for place, caller in enumerate((first, second, third)):
                await caller.ask(CHAT, hello(stream=stream and caller is second, max_tokens=2))
                await reaches(role, 1, place)
            await second.leave(how)
            await reaches(role, 1, 1)
            gate.open()
            assert (await first.all()).status == (await third.all()).status == 200
        assert len(role.engines["a"].jobs) == 2
        await serves(role, gate)


async def test_a_load_goes_on_when_the_one_who_caused_it_leaves(tmp_path: Path) -> None:
    """Rows 29 and 61: the others wait for it, and the next one finds it done."""
    slow = Event()
    script = Script(reply="hi", slow_load=slow)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        async with calling(role) as first, calling(role) as second:
            await first.ask(CHAT, hello())
            await until(lambda: waiting(role, 1), 1)
            await second.ask(CHAT, hello())
            await until(lambda: waiting(role, 2), 1)
            await first.leave()
            await until(lambda: waiting(role, 1), 1)
            slow.set()
            assert (await second.all()).status == 200
        assert await figures(role) == {"a": (0, 0)}


async def test_a_load_that_nobody_waits_for_comes_to_its_end(tmp_path: Path) -> None:
    slow = Event()
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(slow_load=slow)) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello(stream=True))
            await until(lambda: waiting(role, 1), 1)
            await caller.leave("rst")
            await until(lambda: waiting(role, 0), 1)
        slow.set()
        await until(lambda: loaded(role), 1)
        assert role.engines["a"].jobs == []


@pytest.mark.parametrize("how", WAYS)
async def test_a_request_that_did_not_arrive_whole_reaches_no_model(tmp_path: Path, how: str) -> None:
    """Row 28."""
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        for part in (b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"):
            async with calling(role) as caller:
                await caller.stream.send_all(part)
                await caller.leave(how)
        async with calling(role) as caller:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n"
            await caller.stream.send_all(head + b'{"model": "a"')
            await caller.leave(how)
        assert await residents(role) == {}
        assert text_of(await role.http.post(CHAT, json=hello())) == "hi"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_llama_cpp_stops_computing_when_the_client_leaves(stream: bool) -> None:
    """With the real engine: far fewer tokens are made than were asked for."""
    asked = {
        "model": MODEL_ID,
        "prompt": "Count to fifty.",
        "max_tokens": 2000,
        "logit_bias": {"0": -100, "1": -100, "2": -100},  # none of the tokens that end an answer
        "stream": stream,
    }
    async with demo_neuron() as role:
        await role.http.post("/models/load", json={"spec": {"id": MODEL_ID}})
        async with calling(role) as caller:
            await caller.ask(TEXT, asked)
            await (caller.until(b"data: ") if stream else until(lambda: busy(role), 1))
            await caller.leave()
        await until(lambda: idle(role), 1)
        page = (await role.http.get(role.metrics_url)).text
        assert 'outcome="hung_up"} 1.0' in page
        counts = [line for line in page.splitlines() if line.startswith("cortex_completion_tokens_total{")]
        made = sum(float(line.rpartition(" ")[2]) for line in counts)
        assert made < 1500
        assert made > 0 or not stream


@pytest.mark.parametrize("how", WAYS)
async def test_who_leaves_with_the_end_mark_has_had_the_whole_answer(tmp_path: Path, how: str) -> None:
    """Row 31 the other way round: what comes behind the mark is of no use to a client."""
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="one two")) as role:
        for _ in range(20):
            async with calling(role) as caller:
                await caller.ask(CHAT, hello(stream=True))
                await caller.until(b"data: [DONE]")
                await caller.leave(how)
            await reaches(role, 0, 0)
        page = (await role.http.get(role.metrics_url)).text
        assert 'outcome="ok"} 20.0' in page and 'outcome="hung_up"' not in page


# -- what the tests wait for


async def waiting(role: Running, count: int) -> bool:
    return (await figures(role)).get("a", (0, 0))[1] == count


async def loaded(role: Running) -> bool:
    return (await residents(role))["a"]["state"] == "loaded"


async def busy(role: Running) -> bool:
    return (await figures(role))[MODEL_ID] == (1, 0)


async def idle(role: Running) -> bool:
    return (await figures(role))[MODEL_ID] == (0, 0)
