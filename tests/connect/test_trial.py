"""The live request: what is sent for each dialect, and what is made of the answer."""

import json

import pytest

from cortex.connect import question, verdict


@pytest.mark.parametrize(
    ("dialect", "path", "limit"),
    [
        ("chat", "/v1/chat/completions", "max_tokens"),
        ("messages", "/v1/messages", "max_tokens"),
        ("responses", "/v1/responses", "max_output_tokens"),
    ],
)
def test_the_question_is_short_and_streamed(dialect, path: str, limit: str) -> None:
    asked = question(dialect, "m")
    body = json.loads(asked.body)
    assert (asked.path, body["model"], body["stream"], body[limit]) == (path, "m", True, 16)
    assert ("anthropic-version" in dict(asked.headers)) == (dialect == "messages")


def frames(*events: object) -> bytes:
    return b"".join(
        b"data: %b\n\n" % (each if isinstance(each, bytes) else json.dumps(each).encode()) for each in events
    )


DELTA = {"choices": [{"delta": {"content": "hi"}}]}


@pytest.mark.parametrize(
    "body",
    [
        frames(DELTA, b"[DONE]"),
        b": waiting\n\n" + frames({"type": "message_start"}, {"type": "message_stop"}),
        frames({"type": "response.completed", "response": {"error": None}}),
        frames({"type": "response.incomplete"}),
    ],
)
def test_a_stream_with_an_end_is_an_answer(body: bytes) -> None:
    assert verdict("chat", "/p", 200, body) == ""


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, frames(DELTA), "the stream has no end"),
        (200, frames(DELTA, {"error": {"message": "engine died"}}), "breaks off: engine died"),
        (200, frames({"type": "error", "error": {"message": "overloaded"}}), "breaks off: overloaded"),
        (
            200,
            frames({"type": "response.failed", "response": {"error": {"message": "oh"}}}),
            "breaks off: oh",
        ),
        (200, b"<html>\n", "no event stream"),
        (503, b'{"error": {"message": "no room"}}', "/p answers 503: no room"),
        (502, b"<html>bad", "/p answers 502: <html>bad"),
        (500, b"", "answers 500: nothing"),
        (404, b'{"error": {"message": "gone", "code": "model_not_found"}}', "/p answers 404: gone"),
        (404, b'{"error": {"message": "no such route"}}', "/p is not served there (404): it does not speak"),
        (405, b"", "/p is not served there (405)"),
    ],
)
def test_what_is_no_answer_is_told_with_its_cause(status: int, body: bytes, words: str) -> None:
    assert words in verdict("responses", "/p", status, body)
