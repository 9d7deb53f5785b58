"""What a gateway peeks at, how it renames, and that no bytes raise anything but BadAsk."""

import json
import sys
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Model

from cortex.ask import Ask
from cortex.errors import BadAsk, CortexError
from cortex.events import TokenLogprob, Usage
from cortex.wire import reading
from cortex.wire.fleet import Location
from cortex.wire.openai import Peek, Reply, peek, rename
from cortex.wire.openai_answers import LogprobBody, ModelCost, ModelEntry, ModelList, UsageBody

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


# peek


def test_a_peek_holds_what_routing_needs() -> None:
    body = {
        "model": "m",
        "stream": True,
        "n": "not judged here",
        "max_tokens": "nor this",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": "not looked at",
    }
    peeked = peek(json.dumps(body).encode())
    assert peeked == Peek(model="m", stream=True, opening=peeked.opening) and peeked.affinity


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8, "max_tokens": 7}, 8),
        ({"max_output_tokens": 9}, 9),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "n": None}, 7),
        ({"n": 3}, None),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7),
        ({"max_tokens": 7, "n": 3, "prompt": ["a, b", "c"]}, 42),
        ({"max_tokens": 7, "prompt": [[1, 2], [3]]}, 14),
        ({"max_tokens": 7, "prompt": [1, 2, 3]}, 7),
        ({"max_tokens": 7, "prompt": "a, b"}, 7),
        ({"max_tokens": 7, "prompt": ["a" * 200_000, "b"]}, 14),
        ({"max_tokens": 7, "prompt": ["a," * 200_000, "b"]}, 7 * 64),
        *(({"max_tokens": odd}, None) for odd in ("7", -1, 1.5, True, [7], {"a": 7}, 10**12)),
    ],
)
def test_a_peek_tells_how_long_the_answers_may_get(said: dict[str, object], most: int | None) -> None:
    """What it cannot read it does not judge: that is the neuron's."""
    assert peek(json.dumps({"model": "m", **said}).encode()).answer_tokens == most


def test_null_is_absent_to_a_peek() -> None:
    fields = ("stream", "user", "metadata", "messages", "system", "max_tokens", "n")
    body = {"model": "m", **dict.fromkeys(fields)}
    assert peek(json.dumps(body).encode()) == Peek(model="m")


@pytest.mark.parametrize("body", [b"{}", b'{"model":null}', b'{"messages":[{"model":"x"}]}'])
def test_a_missing_model_is_named(body: bytes) -> None:
    with pytest.raises(BadAsk) as caught:
        peek(body)
    assert (caught.value.param, caught.value.code) == ("model", "invalid_request")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":5}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":"%b"}' % (b"a" * 257), "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(body: bytes, param: str) -> None:
    with pytest.raises(BadAsk) as caught:
        peek(body)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"model":5}', "'model': Expected `string | null`, got `integer`"),
        (b'{"model":"m","stream":1.5}', "'stream': Expected `boolean | null`, got `number`"),
        (b'["str"]', "The body: Expected `object`, got `array`"),
    ],
)
def test_kinds_of_values_have_the_names_that_json_has_for_them(body: bytes, says: str) -> None:
    with pytest.raises(BadAsk) as caught:
        peek(body)
    assert caught.value.message == says


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b'{"model":"m"', "truncated"),
        (b'\xef\xbb\xbf{"model":"m"}', "byte 0"),
        (b'{"model":"m","temperature":NaN}', "byte 27"),
        (b'{"model":"m"} x', "byte 15"),
        (b'{"model":"\xff"}', "utf-8"),
        (b'{"model":"\\ud800 and more"}', "half of a surrogate pair"),
        (b'{"model":"\\ud83d"}', "half of a surrogate pair"),
        (b'{"model":"\\ud83d\\ud83d\\ude00"}', "half of a surrogate pair"),
        (b'{"model":"\\uDE00"}', "half of a surrogate pair"),
        (b'{"model":"\\ud83d\\ude00", x}', "byte 25"),
        (b"[]", "array"),
        (b'{"model":"m","q":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"q":' * 100_000, "nested"),
    ],
)
def test_a_broken_body_is_refused_with_the_place(body: bytes, says: str) -> None:
    """Faults 43 and 44."""
    with pytest.raises(BadAsk, match=says):
        peek(body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","model":null}', "model"),
        (b'{"model":"a","mo\\u0064el":"b"}', "model"),
        (b'{"mo\\u0064el":"a","\\u006Dodel":"b"}', "model"),
        (b'{"model":"a","stream":false,"stream":true}', "stream"),
        (b'{"model":"a","stream":false,"\\u0073tream":true}', "stream"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_key_that_decides_is_given_once(body: bytes, param: str, size: int) -> None:
    """Fault 43: duplicates of security-relevant keys. Short bodies are searched, long ones read twice."""
    with pytest.raises(BadAsk, match="more than once") as caught:
        peek(b'{"q":"%b",%b' % (b"\\n" * size, body[1:]))
    assert caught.value.param == param


def test_the_second_of_two_equal_keys_ends_the_search() -> None:
    """Fault 43: a body full of them costs no more than the finding of one."""
    body = b'{"model":"a"' + b',"model":"a"' * 100_000 + b"}"
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        with pytest.raises(BadAsk, match="more than once"):
            peek(body)
    finally:
        sys.setprofile(None)
    assert calls < 100


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","tools":[{"model":"b","stream":true},{"model":{}}],"stream":true}',
        b'{"model":"a","user":"\\u0061\\u0062","prompt":"\\"model\\": \\"x\\", \\"model\\""}',
        b'{"metadata":{"model":"b"},"model":"a"}',
    ],
)
def test_the_same_key_deeper_down_is_another_key(body: bytes) -> None:
    assert peek(body).model == "a"


def test_a_million_unknown_keys_are_skipped() -> None:
    """Fault 45 and finding 9: unknown fields cost no nodes, so their number does not matter."""
    body = b'{"model":"m",' + b",".join(b'"k%d":{}' % i for i in range(1_000_000)) + b"}"
    assert peek(body) == Peek(model="m")


@given(JSON)
def test_any_json_is_peeked_at_or_refused(value: object) -> None:
    try:
        assert isinstance(peek(json.dumps(value).encode()), Peek)
    except CortexError as error:
        assert isinstance(error, BadAsk)


@given(st.dictionaries(st.sampled_from(["model", "stream", "n", "metadata", "messages", "user"]), JSON))
def test_any_value_of_a_known_field_is_peeked_at_or_refused(value: object) -> None:
    try:
        peek(json.dumps(value).encode())
    except CortexError as error:
        assert isinstance(error, BadAsk)


@given(st.binary())
def test_any_bytes_are_peeked_at_or_refused(body: bytes) -> None:
    with pytest.raises(BadAsk):
        peek(body)  # no random bytes name a model


def affinity(**said: object) -> str:
    return peek(json.dumps({"model": "m", **said}).encode()).affinity


def test_affinity_prefers_the_narrowest_name() -> None:
    of_session = affinity(metadata={"else": "x", "user_id": "s"})
    of_key, of_user = affinity(prompt_cache_key="k"), affinity(user="u")
    assert len({of_session, of_key, of_user, affinity(prompt="p")}) == 4
    told = {"prompt": "p", "user": "u"}
    assert affinity(**told) == of_user
    assert affinity(**told, prompt_cache_key="k") == of_key
    assert affinity(**told, prompt_cache_key="k", metadata={"else": 1, "user_id": "s"}) == of_session
    assert affinity(**told, prompt_cache_key="", metadata={"user_id": ""}) == of_user


def test_affinity_without_a_name_follows_the_prompts_beginning() -> None:
    start = "x" * 2000
    assert affinity(prompt=start + "a") == affinity(prompt=start + "b")
    for field in ("prompt", "system", "input", "messages", "instructions"):
        assert affinity(**{field: "a"}) != affinity(**{field: "b"})
    assert affinity() == affinity(prompt=None) == ""


@pytest.mark.parametrize("field", ["user", "prompt_cache_key", "metadata"])
def test_affinity_is_short_however_long_the_name_is(field: str) -> None:
    """It is hashed for each neuron, with each look at the line."""
    long = [{"user_id": name} if field == "metadata" else name for name in ("x" * 2**20, "x" * 2**20 + "y")]
    found = [affinity(**{field: name}) for name in long]
    assert len(set(found)) == 2 and max(map(len, found)) <= 16


@pytest.mark.parametrize("odd", [5, 1.5, True, [], ["a"], {}, {"a": 1}, {"user_id": 5}, {"user_id": {}}])
@pytest.mark.parametrize("field", ["user", "prompt_cache_key", "metadata"])
def test_a_name_of_an_odd_type_is_no_name_and_no_fault(field: str, odd: object) -> None:
    """Clients put there what they like, and nothing hangs on it but where they are served."""
    assert affinity(**{field: odd}, prompt="p") == affinity(prompt="p")


# rename


@pytest.mark.parametrize(
    ("body", "renamed"),
    [
        (b'{"model":"a"}', b'{"model":"new/x"}'),
        (b'{ "model"\t:\r\n "a" ,"x":1.0 }', b'{ "model"\t:\r\n "new/x" ,"x":1.0 }'),
        (b'{"q":{"model":"a"},"model":"a"}', b'{"q":{"model":"a"},"model":"new/x"}'),
        (b'{"model":"a","q":[{"model":"a"}]}', b'{"model":"new/x","q":[{"model":"a"}]}'),
        (b'{"model":"\\u0061"}', b'{"model":"new/x"}'),
        (b'{"q":"\\"model\\":\\"a\\"","model":"a"}', b'{"q":"\\"model\\":\\"a\\"","model":"new/x"}'),
        (b'{"x\\"model":"a","model":"a"}', b'{"x\\"model":"a","model":"new/x"}'),
    ],
)
def test_a_rename_changes_the_outermost_model_and_no_other_byte(body: bytes, renamed: bytes) -> None:
    assert rename(body, "a", "new/x") == renamed
    assert peek(renamed).model == "new/x"


def test_a_rename_to_the_same_name_is_the_same_body() -> None:
    body = b'{"mo\\u0064el":"a"}'
    assert rename(body, "a", "a") is body


@pytest.mark.parametrize(
    "body",
    [
        b'{"mo\\u0064el":"a"}',  # the key is not plain
        b'{"mo\\u0064el":"a","q":{"model":"a"}}',
        b'{"model":"b"}',
        b'{"model":"a","q":[' + b",".join([b'{"model":"a"}'] * 64) + b"]}",
    ],
)
def test_a_body_whose_model_cannot_be_told_is_refused(body: bytes) -> None:
    with pytest.raises(BadAsk) as caught:
        rename(body, "a", "b-new")
    assert caught.value.param == "model"


def test_a_rename_finds_the_model_among_sixty_three_others() -> None:
    others = b",".join([b'{"model":"a"}'] * 63)
    assert rename(b'{"q":[%b],"model":"a"}' % others, "a", "b") == b'{"q":[%b],"model":"b"}' % others


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), JSON)
def test_a_renamed_body_differs_in_its_model_only(old: str, new: str, rest: object) -> None:
    body = {"q": rest, "model": old, "z": {"model": old}}
    assert json.loads(rename(json.dumps(body).encode(), old, new)) == {**body, "model": new}


# reading


class Field(msgspec.Struct):
    raw: msgspec.Raw = msgspec.Raw()


def raw(value: bytes) -> msgspec.Raw:
    return msgspec.json.decode(b'{"raw":%b}' % value, type=Field).raw


ROWS = msgspec.json.Decoder(list[dict[str, str]])


def test_a_long_list_is_refused_before_it_is_built() -> None:
    """Fault 45: many nodes in a field that is read."""
    with pytest.raises(BadAsk, match="more than 1000") as caught:
        reading.long_part(raw(b"[" + b",".join([b"{}"] * 1001) + b"]"), ROWS, "messages", 1000)
    assert caught.value.param == "messages"
    with pytest.raises(BadAsk, match="more than 1000"):
        reading.long_part(raw(b'[{"":"' + b'"},{"":"'.join([b""] * 1001) + b'"}]'), ROWS, "messages", 1000)


def test_commas_and_braces_within_text_are_no_nodes() -> None:
    text = ',[{\\"\\\\' * 5000
    found = reading.long_part(raw(b'[{"a":"%b"}]' % text.encode()), ROWS, "messages", 1000)
    assert found == [{"a": text.replace('\\"', '"').replace("\\\\", "\\")}]


def test_a_tree_ends_at_sixty_four_levels() -> None:
    """Fault 44."""
    deepest = b'{"a":' * 63 + b"{}" + b"}" * 63
    assert reading.tree(raw(deepest), "schema") == json.loads(deepest)
    with pytest.raises(BadAsk, match="deeper than 64") as caught:
        reading.tree(raw(b'{"a":' * 64 + b"{}" + b"}" * 64), "schema")
    assert caught.value.param == "schema"
    with pytest.raises(BadAsk, match="deeper than 64"):
        reading.tree(raw(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}"), "schema")


def test_a_tree_ends_at_its_bytes() -> None:
    """Fault 48: 64 KiB of schema."""
    assert reading.tree(raw(b'{"a":"%b"}' % (b"x" * (65536 - 8))), "s")
    with pytest.raises(BadAsk, match="65536 bytes"):
        reading.tree(raw(b'{"a":"%b"}' % (b"x" * (65536 - 7))), "s")


@pytest.mark.parametrize("nothing", [raw(b"null"), msgspec.Raw()], ids=["null", "left out"])
def test_an_absent_part_is_none(nothing: msgspec.Raw) -> None:
    assert reading.part(nothing, ROWS, "x") is None
    assert reading.long_part(nothing, ROWS, "x") is None
    assert reading.tree(nothing, "x") == {}


def test_the_path_of_a_fault_within_a_part_begins_with_its_name() -> None:
    with pytest.raises(BadAsk) as caught:
        reading.part(raw(b'[{"a":1}]'), ROWS, "tools")
    assert caught.value.param == "tools[0][...]"


# answers


def test_usage_counts_the_prompt_once_and_completions_all() -> None:
    usage = UsageBody.over([Usage(10, 4, 3, 1), Usage(10, 10, 5, 2)], 2)
    assert json.loads(msgspec.json.encode(usage)) == {
        "prompt_tokens": 10,
        "completion_tokens": 8,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


def test_usage_of_several_prompts_counts_each_of_them_once() -> None:
    counts = [Usage(10, 4, 3, 1), Usage(10, 10, 5, 2), Usage(7, 0, 1), Usage(7, 6, 1, estimated=True)]
    assert Usage.total(counts, 2) == Usage(17, 4, 10, 3, estimated=True)
    assert Usage.total(counts, 1) == Usage(34, 20, 10, 3, estimated=True)


def test_a_logprob_is_always_a_number() -> None:
    token = TokenLogprob("é", float("-inf"), (("b", float("nan")), ("c", -1.0)))
    assert json.loads(msgspec.json.encode(LogprobBody.of(token, 1))) == {
        "token": "é",
        "logprob": -9999.0,
        "bytes": [195, 169],
        "top_logprobs": [{"token": "b", "logprob": -9999.0, "bytes": [98]}],
    }


def test_a_reply_is_framed_by_its_ask() -> None:
    ask = Ask("m", prompt="p", n=3, include_usage=True, logprobs=2, echo=True)
    framed = Reply.to(ask, id="i", created=7, request_id="r")
    assert framed == Reply("i", "m", 7, "r", 3, 3, True, 2, ("p",), ask)
    assert Reply.to(Ask("m", prompt="p"), id="i", created=7).echo == ()
    several = Reply.to(replace(ask, further=("q",)), id="i", created=7)
    assert (several.n, several.each) == (6, 3)
    assert [several.echoed(choice) for choice in range(6)] == ["p"] * 3 + ["q"] * 3


def test_a_model_entry_leaves_out_what_is_unknown() -> None:
    entry = ModelEntry(id="m", created=1, state="loaded", locations=[Location(neuron="n", bytes=5)])
    bare = ModelEntry(id="x", created=1, cost=ModelCost(input=1.0, output=2.0))
    data = json.loads(msgspec.json.encode(ModelList(data=[entry, bare])))
    assert data == {
        "object": "list",
        "data": [
            {
                "id": "m",
                "object": "model",
                "created": 1,
                "owned_by": "cortex",
                "state": "loaded",
                "locations": [{"neuron": "n", "devices": [], "state": "loaded", "bytes": 5}],
            },
            {
                "id": "x",
                "object": "model",
                "created": 1,
                "owned_by": "cortex",
                "cost": {"input": 1.0, "output": 2.0},
            },
        ],
    }
    for each in data["data"]:
        Model.model_validate(each)
