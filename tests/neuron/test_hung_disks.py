"""A disk that hangs costs its own models their answer, and nobody else anything."""

import logging
import threading
from pathlib import Path

import httpx
import pytest
import trio

from cortex import neuron
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.harness.base import LoadOrder, Preflight
from cortex.harness.scripted import Script, ScriptedHarness
from cortex.neuron import promises, sources
from tests.calls import CHAT, fault_of, hello, settings, text_of, until
from tests.roles import ANY, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch):
    """Folders called `stuck` do not let themselves be listed before the event is set."""
    go, listed = threading.Event(), Path.glob

    def glob(folder: Path, pattern: str):
        if folder.name == "stuck":
            go.wait(20)
        return listed(folder, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    yield go
    go.set()


async def test_the_listener_is_bound_before_the_roots_were_seen(
    tmp_path: Path, disk: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cortex.neuron.service")
    stuck = tmp_path / "stuck"
    stuck.mkdir()
    (stuck / "a.gguf").touch()
    config = NeuronConfig(
        name="n1",
        listen=ANY,
        metrics_listen=ANY,
        model_roots=(stuck,),
        default_models=(ModelSpec("a"),),
    )
    async with trio.open_nursery() as nursery, httpx.AsyncClient(trust_env=False) as http:

        async def run() -> None:
            await neuron.run(config, Catalogue(), harnesses={"llamacpp": ScriptedHarness()})

        nursery.start_soon(run)
        while not caplog.records:  # noqa: ASYNC110 - the log is all that tells before `started`
            await trio.sleep(0.005)
        _, host, port, *_ = caplog.records[0].args
        url = f"http://{host}:{port}"
        assert (await http.get(f"{url}/livez")).status_code == 200
        assert (await http.get(f"{url}/readyz")).status_code == 503
        disk.set()

        async def ready() -> bool:
            return (await http.get(f"{url}/readyz")).status_code == 200

        await until(ready, 5)
        activation = (await http.get(f"{url}/health")).json()["activation"]
        assert (activation["completed"], activation["failed"]) == (["a"], {})
        nursery.cancel_scope.cancel()


async def test_unknown_names_are_refused_although_a_root_hangs(
    tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LOOK_DEADLINE_S", 0.2)
    stuck = tmp_path / "stuck"
    catalogue = specs(tmp_path, "a")
    stuck.mkdir()
    async with running_neuron(stuck, catalogue, Script(reply="hi"), config=settings()) as role:
        answers: list[int] = []

        async def ask(number: int) -> None:
            answers.append((await role.http.post(CHAT, json=hello(f"x{number}"))).status_code)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(ask, number)
        assert set(answers) == {404}


class Stuck(ScriptedHarness):
    """The header of one model cannot be read before `go` is set."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.go, self.looks = threading.Event(), 0

    def preflight(self, order: LoadOrder) -> Preflight:
        if order.model == "stuck":
            self.looks += 1
            self.go.wait(20)
        return super().preflight(order)


async def test_a_file_that_hangs_is_told_and_takes_no_thread_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "HEADER_S", 0.3)
    harness = Stuck(Script(reply="hi"))
    config = NeuronConfig(listen=ANY, metrics_listen=ANY, model_roots=(tmp_path,))
    async with trio.open_nursery() as nursery:

        async def run(*, task_status) -> None:
            kinds = {"llamacpp": harness}
            await neuron.run(config, specs(tmp_path, "stuck", "a"), harnesses=kinds, task_status=task_status)

        ports = await nursery.start(run)
        shared = trio.to_thread.current_default_thread_limiter()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports.api[1]}", trust_env=False) as http:
            refused: list[httpx.Response] = []

            async def ask() -> None:
                refused.append(await http.post(CHAT, json=hello("stuck")))

            async with trio.open_nursery() as callers:
                for _ in range(50):
                    callers.start_soon(ask)
                while not harness.looks:  # noqa: ASYNC110 - counted in a thread
                    await trio.sleep(0.005)
                assert text_of(await http.post(CHAT, json=hello("a"))) == "hi"
            assert (harness.looks, shared.borrowed_tokens) == (1, 0)
            assert {answer.status_code for answer in refused} == {504}
            assert "disk" in fault_of(refused[0])["message"]
            harness.go.set()
            await until(lambda: served(http), 5)
        nursery.cancel_scope.cancel()


async def served(http: httpx.AsyncClient) -> bool:
    return (await http.post(CHAT, json=hello("stuck"))).status_code == 200
