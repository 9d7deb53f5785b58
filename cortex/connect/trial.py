"""The live request that shows whether a client will get along, and what its answer comes to.

The request is of the kind that the client sends, streamed and of a few tokens. Pure: whoever has the
connection sends it, and hands over what came back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from cortex.ask import Json
from cortex.connect.recipe import Client, Dialect, Model
from cortex.errors import UpstreamFailed
from cortex.wire.sse_reading import EventReader

TOKENS: Final = 16
EXCERPT: Final = 120
_ENDS: Final = frozenset({"message_stop", "response.completed", "response.incomplete"})
_FAILS: Final = frozenset({"error", "response.failed"})


@dataclass(frozen=True, slots=True)
class Question:
    """What to POST."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """How it went. `fault` is empty when it was answered."""

    path: str
    seconds: float
    fault: str = ""


def question(dialect: Dialect, model: str) -> Question:
    """The request that a client of that dialect sends, in small."""
    said: list[Json] = [{"role": "user", "content": "Say hello."}]
    body: dict[str, Json] = {"model": model, "stream": True}
    match dialect:
        case "chat":
            path = "/v1/chat/completions"
            body |= {"messages": said, "max_tokens": TOKENS}
        case "messages":
            path = "/v1/messages"
            body |= {"messages": said, "max_tokens": TOKENS}
        case "responses":
            path = "/v1/responses"
            body |= {"input": said, "max_output_tokens": TOKENS, "store": False}
    headers = (("anthropic-version", "2023-06-01"),) if dialect == "messages" else ()
    return Question(path, msgspec.json.encode(body), headers)


def verdict(dialect: Dialect, path: str, status: int, body: bytes) -> str:
    """Why it was no answer; empty when it was one."""
    if status == 200:
        return _streamed(path, body)
    told = _message(_decoded(body))
    if status in {404, 405} and not _names_model(body):
        return f"{path} is not served there ({status}): " + (
            "it does not speak Responses, and this client speaks nothing else"
            if dialect == "responses"
            else f"{told or 'is it a cortex?'}"
        )
    return f"{path} answers {status}: {told or body[:EXCERPT].decode(errors='replace') or 'nothing'}"


def warnings(client: Client, model: Model) -> Iterator[str]:
    """What speaks against this model for this client."""
    if model.context is None:
        yield (
            f"the context length of {model.name} is not known before its first load: no limit is set for it"
        )
    elif model.context < client.least:
        yield (
            f"{client.title}'s first request has about {client.first:,} tokens, and the context of "
            f"{model.name} is {model.context:,}: serve it with {client.least:,} or more "
            "(context in models.toml)"
        )
    if client.agent and model.can("tools") is False:
        yield f"{model.name} does not call tools, and {client.title} does its work by them"


def _streamed(path: str, body: bytes) -> str:
    try:
        events = EventReader().feed(body)
    except UpstreamFailed as error:
        return f"{path} answers with what is no event stream: {error}"
    for data in events:
        if data == b"[DONE]":
            return ""
        event = _decoded(data)
        if not isinstance(event, dict):
            continue
        kind = event.get("type")
        if kind in _FAILS or isinstance(event.get("error"), dict):
            return f"{path} breaks off: {_message(event) or data[:EXCERPT].decode(errors='replace')}"
        if kind in _ENDS:
            return ""
    return f"{path} breaks off: the stream has no end"


def _decoded(data: bytes) -> Json:
    try:
        said: Json = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    return said


def _names_model(body: bytes) -> bool:
    """Whether a 404 is about the model: the code of OpenAI's dialect says so, the type of Anthropic's
    says as much of any route, and its message names it."""
    told = _decoded(body)
    error = told.get("error") if isinstance(told, dict) else None
    return isinstance(error, dict) and (
        error.get("code") == "model_not_found" or "model" in str(error.get("message", ""))
    )


def _message(event: Json) -> str:
    """The message of an error, in whichever dialect."""
    if not isinstance(event, dict):
        return ""
    for held in (event, event.get("response")):
        error = held.get("error") if isinstance(held, dict) else None
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return str(error["message"])
    return str(event.get("message") or "")
