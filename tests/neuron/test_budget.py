"""A KV cache that jobs share: room is promised before a slot is given, and nothing is cut."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.ask import Sampling
from cortex.errors import BadAsk, PromptTooLong
from cortex.harness.base import EngineFacts, Job, LoadOrder, Memory
from cortex.harness.scripted import Gate, Script, ScriptedEngine, ScriptedHarness, tokens_of
from cortex.harness.worker import DeviceWorker
from cortex.neuron import budget
from cortex.neuron.budget import LONGEST_TOKEN, budgeted
from tests.calls import TEXT, Json, fault_of, load_of
from tests.roles import Running, eventually, running_neuron, specs

KV = 40


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def words(count: int) -> str:
    text = " ".join(["word"] * count)
    assert len(tokens_of(text)) == count
    return text


def asked(prompt: int, answer: int, **more: object) -> Json:
    return {"model": "a", "prompt": words(prompt), "max_tokens": answer, **more}


async def live(role: Running) -> int:
    engine = role.engines.get("a")
    return 0 if engine is None else len(engine.jobs)


async def test_a_job_waits_for_room_though_a_slot_is_free(tmp_path: Path) -> None:
    """Each of them may come to 20 of the 40 tokens: two run, the third has a slot and waits."""
    gate = Gate()
    script = Script(endless=True, hold=gate, kv_tokens=KV)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        async with trio.open_nursery() as nursery:
            done: list[int] = []

            async def ask(body: Json) -> None:
                answer = await role.http.post(TEXT, json=body)
                done.append(answer.json()["usage"]["completion_tokens"])

            for _ in range(3):
                nursery.start_soon(ask, asked(10, 10))

            async def two_run() -> bool:
                return await live(role) == 2 and (await load_of(role, "a"))["in_flight"] == 3

            await eventually(two_run)
            assert role.engines["a"].most_live <= 2
            gate.open()
        # What was promised was enough: nobody's answer is shorter than was asked for.
        assert done == [10, 10, 10]
        assert role.engines["a"].most_live == 2
        assert (await load_of(role, "a"))["kv_tokens_total"] == KV


@asynccontextmanager
async def shared() -> AsyncIterator[tuple[DeviceWorker, ScriptedEngine]]:
    """A worker whose engine takes no turn, and has room for 40 tokens and four jobs."""
    worker = DeviceWorker("cpu-dev-0")
    harness = ScriptedHarness(Script(endless=True, hold=Gate(), kv_tokens=KV))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await worker.load(harness, LoadOrder("a", Path(), "cpu", 8192, 4))
        yield worker, harness.engines["a"]
        nursery.cancel_scope.cancel()


def job(kv_tokens: int) -> Job:
    return Job(0, "x", Sampling(), kv_tokens=kv_tokens)


async def submitted(engine: ScriptedEngine, *kv_tokens: int) -> None:
    """The engine was handed these jobs, in this order."""

    async def handed() -> bool:
        return tuple(each.kv_tokens for each in engine.jobs) == kv_tokens

    await eventually(handed)


async def test_nobody_overtakes_who_needs_more_room_and_who_leaves_frees_those_behind() -> None:
    async with shared() as (worker, engine), AsyncExitStack() as stack:
        await stack.enter_async_context(worker.generate("a", (job(20),)))
        async with worker.generate("a", (job(30),)):
            await stack.enter_async_context(worker.generate("a", (job(5), job(15))))
            # An answer of the thread's: what was put before it has arrived.
            await worker.tokenise("a", "x")
            await submitted(engine, 20)
            assert len(engine.jobs) == 1, "of 30 nobody goes past, though 5 had room"
        await submitted(engine, 20, 5, 15)
        assert [each.kv_tokens for each in engine.jobs] == [20, 5, 15]


@pytest.mark.parametrize(("count", "context", "limit"), [(KV, 8192, KV), (KV + 3, 8192, KV), (32, 30, 30)])
async def test_a_prompt_that_fits_nowhere_is_refused_with_both_numbers_and_never_submitted(
    tmp_path: Path, count: int, context: int, limit: int
) -> None:
    catalogue = specs(tmp_path, "a", context=context)
    async with running_neuron(tmp_path, catalogue, Script(kv_tokens=KV)) as role:
        answer = await role.http.post(TEXT, json=asked(count, 1))
        assert (answer.status_code, fault_of(answer)["code"]) == (400, "context_length_exceeded")
        assert f"{limit} tokens" in fault_of(answer)["message"]
        assert f"{count} tokens" in fault_of(answer)["message"]
        assert role.engines["a"].jobs == []


@pytest.mark.parametrize("kv_tokens", [None, KV])
async def test_a_prompt_beyond_all_measure_is_refused_without_asking_the_engine_to_count(
    kv_tokens: int | None,
) -> None:
    """An engine that counts 60 MB for half a minute would be taken for one that hangs."""
    asked: list[int] = []

    async def tokenise(text: str) -> tuple[int, ...]:
        asked.append(len(text))
        return (1,)

    facts = EngineFacts(Memory(0), context=10, slots=1, kv_tokens=kv_tokens)
    fits = replace(job(0), prompt="x" * (10 * LONGEST_TOKEN))
    assert len(await budgeted([fits], facts, "", tokenise)) == 1
    assert asked == ([] if kv_tokens is None else [10 * LONGEST_TOKEN])
    with pytest.raises(PromptTooLong, match=r"length is 10 tokens.*at least 11 tokens") as caught:
        await budgeted([replace(fits, prompt=fits.prompt + "x")], facts, "", tokenise)
    assert caught.value.facts == {"prompt_tokens": 11, "context_length": 10}
    assert len(asked) == (0 if kv_tokens is None else 1)


async def test_without_a_limit_a_job_is_promised_all_there_is(tmp_path: Path) -> None:
    """It then runs to the end of that, alone."""
    catalogue = specs(tmp_path, "a", context=20)
    async with running_neuron(tmp_path, catalogue, Script(endless=True, kv_tokens=KV)) as role:
        body = asked(5, 1)
        del body["max_tokens"]
        answer = (await role.http.post("/v1/chat/completions", json=chat(body))).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert role.engines["a"].jobs[0].kv_tokens == 20


def chat(body: Json) -> Json:
    return {"model": body["model"], "messages": [{"role": "user", "content": body["prompt"]}]}


async def test_a_prompt_that_takes_as_long_to_count_as_a_hang_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It might fit a long context, by its length alone; the device's thread would be ended over it."""
    monkeypatch.setattr(budget, "MOST_CHARACTERS", 50)
    asked: list[str] = []

    async def tokenise(text: str) -> tuple[int, ...]:
        asked.append(text)
        return (1,)

    facts = EngineFacts(Memory(0), 2**20, 1, kv_tokens=2**20)
    with pytest.raises(BadAsk, match="51 characters"):
        await budgeted([Job(0, "x" * 51, Sampling())], facts, "", tokenise)
    assert asked == []
    await budgeted([Job(0, "x" * 50, Sampling())], facts, "", tokenise)
    # Who has room of its own is counted by an engine that says what it is at.
    await budgeted([Job(0, "x" * 51, Sampling())], replace(facts, kv_tokens=None), "", tokenise)
    assert asked == ["x" * 50]
