"""Slots, the line before them, and who is told to come again."""

import json
from pathlib import Path
from threading import Event

import httpx
import pytest
import trio

from cortex.harness.scripted import Gate, Script
from tests.calls import (
    CHAT,
    TEXT,
    calling,
    events,
    fault_of,
    figures,
    hello,
    residents,
    settings,
    text_of,
    until,
)
from tests.roles import Running, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def stand(role: Running, seats: int, waiting: int) -> None:
    """The figures of model a are these."""

    async def so() -> bool:
        return (await figures(role)).get("a") == (seats, waiting)

    await until(so, 5)


@pytest.mark.parametrize("slots", [1, 3])
async def test_the_engine_never_has_more_jobs_than_slots_and_everyone_is_answered(
    tmp_path: Path, slots: int
) -> None:
    """The scripted engine raises on one job too many, which would fail its jobs."""
    gate = Gate()
    script = Script(reply="hi there", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings(slots=slots)) as role:

        async def ask(number: int) -> None:
            answer = await role.http.post(CHAT, json=hello(), headers={"x-request-id": f"r{number}"})
            assert text_of(answer) == "hi there"

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, number)
                await stand(role, min(number + 1, slots), max(0, number - slots + 1))
            gate.open()
        engine = role.engines["a"]
        assert engine.most_live == slots
        assert len(engine.jobs) == 12
        if slots == 1:  # of several seats that become free at once, any may come first
            assert [job.request_id for job in engine.jobs] == [f"r{number}" for number in range(12)]
        assert await figures(role) == {"a": (0, 0)}


async def test_a_request_with_two_choices_takes_two_seats(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(reply="hi", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings(slots=3)) as role:
        answers: list[httpx.Response] = []

        async def ask(n: int) -> None:
            answers.append(await role.http.post(CHAT, json=hello(n=n)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 2)
            await stand(role, 2, 0)
            nursery.start_soon(ask, 2)
            await stand(role, 2, 1)
            gate.open()
        assert [len(answer.json()["choices"]) for answer in answers] == [2, 2]
        assert role.engines["a"].most_live == 2


async def test_a_request_with_more_prompts_than_slots_takes_all_of_them_and_no_more(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings(slots=3)) as role:
        prompts = [f"prompt {number} " for number in range(7)]
        told: list[httpx.Response] = []

        async def ask() -> None:
            told.append(await role.http.post(TEXT, json={"model": "a", "prompt": prompts, "max_tokens": 9}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await stand(role, 3, 0)
            gate.open()
        assert [choice["text"] for choice in told[0].json()["choices"]] == prompts
        assert role.engines["a"].most_live == 3
        assert await figures(role) == {"a": (0, 0)}


async def test_a_full_line_answers_at_once_that_it_is_full(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(reply="hi", hold=gate)
    config = settings(slots=1, queue=2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask_and_expect, role, "hi")
                await stand(role, 1, number)
            for stream in (False, True):
                refused = await role.http.post(CHAT, json=hello(stream=stream))
                assert refused.status_code == 503
                assert fault_of(refused)["code"] == "overloaded"
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["x-cortex-not-started"] == "1"
            await stand(role, 1, 2)
            health = (await role.http.get("/health")).json()
            assert health["models"][0]["rejected"] == {"overloaded": 2}
            gate.open()


async def test_who_waits_too_long_is_told_to_come_again(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(reply="hi", hold=gate)
    config = settings(slots=1, wait_s=0.2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_and_expect, role, "hi")
            await stand(role, 1, 0)
            late = await role.http.post(CHAT, json=hello(stream=True))
            assert (late.status_code, fault_of(late)["code"]) == (503, "overloaded")
            assert int(late.headers["retry-after"]) >= 1
            await stand(role, 1, 0)
            gate.open()


@pytest.mark.slow
async def test_a_stream_that_waits_is_kept_alive_and_ends_with_its_error(tmp_path: Path) -> None:
    """The status stays open for a second; later a failure is an event, and no end mark follows."""
    gate = Gate()
    script = Script(reply="hi", hold=gate)
    config = settings(slots=1, wait_s=1.2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with trio.open_nursery() as nursery, calling(role) as caller:
            nursery.start_soon(ask_and_expect, role, "hi")
            await stand(role, 1, 0)
            await caller.ask(CHAT, hello(stream=True))
            answer = await caller.all()
            assert (answer.status, answer.complete) == (200, True)
            assert answer.body.startswith(b": keep-alive\n\n")
            (fault,) = map(json.loads, answer.data)
            assert (fault["error"]["code"], fault["error"]["retry_after"]) == ("overloaded", 2)
            assert answer.trailers == {}
            gate.open()


async def test_sixty_waiters_cause_one_load(tmp_path: Path) -> None:
    """Row 60, within the line's bound; nobody starves."""
    slow = Event()
    script = Script(reply="hi", slow_load=slow)
    config = settings(slots=8, queue=100)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(ask_and_expect, role, "hi")
            await stand(role, 0, 60)
            slow.set()
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_cold_starts_total{model="a"} 1.0' in page
        assert role.engines["a"].most_live <= 8


async def ask_and_expect(role: Running, text: str) -> None:
    assert text_of(await role.http.post(CHAT, json=hello())) == text


# -- what a gateway sends


async def test_a_routed_request_loads_nothing(tmp_path: Path) -> None:
    routed = {"x-cortex-route": "some-boot"}
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        for model in ("a", "stranger"):
            for stream in (False, True):
                answer = await role.http.post(CHAT, json=hello(model, stream=stream), headers=routed)
                assert (answer.status_code, fault_of(answer)["code"]) == (409, "not_here_now")
                assert answer.headers["x-cortex-not-started"] == "1"
        assert await residents(role) == {}
        assert text_of(await role.http.post(CHAT, json=hello())) == "hi"
        assert text_of(await role.http.post(CHAT, json=hello(), headers=routed)) == "hi"


async def test_a_routed_request_does_not_wait_for_a_model_on_its_way_in_or_out(tmp_path: Path) -> None:
    routed = {"x-cortex-route": "some-boot"}
    slow, gate = Event(), Gate(2)
    script = Script(endless=True, slow_load=slow, hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        async with trio.open_nursery() as nursery, calling(role) as caller:
            await caller.ask(CHAT, hello(stream=True, max_tokens=3))
            await stand(role, 0, 1)
            answer = await role.http.post(CHAT, json=hello(), headers=routed)
            assert (answer.status_code, fault_of(answer)["code"]) == (409, "not_here_now")
            slow.set()
            await caller.until(b" 1")
            nursery.start_soon(force_out, role)
            await until(lambda: leaving(role), 5)
            answer = await role.http.post(CHAT, json=hello(), headers=routed)
            assert (answer.status_code, fault_of(answer)["code"]) == (409, "not_here_now")
            gate.open()
            assert events((await caller.all()).body)[-1] == "[DONE]"


async def force_out(role: Running) -> None:
    answer = await role.http.post("/models/unload", json={"id": "a", "force": True})
    assert answer.status_code == 200, answer.text


async def leaving(role: Running) -> bool:
    return (await residents(role))["a"]["state"] == "leaving"
