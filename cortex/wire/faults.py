"""A `CortexError` as the dialects put it: body, and event within a stream.

OpenAI: `{"error": {message, type, code, param}}`. Anthropic:
`{"type": "error", "error": {type, message}, "request_id"}`, and always a *named*
event, since its clients skip nameless ones. Statuses differ too: an overload is
503 to one and 529 to the other. Responses has OpenAI's bodies, and ends a stream with two
events: some of its clients act on `response.failed` alone, the vendor's own on `error` alone.
Source: the vendors' error pages and client libraries.
"""

import math
from typing import Final, Literal, TypeAlias

import msgspec

from cortex.ask import Json
from cortex.errors import CortexError, Fact, NeverFits, NoThreads, PromptTooLong, SpentUp
from cortex.wire.responses_trail import Trail
from cortex.wire.sse import Frame

Dialect: TypeAlias = Literal["openai", "anthropic", "responses"]

_OPENAI_TYPES: Final = {403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def status(error: CortexError, dialect: Dialect) -> int:
    """The HTTP status of `error`: Anthropic says 529 for what passes by itself."""
    if dialect == "anthropic" and error.status == 503 and not isinstance(error, NeverFits):
        return 529
    return error.status


def body(error: CortexError, dialect: Dialect, request_id: str) -> bytes:
    """The whole error body."""
    if dialect == "anthropic":
        return msgspec.json.encode({**_anthropic(error), "request_id": request_id})
    return msgspec.json.encode({"error": {**_openai(error), "request_id": request_id}})


def frames(error: CortexError, dialect: Dialect, request_id: str, trail: Trail | None = None) -> list[Frame]:
    """The last frames of a stream that failed after its head was sent; no end mark follows. `trail`
    is what has passed of one of Responses."""
    if dialect == "anthropic":
        return [Frame(body(error, dialect, request_id), "error", event="error")]
    if dialect == "responses":
        return _parting(error, request_id, trail or Trail())
    return [Frame(body(error, dialect, request_id), "error")]


def _parting(error: CortexError, request_id: str, trail: Trail) -> list[Frame]:
    """The end of a stream of which no more than its trail is known. One that had not begun begins."""
    response, number = trail.response, trail.next
    head: list[Frame] = []
    if response is None:
        response = {"id": f"resp_{request_id}", "object": "response", "created_at": 0, "model": ""}
        begun = msgspec.json.encode({**response, "status": "in_progress", "output": []})
        created = b'{"type":"response.created","sequence_number":%d,"response":%b}' % (number, begun)
        head, number = [Frame(created, "created", event="response.created")], number + 1
    told: dict[str, Json] = {"code": error.code, "message": error.message}
    failed = {**response, "status": "failed", "output": [], "error": told}
    return [*head, *pair(error, msgspec.json.encode(failed), number, request_id)]


def pair(error: CortexError, response: bytes, number: int, request_id: str) -> list[Frame]:
    """The two events that end a stream of Responses; `response` is it as JSON, failed, and `number`
    the first event's in the stream."""
    inner: dict[str, Json] = {**_openai(error), "request_id": request_id}
    said = {name: inner[name] for name in ("code", "message", "param")}
    event = {"type": "error", **said, "sequence_number": number + 1, "error": inner}
    failed = b'{"type":"response.failed","sequence_number":%d,"response":%b}' % (number, response)
    return [
        Frame(failed, "failed", event="response.failed"),
        Frame(msgspec.json.encode(event), "error", event="error"),
    ]


def _openai(error: CortexError) -> dict[str, Json]:
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "message": error.message,
        "type": error.code if isinstance(error, SpentUp) else _OPENAI_TYPES.get(error.status, fallback),
        "code": error.code,
        "param": error.param,
        **({} if error.retry_after_s is None else {"retry_after": math.ceil(error.retry_after_s)}),
        **{name: _plain(value) for name, value in error.facts.items()},
    }


def _anthropic(error: CortexError) -> dict[str, Json]:
    code = status(error, "anthropic")
    fallback = "invalid_request_error" if code < 500 else "api_error"
    message = error.message
    if isinstance(error, PromptTooLong) and "prompt_tokens" in error.facts:
        # Claude Code reads both numbers out of exactly this sentence.
        message = (
            f"prompt is too long: {error.facts['prompt_tokens']} tokens > "
            f"{error.facts['context_length']} maximum"
        )
    told: dict[str, Json] = {"type": _ANTHROPIC_TYPES.get(code, fallback), "message": message}
    if error.retry_after_s is not None:
        told["retry_after"] = math.ceil(error.retry_after_s)
    # Where the vendor has what programs act on.
    told["details"] = _details(error)
    return {"type": "error", "error": told}


def _details(error: CortexError) -> dict[str, Json]:
    details = {"error_code": error.code, **{name: _plain(value) for name, value in error.facts.items()}}
    return {**details, "unsupported": ["thread"]} if isinstance(error, NoThreads) else details


def _plain(value: Fact) -> Json:
    match value:
        case list():
            return list(value)
        case dict():
            return dict(value)
    return value
