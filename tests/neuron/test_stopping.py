"""The end of a neuron: refuse, let finish, tell the rest, unload everything, return."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event

import httpx
import pytest
import trio

from cortex.catalogue import ModelSpec
from cortex.harness.scripted import Gate, Script
from tests.calls import CHAT, calling, fault_of, figures, hello, settings, text_of, until
from tests.roles import Running, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def has(role: Running, seats: int, waiting: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return (await figures(role)).get("a") == (seats, waiting)

    return so


async def ended(role: Running, within_s: float) -> None:
    with trio.fail_after(within_s):
        await role.done.wait()


async def test_what_runs_is_finished_and_nobody_new_is_taken(tmp_path: Path) -> None:
    """Row 87: then every model is unloaded, and the run returns."""
    gate = Gate(2)
    script = Script(endless=True, hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings()) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello(stream=True, max_tokens=4))
            await caller.until(b" 1")
            role.stop.set()
            await until(lambda: is_at(role, "state", "stopping"), 5)
            for stream in (False, True):
                refused = await role.http.post(CHAT, json=hello(stream=stream))
                assert (refused.status_code, fault_of(refused)["code"]) == (503, "shutting_down")
                assert refused.headers["x-cortex-not-started"] == "1"
            order = await role.http.post("/models/load", json={"spec": {"id": "a"}})
            assert (order.status_code, fault_of(order)["code"]) == (503, "shutting_down")
            assert (await role.http.get("/livez")).status_code == 200
            assert (await role.http.get("/readyz")).status_code == 503
            gate.open()
            answer = await caller.all()
            assert answer.data[-1] == "[DONE]"
            assert "x-cortex-usage" in answer.trailers
        await ended(role, 3)
        assert role.engines["a"].unloaded


async def test_after_the_deadline_the_rest_is_told_and_cut(tmp_path: Path) -> None:
    """Row 87: a stream by its error event, a whole answer by its status; nobody by silence."""
    gate = Gate(2)
    script = Script(endless=True, hold=gate)
    config = settings(slots=2, drain_s=0.3)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=config) as role:
        async with calling(role) as stream, calling(role) as whole, calling(role) as waiting:
            await stream.ask(CHAT, hello(stream=True))
            await stream.until(b" 1")
            await whole.ask(CHAT, hello())
            await until(has(role, 2, 0), 5)
            await waiting.ask(CHAT, hello())
            await until(has(role, 2, 1), 5)
            role.stop.set()
            answer = await stream.all()
            assert answer.complete
            assert '"code":"shutting_down"' in answer.data[-1]
            for caller in (whole, waiting):
                assert (await caller.all()).status == 503
        await ended(role, 3)
        assert role.engines["a"].unloaded


async def test_a_load_does_not_hold_up_the_end(tmp_path: Path) -> None:
    slow = Event()
    config = settings(drain_s=0.2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(slow_load=slow), config=config) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello())
            await until(has(role, 0, 1), 5)
            role.stop.set()
            assert (await caller.all()).status == 503
        await ended(role, 3)
        assert role.engines == {}


async def test_default_models_that_are_to_come_are_left_out(tmp_path: Path) -> None:
    """The one that is under way comes in while a stream is let finish; the next does not."""
    slow, gate = Event(), Gate(1)
    scripts = {"a": Script(slow_load=slow), "b": Script(), "c": Script(endless=True, hold=gate)}
    config = settings(default_models=tuple(map(ModelSpec, ("c", "a", "b"))))
    async with running_neuron(tmp_path, specs(tmp_path, *scripts), scripts, config=config) as role:
        async with calling(role) as caller:
            await until(lambda: is_at(role, "in_progress", "a"), 5)
            await caller.ask(CHAT, hello("c", stream=True, max_tokens=2))
            await caller.until(b'"content":"0"')
            role.stop.set()
            await until(lambda: is_at(role, "state", "stopping"), 5)
            slow.set()
            await until(lambda: is_at(role, "completed", ["c", "a"]), 5)
            gate.open()
            assert (await caller.all()).data[-1] == "[DONE]"
        await ended(role, 3)
        assert "b" not in role.engines


async def is_at(role: Running, key: str, value: object) -> bool:
    try:
        return (await role.http.get("/health")).json()["activation"][key] == value
    except (httpx.RemoteProtocolError, httpx.ReadError):
        return False  # a drain closes connections that rest: ask on another one


async def test_an_idle_neuron_ends_at_once(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        assert text_of(await role.http.post(CHAT, json=hello())) == "hi"
        role.stop.set()
        await ended(role, 2)
        assert role.engines["a"].unloaded
