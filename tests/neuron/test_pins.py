"""A pinned model stays, whatever else needs room, and over a restart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.harness.scripted import Script
from tests.calls import CHAT, fault_of, hello, residents, settings, text_of
from tests.roles import MIB, Running, running_neuron, specs

BIG = Script(reply="hi", bytes=60 * MIB)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def neuron(folder: Path, *models: str, catalogue: Catalogue | None = None):
    """A device of 100 MiB for models of 60, and one folder for what is remembered."""
    catalogue = specs(folder, *models) if catalogue is None else catalogue
    config = settings(state_dir=folder / "state")
    return running_neuron(folder, catalogue, BIG, memory=100 * MIB, config=config)


async def post(role: Running, what: str, model: str, **more: object):
    body = {"spec": {"id": model}, **more} if what == "load" else {"id": model, **more}
    return await role.http.post(f"/models/{what}", json=body)


async def speak(role: Running, model: str) -> None:
    assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"


async def test_no_path_sends_a_pinned_model_away_but_the_operators_force(tmp_path: Path) -> None:
    async with neuron(tmp_path, "a", "b") as role:
        await speak(role, "a")
        answer = await post(role, "pin", "a")
        assert answer.json() == {"id": "a", "pinned": True, "resident": True}
        for refused in (
            await role.http.post(CHAT, json=hello("b")),
            await post(role, "load", "b", victims=["a"]),
            await role.http.post("/models/load?wait=false", json={"spec": {"id": "b"}, "victims": ["a"]}),
        ):
            assert (refused.status_code, fault_of(refused)["blocked_by"]) == (409, ["a"])
            assert fault_of(refused)["free_by_device"] == {"cpu": 40 * MIB}
        refused = await post(role, "unload", "a")
        assert refused.status_code == 409
        assert fault_of(refused)["message"].startswith("Model 'a' is pinned; unpin it first")
        assert (await residents(role))["a"]["pinned"] is True
        assert (await post(role, "unload", "a", force=True)).status_code == 200
        # The pin is kept: it holds again when the model comes back.
        assert (await role.http.get("/models")).json()["pinned"] == ["a"]
        await speak(role, "a")
        assert (await role.http.post(CHAT, json=hello("b"))).status_code == 409
        assert (await post(role, "unpin", "a")).json() == {"id": "a", "pinned": False, "resident": True}
        await speak(role, "b")
        assert set(await residents(role)) == {"b"}


async def test_a_pin_outlasts_a_restart_and_waits_for_its_model(tmp_path: Path) -> None:
    async with neuron(tmp_path, "a", "b") as role:
        answer = await post(role, "pin", "a")
        assert answer.json() == {"id": "a", "pinned": True, "resident": False}
    assert json.loads((tmp_path / "state" / "pins.json").read_text()) == ["a"]
    async with neuron(tmp_path, "a", "b") as role:
        assert await residents(role) == {}  # a pin loads nothing
        await speak(role, "a")
        assert (await residents(role))["a"]["pinned"] is True
        assert (await role.http.post(CHAT, json=hello("b"))).status_code == 409
        await post(role, "unpin", "a")
    async with neuron(tmp_path, "a", "b") as role:
        assert (await role.http.get("/models")).json()["pinned"] == []


async def test_a_pin_goes_by_the_id_behind_an_alias(tmp_path: Path) -> None:
    known = specs(tmp_path, "a")
    async with neuron(tmp_path, catalogue=Catalogue(known.specs, {"nick": "a"})) as role:
        assert (await post(role, "pin", "nick")).json()["id"] == "a"
        assert (await post(role, "unpin", "nick")).json()["id"] == "a"


async def test_what_cannot_be_pinned_or_unpinned_is_said(tmp_path: Path) -> None:
    known = specs(tmp_path, "a", "b")
    catalogue = Catalogue({**known.specs, "a": replace(known.specs["a"], pinned_on=("n1",))})
    async with neuron(tmp_path, catalogue=catalogue) as role:
        answer = await post(role, "pin", "c")
        assert (answer.status_code, fault_of(answer)["code"]) == (404, "model_not_found")
        answer = await post(role, "unpin", "a")
        assert answer.status_code == 409 and "pinned_on" in fault_of(answer)["message"]
        await speak(role, "a")
        assert (await post(role, "unpin", "a")).status_code == 409
        assert (await post(role, "unpin", "b")).status_code == 200  # it is not pinned: so be it
