"""Sizes and spans, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.units import counted, parse_size, parse_span, size, span


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("7B", 7),
        ("24GiB", 24 * 2**30),
        ("24gib", 24 * 2**30),
        (" 24 GiB ", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("2MB", 2 * 10**6),
        ("2MiB", 2 * 2**20),
        ("1TB", 10**12),
        ("1TiB", 2**40),
        ("1.5KiB", 1536),
        ("0.1GiB", 107374182),
        (2**53 + 1, 2**53 + 1),
    ],
)
def test_a_size_is_read_exactly(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1", "1 2", "1e9", "24Gib/s", "24G", "1.", ".5GiB", "1,5GB", "inf", "nan", "٣GB", "9" * 400],
)
def test_what_is_no_size_is_refused_and_named(text):
    with pytest.raises(ValueError, match="is not a size such as") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0.0),
        (2.5, 2.5),
        (0.1, 0.1),
        ("250ms", 0.25),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
        ("45", 45.0),
    ],
)
def test_a_span_is_read_in_seconds(text, seconds):
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "5min", "1h30m", float("inf"), float("nan"), True])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError, match="is not a time span such as"):
        parse_span(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        (2**20 - 1, "1MiB"),
        (2**30 - 2**20, "1023MiB"),
        (24 * 2**30, "24GiB"),
        (5 * 2**40, "5TiB"),
        (-1536, "-1.5KiB"),
    ],
)
def test_a_size_is_shown_in_its_largest_unit(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.25, "0.2s"),
        (12, "12s"),
        (60, "1m"),
        (59.6, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (3661, "1h1m"),
        (90061, "1d1h"),
    ],
)
def test_a_span_is_shown_in_its_two_largest_units(seconds, text):
    assert span(seconds) == text


@given(st.integers(0, 2**50))
def test_a_shown_size_reads_back_within_its_rounding(count):
    assert abs(parse_size(size(count)) - count) <= max(count * 0.05, 0)


@given(st.integers(0, 2**53))
def test_a_size_in_bytes_reads_back_exactly(count):
    assert parse_size(str(count)) == parse_size(count) == count


@pytest.mark.parametrize(("count", "told"), [(0, "0 requests"), (1, "1 request"), (2, "2 requests")])
def test_one_thing_is_told_as_one(count: int, told: str) -> None:
    assert counted(count, "request") == told
