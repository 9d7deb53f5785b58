"""A device that is lost is shown, left alone, and ends the neuron once the others are idle (row 76).

Two scripted GPUs with room for one model each; the process is the test's own, so that its end
is an error here. `test_process_ends` has the exit codes.
"""

import logging
from pathlib import Path

import pytest
import trio

from cortex.catalogue import ModelSpec
from cortex.config.neuron import Devices, NeuronConfig
from cortex.dispatch import Dispatch, Patience
from cortex.errors import DeviceLost
from cortex.evictor import Rules
from cortex.harness.pulse import IDLE, Doing
from cortex.harness.scripted import Gate, Script
from cortex.harness.watch import Limits
from cortex.ledger import Ledger, Load, Policy, Want
from cortex.neuron.devices import watch as watch_module
from cortex.neuron.devices.nvml import find
from cortex.neuron.vigil import Vigil
from cortex.places import Room
from tests.calls import CHAT, calling, fault_of, hello, residents, settings, text_of
from tests.fake_nvml import GIB, Card, FakeNvml
from tests.roles import MIB, Running, eventually, running_neuron, specs

CUDA = "exllamav2"  # in name: only such a harness is given to a GPU


def lose(*_: object) -> None:
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")


def scripts(gate: Gate) -> dict[str, Script]:
    """`fine` says a number for each turn that the gate lets through."""
    fine = Script(endless=True, bytes=100 * MIB, hold=gate)
    return {"lost": Script(on_turn=lose, bytes=100 * MIB), "fine": fine}


@pytest.fixture(autouse=True)
def _cards(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Card(f"GPU-{n}", total=GIB, used=0) for n in (1, 2)]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(watch_module, "find", lambda env: find(env, FakeNvml(cards)))


def two(poison_drain_s: float = 20.0) -> NeuronConfig:
    return settings(devices=Devices(use=("cuda:0", "cuda:1"), poison_drain_s=poison_drain_s))


async def lost_device(role: Running) -> str:
    """The name of the device that is poisoned, which is known at the latest after two seconds."""
    found: list[str] = []

    async def shown() -> bool:
        rows = (await role.http.get("/health")).json()["devices"]
        found[:] = [row["name"] for row in rows if row["poisoned"]]
        return bool(found)

    with trio.fail_after(2):
        await eventually(shown)
    return found[0]


async def test_other_devices_go_on_and_the_process_ends_when_they_are_idle(tmp_path: Path) -> None:
    gate = Gate(3)
    catalogue = specs(tmp_path, "lost", "fine", harness=CUDA)
    with trio.fail_after(30), pytest.RaisesGroup(DeviceLost, flatten_subgroups=True):
        async with running_neuron(
            tmp_path, catalogue, scripts(gate), memory=150 * MIB, config=two(), name=CUDA
        ) as role:
            async with calling(role) as caller:
                await caller.ask(CHAT, hello("fine", stream=True))
                await caller.until(b'"content":" 1"')
                answer = await role.http.post(CHAT, json=hello("lost"))
                assert (answer.status_code, fault_of(answer)["code"]) == (502, "engine_failed")
                assert "uncorrectable ECC" in fault_of(answer)["message"]
                device = await lost_device(role)
                health = (await role.http.get("/health")).json()
                (row,) = [row for row in health["devices"] if row["name"] == device]
                assert "uncorrectable ECC" in row["poisoned_why"]
                assert health["status"] == "degraded"
                assert (await role.http.get("/readyz")).status_code == 200
                assert list(await residents(role)) == ["fine"]
                # Nothing comes in there any more; the other one is full, and in use.
                again = await role.http.post("/models/load", json={"spec": {"id": "lost"}, "evict": "never"})
                assert again.status_code in (409, 503)
                gate.let(3)
                await caller.until(b'"content":" 4"')
                assert not role.engines["lost"].unloaded
                page = (await role.http.get(role.metrics_url)).text
                assert 'cortex_device_faults_total{kind="sticky"} 1.0' in page
            await trio.sleep_forever()  # whoever left was the last one


async def test_the_others_are_not_waited_for_beyond_the_limit(tmp_path: Path) -> None:
    with trio.fail_after(30), pytest.RaisesGroup(DeviceLost, flatten_subgroups=True):
        async with running_neuron(
            tmp_path,
            specs(tmp_path, "lost", "fine", harness=CUDA),
            scripts(Gate(3)),
            memory=150 * MIB,
            config=two(0.2),
            name=CUDA,
        ) as role:
            async with calling(role) as caller:
                await caller.ask(CHAT, hello("fine", stream=True))
                await caller.until(b'"content":" 1"')
                await role.http.post(CHAT, json=hello("lost"))
                await trio.sleep_forever()


async def test_the_last_device_takes_the_neuron_along_at_once(tmp_path: Path) -> None:
    """And nobody is cut off without a word."""
    script = {"a": Script(on_turn=lose), "held": Script(hold=Gate())}
    config = settings(devices=Devices(use=("cuda:0",)))
    with trio.fail_after(30), pytest.RaisesGroup(DeviceLost, flatten_subgroups=True):
        async with running_neuron(
            tmp_path, specs(tmp_path, "a", "held", harness=CUDA), script, config=config, name=CUDA
        ) as role:
            assert (await role.http.get("/readyz")).status_code == 200
            async with calling(role) as caller:
                await caller.ask(CHAT, hello("held", stream=True))
                await eventually(lambda: _seated(role))
                answer = await role.http.post(CHAT, json=hello("a"))
                assert "uncorrectable ECC" in fault_of(answer)["message"]
                stream = await caller.all()
                assert (stream.status, stream.complete) == (502, True)  # no second had passed
                assert "poisoned" in stream.body.decode()
            await trio.sleep_forever()


async def _seated(role: Running) -> bool:
    return any(row["in_flight"] for row in (await role.http.get("/health")).json()["models"])


async def test_memory_that_runs_out_is_counted_and_costs_nothing_else(tmp_path: Path) -> None:
    """Rows 68 and 69: 502 for the job, 507 for the load, which was tried on both; all else goes on."""

    def full(turn: int = 1) -> None:
        if turn == 1:
            raise MemoryError("no room")

    scripts = {"a": Script(on_turn=full, bytes=MIB), "b": Script(on_load=full, bytes=MIB)}
    with trio.fail_after(30):
        async with running_neuron(
            tmp_path, specs(tmp_path, "a", "b", harness=CUDA), scripts, config=two(), name=CUDA
        ) as role:
            answer = await role.http.post(CHAT, json=hello("a"))
            assert (answer.status_code, fault_of(answer)["code"]) == (502, "engine_failed")
            assert "out of memory" in fault_of(answer)["message"]
            assert text_of(await role.http.post(CHAT, json=hello("a", max_tokens=2)))
            refused = await role.http.post("/models/load", json={"spec": {"id": "b"}})
            assert refused.status_code == 507
            page = (await role.http.get(role.metrics_url)).text
            assert 'cortex_device_faults_total{kind="memory"} 3.0' in page
            assert (await role.http.get("/health")).json()["status"] == "ok"


class Idle:
    """A worker with nothing to do."""

    poisoned = None
    doing = IDLE
    silent_s = 0.0

    def __init__(self) -> None:
        self.lost = trio.Event()


def watching(ledger: Ledger, worker: object) -> Vigil:
    """Of one device, called cpu."""
    patience = Patience(60.0, 300.0)
    return Vigil(
        {"cpu": worker},
        Dispatch(ledger, Nobody(), patience, None),
        Limits(),
        drain_s=1.0,
        patience=patience,
        lost=lambda place: None,
    )


class Nobody:
    """A loader that is never asked."""

    async def load(self, load: Load) -> None:
        raise AssertionError("nothing obeys this ledger")


async def test_a_child_that_loads_in_silence_does_not_let_the_thread_beside_it_look_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A load may be silent for longer than a turn, and whoever watches over the child ends it: a
    service manager that heard of a hang would restart all models for it."""

    class Turning(Idle):
        doing = Doing("turn", "a")
        heartbeat_age_s = 100.0  # of the child, whose load has a limit of 120 s

    ledger = Ledger(trio.current_time, Policy(Rules("lru", 0.0), 8, 0.0))
    ledger.open("cpu", [Room("cpu", GIB)])
    worker = Turning()
    vigil = watching(ledger, worker)
    assert (vigil.hung(), vigil.sick()) == (None, None)
    worker.silent_s = 31.0
    assert (vigil.hung(), vigil.sick()) == (
        "cpu shows no sign of life",
        "no device is left that serves",
    )


async def test_a_line_that_does_not_move_is_shown_and_logged_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 72: whoever waits is not served, and no error says why; the tasks do."""

    ledger = Ledger(trio.current_time, Policy(Rules("lru", 0.0), 8, 0.0))
    ledger.open("cpu", [Room("cpu", GIB)])
    vigil = watching(ledger, Idle())
    async with trio.open_nursery() as nursery:
        await nursery.start(vigil.run, None)
        ledger.arrive(Want("a", ModelSpec("a"), MIB))
        await trio.sleep(304)
        assert vigil.sick() is None
        with caplog.at_level(logging.ERROR):
            await trio.sleep(10)
        assert vigil.sick() == "requests wait beyond their patience"
        ledger.shut("cpu", "fell off its bus")
        assert vigil.sick() == "no device is left that serves"
        nursery.cancel_scope.cancel()
    (record,) = [record for record in caplog.records if "line.stuck" in record.getMessage()]
    assert "waiting=1" in record.getMessage()
    assert "test_a_line_that_does_not_move" in record.getMessage()
