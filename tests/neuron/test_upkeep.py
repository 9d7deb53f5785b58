"""Idle models leave by themselves; a worn device is emptied and refilled; nobody loses a request by it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from threading import Event

import pytest
import trio

from cortex import demo
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig, NeuronEviction
from cortex.dispatch import Dispatch, LoadBook, Patience
from cortex.errors import LoadFailed
from cortex.harness.scripted import Gate, Script
from cortex.ledger import Ledger, Load
from cortex.metrics import Metrics
from cortex.neuron import upkeep as upkeep_module
from cortex.neuron.terms import Terms
from cortex.neuron.upkeep import FLOOR_SLACK_BYTES, QUIET_S, Upkeep
from cortex.places import Resident, Room
from cortex.wire.keeping import EvictionTerms
from tests.calls import CHAT, calling, figures, hello, residents, settings, text_of, until
from tests.demo_questions import QUESTIONS
from tests.fake_ledger import policy, resident, want
from tests.roles import MIB, Running, demo_neuron, running_neuron, specs

SMALL = Script(reply="hi", bytes=30 * MIB)


@pytest.fixture
async def hang_guard():
    with trio.fail_after(30):
        yield


async def speak(role: Running, model: str) -> None:
    assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"


async def page_of(role: Running) -> str:
    return (await role.http.get(role.metrics_url)).text


async def counted(role: Running, line: str) -> bool:
    """The page says so; it is made anew once a second."""
    return line in await page_of(role)


# -- idle, on a neuron


async def test_a_model_that_nobody_uses_leaves_and_comes_back_when_asked_for(hang_guard, tmp_path) -> None:
    catalogue = specs(tmp_path, "a", idle_unload_s=0.2)
    async with running_neuron(tmp_path, catalogue, SMALL, config=settings()) as role:
        await speak(role, "a")
        first = role.engines["a"]
        await until(lambda: empty(role), 5)
        assert first.unloaded
        await speak(role, "a")
        assert role.engines["a"] is not first
        await until(lambda: counted(role, 'cortex_evictions_total{reason="idle"} 1.0'), 5)


async def empty(role: Running) -> bool:
    return not await residents(role)


async def test_requests_that_meet_an_idle_unload_are_all_answered(hang_guard, tmp_path) -> None:
    """Row 64: many rounds of a request at the very moment at which the model is due to leave."""
    catalogue = specs(tmp_path, "a", idle_unload_s=0.02)
    async with running_neuron(tmp_path, catalogue, SMALL, config=settings()) as role:
        for pause_s in (0.018, 0.019, 0.02, 0.021, 0.022) * 6:
            await speak(role, "a")
            await trio.sleep(pause_s)

        async def some_left() -> bool:
            return not await counted(role, 'cortex_evictions_total{reason="idle"} 0.0')

        await until(some_left, 5)
        assert await some_left(), "else no request has met one"


async def test_who_is_spoken_to_or_pinned_stays_beyond_its_idle_time(hang_guard, tmp_path) -> None:
    gate = Gate(2)
    catalogue = specs(tmp_path, "a", "b", idle_unload_s=0.1)
    scripts = {"a": Script(endless=True, hold=gate, bytes=30 * MIB), "b": SMALL}
    async with running_neuron(tmp_path, catalogue, scripts, config=settings()) as role:
        await role.http.post("/models/pin", json={"id": "b"})
        await speak(role, "b")
        async with calling(role) as caller:
            await caller.ask(CHAT, hello("a", stream=True, max_tokens=4))
            await caller.until(b" 1")
            await trio.sleep(0.3)
            assert {model: row["state"] for model, row in (await residents(role)).items()} == {
                "a": "loaded",
                "b": "loaded",
            }
            gate.open()
            assert (await caller.all()).data[-1] == "[DONE]"
        await until(lambda: only(role, "b"), 5)


async def only(role: Running, model: str) -> bool:
    return set(await residents(role)) == {model}


# -- defrag, on a neuron


def worn(cycles: int, **more: object) -> NeuronConfig:
    return replace(settings(**more), eviction=NeuronEviction(min_residency_s=0.0, defrag_after_cycles=cycles))


async def test_a_worn_device_is_emptied_and_refilled_while_requests_wait(
    hang_guard, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "QUIET_S", 0.05)
    slow = Event()
    slow.set()
    catalogue = specs(tmp_path, "a", "b", "c")
    scripts = {"a": replace(SMALL, slow_load=slow), "b": SMALL, "c": SMALL}
    async with running_neuron(tmp_path, catalogue, scripts, config=worn(2)) as role:
        await role.http.post("/models/pin", json={"id": "a"})
        for model in ("b", "a"):
            await speak(role, model)
        before = dict(role.engines)
        slow.clear()
        for _ in range(2):
            await speak(role, "c")
            await role.http.post("/models/unload", json={"id": "c"})
        await until(lambda: reloading(role), 5)
        assert all(engine.unloaded for engine in before.values())
        answers: list[str] = []

        async def ask(model: str) -> None:
            answers.append(text_of(await role.http.post(CHAT, json=hello(model))))

        async with trio.open_nursery() as nursery:
            for model in ("a", "b", "c"):
                nursery.start_soon(ask, model)
            await until(lambda: both_wait(role), 5)
            assert answers == []
            slow.set()
        assert answers == ["hi"] * 3
        rows = await residents(role)
        assert {model: row["pinned"] for model, row in rows.items()} == {"a": True, "b": False, "c": False}
        # In the order in which they had come: b before a.
        assert rows["b"]["age_s"] > rows["a"]["age_s"]
        await until(lambda: counted(role, "cortex_defrags_total 1.0"), 5)
        assert 'cortex_evictions_total{reason="room"} 0.0' in await page_of(role)


async def reloading(role: Running) -> bool:
    rows = await residents(role)
    return "a" in rows and rows["a"]["state"] == "loading" and rows["a"]["done_bytes"] > 0


async def both_wait(role: Running) -> bool:
    return await figures(role) == {"a": (0, 1), "b": (0, 1)}


async def test_a_real_engine_comes_back_from_a_defrag_word_for_word(
    hang_guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "QUIET_S", 0.05)
    known = {name: ModelSpec(name, source=f"path:{demo.GGUF}", context=512, slots=2) for name in "ab"}
    async with demo_neuron(worn(1), Catalogue(known)) as role:
        question = QUESTIONS[0]
        body = {"messages": question.messages, "temperature": 0, "max_tokens": 40}
        for model in "ab":
            assert text_of(await role.http.post(CHAT, json={"model": model, **body})) == question.answer
        await role.http.post("/models/unload", json={"id": "b"})
        await until(lambda: counted(role, "cortex_defrags_total 1.0"), 10)
        assert await only(role, "a")
        assert text_of(await role.http.post(CHAT, json={"model": "a", **body})) == question.answer
        assert (await role.http.get("/health")).json()["status"] == "ok"


async def test_a_gateways_terms_count_where_the_neurons_file_says_nothing(hang_guard, tmp_path) -> None:
    config = replace(settings(), eviction=NeuronEviction(strategy="priority"))
    catalogue = specs(tmp_path, "a", "b")
    script = replace(SMALL, bytes=60 * MIB)
    async with running_neuron(tmp_path, catalogue, script, memory=100 * MIB, config=config) as role:
        sent = {"strategy": "lru", "min_residency_s": 0.0, "defrag_after_cycles": 3}
        order = {"spec": {"id": "a"}, "eviction": sent}
        assert (await role.http.post("/models/load", json=order)).status_code == 200
        await speak(role, "b")  # not 30 s later
        answer = await role.http.post(
            "/models/load", json={"spec": {"id": "a"}, "eviction": {"min_residency_s": -1}}
        )
        assert answer.status_code == 400


def test_the_neurons_own_terms_bind_and_what_was_heard_stands_until_something_else_is() -> None:
    terms = Terms(NeuronEviction(strategy="priority", defrag_after_cycles=0))
    assert (terms.rules.strategy, terms.rules.min_residency_s) == ("priority", 30.0)
    sent = EvictionTerms(strategy="lru", min_residency_s=5.0, max_overtake_s=7.0, defrag_after_cycles=9)
    assert terms.hear(sent) and not terms.hear(sent) and not terms.hear(EvictionTerms())
    assert (terms.rules.strategy, terms.rules.min_residency_s) == ("priority", 5.0)
    assert (terms.defrag_after_cycles, terms.max_overtake_s) == (0, 7.0)
    assert terms.hear(EvictionTerms(max_overtake_s=0.0)) and terms.max_overtake_s == 0.0
    unsaid = Terms(NeuronEviction())
    assert (unsaid.rules.strategy, unsaid.defrag_after_cycles) == ("lru", 0)
    assert unsaid.max_overtake_s == 30.0
    assert unsaid.hear(sent) and unsaid.defrag_after_cycles == 9


# -- defrag, with a device that the test plays


@dataclass
class Device:
    """Residents as `Upkeep` knows them. `held` is what the device holds when it is looked at next."""

    ledger: Ledger
    did: list[str] = field(default_factory=list)
    unloaded: int = 0
    held: list[int] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    pause: trio.Event | None = None

    async def load(self, load: Load) -> Resident:
        self.did.append(f"load {load.want.model}")
        return resident(load.want.model, load.resident.room_bytes)

    def cycles(self, place: str) -> int:
        return self.unloaded

    async def unload(self, place: str, model: str) -> None:
        self.did.append(f"unload {model}")
        self.unloaded += 1
        self.ledger.gone(place, model)

    def count_anew(self, place: str) -> None:
        self.unloaded = 0

    async def release(self, place: str) -> None:
        self.did.append("release")

    async def put_down(self, model: str) -> None:
        self.did.append(f"down {model}")
        if self.pause is not None:
            await self.pause.wait()

    async def take_up(self, place: str, model: str) -> Resident:
        self.did.append(f"up {model}")
        if model in self.broken:
            raise LoadFailed(f"{model} is torn")
        return resident(model, 20)

    async def measure(self, rooms: Iterable[str]) -> int:
        assert list(rooms) == ["g"]
        return self.held.pop(0) if self.held else 0


@dataclass
class Kept:
    ledger: Ledger
    device: Device
    dispatch: Dispatch
    upkeep: Upkeep
    metrics: Metrics


@asynccontextmanager
async def kept(*models: str, cycles: int = 2, **facts: object) -> AsyncIterator[Kept]:
    ledger = Ledger(trio.current_time, policy(age_s=0.0))
    ledger.report(
        "p",
        [Room("g", 100)],
        [resident(m, 20, loaded_at=float(-9 + i), **facts) for i, m in enumerate(models)],
        0.0,
    )
    device, metrics = Device(ledger), Metrics(lambda model: True)
    dispatch = Dispatch(ledger, device, Patience(60.0, 300.0), LoadBook(metrics))
    terms = Terms(NeuronEviction(defrag_after_cycles=cycles))
    made = Upkeep(device, dispatch, metrics, terms, device.measure)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatch.run)
        await nursery.start(made.run)
        yield Kept(ledger, device, dispatch, made, metrics)
        nursery.cancel_scope.cancel()


async def seated(at: Kept, model: str, seconds: float) -> None:
    async with at.dispatch.seat(want(model)):
        await trio.sleep(seconds)


async def wear(at: Kept, count: int) -> None:
    at.device.unloaded = count
    at.dispatch.wake()


async def test_a_device_is_left_alone_until_it_is_worn_and_quiet(autojump_clock) -> None:
    async with kept("a", "b") as at, trio.open_nursery() as nursery:
        await wear(at, 1)
        await trio.sleep(100)
        assert at.device.did == []
        nursery.start_soon(seated, at, "a", 50.0)
        await trio.sleep(1)
        await wear(at, 2)
        await trio.sleep(40)
        assert at.device.did == []
        await trio.sleep(9 + QUIET_S * 0.9)
        assert at.device.did == []
        await trio.sleep(QUIET_S)
        assert at.device.did == ["down a", "down b", "release", "up a", "up b"]
        await trio.sleep(100)
        assert len(at.device.did) == 5  # its count begins anew


async def test_what_was_won_is_counted_and_a_floor_that_rises_is_warned_of(autojump_clock) -> None:
    async with kept("a") as at:
        for held, leaks in (
            ([900, 500], False),
            ([600 + FLOOR_SLACK_BYTES, 500 + FLOOR_SLACK_BYTES], False),
            ([501 + FLOOR_SLACK_BYTES, 501 + FLOOR_SLACK_BYTES], True),
            ([500, 501], False),
        ):
            at.device.held = held
            await wear(at, 2)
            await trio.sleep(10)
            assert bool(at.upkeep.warnings) == leaks
            if leaks:
                assert "device p holds" in at.upkeep.warnings[0]
        page = at.metrics.render().decode()
        assert "cortex_defrags_total 4.0" in page and "cortex_defrag_bytes_total 500.0" in page
        assert 'cortex_device_leaked_bytes{device="p"} 1.0' in page


async def test_who_does_not_come_back_in_is_loaded_again_for_who_waits(autojump_clock) -> None:
    async with kept("a", "b") as at, trio.open_nursery() as nursery:
        at.device.broken, at.device.pause = {"a"}, trio.Event()
        await wear(at, 2)
        await trio.sleep(5)
        assert at.device.did == ["down a"]
        for model in ("a", "b"):
            nursery.start_soon(seated, at, model, 1.0)
        await trio.sleep(5)
        at.device.pause.set()
        await trio.sleep(5)
        assert at.device.did[-3:] == ["up a", "up b", "load a"]
        assert {one.model for place in at.ledger for one in place} == {"a", "b"}


async def test_an_idle_model_goes_at_its_moment_although_it_was_used_meanwhile(autojump_clock) -> None:
    async with kept("a", idle_unload_s=60.0) as at:
        await trio.sleep(50)
        await seated(at, "a", 100.0)
        left_at = trio.current_time()
        await trio.sleep(59)
        assert at.device.did == []
        await trio.sleep_until(left_at + 60.001)
        assert at.device.did == ["unload a"]
        await seated(at, "a", 0.0)
        assert at.device.did == ["unload a", "load a"]
