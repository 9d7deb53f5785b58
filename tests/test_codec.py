"""What stands in `orders` comes out of the codec as it went in."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cortex import errors
from cortex.ask import Sampling, Shape, Tool
from cortex.errors import CortexError, EngineFailed, LoadFailed
from cortex.events import EngineEvent, Failed, Stopped, Tokens
from cortex.harness import codec, orders
from cortex.harness.base import Job, LoadOrder

# Half surrogates and integers of any size are in these, since a client can send both.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
ANY_NUMBER = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_NUMBER | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
FACT = ANY_TEXT | st.integers() | st.booleans() | st.lists(ANY_TEXT)
KNOWN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CortexError) and kind is not errors.ConfigError
]


@st.composite
def error(draw: st.DrawFn) -> CortexError:
    made = draw(st.sampled_from(KNOWN))(
        draw(ANY_TEXT),
        param=draw(st.none() | ANY_TEXT),
        retry_after_s=draw(st.none() | ANY_NUMBER),
        facts=draw(st.dictionaries(ANY_TEXT, FACT, max_size=3)),
    )
    made.final, made.not_started = draw(st.booleans()), draw(st.booleans())
    return made


for kind, how in (
    (str, ANY_TEXT),
    (float, ANY_NUMBER),
    (Path, st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/")).map(Path)),
    (CortexError, error()),
    (Shape, st.builds(Shape, schema=st.none() | st.dictionaries(ANY_TEXT, JSON, max_size=3))),
    (Tool, st.builds(Tool, parameters=st.dictionaries(ANY_TEXT, JSON, max_size=3))),
):
    st.register_type_strategy(kind, how)


def same(one: object, other: object) -> bool:
    """Equal in kind and value, all the way down; errors have no equality of their own."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if isinstance(one, CortexError):
        return vars(one) == vars(other) and one.args == other.args
    if is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, msgspec.Struct):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(st.one_of(*map(st.from_type, get_args(orders.Order))))
def test_an_order_comes_out_as_it_went_in(order: orders.Order) -> None:
    assert same(codec.order_of(codec.encode(order)), order)


@given(st.one_of(*map(st.from_type, get_args(orders.Word))))
def test_a_word_comes_out_as_it_went_in(word: orders.Word) -> None:
    assert same(codec.word_of(codec.encode(word)), word)


WORDS = st.builds(Tokens, st.binary(max_size=8), st.integers(0, 9))


@given(st.lists(st.tuples(st.integers(0, 2**40), WORDS | st.from_type(EngineEvent)), max_size=8))
def test_what_a_turn_brings_comes_out_as_it_went_in(said: list[tuple[int, EngineEvent]]) -> None:
    word = orders.Heard("m", said)
    assert same(codec.word_of(codec.encode(word)), word)


def test_a_turn_of_words_takes_few_bytes_beside_them() -> None:
    """It is said a hundred times a second for each stream."""
    said = [(job, Tokens(b" word", 1)) for job in range(32)]
    assert len(codec.encode(orders.Heard("m", said))) <= 32 * (len(" word") + 8)


@given(st.binary(max_size=64))
@example(b"\x93\x0a\x00\x00")
def test_bytes_that_are_no_message_are_garbled_and_nothing_else(data: bytes) -> None:
    """A few bytes may be one by chance."""
    for read, kinds in ((codec.order_of, orders.Order), (codec.word_of, orders.Word)):
        with suppress(codec.Garbled):
            assert isinstance(read(data), kinds)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x91\xff", b"\x91\xcc\xff", b"\xa3abc", b"\x00"])
def test_what_is_no_message_is_garbled(data: bytes) -> None:
    for read in (codec.order_of, codec.word_of):
        with pytest.raises(codec.Garbled):
            read(data)


def test_a_word_is_no_order() -> None:
    with pytest.raises(codec.Garbled, match="Gone"):
        codec.order_of(codec.encode(orders.Gone("m")))
    with pytest.raises(codec.Garbled, match="Stop"):
        codec.word_of(codec.encode(orders.Stop()))


def test_an_error_of_an_engines_own_is_told_as_the_nearest_known_one() -> None:
    class Torn(LoadFailed):
        pass

    class Odd(CortexError):
        def __init__(self) -> None:
            super().__init__("odd")

    torn, odd = (codec.word_of(codec.encode(orders.Undone(1, each))).error for each in (Torn("torn"), Odd()))
    assert (type(torn), torn.message) == (LoadFailed, "torn")
    assert (type(odd), odd.message) == (CortexError, "odd")


def test_an_error_that_is_not_known_is_the_engines_failure() -> None:
    said = codec.encode(orders.Heard("m", [(1, Failed(LoadFailed("x")))]))
    heard = codec.word_of(said.replace(b"LoadFailed", b"NoadFailed"))
    assert isinstance(heard.said[0][1].error, EngineFailed)


def test_what_is_no_plain_data_is_not_carried() -> None:
    order = LoadOrder("m", Path("m"), "cpu", 1, 1, options={"x": object()})
    with pytest.raises(TypeError, match="object"):
        codec.encode(orders.Load(1, "h", order))


def test_a_schema_may_be_as_deep_as_engines_read() -> None:
    schema: object = {}
    for _ in range(64):
        schema = {"properties": {"a": schema}}
    order = orders.Submit("m", Job(1, "x", Sampling(), shape=Shape("json_schema", schema)))
    assert codec.order_of(codec.encode(order)) == order


def test_events_of_a_turn_are_small() -> None:
    """A turn of eight jobs is one write of some hundred bytes."""
    heard = orders.Heard("model", [(job, Stopped("stop")) for job in range(8)])
    assert len(codec.encode(heard)) < 256
