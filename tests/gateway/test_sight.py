"""A gateway refuses pictures for models that are known not to see, and brings them to those that may."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.gateway.listing import Listing
from cortex.web.listeners import fleet_credential
from tests.fake_neuron import fake_neuron, open_gateway
from tests.fake_upstream import Hang
from tests.fake_web import ask
from tests.gateway.test_dialects import chat
from tests.pictures import distinct, png, url
from tests.roles import MIB

UPSTREAM = "upstream:http://127.0.0.1:1/v1"
SPECS = {
    "blind": ModelSpec("blind", harness="llamacpp", footprint=MIB),
    "claims": ModelSpec("claims", harness="llamacpp", footprint=MIB, capabilities=("vision",)),
    "cuda": ModelSpec("cuda", source="path:/m/cuda", footprint=MIB),
    "sees": ModelSpec("sees", source=UPSTREAM, footprint=MIB, capabilities=("chat", "vision")),
    "sees-too": ModelSpec("sees-too", source=UPSTREAM, footprint=MIB, capabilities=("vision",)),
    "reads": ModelSpec("reads", source=UPSTREAM, footprint=MIB, capabilities=("chat",)),
    "silent": ModelSpec("silent", source=UPSTREAM, footprint=MIB),
    "unknown": ModelSpec("unknown", footprint=MIB),
}


def catalogue(*names: str) -> Catalogue:
    return Catalogue({name: SPECS[name] for name in names or SPECS})


def asked(path: str, model: str, source: str | None = None) -> dict[str, Any]:
    """A request whose second part is a picture."""
    source = url() if source is None else source
    match path:
        case "/v1/chat/completions":
            parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": source}}]
            return {"model": model, "messages": [{"role": "user", "content": parts}]}
        case "/v1/responses":
            parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": source}]
            return {"model": model, "input": [{"role": "user", "content": parts}]}
        case _:
            data = source.partition("base64,")[2]
            inner = {"type": "base64", "media_type": "image/png", "data": data}
            if not data:
                inner = {"type": "url", "url": source}
            parts = [{"type": "text", "text": "a"}, {"type": "image", "source": inner}]
            return {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": parts}]}


PLACES = {
    "/v1/chat/completions": "messages[0].content[1]",
    "/v1/responses": "input[0].content[1]",
    "/v1/messages": "messages[0].content[1]",
    "/v1/messages/count_tokens": "messages[0].content[1]",
}
every = pytest.mark.parametrize(("path", "place"), PLACES.items())


def told(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


@every
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["blind", "claims", "cuda", "reads"])
async def test_a_model_that_cannot_see_is_not_loaded_for_pictures(
    path: str, place: str, model: str, stream: bool
) -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        answer = await gateway.http.post(path, json={**asked(path, model), "stream": stream})
        assert answer.status_code == 400
        error = told(answer)
        assert place in error["message"] and model in error["message"]
        assert "Ask sees or sees-too instead" in error["message"]
        if "messages" not in path:
            assert (error["code"], error["param"]) == ("unsupported_parameter", place)
        assert not neuron.ordered("/models/load") and not neuron.requests
        assert 'reason="media"' in await gateway.page()


@pytest.mark.parametrize("path", [path for path in PLACES if not path.endswith("count_tokens")])
@pytest.mark.parametrize("model", ["unknown", "hearsay"])
async def test_what_may_see_is_loaded_and_gets_the_clients_own_bytes(path: str, model: str) -> None:
    async with fake_neuron(known=["hearsay"]) as neuron:
        async with open_gateway(neuron, catalogue=catalogue()) as gateway:
            sent = json.dumps(asked(path, model), indent=1).encode()
            assert (await gateway.http.post(path, content=sent)).status_code == 200
            assert neuron.ordered("/models/load") == 1 and neuron.requests[0].body == sent


@every
@pytest.mark.parametrize("model", ["sees", "silent"])
async def test_an_upstreams_model_is_asked_where_nothing_says_that_it_is_blind(
    path: str, place: str, model: str
) -> None:
    async with fake_neuron(model) as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        sent = json.dumps(asked(path, model), indent=1).encode()
        assert (await gateway.http.post(path, content=sent)).status_code == 200
        assert neuron.requests[0].body == sent


@pytest.mark.parametrize(("capabilities", "status"), [(["chat", "vision"], 200), (["chat"], 400), ([], 400)])
async def test_what_a_neuron_says_of_what_it_has_counts_more_than_the_file(
    capabilities: list[str], status: int
) -> None:
    """Where it says nothing the file does."""
    async with fake_neuron() as neuron:
        neuron.has("reads", capabilities=capabilities)
        async with open_gateway(neuron, catalogue=catalogue()) as gateway:
            path = "/v1/chat/completions"
            assert (await gateway.http.post(path, json=asked(path, "reads"))).status_code == status
            assert len(neuron.requests) == (status == 200)


async def test_a_key_hears_of_no_model_that_it_may_not_use() -> None:
    ours = Key("ann", fleet_credential("ann-secret").sha256, models=("blind", "sees-too"))
    none = Key("bob", fleet_credential("bob-secret").sha256, models=("blind",))
    config = replace(GatewayConfig(), keys=(ours, none))
    path = "/v1/chat/completions"
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue(), config=config) as gateway:
        messages = [
            told(
                await gateway.http.post(
                    path, json=asked(path, "blind"), headers={"authorization": f"Bearer {name}-secret"}
                )
            )["message"]
            for name in ("ann", "bob")
        ]
    assert "Ask sees-too instead" in messages[0]
    assert "sees" not in messages[1].replace("it sees", "") and "GET /v1/models" in messages[1]


async def test_a_model_is_called_by_the_name_that_it_was_asked_by() -> None:
    named = Catalogue({"blind": SPECS["blind"]}, {"short": "blind"})
    config = replace(
        GatewayConfig(), keys=(Key("ann", fleet_credential("ann-secret").sha256, models=("short",)),)
    )
    path = "/v1/chat/completions"
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=named, config=config) as gateway:
        answer = await gateway.http.post(
            path, json=asked(path, "short"), headers={"authorization": "Bearer ann-secret"}
        )
        assert "the model 'short' cannot" in told(answer)["message"]
        assert "blind" not in answer.text


@every
async def test_what_no_neuron_would_take_is_refused_before_a_load(path: str, place: str) -> None:
    """Fault 51. A model that sees is loaded for free, and its neuron refuses."""
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        answer = await gateway.http.post(path, json=asked(path, "unknown", "http://169.254.169.254/"))
        assert answer.status_code == 400 and "nothing is fetched" in told(answer)["message"]
        assert not neuron.ordered("/models/load")
        assert 'reason="ssrf"' in await gateway.page()


DOCUMENTS = {
    "/v1/chat/completions": {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
    "/v1/responses": {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0="},
    "/v1/messages": {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    },
}


@pytest.mark.parametrize(("path", "part"), DOCUMENTS.items())
async def test_no_model_is_loaded_for_a_document(path: str, part: dict[str, Any]) -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        body = asked(path, "blind")
        body.get("messages", body.get("input"))[0]["content"][1] = part
        answer = await gateway.http.post(path, json=body)
        assert answer.status_code == 400 and "its pages as" in told(answer)["message"]
        assert PLACES[path] in told(answer)["message"] and not neuron.ordered("/models/load")


WORDS = ['he said "image" and "image_url" and "document"', '{"type": "image"}']


@every
@pytest.mark.parametrize("words", WORDS)
async def test_a_text_that_speaks_of_pictures_is_a_text(path: str, place: str, words: str) -> None:
    async with fake_neuron("blind") as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        body = asked(path, "blind")
        del body.get("messages", body.get("input"))[0]["content"][1]
        body.get("messages", body.get("input"))[0]["content"][0]["text"] = words
        assert (await gateway.http.post(path, json=body)).status_code == 200
        assert len(neuron.requests) == 1


async def test_a_tool_may_have_a_field_of_such_a_name() -> None:
    """Then the body is read, and found to have no pictures."""
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"image": {}, "document": {}}}}
    body = {
        "model": "blind",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "a"}],
        "tools": [tool],
    }
    async with fake_neuron("blind") as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        assert (await gateway.http.post("/v1/messages", json=body)).status_code == 200


def parts(told_body: dict[str, Any]) -> Iterable[Any]:
    return told_body["messages"][0]["content"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_a_neuron_that_speaks_chat_alone_is_shown_the_pictures_too(path: str) -> None:
    async with fake_neuron("sees", otherwise=chat()) as neuron:
        neuron.dialects = ("openai_chat", "openai_text")
        async with open_gateway(neuron, catalogue=catalogue()) as gateway:
            answer = await gateway.http.post(path, json=asked(path, "sees", url(distinct(1))))
            assert answer.status_code == 200, answer.text
            sent = json.loads(neuron.requests[0].body)
            assert parts(sent) == [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": url(distinct(1))}},
            ]


async def test_the_list_says_who_sees() -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue()) as gateway:
        data = (await gateway.http.get("/v1/models")).json()["data"]
        entries = {entry["id"]: entry for entry in data}
        assert {name for name, entry in entries.items() if entry.get("vision")} == {"sees", "sees-too"}
        assert "capabilities" not in entries["claims"], "it says what is not so"
        assert "vision" not in entries["silent"], "absent when nobody knows"


async def test_a_key_is_not_charged_for_the_bytes_of_a_picture() -> None:
    """Of a client that left nobody has told how long its prompt was."""
    ann = Key("ann", fleet_credential("ann-secret").sha256, tokens_per_day=2000)
    config = replace(GatewayConfig(), keys=(ann,))
    body = asked("/v1/chat/completions", "sees", url(png(9, 9, rest=100_000)))
    header = ("authorization", "Bearer ann-secret")
    async with fake_neuron("sees") as neuron:
        async with open_gateway(neuron, catalogue=catalogue(), config=config) as gateway:
            neuron.then(Hang())
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", json.dumps(body).encode(), authorization=header[1]))
            await neuron.seen(1)
            await client.close()
            await neuron.until(hung_up=1)
            again = await gateway.http.post("/v1/chat/completions", json=body, headers=[header])
            assert again.status_code == 200, again.text


@pytest.mark.parametrize(
    ("harness", "words"),
    [("upstream", 'add "vision" to its capabilities'), ("llamacpp", "it reads text only")],
)
async def test_a_refusal_says_what_would_help_the_model_that_it_is_about(harness: str, words: str) -> None:
    async with fake_neuron() as neuron:
        neuron.has("hearsay", capabilities=["chat"], harness=harness)
        async with open_gateway(neuron) as gateway:
            path = "/v1/chat/completions"
            answer = await gateway.http.post(path, json=asked(path, "hearsay"))
            assert answer.status_code == 400 and words in told(answer)["message"]
            assert neuron.requests == []


async def test_who_has_a_model_is_not_looked_at_for_what_holds_no_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That grows with the fleet, and a look at a body of the usual length costs next to nothing."""
    looks, sees = list[str](), Listing.sees
    monkeypatch.setattr(Listing, "sees", lambda self, model: looks.append(model) or sees(self, model))
    async with fake_neuron("sees") as neuron, open_gateway(neuron, catalogue=catalogue("sees")) as gateway:
        for path in PLACES:
            hello = {"model": "sees", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            if path == "/v1/responses":
                hello = {"model": "sees", "input": "hi"}
            assert (await gateway.http.post(path, json=hello)).status_code == 200
            assert looks == []
            assert (await gateway.http.post(path, json=asked(path, "sees"))).status_code == 200
            assert looks.pop() == "sees"
