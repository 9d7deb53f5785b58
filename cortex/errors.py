"""Everything that can go wrong and has a name.

One small tree, by cause. A class says the HTTP status and the code of the OpenAI
dialect, and whose fault it is; the message says what to do next. The bodies of
the dialects are rendered elsewhere (`wire`), the statuses by `web.faults`.
Anything that is not a `CortexError` is a bug and becomes a plain 500.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, Literal, TypeAlias

Fact: TypeAlias = str | int | float | bool | list[str] | dict[str, int]

# Of what somebody else wrote, as much is quoted as tells what is wrong: an answer must not grow with
# the request.
LONGEST_WORDS: Final = 1000
LONGEST_NAME: Final = 200


def brief(words: str, longest: int = LONGEST_WORDS) -> str:
    """`words`, without the middle of very long ones."""
    if len(words) <= longest:
        return words
    half = (longest - 3) // 2
    return f"{words[:half]} … {words[-half:]}"


class CortexError(Exception):
    """Something we can name.

    `param` names the request field or key at fault. `retry_after_s` becomes the
    Retry-After header. `final` becomes `x-should-retry: false`: a client library
    must not repeat the call by itself. `not_started` becomes
    `x-cortex-not-started: 1`: nothing ran, another neuron may be tried.
    `facts` are further fields of the error object (numbers a client acts on).
    `reason` is what metrics call it, where its code tells too little; no client sees it. One that
    `quotes` a caller's words is brief.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    blame: ClassVar[Literal["caller", "cortex", "engine"]] = "cortex"
    final: bool = False
    not_started: bool = False
    default_retry_after_s: ClassVar[float | None] = None
    reason: str = ""
    quotes: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        facts: Mapping[str, Fact] | None = None,
        reason: str = "",
    ) -> None:
        if self.quotes:
            message, param = brief(message), param and brief(param, LONGEST_NAME)
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.facts: dict[str, Fact] = dict(facts or {})
        self.reason = reason or self.reason or self.code


class BadAsk(CortexError):
    """The request cannot be read, or contradicts itself. Messages quote the caller, and stay short."""

    status, code, blame = 400, "invalid_request", "caller"
    quotes = True


class Unsupported(BadAsk):
    """The request asks for something that the engine or cortex cannot do."""

    code = "unsupported_parameter"


class NoThreads(BadAsk):
    """The vendor's server would remember the conversation. Its client library sends all of it again
    when it is told so in exactly this code."""

    code = "thread_unsupported_request"


class PromptTooLong(BadAsk):
    """The prompt does not fit the context; `facts` hold prompt_tokens and context_length."""

    code = "context_length_exceeded"

    @classmethod
    def of(cls, prompt_tokens: int, context_length: int, *, at_least: bool = False) -> "PromptTooLong":
        """The error with both numbers, in the words that clients look for: LiteLLM in the first sentence,
        LangChain in the last."""
        count = f"at least {prompt_tokens}" if at_least else f"{prompt_tokens}"
        return cls(
            f"This model's maximum context length is {context_length} tokens. However, your "
            f"messages resulted in {count} tokens. Please shorten the messages: the prompt is too long.",
            param="messages",
            facts={"prompt_tokens": prompt_tokens, "context_length": context_length},
        )


class BadFraming(BadAsk):
    """The bytes are not strict HTTP/1.1; the connection is closed after the answer."""

    code, reason = "bad_request", "framing"


class Unauthorised(CortexError):
    status, code, blame, final, reason = 401, "invalid_api_key", "caller", True, "auth"


class Denied(CortexError):
    """Network, Host, Origin or scope does not allow it."""

    status, code, blame, final = 403, "not_allowed", "caller", True


class UnknownModel(CortexError):
    """Not in the catalogue; the message names near matches."""

    status, code, blame = 404, "model_not_found", "caller"


class UnknownRoute(CortexError):
    status, code, blame = 404, "not_found", "caller"


class UnknownJob(CortexError):
    """No load has this id, or it ended long ago."""

    status, code, blame = 404, "job_not_found", "caller"


class NotResident(CortexError):
    """Unload or pin of a model that does not live here."""

    status, code, blame = 404, "not_resident", "caller"


class BadMethod(CortexError):
    status, code, blame = 405, "method_not_allowed", "caller"


class SlowBody(CortexError):
    status, code, blame, final = 408, "request_timeout", "caller", True


class Busy(CortexError):
    """The residents named in `facts` block what was asked."""

    status, code, blame = 409, "busy", "cortex"


class NotHereNow(CortexError):
    """A neuron refuses a stale route; the gateway tries the next."""

    status, code, blame, not_started = 409, "not_here_now", "cortex", True


class TooBig(CortexError):
    status, code, blame, final = 413, "request_too_large", "caller", True


class Unfit(CortexError):
    """A load is refused by preflight, before any engine saw the file."""

    status, code, blame = 422, "unfit_model", "engine"


class NoUpgrade(CortexError):
    """HTTP/2 and WebSocket upgrades are refused; the connection is closed."""

    status, code, blame, reason = 426, "upgrade_refused", "caller", "proto"


class TooMuch(CortexError):
    """The key's own limits."""

    status, code, blame = 429, "rate_limit_exceeded", "caller"
    default_retry_after_s = 1.0


class SpentUp(TooMuch):
    """What the key has for today is used up. In this code, some clients do not ask again; others go by
    `final`, and would hang until midnight."""

    code, final = "insufficient_quota", True


class HeadTooBig(CortexError):
    status, code, blame = 431, "headers_too_large", "caller"


class EngineFailed(CortexError):
    """An error during a generation."""

    status, code, blame = 502, "engine_failed", "engine"


class OutOfMemory(EngineFailed):
    """A device had no memory left for what it computes; it goes on, without these jobs."""


class DeviceLost(EngineFailed):
    """The device computes nothing more until its process is started again."""


class LoadFailed(CortexError):
    """Weights unreadable, or the engine refused them."""

    status, code, blame = 502, "load_failed", "engine"


class UpstreamFailed(CortexError):
    """A neuron or upstream spoke nonsense or hung up."""

    status, code, blame, reason = 502, "upstream_failed", "engine", "protocol"


class Unreachable(UpstreamFailed):
    """The connection failed before the last request byte was written: nothing ran."""

    not_started, reason = True, "unsent"


class Overloaded(CortexError):
    """A shared queue is full, or a wait in it took too long."""

    status, code, blame, not_started = 503, "overloaded", "cortex", True
    default_retry_after_s = 2.0


class Loading(CortexError):
    """The wait limit of a cold load passed; the load goes on."""

    status, code, blame = 503, "model_loading", "cortex"
    default_retry_after_s = 10.0


class Recovering(CortexError):
    """The only replica cannot serve at the moment, or its neuron is away."""

    status, code, blame = 503, "no_capacity", "cortex"
    default_retry_after_s = 5.0


class Stopping(CortexError):
    status, code, blame, not_started = 503, "shutting_down", "cortex", True
    default_retry_after_s = 5.0


class NoRoom(CortexError):
    """No place can hold the model at present."""

    status, code, blame = 503, "no_capacity", "cortex"
    default_retry_after_s: ClassVar[float | None] = 5.0


class NeverFits(NoRoom):
    """No place of this fleet could ever hold the model."""

    final = True
    default_retry_after_s = None


class TooSlow(CortexError):
    """A deadline of ours passed."""

    status, code, blame, reason = 504, "upstream_timeout", "engine", "stall"


class DoesNotFit(CortexError):
    """A load needs more bytes than its device can ever free; `facts` hold the figures."""

    status, code, blame = 507, "does_not_fit", "engine"


class ConfigError(CortexError):
    """Configuration files are wrong: `faults` lists every one with its key and line."""

    code, blame = "config", "caller"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def named(code: str, status: int | None, message: str, *, retry_after_s: float | None = None) -> CortexError:
    """The error that `code` and `status` in another process's answer stand for; within a stream there
    is no status.

    A known code with another status is not trusted: it becomes UpstreamFailed.
    """
    for kind in _kinds(CortexError):
        if kind.code == code and status in (kind.status, None) and kind is not ConfigError:
            return kind(message, retry_after_s=retry_after_s)
    return UpstreamFailed(message)


def _kinds(root: type[CortexError]) -> Iterator[type[CortexError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)
