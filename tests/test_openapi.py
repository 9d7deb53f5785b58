"""The description of both roles: whole, true to the structs and the routes, and served."""

import re
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import schemathesis
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.demo import MODEL_ID
from cortex.errors import BadAsk
from cortex.gateway import app as gateway_app
from cortex.gateway import description as gateway
from cortex.gateway.passage import Passage
from cortex.harness.scripted import Script
from cortex.keys import digest
from cortex.neuron import app as neuron_app
from cortex.neuron import description as neuron
from cortex.neuron.speech import Speech
from cortex.neuron.tokens import Tokeniser
from cortex.openapi import Access, Description
from cortex.openapi.raw import DEMANDED, FILLS
from cortex.openapi.shapes import Shapes, name_of
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES
from cortex.wire import anthropic_bodies as anthropic
from cortex.wire import openai_bodies as openai
from cortex.wire import responses_bodies as responses
from tests.calls import settings
from tests.pictures import url
from tests.roles import running_gateway, running_neuron, specs

KEY = "sk-user"
ROLES = {
    "gateway": Description("gateway", gateway.ABOUT, gateway.OPERATIONS, gateway_app.scope_of),
    "neuron": Description("neuron", neuron.ABOUT, neuron.OPERATIONS, neuron_app.scope_of),
}
EACH = pytest.mark.parametrize("role", ROLES)


def document(role: str, access: Access = Access(keyed=True)) -> dict:
    return msgspec.json.decode(ROLES[role].page(access).body)


def real(role: str) -> set[tuple[str, str]]:
    """The routes that there are, by method and path without the names of its parts."""
    nothing = SimpleNamespace(listing=SimpleNamespace(fleet=SimpleNamespace(tongues=None)), accounts=None)
    if role == "gateway":
        app = gateway_app.application(nothing, nothing, nothing, nothing, nothing)  # type: ignore[arg-type]
        inference = Passage("", nothing, None, None, None).routes()  # type: ignore[arg-type]
    else:
        app = neuron_app.routes(None, None, None)  # type: ignore[arg-type]
        inference = {
            **Speech("n1", None, None, None, None).routes(),  # type: ignore[arg-type]
            **Tokeniser("n1", None, None).routes(),  # type: ignore[arg-type]
        }
    found = {("POST", path) for path in inference}
    for rule in app.url_map.iter_rules():
        path = re.sub("<[^>]*>", "{}", rule.rule)
        found |= {(method, path) for method in rule.methods or () if method not in ("HEAD", "OPTIONS")}
    return found


@EACH
def test_every_route_is_described_and_nothing_else_is(role: str) -> None:
    described = [
        (method.upper(), re.sub("{[^}]*}", "{}", path))
        for path, item in document(role)["paths"].items()
        for method in item
    ]
    assert sorted(described) == sorted(real(role))


@EACH
def test_it_is_openapi(role: str) -> None:
    schemathesis.openapi.from_dict(document(role)).validate()
    broken = document(role)
    broken["paths"]["/livez"]["get"]["responses"]["200"]["description"] = None
    with pytest.raises(Exception, match="description"):
        schemathesis.openapi.from_dict(broken).validate()


@EACH
def test_it_says_what_each_route_demands_of_its_caller(role: str) -> None:
    """As the door does: with a scope where one is asked for, and nothing of keys where there are none."""
    for path, item in document(role)["paths"].items():
        for method, told in item.items():
            real_path = re.sub("{[^}]*}", "some-model", path)
            scope = (gateway_app if role == "gateway" else neuron_app).scope_of(method.upper(), real_path)
            roles = {"open": None, "read": [], "inference": ["inference"], "admin": ["admin"]}[scope]
            assert told["security"] == ([] if roles is None else [{"bearer": roles}, {"x-api-key": roles}])
    open_to_all = document(role, Access())
    assert all(told["security"] == [] for item in open_to_all["paths"].values() for told in item.values())
    anonymous = document(role, Access(keyed=True, anonymous=True))["paths"]
    assert {} in anonymous["/v1/chat/completions"]["post"]["security"]
    assert {} not in anonymous["/health"]["get"]["security"]


@EACH
def test_the_same_routes_make_the_same_bytes_and_one_page_is_made_once(role: str) -> None:
    one = ROLES[role]
    again = Description(role, one._about, one.operations, one._scope_of)
    assert again.page(Access(keyed=True)) == one.page(Access(keyed=True))
    assert one.page(Access()) is one.page(Access())
    assert one.page(Access()).tag != one.page(Access(keyed=True)).tag


def asked() -> list[type[msgspec.Struct]]:
    """Every struct that reads a body."""
    kinds = [op.asked.kind for one in ROLES.values() for op in one.operations if op.asked is not None]
    return list(dict.fromkeys(kinds))


@pytest.mark.parametrize("kind", asked(), ids=lambda kind: kind.__name__)
def test_every_field_that_is_read_is_described(kind: type[msgspec.Struct]) -> None:
    """A field that its struct keeps raw, too: as what it is read in the end."""
    schemas = {**document("gateway")["components"]["schemas"], **document("neuron")["components"]["schemas"]}
    told = schemas[name_of(kind)]
    assert set(told["properties"]) == set(kind.__struct_encode_fields__)
    for field in msgspec.structs.fields(kind):
        if field.type is msgspec.Raw:
            assert told["properties"][field.encode_name], f"nothing is said of {field.name}: see openapi/raw"
    assert set(told.get("required", ())) == {
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if field.required or field.name in DEMANDED.get(kind, ())
    }


def test_what_is_said_of_raw_fields_is_of_fields_that_there_are() -> None:
    for table in (FILLS, DEMANDED):
        for kind, fields in table.items():
            assert set(fields) <= set(kind.__struct_fields__), kind


SCHEMA = {"type": "object"}
SAID = {"role": "user", "content": "a"}


def _picture(detail: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url(), "detail": detail}}


def _input(kind: str) -> dict:
    return {"type": kind, "grammar": {"definition": "d"}}


# By struct and field: a body of the dialect that says the word there.
WORDS = {
    (openai.MessageBody, "role"): (CHAT, lambda word: {"messages": [{**SAID, "role": word, "name": "f"}]}),
    (openai.ChatBody, "reasoning_effort"): (CHAT, lambda word: {"reasoning_effort": word}),
    (openai.FormatBody, "type"): (
        CHAT,
        lambda word: {"response_format": {"type": word, "json_schema": {"schema": SCHEMA}}},
    ),
    (openai.PictureBody, "detail"): (
        CHAT,
        lambda word: {"messages": [{**SAID, "content": [_picture(word)]}]},
    ),
    (openai.ToolBody, "type"): (
        CHAT,
        lambda word: {"tools": [{"type": word, "function": {"name": "f"}, "custom": {"name": "f"}}]},
    ),
    (openai.InputFormatBody, "type"): (
        CHAT,
        lambda word: {"tools": [{"type": "custom", "custom": {"name": "f", "format": _input(word)}}]},
    ),
    (anthropic.TurnBody, "role"): (MESSAGES, lambda word: {"messages": [{**SAID, "role": word}]}),
    (anthropic.ThinkingBody, "type"): (MESSAGES, lambda word: {"thinking": {"type": word}}),
    (anthropic.OutputBody, "effort"): (MESSAGES, lambda word: {"output_config": {"effort": word}}),
    (anthropic.ChoiceBody, "type"): (
        MESSAGES,
        lambda word: {
            "tools": [{"name": "f", "input_schema": SCHEMA}],
            "tool_choice": {"type": word, "name": "f"},
        },
    ),
    (anthropic.FormatBody, "type"): (
        MESSAGES,
        lambda word: {"output_config": {"format": {"type": word, "schema": SCHEMA}}},
    ),
    (responses.ReasoningBody, "effort"): (RESPONSES, lambda word: {"reasoning": {"effort": word}}),
    (responses.ResponsesBody, "truncation"): (RESPONSES, lambda word: {"truncation": word}),
    (responses.FormatBody, "type"): (
        RESPONSES,
        lambda word: {"text": {"format": {"type": word, "schema": SCHEMA}}},
    ),
}


def worded() -> dict[tuple[type[msgspec.Struct], str], list[str | None]]:
    """The words that are described of fields whose structs have texts there."""
    return {
        (kind, name): fill["enum"]
        for kind, fields in FILLS.items()
        for name, fill in fields.items()
        if isinstance(fill, dict) and "enum" in fill and kind.__annotations__.get(name) is not msgspec.Raw
        if name in kind.__annotations__
    }


def test_the_words_that_are_described_are_those_that_are_taken() -> None:
    assert set(worded()) == set(WORDS)
    for place, words in worded().items():
        dialect, body = WORDS[place]
        rest = {"model": "a", "messages": [SAID], "input": "a"}
        for word in words:
            dialect.read(msgspec.json.encode({**rest, **body(word)}))
        with pytest.raises(BadAsk):
            dialect.read(msgspec.json.encode({**rest, **body("another")}))


class Inner(msgspec.Struct):
    text: str = "a"


class Outer(msgspec.Struct, tag_field="type", tag="outer"):
    inner: Inner
    counts: dict[int, float]
    raw: msgspec.Raw = msgspec.Raw()
    left_out: int | msgspec.UnsetType = msgspec.UNSET
    nothing: str | None = None
    some: str | list[int] | None = None


def test_a_struct_is_told_with_all_that_it_bounds() -> None:
    shapes = Shapes({Outer: {"raw": msgspec.json.Decoder(list[int])}}, {Outer: ("nothing", "some")})
    assert shapes.of(Outer) == {"$ref": "#/components/schemas/Outer"}
    assert shapes.components["Inner"] == {
        "type": "object",
        "properties": {"text": {"type": "string", "default": "a"}},
    }
    assert shapes.components["Outer"] == {
        "type": "object",
        "properties": {
            "type": {"const": "outer"},
            "inner": {"$ref": "#/components/schemas/Inner"},
            "counts": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "propertyNames": {"pattern": "^(0|[1-9][0-9]*)$"},
            },
            "raw": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
            "left_out": {"type": "integer"},
            "nothing": {"type": "string"},
            "some": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                ]
            },
        },
        "required": ["type", "inner", "counts", "nothing", "some"],
    }


def test_two_structs_of_one_name_are_not_mixed_up() -> None:
    shapes = Shapes({}, {})
    shapes.of(Inner)
    with pytest.raises(ValueError, match="two structs would be called Inner"):
        shapes.of(msgspec.defstruct("Inner", [], module=__name__))


async def test_both_roles_serve_it_with_a_tag(tmp_path: Path) -> None:
    keyed = GatewayConfig(keys=(Key("ann", digest(KEY), ("inference",)),))
    with trio.fail_after(30):
        async with (
            running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi"), config=settings()) as one,
            running_gateway(one, config=keyed) as front,
        ):
            for role, access, headers in (
                (one, Access(), {}),
                (front, Access(keyed=True), {"x-api-key": KEY}),
            ):
                name = "neuron" if role is one else "gateway"
                answer = await role.http.get("/openapi.json", headers=headers)
                assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
                assert answer.content == ROLES[name].page(access).body
                known = {"if-none-match": answer.headers["etag"], **headers}
                again = await role.http.get("/openapi.json", headers=known)
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == answer.headers["etag"]
            assert (await front.http.get("/openapi.json")).status_code == 401


@EACH
async def test_every_example_works(role: str, tmp_path: Path) -> None:
    """As whoever clicks it in a viewer would send it, with the model loaded."""
    catalogue = specs(tmp_path, MODEL_ID)
    with trio.fail_after(60):
        async with (
            running_neuron(tmp_path, catalogue, Script(reply="hi"), config=settings()) as one,
            running_gateway(one, catalogue=catalogue) as front,
        ):
            running = one if role == "neuron" else front
            load = "/models/load" if role == "neuron" else "/fleet/models/load"
            paths = document(role)["paths"]
            for path, method, told in ((p, m, told) for p, item in paths.items() for m, told in item.items()):
                if "embeddings" in path:
                    continue  # of models that this one is not
                await running.http.post(load, json=first(paths[load]["post"]))
                parts = {part["name"]: part.get("example") for part in told.get("parameters", ())}
                if "{" in path and not all(parts[name] for name in re.findall("{(.*?)}", path)):
                    continue  # of a load that has to be begun
                query = {name: parts[name] for name in parts if name == "model"}
                for body in examples(told) or [None]:
                    url = path.format(**parts)
                    request = running.http.build_request(method.upper(), url, json=body, params=query)
                    answer = await running.http.send(request, stream=True)
                    assert answer.status_code == 200, (method, path, body, await answer.aread())
                    await answer.aclose()


def examples(told: dict) -> list[dict]:
    content = told.get("requestBody", {}).get("content", {})
    return [each["value"] for kind in content.values() for each in kind["examples"].values()]


def first(told: dict) -> dict:
    return examples(told)[0]
