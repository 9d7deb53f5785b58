"""What an OpenAI-compatible engine says went wrong, as an error of ours.

A refusal of the request goes on to the caller in the engine's own words, since only he can
mend it; a refusal of us (key, name, route) is the operator's business and names the remedy.
A full engine stays full, with its Retry-After. What it says of itself when it breaks is not
passed on: it may quote anything.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from cortex.ask import Shape
from cortex.errors import (
    BadAsk,
    CortexError,
    EngineFailed,
    Overloaded,
    PromptTooLong,
    TooBig,
    TooSlow,
    Unsupported,
    UpstreamFailed,
)
from cortex.wire.openai_heard import REFUSAL, HeardError, HeardRefusal, decode

MOST_WORDS: Final = 2000  # characters of an engine's message
LONGEST_RETRY_S: Final = 3600.0
_CONTEXT: Final = re.compile(
    r"(?:context (?:length|size|window)|max_model_len|max_seq_len)(?: (?:is|of|only))*:? ?\(?(\d{1,9})"
)
_PROMPT: Final = (
    re.compile(r"(\d{1,9})(?: tokens)? (?:in|from) the (?:messages|prompt|input)"),
    re.compile(
        r"(?:resulted in(?: at least)?|prompt contains|has|contains at least|passed) "
        r"(\d{1,9})(?: input)? tokens"
    ),
    re.compile(r"(?:input|request|prompt)(?: length)? \((\d{1,9})(?: tokens)?\)"),
    re.compile(r"prompt (?:length )?(?:of |is |has )?(\d{1,9}) "),
    re.compile(r"requested (\d{1,9}) tokens"),
)
_WORD: Final = re.compile(r"[A-Za-z0-9_.]{1,60}\Z")
_TOO_LONG: Final = ("context_length_exceeded", "exceed_context_size_error")
_FULL: Final = ("overloaded", "rate_limit_exceeded", "rate_limit_error", "overloaded_error", "model_loading")


def refused(status: int, headers: Mapping[str, str], body: bytes) -> CortexError:
    """The error that a status other than success, with its headers (lower case) and body, means."""
    said = _error(decode(body, REFUSAL))
    retry_after_s = _retry_after_s(headers.get("retry-after"), said)
    if 300 <= status < 400:
        return UpstreamFailed(
            f"The engine that serves this model answers with a redirect ({status}), which is not followed; "
            "its address in models.toml or [harness.upstream] must be where it really is"
        )
    if status in (401, 403):
        error: CortexError = UpstreamFailed(
            f"The engine that serves this model does not accept this neuron's key ({status}); the operator "
            "sets it with [harness.upstream] api_key_env or api_key_file"
        )
        error.final = error.not_started = True
        return error
    if status == 404:
        return _missing(said)
    if status in (429, 503, 529):
        return Overloaded(
            f"The engine that serves this model is full at the moment ({status})", retry_after_s=retry_after_s
        )
    if status in (400, 413, 422):
        return _blamed(said, status)
    if status in (408, 504):
        return TooSlow(f"The engine that serves this model gave up waiting ({status})")
    return UpstreamFailed(f"The engine that serves this model answered with status {status}{_kind(said)}")


def broke(said: HeardError | str) -> CortexError:
    """The error that an error object in mid-stream means."""
    error = HeardError(message=said) if isinstance(said, str) else said
    status = error.code if isinstance(error.code, int) else 0
    words = {str(error.code or ""), error.type or ""}
    if _too_long(error):
        return _over_context(error)
    if words & {*_FULL} or status in (429, 503, 529):
        full = Overloaded(
            "The engine that serves this model is full at the moment",
            retry_after_s=_retry_after_s(None, error),
        )
        # The stream has begun: that nothing ran is not for us to say.
        full.not_started = False
        return full
    if status in (400, 422) or (error.type == "invalid_request_error" and status == 0):
        return _blamed(error, 400)
    return EngineFailed(
        f"The engine that serves this model failed while it answered{_kind(error)}; send the request again"
    )


def renamed(error: CortexError, shape: Shape | None) -> CortexError:
    """`error`, with the name that the caller's dialect has for the form of the answer, where that is
    what it is about."""
    name = "response_format"
    if shape is not None and (error.param or "").partition(".")[0] == name:
        error.message = error.message.replace(f"'{name}'", f"'{shape.param}'")
        error.param = shape.param
    return error


def spare_tokens(error: CortexError) -> int | None:
    """How many tokens the context has left beside the prompt, when `error` says that the prompt
    fits and only the limit of the answer is too large; None when it says something else."""
    facts = error.facts
    prompt, context = facts.get("prompt_tokens"), facts.get("context_length")
    if not isinstance(error, PromptTooLong) or not isinstance(prompt, int) or not isinstance(context, int):
        return None
    return context - prompt if 0 < prompt < context else None


def _error(body: HeardRefusal | None) -> HeardError:
    """The error of a body in any of the shapes that are in use."""
    if body is None:
        return HeardError()
    if isinstance(body.error, HeardError):
        return body.error
    message = body.error or body.message
    if message is None and memoryview(body.detail).nbytes:
        message = bytes(body.detail).decode("utf-8", "replace").strip('"')
    return HeardError(message=message, type=body.type, code=body.code, param=body.param)


def _kind(said: HeardError) -> str:
    """What kind of error the engine calls it, if that is one word."""
    words = [str(word) for word in (said.type, said.code) if word is not None]
    return next((f" ({word})" for word in words if _WORD.match(word)), "")


def _missing(said: HeardError) -> CortexError:
    error: CortexError = UpstreamFailed(
        "The engine that serves this model no longer knows it, or has no such route (404); see its own list "
        "of models"
        if said.code is not None or said.message
        else "The engine that serves this model has no such route (404); its address ends in /v1 as a rule"
    )
    error.not_started = True
    return error


def _blamed(said: HeardError, status: int) -> CortexError:
    if _too_long(said):
        return _over_context(said)
    message = (said.message or f"it said nothing but the status {status}")[:MOST_WORDS]
    kind = TooBig if status == 413 else Unsupported if said.code == "unsupported_parameter" else BadAsk
    return kind(f"The engine that serves this model refuses the request: {message}", param=said.param)


def _too_long(said: HeardError) -> bool:
    if said.code in _TOO_LONG or said.type in _TOO_LONG:
        return True
    text = (said.message or "").lower()
    return bool(_CONTEXT.search(text)) and "token" in text


def _over_context(said: HeardError) -> PromptTooLong:
    """Both numbers where they can be found: clients act on them."""
    text = (said.message or "")[:MOST_WORDS].lower()
    context = said.n_ctx or said.context_length or _number(_CONTEXT.search(text))
    prompt = said.n_prompt_tokens or said.prompt_tokens
    for pattern in _PROMPT:
        prompt = prompt or _number(pattern.search(text))
    if prompt and context:
        return PromptTooLong.of(prompt, context)
    return PromptTooLong(
        f"The engine that serves this model refuses the request: {said.message}"[:MOST_WORDS]
        if said.message
        else "The prompt does not fit the context of this model; shorten the messages",
        param="messages",
    )


def _number(found: re.Match[str] | None) -> int | None:
    return int(found[1]) if found else None


def _retry_after_s(header: str | None, said: HeardError) -> float | None:
    seconds = said.retry_after if header is None else _seconds(header)
    # Written so that a NaN is outside.
    return min(seconds, LONGEST_RETRY_S) if seconds is not None and seconds >= 0 else None


def _seconds(header: str) -> float | None:
    try:
        return float(header)
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()
