"""An id that a gateway sends is an id, whatever this neuron's own catalogue calls an alias."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.models import spec_from_plain
from cortex.harness.scripted import Script
from cortex.wire import neuron as wire
from tests.calls import CHAT, hello, residents, text_of
from tests.roles import MIB, patient, running_gateway, running_neuron, specs

SCRIPTS = {"real": Script(reply="the real one"), "nick": Script(reply="the gateway's nick")}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def nicked(folder: Path) -> Catalogue:
    """A neuron's catalogue in which `nick` is an alias of `real`."""
    return Catalogue(specs(folder, "real").specs, {"nick": "real"})


def sent(folder: Path) -> dict[str, object]:
    (folder / "other.gguf").touch()
    plain = {"id": "nick", "source": f"path:{folder / 'other.gguf'}"}
    assert spec_from_plain(plain).id == "nick"
    return plain


async def test_a_model_whose_id_is_an_alias_here_is_loaded_and_unloaded_under_its_id(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, nicked(tmp_path), SCRIPTS) as role:
        answer = await role.http.post("/models/load", json={"spec": sent(tmp_path)})
        assert answer.json()["resident"]["id"] == "nick"
        assert (await role.http.get("/v1/models/nick")).json()["id"] == "nick"
        assert text_of(await role.http.post(CHAT, json=hello("real"))) == "the real one"
        # What lives here by that name is meant, rather than what the alias stands for.
        assert text_of(await role.http.post(CHAT, json=hello("nick"))) == "the gateway's nick"
        assert (await role.http.post("/models/unload", json={"id": "nick"})).status_code == 200
        assert set(await residents(role)) == {"real"}
        assert text_of(await role.http.post(CHAT, json=hello("nick"))) == "the real one"
        assert (await role.http.post("/models/unload", json={"id": "nick"})).status_code == 200
        assert set(await residents(role)) == set()


async def test_a_gateways_request_is_never_answered_by_what_is_only_an_alias_here(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, nicked(tmp_path), SCRIPTS) as role:
        assert text_of(await role.http.post(CHAT, json=hello("nick"))) == "the real one"
        routed = await role.http.post(CHAT, json=hello("nick"), headers={wire.ROUTE: "boot"})
        assert (routed.status_code, routed.json()["error"]["code"]) == (409, "not_here_now")


async def test_a_gateway_serves_a_model_whose_id_is_an_alias_at_the_neuron(tmp_path: Path) -> None:
    known = replace(spec_from_plain(sent(tmp_path)), footprint=MIB)
    catalogue = Catalogue({"nick": known})
    async with (
        running_neuron(tmp_path, nicked(tmp_path), SCRIPTS) as role,
        running_gateway(role, catalogue=catalogue, config=patient(load_s=10.0)) as gateway,
    ):
        assert text_of(await gateway.http.post(CHAT, json=hello("nick"))) == "the gateway's nick"
