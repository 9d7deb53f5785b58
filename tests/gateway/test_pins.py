"""A gateway pins where models are, and what models.toml says of one holds while it is loaded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.gateway import GatewayConfig, NeuronRef
from cortex.config.whole import Whole
from cortex.gateway import service
from cortex.harness.scripted import Script
from tests.calls import CHAT, fault_of, hello, residents, settings
from tests.fake_neuron import QUICK, fake_neuron, open_gateway, refusal
from tests.fake_terminal import told
from tests.gateway.test_reload import live
from tests.roles import ANY, MIB, Running, eventually, running_neuron, specs

BIG = Script(reply="hi", bytes=60 * MIB)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@dataclass
class Site:
    """A gateway in front of real neurons, called n1 and so on, that alone knows the models."""

    gateway: service.Gateway
    http: httpx.AsyncClient
    config: GatewayConfig
    catalogue: Catalogue

    async def order(self, what: str, **body: str) -> httpx.Response:
        return await self.http.post(f"/fleet/models/{what}", json=body)

    async def load(self, model: str) -> str:
        """The neuron where it is."""
        answer = await self.order("load", model=model)
        assert answer.status_code == 200, answer.text
        return answer.json()["locations"][0]["neuron"]

    async def shown(self) -> dict[tuple[str, str], bool]:
        """Whether each copy is pinned, as GET /fleet has it."""
        neurons = (await self.http.get("/fleet")).json()["neurons"]
        return {(at["name"], one["id"]): one["pinned"] for at in neurons for one in at["models"]}

    def says(self, model: str, **other: object) -> None:
        """models.toml has changed."""
        spec = replace(self.catalogue.specs[model], **other)  # type: ignore[arg-type]
        self.catalogue = Catalogue({**self.catalogue.specs, model: spec})
        self.gateway.tuning.take(Whole(self.config, self.catalogue, None, ()))


@asynccontextmanager
async def site(folder: Path, *neurons: Running) -> AsyncIterator[Site]:
    refs = tuple(NeuronRef(f"n{number}", role.url) for number, role in enumerate(neurons, 1))
    config = GatewayConfig(listen=ANY, metrics_listen=ANY, neurons=refs, poll=QUICK)
    catalogue = specs(folder, "a", "b")
    async with service.opened(config, catalogue) as gateway:
        url = f"http://127.0.0.1:{gateway.ports.api[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as http:
            yield Site(gateway, http, config, catalogue)


def neuron(folder: Path, *models: str):
    """A device of 100 MiB for models of 60; `models` are in its own models.toml."""
    catalogue = specs(folder, *models)
    return running_neuron(folder, catalogue, BIG, memory=100 * MIB, config=settings())


async def kept(role: Running, model: str, **wanted: object) -> None:
    """The neuron shows the model so."""

    async def so() -> bool:
        row = (await residents(role))[model]
        return all(row[key] == value for key, value in wanted.items())

    await eventually(so)


async def test_a_model_is_pinned_where_it_is_and_shown_so_at_once(tmp_path: Path) -> None:
    async with neuron(tmp_path) as one, neuron(tmp_path) as two, site(tmp_path, one, two) as gateway:
        at = await gateway.load("a")
        answer = await gateway.order("pin", model="a")
        assert answer.json() == {"model": "a", "pinned": True, "neurons": [at], "awaited": [], "failed": {}}
        assert await gateway.shown() == {(at, "a"): True}
        role = one if at == "n1" else two
        assert (await role.http.get("/models")).json()["pinned"] == ["a"]
        # The other neuron takes the next model, and the third finds no room.
        assert await gateway.load("b") != at
        answer = await gateway.order("unpin", model="a")
        assert answer.json() == {"model": "a", "pinned": False, "neurons": [at], "awaited": [], "failed": {}}
        assert (await gateway.shown())[at, "a"] is False


async def test_a_pin_at_a_named_neuron_may_come_before_the_model_does(tmp_path: Path) -> None:
    """If the neuron's own catalogue has it: else it would pin names that nobody knows."""
    async with neuron(tmp_path, "a") as one, neuron(tmp_path) as two, site(tmp_path, one, two) as gateway:
        answer = await gateway.order("pin", model="a", neuron="n1")
        assert (answer.json()["neurons"], answer.json()["awaited"]) == (["n1"], ["n1"])
        assert (await one.http.get("/models")).json()["pinned"] == ["a"]
        answer = await gateway.order("pin", model="b", neuron="n2")
        assert (answer.status_code, fault_of(answer)["code"]) == (404, "not_resident")
        assert "load it there first" in fault_of(answer)["message"]
        # It is found there although it is not loaded.
        assert (await gateway.order("unpin", model="a")).json()["neurons"] == ["n1"]
        assert (await one.http.get("/models")).json()["pinned"] == []


async def test_what_cannot_be_pinned_is_told_with_the_remedy(tmp_path: Path) -> None:
    async with neuron(tmp_path) as one, site(tmp_path, one) as gateway:
        for body, status, word in (
            ({"model": "a"}, 404, "loaded nowhere"),
            ({"model": "a", "neuron": "n7"}, 400, "there is n1"),
            ({"model": "a", "nueron": "n1"}, 400, "nueron"),
            ({"model": "none"}, 404, "does not exist"),
        ):
            answer = await gateway.order("pin", **body)
            assert (answer.status_code, word in fault_of(answer)["message"]) == (status, True), answer.text
        answer = await gateway.order("unpin", model="a")
        assert (answer.status_code, answer.json()["neurons"]) == (200, [])


async def test_one_neuron_that_does_not_obey_is_named_beside_those_that_do() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        one.on["/models/pin"].append(one.plan(refusal(507, "does_not_fit", message="its disk is full")))
        answer = await gateway.http.post("/fleet/models/pin", json={"model": "a"})
        assert (answer.status_code, answer.json()["neurons"]) == (200, ["n2"])
        assert "its disk is full" in answer.json()["failed"]["n1"]
        for neuron in (one, two):
            neuron.on["/models/pin"].append(neuron.plan(refusal(507, "does_not_fit", message="full")))
        answer = await gateway.http.post("/fleet/models/pin", json={"model": "a"})
        assert answer.status_code == 507


async def test_a_class_and_a_pin_hold_for_what_is_loaded_without_a_reload(tmp_path: Path) -> None:
    async with neuron(tmp_path) as role, site(tmp_path, role) as gateway:
        await gateway.load("a")
        engine = role.engines["a"]
        gateway.says("a", residency_priority=7, idle_unload_s=3600.0)
        await kept(role, "a", priority=7, idle_unload_s=3600.0, pinned=False)
        gateway.says("a", pinned_on=("n1",), residency_priority=None)
        await kept(role, "a", priority=1000, pinned=True)
        answer = await role.http.post(CHAT, json=hello("a"))
        assert answer.status_code == 200
        # The file has the say while it says so.
        answer = await gateway.order("unpin", model="a")
        assert answer.status_code == 409 and "pinned_on" in fault_of(answer)["message"]
        gateway.says("a", pinned_on=(), idle_unload_s=0.0)
        # At once, however late the neuron is told otherwise.
        assert (await gateway.order("unpin", model="a")).status_code == 200
        await kept(role, "a", priority=100, pinned=False, idle_unload_s=0.0)
        assert role.engines["a"] is engine
        assert await gateway.load("b") == "n1"
        assert set(await residents(role)) == {"b"}


async def test_an_entry_that_is_gone_pins_no_longer(tmp_path: Path) -> None:
    async with neuron(tmp_path) as role, site(tmp_path, role) as gateway:
        await gateway.load("a")
        gateway.says("a", pinned_on=("n1",))
        await kept(role, "a", pinned=True)
        gateway.gateway.tuning.take(Whole(gateway.config, Catalogue(), None, ()))
        await kept(role, "a", pinned=False, priority=100)

        async def shows() -> bool:
            """The neuron's answer to the order is on its way back, or the next report is."""
            return await gateway.shown() == {("n1", "a"): False}

        await eventually(shows)
        assert (await role.http.get("/models")).json()["pinned"] == []


async def test_a_neurons_own_catalogue_wins_and_is_not_argued_with(tmp_path: Path) -> None:
    async with neuron(tmp_path, "a") as role, site(tmp_path, role) as gateway:
        await gateway.load("a")
        gateway.says("a", pinned_on=("n1",), residency_priority=7)
        answer = await role.http.post(
            "/models/keep", json={"id": "a", "keep": {"priority": 7, "pinned": True}}
        )
        assert answer.json()["keep"] == {"pinned": False, "priority": 100, "idle_unload_s": 0.0}
        await kept(role, "a", pinned=False, priority=100)
        answer = await role.http.post("/models/keep", json={"id": "b", "keep": {}})
        assert (answer.status_code, fault_of(answer)["code"]) == (404, "not_resident")


async def test_a_neuron_is_told_once_and_only_what_it_does_not_show(tmp_path: Path) -> None:
    """Of a neuron that keeps another opinion, of one that is too old to be told, and of one that agrees."""
    catalogue = specs(tmp_path, "a", "b", residency_priority=7)
    async with fake_neuron("a") as other, fake_neuron() as old, fake_neuron() as agrees:
        old.has("b")
        old.on["/models/keep"].append(old.plan(refusal(404, "not_found")))
        agrees.has("a", priority=7)
        async with open_gateway(other, old, agrees, catalogue=catalogue):
            for fake in (other, old, agrees):
                await fake.polled(4)
        told = [fake.ordered("/models/keep") for fake in (other, old, agrees)]
        assert told == [1, 1, 0]


async def test_a_neuron_that_did_not_hear_it_is_told_again(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "a", residency_priority=7)
    async with fake_neuron("a") as fake:
        fake.on["/models/keep"].append(fake.plan(refusal(502, "upstream_failed")))
        async with open_gateway(fake, catalogue=catalogue):
            while fake.ordered("/models/keep") < 2:
                await fake.polled(1)
            # The fake shows the old priority all the same: heard once, it is told no third time.
            await fake.polled(4)
    keeps = [order for order in fake.orders if b"/models/keep" in order.raw]
    assert [b'"priority":7' in order.raw for order in keeps] == [True, True]


async def test_a_pin_that_is_saved_is_in_force_when_the_command_ends(tmp_path: Path) -> None:
    """And so is its end, whoever else had pinned the model."""
    async with fake_neuron("a") as fake, live(tmp_path, ("n1", fake)) as gateway:
        at = ("a", "--save", "--endpoint", str(gateway.http.base_url))
        pinned = await told("models", "pin", *at)
        assert (pinned.returncode, pinned.stderr) == (0, b"")
        assert b"pinned_on of a is n1, and was empty. The gateway has taken it over" in pinned.stdout
        assert "pinned_on = ['n1']" in (tmp_path / "models.toml").read_text().replace('"', "'")
        unpinned = await told("models", "unpin", *at)
        assert (unpinned.returncode, unpinned.stderr) == (0, b"")
        assert b"a is no longer pinned at n1" in unpinned.stdout
        assert "pinned_on" not in (tmp_path / "models.toml").read_text()
    keeps = [order for order in fake.orders if b"/models/keep" in order.raw]
    assert [b'"pinned":true' in order.raw for order in keeps] == [True, False]
    assert fake.ordered("/models/unpin") == 1


async def test_an_order_with_a_value_of_the_wrong_kind_names_the_field_in_the_words_of_json() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        for path, body, told in (
            ("load", {"model": 5}, "'model': Expected `string`, got `integer`"),
            ("unload", {"model": "a", "force": "yes"}, "'force': Expected `boolean`, got `string`"),
        ):
            answer = await gateway.http.post(f"/fleet/models/{path}", json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["message"]) == (400, told)
            assert error["param"] == told.split("'")[1]
