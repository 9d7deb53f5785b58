"""An engine that breaks takes its own jobs with it, is shown as broken, and comes back."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Gate, Script
from tests.calls import CHAT, calling, fault_of, figures, hello, residents, settings, text_of, until
from tests.roles import Running, running_neuron, specs

# The third turn raises.
BROKEN = Script(endless=True, crash_after=2)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def crash(role: Running) -> None:
    """A stream that the engine does not survive; what was said before is delivered."""
    async with calling(role) as caller:
        await caller.ask(CHAT, hello(stream=True))
        answer = await caller.all()
        assert (answer.status, answer.complete) == (200, True)
        assert '"content":"0"' in answer.body.decode()
        assert '"code":"engine_failed"' in answer.data[-1]
        assert "scripted crash" in answer.data[-1]


async def test_a_broken_engine_is_shown_and_its_neighbours_go_on(tmp_path: Path) -> None:
    """Row 74 in a thread: error events for its jobs, 503 with the time to come again, and a
    gateway is sent elsewhere."""
    scripts = {"a": BROKEN, "b": Script(reply="hi")}
    async with running_neuron(tmp_path, specs(tmp_path, "a", "b"), scripts, config=settings()) as role:
        assert text_of(await role.http.post(CHAT, json=hello("b"))) == "hi"
        await crash(role)
        servable = (await residents(role))["a"]["servable"]
        assert (servable["ok"], "scripted crash" in servable["reason"]) == (False, True)
        assert (await role.http.get("/health")).json()["status"] == "impaired"
        assert (await role.http.get("/v1/models/a")).json()["state"] == "recovering"
        refused = await role.http.post(CHAT, json=hello())
        assert (refused.status_code, fault_of(refused)["code"]) == (503, "no_capacity")
        assert refused.headers["retry-after"] == "5"
        assert "scripted crash" in fault_of(refused)["message"]
        routed = await role.http.post(CHAT, json=hello(), headers={"x-cortex-route": "boot"})
        assert (routed.status_code, routed.headers["x-cortex-not-started"]) == (409, "1")
        assert text_of(await role.http.post(CHAT, json=hello("b"))) == "hi"
        assert await figures(role) == {"a": (0, 0), "b": (0, 0)}


async def test_all_jobs_of_a_broken_engine_end_and_the_line_is_told(tmp_path: Path) -> None:
    gate = Gate(1)
    script = Script(endless=True, crash_after=1, hold=gate)
    config = settings(slots=2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with calling(role) as stream, calling(role) as whole, calling(role) as waiting:
            await stream.ask(CHAT, hello(stream=True))
            await stream.until(b'"content":"0"')
            await whole.ask(CHAT, hello())
            await until(counts(role, 2, 0), 5)
            await waiting.ask(CHAT, hello())
            await until(counts(role, 2, 1), 5)
            gate.open()
            assert '"code":"engine_failed"' in (await stream.all()).data[-1]
            assert (await whole.all()).status == 502
            assert (await waiting.all()).status == 503
        assert await figures(role) == {"a": (0, 0)}


def counts(role: Running, seats: int, waiting: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return (await figures(role)).get("a") == (seats, waiting)

    return so


async def test_a_broken_engine_is_sent_away_and_the_next_request_has_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.neuron.orders.BROKEN_S", 0.1)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), BROKEN, config=settings()) as role:
        await crash(role)
        first = role.engines["a"]
        await until(lambda: empty(role), 5)
        assert first.unloaded
        assert (await role.http.get("/health")).json()["status"] == "ok"
        answer = await role.http.post(CHAT, json=hello(max_tokens=1))
        assert text_of(answer) == "0"
        assert role.engines["a"] is not first


async def empty(role: Running) -> bool:
    return await residents(role) == {}


async def test_an_operator_may_bring_it_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was planned for the broken engine does not befall the one that follows it."""
    monkeypatch.setattr("cortex.neuron.orders.BROKEN_S", 0.2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), BROKEN, config=settings()) as role:
        await crash(role)
        assert (await role.http.post("/models/unload", json={"id": "a"})).status_code == 200
        assert (await role.http.post("/models/load", json={"spec": {"id": "a"}})).status_code == 200
        await trio.sleep(0.4)  # past the moment that was planned
        assert (await residents(role))["a"]["servable"]["ok"] is True
        assert text_of(await role.http.post(CHAT, json=hello(max_tokens=1))) == "0"


async def test_an_engine_that_breaks_on_a_request_leaves_the_other_model_alone(tmp_path: Path) -> None:
    script = Script(reply=lambda job: 1 / 0 if "two" in str(job.prompt) else "hi")
    async with running_neuron(tmp_path, specs(tmp_path, "a", "b"), script, config=settings()) as role:
        answer = await role.http.post(CHAT, json=hello())
        assert (answer.status_code, fault_of(answer)["code"]) == (502, "engine_failed")
        assert "ZeroDivisionError" in fault_of(answer)["message"]
        plain = {"model": "b", "messages": [{"role": "user", "content": "x"}]}
        assert text_of(await role.http.post(CHAT, json=plain)) == "hi"
