"""What the service manager hears of a role's start and stop."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cortex import gateway, neuron
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig, NeuronRef
from cortex.errors import LoadFailed
from cortex.harness.scripted import Script, ScriptedHarness
from cortex.notify import Notify
from cortex.web.listeners import Ports
from tests.calls import settings
from tests.fake_manager import Manager
from tests.roles import ANY, eventually, specs


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "n.sock"))
    yield made
    made.close()


async def heard(manager: Manager, word: str) -> list[str]:
    """What was said until `word` was."""
    said: list[str] = []

    async def there() -> bool:
        said.extend(line for message in manager.heard() for line in message)
        return any(line.startswith(word) for line in said)

    await eventually(there)
    return said


async def test_a_neuron_is_ready_when_its_default_models_are_in_or_have_failed(
    tmp_path: Path, manager: Manager
) -> None:
    """And listens before: the one that fails does not keep the other out."""
    catalogue, slow = specs(tmp_path, "bad", "good"), threading.Event()
    scripts = {"bad": Script(load_error=LoadFailed("torn")), "good": Script(slow_load=slow)}
    config = settings(
        name="n1",
        listen=ANY,
        metrics_listen=ANY,
        model_roots=(tmp_path,),
        state_dir=tmp_path / "state",
        default_models=(ModelSpec("bad"), ModelSpec("good")),
    )
    stop, process = trio.Event(), neuron.Process(notify=Notify(manager.address))
    harnesses = {"llamacpp": ScriptedHarness(scripts=scripts)}

    async def run(*, task_status: trio.TaskStatus[object]) -> None:
        await neuron.run(
            config, catalogue, stop=stop, harnesses=harnesses, process=process, task_status=task_status
        )

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            starting = await heard(manager, "STATUS=loading")
            assert not any(line.startswith("READY") for line in starting)
            assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in starting)
            slow.set()
            ready = await heard(manager, "READY=1")
            assert "STATUS=1 default model loaded, 1 failed" in ready
            stop.set()
            await heard(manager, "STOPPING=1")


class Told(trio.TaskStatus[Ports]):
    """Where a gateway listens, from the moment that it says so."""

    ports: Ports | None = None

    def started(self, value: Ports | None = None) -> None:
        self.ports = value


async def test_a_gateway_is_ready_when_it_listens_and_says_when_it_goes(manager: Manager) -> None:
    """Not while it still asks its neurons for the first time."""
    refs = (NeuronRef("n1", "http://127.0.0.1:9"),)
    config = GatewayConfig(listen=ANY, metrics_listen=ANY, neurons=refs)
    stop, told, said = trio.Event(), Told(), list[str]()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                notify = Notify(manager.address)
                await gateway.run(
                    config, Catalogue(), stop=stop, process=gateway.Process(notify), task_status=told
                )

            nursery.start_soon(run)
            while "READY=1" not in said:
                await trio.lowlevel.checkpoint()
                said += [line for message in manager.heard() for line in message]
            assert told.ports is not None
            for host, port in (told.ports.api, told.ports.metrics):
                await trio.aclose_forcefully(await trio.open_tcp_stream(host, port))
            stop.set()
            await heard(manager, "STOPPING=1")
