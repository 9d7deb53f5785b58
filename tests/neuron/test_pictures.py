"""A neuron shows pictures to models of upstreams that see, and refuses them for all others."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.harness.scripted import Script
from tests.calls import CHAT, fault_of, residents, text_of
from tests.fake_engine import DONE, HELLO, FakeEngine, chunk, fake_engine, refusal
from tests.fake_upstream import STREAM_HEAD, chunks, last_chunk
from tests.gateway.test_sight import PLACES, asked, every
from tests.neuron.test_upstreams import bridge
from tests.pictures import distinct, png, text, url
from tests.recorded import Recorded, clients, requests
from tests.roles import running_gateway, running_neuron, specs

ASKING = {path: place for path, place in PLACES.items() if not path.endswith("count_tokens")}
asking = pytest.mark.parametrize(("path", "place"), ASKING.items())


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def seeing(engine: FakeEngine, *capabilities: str) -> Catalogue:
    """A catalogue in which the engine's model `m` has these."""
    return Catalogue({"m": ModelSpec("m", source=f"upstream:{engine.url}", capabilities=capabilities)})


def shown(number: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(distinct(number))}}


@asking
@pytest.mark.parametrize("stream", [True, False])
async def test_the_engine_is_shown_what_the_client_showed(path: str, place: str, stream: bool) -> None:
    async with fake_engine("m") as engine, bridge(engine, seeing(engine, "chat", "vision")) as role:
        body = {**asked(path, "m", url(distinct(1))), "stream": stream}
        answer = await role.http.post(path, json=body)
        assert answer.status_code == 200 and "Hel" in answer.text
        assert engine.body["messages"] == [
            {"role": "user", "content": [{"type": "text", "text": "a"}, shown(1)]}
        ]


SAYING: dict[str, dict[str, Any]] = {
    "llama-server": {"architecture": {"input_modalities": ["text", "image"]}},
    "TabbyAPI": {"parameters": {"max_seq_len": 4096, "use_vision": True}},
    "cortex": {"vision": True, "capabilities": ["vision"]},
}
SILENT: dict[str, dict[str, Any]] = {
    "vLLM": {},
    "llama-server": {"architecture": {"input_modalities": ["text", "audio"]}},
    "TabbyAPI": {"parameters": {"use_vision": False}},
    "cortex": {"vision": False},
    "nulls": {"architecture": {"input_modalities": None}, "parameters": None, "vision": None},
    "something else": {"architecture": "image", "parameters": {"use_vision": "yes"}, "vision": {"a": 1}},
    "a text": {"architecture": {"input_modalities": "image"}},
}


@pytest.mark.parametrize("facts", SAYING.values(), ids=SAYING)
async def test_an_engine_that_says_that_it_sees_is_believed(facts: dict[str, Any]) -> None:
    async with fake_engine("m", **facts) as engine, bridge(engine) as role:
        text_of(await role.http.post(CHAT, json=asked(CHAT, "m")))
        assert (await residents(role))["m"]["capabilities"] == ["completion", "chat", "vision"]
        assert (await role.http.get("/v1/models/m")).json()["vision"] is True


@asking
@pytest.mark.parametrize("facts", SILENT.values(), ids=SILENT)
async def test_a_model_that_nobody_says_sees_is_shown_nothing(
    facts: dict[str, Any], path: str, place: str
) -> None:
    """Also where it must be looked up first whether the engine says so."""
    async with fake_engine("m", **facts) as engine, bridge(engine) as role:
        for _ in ("before it is loaded", "and after"):
            answer = await role.http.post(path, json=asked(path, "m"))
            assert answer.status_code == 400 and place in fault_of(answer)["message"]
            assert 'add "vision" to its capabilities' in fault_of(answer)["message"]
        assert engine.requests == []
        assert (await role.http.get("/v1/models/m")).json()["vision"] is False


async def test_the_operators_word_counts_more_than_the_engines() -> None:
    async with fake_engine("m", vision=True) as engine, bridge(engine, seeing(engine, "chat")) as role:
        answer = await role.http.post(CHAT, json=asked(CHAT, "m"))
        assert (answer.status_code, fault_of(answer)["code"]) == (400, "unsupported_parameter")
        assert fault_of(answer)["param"] == PLACES[CHAT] and engine.requests == []
        assert await residents(role) == {}, "nothing was loaded to know that"


@every
async def test_a_model_of_ours_is_not_loaded_to_be_shown_pictures(
    tmp_path: Path, path: str, place: str
) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), {"a": Script(reply="hi")}) as role:
        answer = await role.http.post(path, json=asked(path, "a"))
        assert answer.status_code == 400 and place in fault_of(answer)["message"]
        assert "all models of llama.cpp and exllamav2" in fault_of(answer)["message"]
        assert await residents(role) == {}


async def test_nor_are_its_tokens_counted_with_them(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), {"a": Script(reply="hi")}) as role:
        answer = await role.http.post("/tokenize", json=asked(CHAT, "a"))
        assert (answer.status_code, fault_of(answer)["param"]) == (400, PLACES[CHAT])


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/tokenize"])
async def test_pictures_are_not_counted_by_an_upstream_that_tells_the_tokens_of_texts(path: str) -> None:
    """It would leave them out, or count a mark that stands for them."""
    async with fake_engine("m", vision=True) as engine, bridge(engine, seeing(engine, "vision")) as role:
        answer = await role.http.post(path, json=asked(CHAT if path == "/tokenize" else path, "m"))
        assert answer.status_code == 400 and "Count without pictures" in fault_of(answer)["message"]
        assert PLACES[CHAT] in fault_of(answer)["message"] and engine.requests == []


@pytest.mark.parametrize("image", [png(9, 9, rest=300_000), distinct(0)])
async def test_the_bytes_of_a_picture_are_not_taken_for_tokens(image: bytes) -> None:
    """Where the engine does not tell what a prompt was, its length stands in."""
    untold = STREAM_HEAD + chunks(*HELLO, chunk("stop"), DONE) + last_chunk()
    async with fake_engine("m", otherwise=untold) as engine, bridge(engine, seeing(engine, "vision")) as role:
        answer = await role.http.post(CHAT, json=asked(CHAT, "m", url(image)))
        assert 0 < answer.json()["usage"]["prompt_tokens"] < 100


async def test_a_long_body_with_pictures_arrives_whole() -> None:
    """Each of them as large as may be."""
    image = url(png(9, 9, rest=14 * 2**20))
    async with fake_engine("m") as engine, bridge(engine, seeing(engine, "vision")) as role:
        body = asked(CHAT, "m", image)
        body["messages"][0]["content"] *= 2
        text_of(await role.http.post(CHAT, json=body))
        assert [part.get("text") or len(part["image_url"]["url"]) for part in _parts(engine)] == [
            "a",
            len(image),
        ] * 2


def _parts(engine: FakeEngine) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = engine.body["messages"][0]["content"]
    return parts


@pytest.mark.parametrize("answer", [None, refusal(400, text(distinct(0))), refusal(500, text(distinct(0)))])
async def test_no_log_holds_a_picture(caplog: pytest.LogCaptureFixture, answer: bytes | None) -> None:
    caplog.set_level(logging.DEBUG, logger="cortex")
    async with fake_engine("m") as engine, bridge(engine, seeing(engine, "vision")) as role:
        if answer is not None:
            engine.then(answer)
        await role.http.post(CHAT, json=asked(CHAT, "m", url(distinct(0))))
        await role.http.post(CHAT, json=asked(CHAT, "m", f"{url(distinct(0))}*"))
    assert len(engine.requests) == 1
    assert text(distinct(0)) not in caplog.text


@asking
async def test_a_gateway_and_its_neuron_show_pictures_together(path: str, place: str) -> None:
    """The gateway's catalogue says who sees, and the neuron goes by it."""
    async with fake_engine("m") as engine, bridge(engine, seeing(engine, "vision")) as role:
        spec = ModelSpec("m", source=f"upstream:{engine.url}", capabilities=("vision",))
        async with running_gateway(role, catalogue=Catalogue({"m": spec})) as gateway:
            answer = await gateway.http.post(path, json=asked(path, "m", url(distinct(1))))
            assert answer.status_code == 200, answer.text
            assert _parts(engine)[1] == shown(1)


async def test_the_list_believes_no_entry_that_has_a_model_of_ours_see(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "a")
    spec = replace(catalogue.specs["a"], harness="llamacpp", capabilities=("chat", "vision"))
    async with running_neuron(tmp_path, Catalogue({"a": spec}), {"a": Script(reply="hi")}) as role:
        entry = (await role.http.get("/v1/models/a")).json()
        assert (entry["capabilities"], entry["vision"]) == (["chat"], False)


def _recorded() -> dict[str, Recorded]:
    """What real clients sent that has pictures or documents in it, by client and scenario."""
    kinds = ("image", "image_url", "input_image", "document")
    return {
        f"{client} {one.name}": one
        for client in clients()
        for one in requests(client)
        if any(f'"type": "{kind}"'.encode() in one.body for kind in kinds)
    }


RECORDED = _recorded()
DOCUMENT = "claude-code tool.Read,file.doc.pdf 2 /v1/messages"
REFUSED = {"openai-python plain 2 /v1/chat/completions", DOCUMENT}


async def test_real_clients_were_seen_to_send_pictures_in_every_dialect() -> None:
    assert {one.path for one in RECORDED.values()} == set(ASKING)
    assert RECORDED.keys() > REFUSED and len(RECORDED) >= 7


@pytest.mark.parametrize("name", sorted(RECORDED.keys() - REFUSED))
async def test_what_real_clients_showed_arrives(name: str) -> None:
    """clients.md 2.1 to 2.4."""
    one = RECORDED[name]
    body = {**json.loads(one.body), "model": "m"}
    async with fake_engine("m") as engine, bridge(engine, seeing(engine, "tools", "vision")) as role:
        answer = await role.http.post(one.path, json=body)
        assert answer.status_code == 200, answer.text
        turns = [turn["content"] for turn in engine.body["messages"] if isinstance(turn["content"], list)]
        images = [part["image_url"]["url"] for turn in turns for part in turn if part["type"] == "image_url"]
        (image,) = images
        assert image.startswith("data:image/png;base64,") and image[22:].encode() in one.body
    async with fake_engine("m") as engine, bridge(engine) as role:
        answer = await role.http.post(one.path, json=body)
        place = one.dialect.read(one.body).images[0].place if one.dialect else ""
        assert answer.status_code == 400 and place in fault_of(answer)["message"]


async def test_the_pdf_that_claude_code_sends_beside_its_result_is_refused_by_name() -> None:
    """clients.md 2.1: whoever is asked, and though the result of the tool can be read."""
    one = RECORDED[DOCUMENT]
    async with fake_engine("m") as engine, bridge(engine, seeing(engine, "vision")) as role:
        answer = await role.http.post(one.path, json={**json.loads(one.body), "model": "m"})
        error = fault_of(answer)
        assert (answer.status_code, error["details"]["error_code"]) == (400, "unsupported_parameter")
        assert "'messages[3].content[1]': 'document'" in error["message"] and "as images" in error["message"]
        assert engine.requests == []
