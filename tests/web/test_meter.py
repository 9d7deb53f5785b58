"""Figures of an answer, read while it passes."""

import pytest

from cortex.errors import UpstreamFailed
from cortex.events import Usage
from cortex.web.meter import Meter
from cortex.wire.faults import Dialect
from cortex.wire.neuron import USAGE, parse_usage, render_usage
from tests.fake_streams import FAILURES, STREAMS


@pytest.mark.parametrize(("dialect", "opening"), [("openai", 2), ("anthropic", 3), ("responses", 1)])
def test_content_is_what_is_neither_opening_nor_closing(dialect: Dialect, opening: int) -> None:
    meter = Meter(dialect)
    for number, event in enumerate(STREAMS[dialect]):
        meter.passed(event, float(number))
    assert meter.events == 2
    assert meter.first_content_at == opening


@pytest.mark.parametrize("dialect", list(STREAMS))
def test_events_that_came_together_are_counted_alike(dialect: Dialect) -> None:
    meter = Meter(dialect)
    meter.passed(b"".join(STREAMS[dialect]), 5.0)
    assert meter.events == 2
    assert meter.first_content_at == 5.0


def test_a_chunk_that_opens_and_closes_at_once_is_no_content() -> None:
    meter = Meter("openai")
    meter.passed(b'data: {"choices":[{"delta":{"role":"assistant"},"finish_reason":"stop"}]}\n\n', 1.0)
    assert (meter.events, meter.first_content_at) == (0, None)


@pytest.mark.parametrize("dialect", list(STREAMS))
def test_an_error_event_is_no_content(dialect: Dialect) -> None:
    meter = Meter(dialect)
    meter.passed(FAILURES[dialect], 5.0)
    assert meter.events == 0


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        ("openai", b'data: {"choices":[{"delta":{"reasoning_content":"hm"},"finish_reason":null}]}\n\n'),
        ("openai", b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]},"finish_reason":null}]}\n\n'),
        ("openai", b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'),
        ("openai", b'data: {"choices": [{"delta": {"content": "spaced"}, "finish_reason": null}]}\r\n\r\n'),
        ("anthropic", b'event: content_block_delta\r\ndata: {"type": "content_block_delta"}\r\n\r\n'),
        ("responses", b'data: {"type":"response.function_call_arguments.delta","delta":"{"}\n\n'),
    ],
)
def test_every_kind_of_delta_counts(dialect: Dialect, event: bytes) -> None:
    meter = Meter(dialect)
    meter.passed(event, 1.0)
    assert meter.events == 1


def test_a_trailer_tells_the_usage() -> None:
    meter = Meter("openai")
    meter.passed(b"".join(STREAMS["openai"]), 1.0)
    meter.ended({"x-cortex-usage": "prompt=12,cached=4,completion=34"}, failed=False)
    assert meter.usage == Usage(prompt=12, cached=4, completion=34)
    assert not meter.estimated
    assert meter.complete


@pytest.mark.parametrize("trailers", [{}, {"x-cortex-usage": "nonsense"}])
def test_without_a_trailer_usage_is_estimated_from_the_events(trailers: dict[str, str]) -> None:
    meter = Meter("openai")
    meter.passed(b"".join(STREAMS["openai"]), 1.0)
    meter.ended(trailers, failed=False)
    assert meter.usage == Usage(completion=2)
    assert meter.estimated


def test_what_a_client_that_left_has_got_is_estimated() -> None:
    meter = Meter("anthropic")
    meter.passed(STREAMS["anthropic"][3], 1.0)
    assert (meter.usage, meter.estimated, meter.complete) == (Usage(completion=1), True, False)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (
            b'{"usage":{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},'
            b'"completion_tokens_details":{"reasoning_tokens":2}}}',
            Usage(9, 4, 5, 2),
        ),
        (
            b'{"usage":{"input_tokens":9,"output_tokens":5,"input_tokens_details":{"cached_tokens":4},'
            b'"output_tokens_details":{"reasoning_tokens":2}}}',
            Usage(9, 4, 5, 2),
        ),
        (
            b'{"usage":{"input_tokens":3,"cache_read_input_tokens":4,"cache_creation_input_tokens":2,'
            b'"output_tokens":5}}',
            Usage(9, 4, 5),
        ),
        (b'{"usage":{"input_tokens":3,"cache_read_input_tokens":null,"output_tokens":5}}', Usage(3, 0, 5)),
        (b'{"data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}', Usage(7)),
    ],
    ids=["chat", "responses", "messages", "messages without cache", "embeddings"],
)
def test_the_usage_of_a_whole_answer_is_read_from_its_body(body: bytes, usage: Usage) -> None:
    meter = Meter("openai")
    meter.read_whole(200, body)
    assert meter.usage == usage
    assert not meter.estimated


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"usage":null}',
        b'{"usage":"much"}',
        b'{"usage":{"prompt_tokens":-1,"completion_tokens":2}}',
        b'{"usage":{"input_tokens":1,"output_tokens":18446744073709551616}}',
        b'{"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":-3}}}',
    ],
)
def test_a_whole_answer_without_usage_is_estimated(body: bytes) -> None:
    meter = Meter("openai")
    meter.read_whole(200, body)
    assert (meter.usage, meter.estimated) == (Usage(), True)


@pytest.mark.parametrize(
    "body", [b"", b'{"choices":[', b"<html>", b"[1]", b'{"x":' * 100_000, b'{"usage":3}x']
)
def test_a_whole_answer_that_is_no_json_object_is_refused(body: bytes) -> None:
    """Row 14."""
    with pytest.raises(UpstreamFailed):
        Meter("openai").read_whole(200, body)


def test_a_refusal_used_nothing() -> None:
    meter = Meter("openai")
    meter.read_whole(503, b"whatever")
    assert (meter.usage, meter.estimated, meter.failed) == (Usage(), False, True)
    assert meter.status == 503


def test_what_a_neuron_marks_as_an_estimate_stays_one() -> None:
    meter = Meter("openai")
    meter.ended({USAGE: render_usage(Usage(7, 0, 3, estimated=True))}, failed=False)
    assert (meter.usage, meter.estimated) == (Usage(7, 0, 3, estimated=True), True)
    meter.read_whole(200, b'{"usage":{"prompt_tokens":7,"completion_tokens":3,"estimated":true}}')
    assert meter.estimated


def test_usage_comes_back_from_its_trailer() -> None:
    usage = Usage(prompt=12, cached=0, completion=34)
    assert render_usage(usage) == "prompt=12,cached=0,completion=34"
    assert parse_usage(render_usage(usage)) == usage


def test_a_trailer_may_say_more_than_is_known_and_leave_out_what_is_optional() -> None:
    assert parse_usage("prompt=1, completion=2, drafted=9") == Usage(1, 0, 2)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "prompt=1",
        "completion=1",
        "prompt=-1,completion=2",
        "prompt=1,prompt=2,completion=3",
        "prompt=1.5,completion=2",
        "prompt=²,completion=2",
        "prompt=,completion=2",
        "prompt=1,completion=2,",
        "prompt=1,completion=" + "9" * 5000,
    ],
)
def test_a_trailer_that_is_none_is_not_half_believed(value: str) -> None:
    assert parse_usage(value) is None
