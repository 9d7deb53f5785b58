"""Bytes of an event stream become events, however they are cut, and garbage becomes an error."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import UpstreamFailed
from cortex.wire.openai_heard import CHUNK, MODELS, decode
from cortex.wire.sse_reading import MOST_BYTES, EventReader

STREAM = (
    b'\xef\xbb\xbf: hello\n\ndata: {"a":1}\n\nevent: x\r\ndata:two\r\ndata: lines\r\n\r\n'
    b"id: 7\rretry: 5\rdata: \xce\x9a\xce\xb1\r\r: ping\n\n\n\ndata:\n\ndata: [DONE]\n\n"
)
TOLD = [b"", b'{"a":1}', b"two\nlines", "Κα".encode(), b"", b"", b"[DONE]"]


def read(*pieces: bytes) -> list[bytes]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def test_every_form_of_line_is_read() -> None:
    assert read(STREAM) == TOLD


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_where_the_bytes_are_cut_makes_no_difference(at: int) -> None:
    """Row 13: a code point that is split over two reads is put together."""
    assert read(STREAM[:at], STREAM[at:]) == TOLD


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_nor_does_how_often(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in pairwise(edges))) == TOLD


@pytest.mark.parametrize(
    "line", [b"garbage", b"\x00\x01\x02", b"data {}", b'{"error": "x"}', b"<html>", b"Data: x"]
)
def test_a_line_that_is_no_field_is_an_error(line: bytes) -> None:
    """Row 12."""
    with pytest.raises(UpstreamFailed, match="no field"):
        read(b"data: {}\n\n", line + b"\n")


def test_an_event_without_end_is_cut_at_its_bound() -> None:
    """Row 15: ten megabytes in one line, and in many lines of one event."""
    for piece in (b"x" * 1000, b"x" * 990 + b"\ndata: "):
        reader = EventReader()
        reader.feed(b"data: ")
        with pytest.raises(UpstreamFailed, match=f"longer than {MOST_BYTES}"):
            for _ in range(10_000):
                reader.feed(piece)
        assert len(reader._buffer) + reader._data_bytes < MOST_BYTES + 2000


def test_lines_without_a_value_count_as_well() -> None:
    """Row 15: they take room, too."""
    reader = EventReader(most_bytes=1000)
    with pytest.raises(UpstreamFailed, match="longer than 1000 bytes"):
        for _ in range(1000):
            assert reader.feed(b"data:\n") == []


def test_an_event_of_just_under_the_bound_passes() -> None:
    data = b"x" * (MOST_BYTES - 100)
    assert read(b"data: " + data + b"\n\n") == [data]


def test_the_reader_knows_whether_an_event_is_begun() -> None:
    reader = EventReader()
    for data, inside in ((b"data: a", True), (b"\n", True), (b"\n", False), (b": c\n", False)):
        reader.feed(data)
        assert reader.inside is inside


def test_bytes_that_are_no_utf8_cost_no_more_than_themselves() -> None:
    """Row 13."""
    chunk = decode(b'{"choices":[{"delta":{"content":"a\xffb"}}]}', CHUNK)
    assert chunk and chunk.choices and chunk.choices[0].delta
    assert chunk.choices[0].delta.content == "a\ufffdb"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"choices":7}', b"\xff", b"[" * 5000])
def test_what_is_no_chunk_is_none(data: bytes) -> None:
    """Row 14: truncated JSON among others."""
    assert decode(data, CHUNK) is None


@pytest.mark.parametrize(
    ("entry", "context"),
    [
        (b'"owned_by":"vllm","max_model_len":4096', 4096),
        (b'"owned_by":"llamacpp","meta":{"n_ctx_train":2048,"n_params":1}', None),
        (b'"owned_by":"llamacpp","meta":{"n_ctx":512,"n_ctx_train":2048}', 512),
        (b'"owned_by":"tabbyAPI","parameters":{"max_seq_len":8192}', 8192),
        (b'"owned_by":"organization-owner","metadata":{"max_request_context_length":1024}', 1024),
        (b'"owned_by":"cortex","context_length":256,"max_model_len":256', 256),
        (b'"owned_by":"library"', None),
        (b'"max_model_len":null,"meta":null', None),
        (b'"max_model_len":0', None),
    ],
)
def test_the_context_is_found_under_every_name(entry: bytes, context: int | None) -> None:
    models = decode(b'{"object":"list","data":[{"id":"m",' + entry + b"}]}", MODELS)
    assert models and models.data[0].context == context
