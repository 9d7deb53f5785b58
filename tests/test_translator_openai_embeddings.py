"""POST /v1/embeddings between bytes and neutral words."""

import json
import struct
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from cortex.ask import Ask, Embed
from cortex.errors import BadAsk, CortexError, EngineFailed, Unsupported, UpstreamFailed
from cortex.events import Embedded, Event, Failed, Stopped, Text, Usage
from cortex.translator.openai_embeddings import hear, read, whole
from cortex.wire.embeddings import answer_bytes
from cortex.wire.openai import Reply

GOLDEN = Path(__file__).parent / "golden" / "openai"
SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "input": "a"} | fields).encode()


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def answered(events: list[Event], *inputs: str, base64: bool = False) -> dict[str, Any]:
    ask = Ask("m", embed=Embed(inputs or ("a",), base64=base64))
    said: dict[str, Any] = json.loads(whole(Reply.to(ask, id="embd-1", created=0), events))
    return said


@pytest.mark.parametrize(
    ("sent", "inputs"),
    [
        ("one text", ("one text",)),
        (["one", "two"], ("one", "two")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_inputs_are_texts_or_token_ids_in_their_order(sent: object, inputs: tuple[object, ...]) -> None:
    assert read(body(input=sent)) == Ask("m", embed=Embed(inputs))  # type: ignore[arg-type]


def test_what_is_said_of_the_vectors_is_kept() -> None:
    ask = read(body(encoding_format="base64", dimensions=256, user="u"))
    assert ask.embed == Embed(("a",), dimensions=256, base64=True)
    assert read(body(encoding_format=None, dimensions=None)).embed == Embed(("a",))


@pytest.mark.parametrize(("client", "inputs"), [("openai-python", ("a",)), ("openai-node", ("a", "b"))])
def test_recorded_requests_ask_for_base64(client: str, inputs: tuple[str, ...]) -> None:
    """clients.md 0.7: openai-node decodes base64 whatever it gets."""
    sent = (GOLDEN / f"{client}-embeddings.json").read_bytes()
    assert read(sent) == Ask("e", embed=Embed(inputs, base64=True))


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (None, "input"),
        ("", "input"),
        ([], "input"),
        (["a", ""], "input[1]"),
        ([[1], []], "input[1]"),
        (["a", 1], "input"),
        ([1, "a"], "input"),
        (["a", [1]], "input"),
        ([[1], "a"], "input"),
        ([[1], 2], "input"),
        ([-1], "input"),
        ([[5], [2**31]], "input[1]"),
        (["a"] * 2049, "input"),
        ([1] * 1_048_577, "input"),
        ([1.5], "input[0]"),
        ({"text": "a"}, "input"),
    ],
)
def test_an_input_that_is_none_is_refused_by_its_place(sent: object, param: str) -> None:
    """faults.md row 46: declared bounds."""
    with pytest.raises(BadAsk) as caught:
        read(body(input=sent))
    assert caught.value.param == param


def test_as_many_inputs_as_the_vendor_takes_are_taken() -> None:
    embed = read(body(input=["a"] * 2048)).embed
    assert embed is not None
    assert len(embed.inputs) == 2048


@pytest.mark.parametrize(
    ("field", "value", "neutral"),
    [
        ("stream", True, False),
        ("input_type", "query", None),
        ("truncate", "END", "NONE"),
        ("truncate_prompt_tokens", 8, None),
        ("normalize", False, True),
        ("embd_normalize", -1, 2),
        ("add_special_tokens", False, True),
        ("output_dtype", "int8", "float"),
        ("messages", [], None),
        ("encoding_format", "int8", "float"),
    ],
)
def test_what_would_change_the_vectors_is_refused_by_name(field: str, value: object, neutral: object) -> None:
    with pytest.raises(Unsupported) as caught:
        read(body(**{field: value}))
    assert caught.value.param == field
    assert read(body(**{field: neutral, "unheard_of": 1})).embed == Embed(("a",))


@pytest.mark.parametrize("field", ["api_base", "base_url", "user_config", "chat_template"])
def test_what_would_lead_elsewhere_is_refused(field: str) -> None:
    """faults.md row 50."""
    with pytest.raises(BadAsk, match="operator") as caught:
        read(body(**{field: "http://10.0.0.1"}))
    assert caught.value.param == field


@pytest.mark.parametrize("dimensions", [0, -1, 2**20 + 1, 1.5, "8"])
def test_dimensions_are_a_bounded_number(dimensions: object) -> None:
    with pytest.raises(BadAsk) as caught:
        read(body(dimensions=dimensions))
    assert caught.value.param == "dimensions"


def test_a_model_is_needed_and_named_once() -> None:
    for sent in (b'{"input":"a"}', b'{"model":"a","model":"b","input":"a"}'):
        with pytest.raises(BadAsk, match="model"):
            read(sent)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=12))
def test_whatever_an_input_is_it_is_read_or_refused(sent: object) -> None:
    try:
        embed = read(body(input=sent)).embed
    except CortexError as error:
        assert (error.status, (error.param or "").partition("[")[0]) == (400, "input")
    else:
        assert embed is not None
        assert all(embed.inputs)


def test_an_answer_has_one_vector_for_each_input_in_their_order() -> None:
    events: list[Event] = [
        Embedded(vector(0.5, -1), choice=1),
        Stopped("stop", Usage(prompt=4), choice=1),
        Embedded(vector(0.25, 1), choice=0),
        Stopped("stop", Usage(prompt=3), choice=0),
    ]
    said = answered(events, "a", "b")
    assert said == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.25, 1]},
            {"object": "embedding", "index": 1, "embedding": [0.5, -1]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    CreateEmbeddingResponse.model_validate(said, strict=True)


@given(st.lists(SINGLE, min_size=1, max_size=20))
def test_both_forms_bring_the_same_numbers_back(numbers: list[float]) -> None:
    data = vector(*numbers)
    events: list[Event] = [Embedded(data), Stopped("stop", Usage(prompt=1))]
    told = answered(events)["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(numbers)}f", vector(*told))) == numbers  # of which -0.0 may be 0
    assert b64decode(answered(events, base64=True)["data"][0]["embedding"]) == data


@pytest.mark.parametrize("base64", [True, False])
@given(st.lists(SINGLE, min_size=1, max_size=20))
def test_no_answer_is_longer_than_was_foreseen(base64: bool, numbers: list[float]) -> None:
    ask = Ask("m", embed=Embed(("a",), base64=base64))
    events: list[Event] = [Embedded(vector(*numbers)), Stopped("stop", Usage(prompt=1))]
    frame = len('{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}')
    said = whole(Reply.to(ask, id="embd-1", created=0), events)
    assert len(said) - frame <= answer_bytes(1, len(numbers), base64=base64)


def test_guessed_counts_are_marked() -> None:
    events: list[Event] = [Embedded(vector(1)), Stopped("stop", Usage(prompt=3, estimated=True))]
    assert answered(events)["usage"] == {"prompt_tokens": 3, "total_tokens": 3, "estimated": True}


def test_an_answer_that_lacks_a_vector_is_none() -> None:
    """A client would take the second input's vector for the first one's."""
    with pytest.raises(EngineFailed, match="1 vectors of 2 inputs"):
        answered([Embedded(vector(1), choice=1), Stopped("stop", choice=1)], "a", "b")
    with pytest.raises(EngineFailed, match="lost"):
        answered([Embedded(vector(1)), Failed(EngineFailed("lost"), choice=1)], "a", "b")
    with pytest.raises(TypeError, match="Text"):
        answered([Text("hello")])


@pytest.mark.parametrize(
    ("usage", "prompt"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, 7),
        ({"total_tokens": 6}, 6),
        ({"prompt_tokens": 2**40}, None),
        ({"prompt_tokens": 10**30}, None),
        ({"prompt_tokens": -5}, None),
        ({"prompt_tokens": 0, "total_tokens": 0}, None),
        (None, None),
    ],
)
def test_counts_that_cannot_be_are_taken_for_untold(usage: object, prompt: int | None) -> None:
    """A neuron adds them up, and its report with one beyond all counts would be no report."""
    said = json.dumps({"data": [{"embedding": [1.5]}], "usage": usage}).encode()
    _, end = hear(said, Ask("m", embed=Embed(("a",))), 10)
    assert end.usage == Usage(prompt=prompt or 3, estimated=prompt is None)


HEARD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "embedding", "data", "usage"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ODD_VECTORS = st.lists(
    st.fixed_dictionaries(
        {"embedding": HEARD | st.lists(SINGLE, min_size=2, max_size=2)}, optional={"index": HEARD}
    ),
    max_size=3,
)


@given(
    st.fixed_dictionaries({"data": ODD_VECTORS | HEARD}, optional={"usage": HEARD})
    .map(json.dumps)
    .map(str.encode)
    | st.binary(max_size=40),
    st.sampled_from([None, 2, 3]),
)
def test_whatever_an_upstream_answers_it_is_a_vector_for_each_input_or_refused(
    said: bytes, dimensions: int | None
) -> None:
    ask = Ask("m", embed=Embed(("a", "b"), dimensions=dimensions))
    try:
        vectors, end = hear(said, ask, 40)
    except UpstreamFailed:
        return
    except Unsupported as error:
        assert error.param == "dimensions" and dimensions is not None
        return
    assert [each.choice for each in vectors] == [0, 1]
    assert len({len(each.data) for each in vectors}) == 1
    assert dimensions is None or len(vectors[0].data) == 4 * dimensions
    assert end.usage.prompt >= 0
