"""Who lives on a device, who leaves for whom, and what cannot be had at all."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event

import httpx
import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.errors import DoesNotFit, LoadFailed
from cortex.harness.scripted import Gate, Script
from tests.calls import (
    CHAT,
    Json,
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
from tests.roles import MIB, Running, running_neuron, specs

# Two of these do not fit a device of 100 MiB.
BIG = Script(reply="hi", bytes=60 * MIB)
SMALL = Script(reply="hi", bytes=30 * MIB)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def neuron(
    folder: Path,
    scripts: Mapping[str, Script],
    *,
    catalogue: Catalogue | None = None,
    config: NeuronConfig | None = None,
):
    """A device of 100 MiB, and models that may leave at once."""
    catalogue = specs(folder, *scripts) if catalogue is None else catalogue
    return running_neuron(folder, catalogue, scripts, memory=100 * MIB, config=config or settings())


async def load(role: Running, model: str, **more: object) -> httpx.Response:
    return await role.http.post("/models/load", json={"spec": {"id": model}, **more})


async def unload(role: Running, model: str, **more: object) -> httpx.Response:
    return await role.http.post("/models/unload", json={"id": model, **more})


async def speak(role: Running, model: str) -> None:
    assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"


async def here(role: Running) -> set[str]:
    return set(await residents(role))


async def leaves(role: Running, model: str) -> bool:
    return (await residents(role))[model]["state"] == "leaving"


# -- eviction


async def test_the_coldest_leaves_and_no_more_than_need_to(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL}) as role:
        for model in ("a", "b", "c", "a", "d"):
            await speak(role, model)
        assert await here(role) == {"a", "c", "d"}
        await speak(role, "b")
        assert await here(role) == {"a", "d", "b"}
        assert all(engine.unloaded == (name == "c") for name, engine in role.engines.items())
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_evictions_total{reason="room"} 2.0' in page


async def test_memory_is_what_the_headers_promise_and_the_engine_measured(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": BIG, "b": SMALL}) as role:
        (device,) = (await role.http.get("/health")).json()["devices"]
        assert (device["memory_total"], device["memory_free"]) == (100 * MIB, 100 * MIB)
        await speak(role, "a")
        await speak(role, "b")
        (device,) = (await role.http.get("/health")).json()["devices"]
        assert (device["memory_used"], device["memory_free"]) == (90 * MIB, 10 * MIB)
        rows = await residents(role)
        assert {model: row["bytes"] for model, row in rows.items()} == {
            "a": {"cpu": 60 * MIB},
            "b": {"cpu": 30 * MIB},
        }


async def test_who_is_pinned_here_stays_and_the_newcomer_is_told_who_blocks(tmp_path: Path) -> None:
    known = specs(tmp_path, "a", "b")
    catalogue = Catalogue({**known.specs, "a": replace(known.specs["a"], pinned_on=("n1",))})
    async with neuron(tmp_path, {"a": BIG, "b": BIG}, catalogue=catalogue) as role:
        await speak(role, "a")
        assert (await residents(role))["a"]["pinned"] is True
        for answer in (await load(role, "b"), await role.http.post(CHAT, json=hello("b"))):
            assert answer.status_code == 409
            fault = fault_of(answer)
            assert (fault["code"], fault["blocked_by"]) == ("busy", ["a"])
            assert (fault["needed_bytes"], fault["free_bytes"]) == (60 * MIB, 40 * MIB)
        assert await here(role) == {"a"}


async def test_a_pin_that_a_gateway_sends_along_holds_too(tmp_path: Path) -> None:
    """The neuron need not have the model in a catalogue of its own."""
    for model in ("a", "b"):
        (tmp_path / f"{model}.gguf").touch()
    sent = {"id": "mine", "source": f"path:{tmp_path}/a.gguf", "pinned_on": ["n1", "n2"]}
    other = {**sent, "id": "theirs", "pinned_on": ["n2"]}
    scripts = {"mine": SMALL, "theirs": SMALL, "b": BIG}
    async with neuron(tmp_path, scripts, catalogue=Catalogue()) as role:
        for spec in (sent, other):
            answer = await role.http.post("/models/load", json={"spec": spec})
            assert answer.status_code == 200, answer.text
        assert {model: row["pinned"] for model, row in (await residents(role)).items()} == {
            "mine": True,
            "theirs": False,
        }
        await speak(role, "b")
        assert await here(role) == {"mine", "b"}
        await speak(role, "mine")


async def test_who_has_a_request_stays_until_it_is_done(tmp_path: Path) -> None:
    """Row 65: the one in flight is never cut for a newcomer."""
    gate = Gate(2)
    scripts = {"a": Script(endless=True, hold=gate, bytes=60 * MIB), "b": BIG}
    async with neuron(tmp_path, scripts) as role, calling(role) as caller:
        await caller.ask(CHAT, hello("a", stream=True, max_tokens=5))
        await caller.until(b" 1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak, role, "b")
            # It waits: nothing of it is on the device, and a still has its seat.
            await until(lambda: waits(role, 1), 5)
            assert await figures(role) == {"a": (1, 0)}
            gate.open()
            answer = await caller.all()
        assert answer.data[-1] == "[DONE]"
        assert await here(role) == {"b"}


async def waits(role: Running, count: int) -> bool:
    """So many wait, as the gauge tells; its page is made anew each second."""
    page = (await role.http.get(role.metrics_url)).text
    return f'cortex_in_flight{{model="b"}} {float(count)}' in page


async def test_a_young_model_stays_its_time(tmp_path: Path) -> None:
    """Row 66: no ping-pong."""
    async with neuron(tmp_path, {"a": BIG, "b": BIG}, config=settings(young_s=0.6)) as role:
        await speak(role, "a")
        loaded = trio.current_time()
        await speak(role, "b")
        assert trio.current_time() - loaded >= 0.5
        assert await here(role) == {"b"}


async def test_what_could_never_fit_is_refused_with_the_figures(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": Script(bytes=101 * MIB), "b": SMALL}) as role:
        await speak(role, "b")
        for answer in (await load(role, "a"), await role.http.post(CHAT, json=hello("a"))):
            assert answer.status_code == 507
            fault = fault_of(answer)
            assert fault["code"] == "does_not_fit"
            assert (fault["needed_bytes"], fault["free_bytes"]) == (101 * MIB, 70 * MIB)
        assert await here(role) == {"b"}


async def test_a_refused_file_costs_nobody_its_room(tmp_path: Path) -> None:
    """The header is looked at again before anybody is sent away."""
    scripts = {"a": BIG, "b": replace(BIG, unfit="its header is cut")}
    async with neuron(tmp_path, scripts) as role:
        await speak(role, "a")
        answer = await load(role, "b")
        assert (answer.status_code, fault_of(answer)["code"]) == (422, "unfit_model")
        assert await here(role) == {"a"}


# -- loads


async def test_a_load_answers_when_the_model_is_resident(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": SMALL, "b": BIG, "c": BIG}) as role:
        answer = (await load(role, "a")).json()
        assert (answer["resident"]["id"], answer["resident"]["state"]) == ("a", "loaded")
        assert (answer["evicted"], answer["joined"]) == ([], False)
        await load(role, "b")
        answer = (await load(role, "c", victims=["b"])).json()
        assert answer["evicted"] == ["b"]
        again = (await load(role, "c")).json()
        assert (again["evicted"], again["joined"]) == ([], False)


async def test_a_proposed_victim_goes_before_the_coldest(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL}) as role:
        for model in ("a", "b", "c"):
            await speak(role, model)
        assert (await load(role, "d", victims=["b"])).json()["evicted"] == ["b"]
        assert await here(role) == {"a", "c", "d"}


async def test_a_load_that_may_not_evict_does_not(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": BIG, "b": BIG}) as role:
        await speak(role, "a")
        answer = await load(role, "b", evict="never")
        assert (answer.status_code, fault_of(answer)["code"]) == (409, "busy")
        assert await here(role) == {"a"}


async def test_loads_of_one_model_are_one_load(tmp_path: Path) -> None:
    slow = Event()
    async with neuron(tmp_path, {"a": replace(SMALL, slow_load=slow)}) as role:
        answers: list[Json] = []

        async def one() -> None:
            answers.append((await load(role, "a")).json())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await until(lambda: loading(role, "a"), 5)
            nursery.start_soon(one)
            nursery.start_soon(speak, role, "a")
            await until(lambda: queued(role, "a", 3), 5)
            slow.set()
        assert sorted(answer["joined"] for answer in answers) == [False, True]
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_cold_starts_total{model="a"} 1.0' in page


async def loading(role: Running, model: str) -> bool:
    return (await residents(role)).get(model, {}).get("state") == "loading"


async def queued(role: Running, model: str, count: int) -> bool:
    return (await figures(role)).get(model) == (0, count)


async def test_a_failed_load_tells_everyone_once_and_rests(tmp_path: Path) -> None:
    """Row 62: the real cause to each waiter, and the next one hears when to come again."""
    slow = Event()
    script = Script(slow_load=slow, load_error=LoadFailed("a: the weights are torn; download them again"))
    async with neuron(tmp_path, {"a": script, "b": SMALL}) as role:
        answers: list[httpx.Response] = []

        async def one() -> None:
            answers.append(await role.http.post(CHAT, json=hello("a")))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await until(lambda: queued(role, "a", 3), 5)
            slow.set()
        rest = await role.http.post(CHAT, json=hello("a"))
        assert int(rest.headers["retry-after"]) in (9, 10)
        for answer in (*answers, rest):
            assert (answer.status_code, fault_of(answer)["code"]) == (502, "load_failed")
            assert "the weights are torn" in fault_of(answer)["message"]
        assert await here(role) == set()
        await speak(role, "b")


async def test_a_load_that_the_device_has_no_room_for_leaves_the_others(tmp_path: Path) -> None:
    """Row 68: the engine finds out what the header did not tell."""
    full = DoesNotFit("a: the device has no 40 MiB left for the cache; lower context or slots")
    async with neuron(tmp_path, {"a": replace(SMALL, load_error=full), "b": SMALL}) as role:
        await speak(role, "b")
        answer = await role.http.post(CHAT, json=hello("a"))
        assert (answer.status_code, fault_of(answer)["code"]) == (507, "does_not_fit")
        assert "no 40 MiB left" in fault_of(answer)["message"]
        await speak(role, "b")
        assert await here(role) == {"b"}


async def test_other_models_are_served_while_one_loads(tmp_path: Path) -> None:
    """Row 71: and health, /models and the lists answer, though the device's thread is held."""
    slow = Event()
    async with neuron(tmp_path, {"a": SMALL, "b": replace(SMALL, slow_load=slow)}) as role:
        await speak(role, "a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, role, "b")
            await until(lambda: loading(role, "b"), 5)
            await speak(role, "a")
            for path in ("/health", "/models", "/v1/models", "/discovery", "/version", "/livez", "/readyz"):
                assert (await role.http.get(path)).status_code == 200
            listed = {row["id"]: row["state"] for row in (await role.http.get("/v1/models")).json()["data"]}
            assert listed == {"a": "loaded", "b": "loading"}
            slow.set()


async def test_the_neurons_own_catalogue_wins_over_what_is_sent(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "a", context=1024, slots=2)
    async with neuron(tmp_path, {"a": SMALL}, catalogue=catalogue) as role:
        sent = {"id": "a", "source": "path:/somewhere/else.gguf", "context": 4096, "slots": 7}
        answer = await role.http.post("/models/load", json={"spec": sent})
        resident = answer.json()["resident"]
        assert (resident["context_length"], resident["slots"]) == (1024, 2)


async def test_a_model_that_only_a_gateway_knows_is_served_while_it_is_here(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").touch()
    sent = {"id": "org/theirs", "source": f"path:{tmp_path}/file.gguf", "context": 256}
    async with neuron(tmp_path, {"org/theirs": SMALL}, catalogue=Catalogue()) as role:
        assert (await role.http.post("/models/load", json={"spec": sent})).status_code == 200
        await speak(role, "org/theirs")
        listed = (await role.http.get("/v1/models/org/theirs")).json()
        assert (listed["state"], listed["context_length"]) == ("loaded", 256)
        await unload(role, "org/theirs")
        assert (await role.http.post(CHAT, json=hello("org/theirs"))).status_code == 404


async def test_what_is_loaded_is_served_although_its_file_is_gone(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": SMALL}) as role:
        await speak(role, "a")
        (tmp_path / "a.gguf").unlink()
        await speak(role, "a")
        await unload(role, "a")
        answer = await role.http.post(CHAT, json=hello("a"))
        assert (answer.status_code, fault_of(answer)["code"]) == (422, "unfit_model")
        assert str(tmp_path / "a.gguf") in fault_of(answer)["message"]


async def test_a_file_that_is_put_into_a_root_is_found_at_once(tmp_path: Path) -> None:
    async with neuron(tmp_path, {}, catalogue=Catalogue()) as role:
        assert (await role.http.post(CHAT, json=hello("new"))).status_code == 404
        (tmp_path / "new.gguf").touch()
        answer = await role.http.post(CHAT, json=hello("new"))
        assert answer.status_code == 200
        assert "new" in (await role.http.get("/models")).json()["known"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (
            {"id": "x", "source": "path:/etc/passwd", "harness": "llamacpp"},
            ["/etc/passwd", "[neuron] model_roots"],
        ),
        ({"id": "x", "source": "path:{root}/folder"}, ["exllamav2", "llamacpp"]),
        ({"id": "x"}, ["'x' has no source", "hf:org/name", "path:/"]),
        ({"id": "x", "source": "path:{root}/../out.gguf"}, ["out.gguf", "model_roots"]),
        ({"id": "x", "source": "path:{root}/link.gguf"}, ["link.gguf", "model_roots"]),
        ({"id": "x", "source": "path:{root}/none.gguf"}, ["none.gguf", "No such file"]),
        ({"id": "x", "source": "path:{root}/a.gguf", "harness": "exllamav2"}, ["exllamav2", "llamacpp"]),
        (
            {"id": "x", "source": "path:{root}/a.gguf", "context": 10**6},
            ["context = 1000000", "8192", "models.toml"],
        ),
    ],
    ids=["outside", "folder", "no-source", "dots", "link", "missing", "harness", "context"],
)
async def test_what_cannot_be_loaded_here_is_refused_with_the_remedy(
    tmp_path: Path, spec: Json, named: list[str]
) -> None:
    root, outside = tmp_path / "root", tmp_path / "out.gguf"
    root.mkdir()
    outside.touch()
    (root / "link.gguf").symlink_to(outside)
    (root / "a.gguf").touch()
    spec = {key: value.format(root=root) if isinstance(value, str) else value for key, value in spec.items()}
    async with neuron(root, {"x": SMALL}, catalogue=Catalogue()) as role:
        answer = await role.http.post("/models/load", json={"spec": spec})
        assert (answer.status_code, fault_of(answer)["code"]) == (422, "unfit_model")
        for word in named:
            assert word in fault_of(answer)["message"]
        assert await here(role) == set()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"spec": {"id": "x", "sorce": "path:/x"}}, "sorce"),
        ({"spec": {"id": "x", "slots": "many"}}, "slots"),
        ({"spec": {"id": "../x"}}, "id"),
        ({"spec": {}}, None),
        ({"spec": {"id": "x"}, "evict": "perhaps"}, None),
        ([], None),
    ],
    ids=["unknown-key", "kind", "id", "empty", "evict", "no-object"],
)
async def test_an_order_that_cannot_be_read_is_the_callers_fault(
    tmp_path: Path, body: object, param: str | None
) -> None:
    async with neuron(tmp_path, {"a": SMALL}) as role:
        answer = await role.http.post("/models/load", json=body)
        assert answer.status_code == 400
        if param is not None:
            assert param in fault_of(answer)["message"]


# -- unloads


async def test_an_unload_frees_the_model(tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": SMALL}) as role:
        await speak(role, "a")
        assert (await unload(role, "a")).json() == {"id": "a", "unloaded": True}
        assert await here(role) == set()
        assert role.engines["a"].unloaded
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_evictions_total{reason="asked"} 1.0' in page
        answer = await unload(role, "a")
        assert (answer.status_code, fault_of(answer)["code"]) == (404, "not_resident")
        await speak(role, "a")


async def test_a_busy_model_is_not_unloaded_unless_forced(tmp_path: Path) -> None:
    gate = Gate(2)
    async with neuron(tmp_path, {"a": Script(endless=True, hold=gate)}) as role, calling(role) as caller:
        await caller.ask(CHAT, hello("a", stream=True, max_tokens=4))
        await caller.until(b" 1")
        answer = await unload(role, "a")
        assert (answer.status_code, fault_of(answer)["code"]) == (409, "busy")
        assert fault_of(answer)["in_flight"] == 1
        gate.open()
        assert (await caller.all()).data[-1] == "[DONE]"


async def test_a_forced_unload_lets_finish_and_then_cuts_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 65: what is cut gets its error event, never a silent end; who waits gets the model again."""
    monkeypatch.setattr("cortex.neuron.orders.FORCED_DRAIN_S", 0.2)
    gate = Gate(2)
    config = settings(slots=1)
    async with neuron(tmp_path, {"a": Script(endless=True, hold=gate)}, config=config) as role:
        async with calling(role) as cut, calling(role) as waiting, trio.open_nursery() as nursery:
            await cut.ask(CHAT, hello("a", stream=True))
            await cut.until(b" 1")
            await waiting.ask(CHAT, hello("a", max_tokens=2))
            await until(lambda: seated(role, 1, 1), 5)
            nursery.start_soon(force, role)
            answer = await cut.all()
            assert answer.complete
            assert '"code":"engine_failed"' in answer.data[-1]
            assert "unloaded" in answer.data[-1]
            gate.open()
            assert (await waiting.all()).status == 200
        assert await figures(role) == {"a": (0, 0)}


async def seated(role: Running, seats: int, waiting: int) -> bool:
    return (await figures(role)).get("a") == (seats, waiting)


async def force(role: Running) -> None:
    assert (await unload(role, "a", force=True)).status_code == 200


async def test_a_forced_unload_waits_for_what_ends_in_time(tmp_path: Path) -> None:
    gate = Gate(2)
    async with neuron(tmp_path, {"a": Script(endless=True, hold=gate)}) as role:
        async with calling(role) as caller, trio.open_nursery() as nursery:
            await caller.ask(CHAT, hello("a", stream=True, max_tokens=4))
            await caller.until(b" 1")
            nursery.start_soon(force, role)
            await until(lambda: leaves(role, "a"), 5)
            gate.open()
            assert events((await caller.all()).body)[-1] == "[DONE]"
        assert await here(role) == set()


async def test_an_unload_is_carried_through_though_the_operator_left(tmp_path: Path) -> None:
    """Otherwise the model would be on its way out for ever, and serve nobody."""
    gate = Gate(2)
    async with neuron(tmp_path, {"a": Script(endless=True, hold=gate)}) as role:
        async with calling(role) as caller, calling(role) as operator:
            await caller.ask(CHAT, hello("a", stream=True, max_tokens=4))
            await caller.until(b" 1")
            await operator.ask("/models/unload", {"id": "a", "force": True})
            await until(lambda: leaves(role, "a"), 5)
            await operator.leave()
            gate.open()
            assert (await caller.all()).data[-1] == "[DONE]"
        await until(lambda: gone(role), 5)
        answer = await role.http.post(CHAT, json=hello("a", max_tokens=2))
        assert text_of(answer) == "0 1"


async def gone(role: Running) -> bool:
    return await here(role) == set()


async def test_a_spec_of_a_resident_is_what_it_was_loaded_by(tmp_path: Path) -> None:
    known = ModelSpec("a", source=f"path:{tmp_path}/a.gguf", slots=2, aliases=("fast",))
    (tmp_path / "a.gguf").touch()
    async with neuron(tmp_path, {"a": SMALL}, catalogue=Catalogue({"a": known})) as role:
        await speak(role, "a")
        row = (await residents(role))["a"]
        assert (row["slots"], row["harness"], row["servable"]) == (
            2,
            "scripted",
            {"ok": True, "reason": None},
        )
        assert row["queue"] == 64
