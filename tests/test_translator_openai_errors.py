"""What an engine's refusals mean here: whose fault it is, what to do next, and when to come again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest

from cortex.errors import (
    BadAsk,
    CortexError,
    Overloaded,
    PromptTooLong,
    TooBig,
    TooSlow,
    Unsupported,
    UpstreamFailed,
)
from cortex.translator.openai_errors import LONGEST_RETRY_S, broke, refused, spare_tokens
from cortex.wire.openai_heard import HeardError


def told(
    status: int, message: str = "no", headers: dict[str, str] | None = None, **more: object
) -> CortexError:
    return refused(status, headers or {}, msgspec.json.encode({"error": {"message": message, **more}}))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadAsk),
        (422, BadAsk),
        (413, TooBig),
        (401, UpstreamFailed),
        (403, UpstreamFailed),
        (404, UpstreamFailed),
        (405, UpstreamFailed),
        (429, Overloaded),
        (503, Overloaded),
        (529, Overloaded),
        (500, UpstreamFailed),
        (502, UpstreamFailed),
        (504, TooSlow),
        (408, TooSlow),
        (301, UpstreamFailed),
        (308, UpstreamFailed),
        (204, UpstreamFailed),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[CortexError]) -> None:
    """Rows 17, 19, 20 and 21; a 400 of an upstream is about the request, which it has read."""
    assert type(told(status)) is kind


def test_what_is_wrong_with_the_request_goes_on_to_the_caller() -> None:
    error = told(400, "top_p must be in (0, 1]", param="top_p")
    assert error.param == "top_p" and "top_p must be in (0, 1]" in error.message
    assert type(told(400, "x", code="unsupported_parameter")) is Unsupported


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"error","message":"be short","type":"BadRequestError","param":null,"code":400}',
        b'{"detail":"be short"}',
        b'{"detail":[{"loc":["body","n"],"msg":"be short","input":9}]}',
        b'{"error":"be short"}',
        b'{"error":{"message":"be short","type":"x","param":null,"code":null}}',
    ],
)
def test_the_message_is_found_in_every_shape(body: bytes) -> None:
    assert "be short" in refused(400, {}, body).message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"error":null}', b'{"error":{}}'])
@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_body_that_says_nothing_is_no_trouble(status: int, body: bytes) -> None:
    assert refused(status, {}, body).message


def test_a_refused_key_is_the_operators_business_and_no_client_tries_again() -> None:
    error = told(401, "bad key sk-secret")
    assert "api_key_env" in error.message and "sk-secret" not in error.message
    assert error.final and error.not_started


def test_what_an_engine_says_when_it_breaks_is_not_passed_on() -> None:
    """Row 17: sanitised."""
    error = told(500, "Traceback /home/somebody/prompt", type="InternalServerError")
    assert "somebody" not in error.message and "(InternalServerError)" in error.message
    assert "\n" not in told(500, type="a\nb" * 100).message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("9" * 12, LONGEST_RETRY_S),
        ("-1", None),
        ("nan", None),
        ("soon", None),
    ],
)
def test_a_full_engine_says_when_to_come_again(header: str, seconds: float | None) -> None:
    error = told(503, headers={"retry-after": header})
    assert error.retry_after_s == (Overloaded.default_retry_after_s if seconds is None else seconds)
    assert error.not_started


@pytest.mark.parametrize(("said", "seconds"), [(7, 7.0), (1e300, LONGEST_RETRY_S), (-7, None), (None, None)])
def test_when_to_come_again_may_stand_in_the_body_and_is_bounded_there_too(said, seconds) -> None:
    """It becomes a header."""
    expected = Overloaded.default_retry_after_s if seconds is None else seconds
    assert told(503, retry_after=said).retry_after_s == expected
    assert broke(HeardError(code=429, retry_after=said)).retry_after_s == expected


def test_retry_after_may_be_a_date() -> None:
    when = datetime.now(UTC) + timedelta(seconds=60)
    error = told(429, headers={"retry-after": format_datetime(when, usegmt=True)})
    assert error.retry_after_s is not None and 50 < error.retry_after_s <= 60


VLLM = (
    "This model's maximum context length is 512 tokens. However, you requested 700 tokens "
    "({} in the messages, {} in the completion). Please reduce the length of the messages or completion."
)


@pytest.mark.parametrize(
    "message",
    [
        VLLM.format(600, 100),
        "This model's maximum context length is 512 tokens. However, your messages resulted in 600 tokens.",
        "This model's maximum context length is 512 tokens. However, your request has 600 input tokens. "
        "Please reduce the length of the input messages.",
        "The input (600 tokens) is longer than the model's context length (512 tokens).",
        "Requested token count exceeds the model's maximum context length of 512 tokens. You requested "
        "a total of 700 tokens: 600 tokens from the input messages and 100 tokens for the completion.",
        "request (600 tokens) exceeds the available context size (512 tokens), try increasing it",
    ],
)
def test_a_prompt_that_is_too_long_is_told_with_both_numbers(message: str) -> None:
    error = told(400, message)
    assert isinstance(error, PromptTooLong)
    assert error.facts == {"prompt_tokens": 600, "context_length": 512}
    assert spare_tokens(error) is None


def test_too_long_is_told_by_the_code_as_well() -> None:
    error = told(400, "too long, sorry", code="context_length_exceeded")
    assert isinstance(error, PromptTooLong) and error.facts == {}
    assert spare_tokens(error) is None


@pytest.mark.parametrize(
    "message",
    [
        VLLM.format(100, 600),
        "'max_tokens' or 'max_completion_tokens' is too large: 600. This model's maximum context length is "
        "512 tokens and your request has 100 input tokens (600 > 512 - 100).",
    ],
)
def test_a_limit_that_is_too_large_is_told_apart_from_a_prompt(message: str) -> None:
    assert spare_tokens(told(400, message)) == 412


def test_a_long_message_is_read_in_a_moment() -> None:
    """Row 49: what an engine says is no less hostile than what a model says."""
    for text in ("context length " * 20_000, "1" * 300_000, "prompt (" * 40_000, "has 1" * 60_000):
        assert len(told(400, text).message) < 3000
