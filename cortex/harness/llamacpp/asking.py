"""What llama.cpp is asked, and what it answers, as values.

Every sampling field is sent: the engine's own defaults are not neutral, and a field that
it does not know is ignored in silence. `samplers` names the whole chain, in the order that
other engines have, so that nothing else takes part. Penalties look at prompt and answer.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from cortex.ask import Json, Sampling, Shape
from cortex.errors import BadAsk, CortexError, EngineFailed, PromptTooLong
from cortex.events import TokenLogprob
from cortex.harness.base import Job
from cortex.harness.shaped import Single, grammar, schema
from cortex.weights import GgufHeader

_RANDOM_SEED: Final = 2**32 - 1  # the engine's word for "choose one"
_NEUTRAL: Final[Mapping[str, Json]] = {
    "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "dry_multiplier": 0.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
    "min_keep": 0,
    "ignore_eos": False,
    "n_keep": 0,
    "cache_prompt": True,
    "stop": [],
    "stream": True,
    "verbose": True,  # brings tokens_predicted, the only true count
    "return_progress": True,  # a prompt can be cancelled only where it is reported
}
_LARK: Final = "%llguidance {}\n"  # how the engine tells this kind of grammar from its own
_IMPOSSIBLE_LOGPROB: Final = -9999.0  # JSON has no minus infinity


class Verbose(msgspec.Struct, frozen=True):
    tokens_predicted: int = 0
    tokens_evaluated: int = 0


class PromptProgress(msgspec.Struct, frozen=True):
    total: int
    cache: int
    processed: int


class ScoredToken(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None = None
    top_logprobs: list["ScoredToken"] = []


class Scores(msgspec.Struct, frozen=True):
    content: list[ScoredToken] = []


class Choice(msgspec.Struct, frozen=True):
    text: str = ""
    finish_reason: str | None = None
    logprobs: Scores | None = None


class Fault(msgspec.Struct, frozen=True):
    message: str
    code: int = 500
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """One callback's worth; the rest of its many fields is stepped over."""

    choices: list[Choice] = []
    prompt_progress: PromptProgress | None = None
    error: Fault | None = None
    verbose: Verbose = msgspec.field(name="__verbose", default=Verbose())

    @property
    def choice(self) -> Choice:
        return self.choices[0] if self.choices else Choice()


def body(job: Job, prompt: str | tuple[int, ...], context: int) -> dict[str, Json]:
    """The request for `job`, but for its form; penalties look back over the whole `context`.

    At least one token is asked for: zero would yield one too. More than the context holds end
    at its end all the same, and far more would wrap in the engine's 32 bits.
    """
    said: dict[str, Json] = {
        **_NEUTRAL,
        **_sampling(job.sampling, context),
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "preserved_tokens": list(job.visible),
        "max_tokens": -1 if job.max_tokens is None else max(1, min(job.max_tokens, context)),
    }
    if job.logprobs is not None:
        said["logprobs"] = max(1, job.logprobs)
    return said


def form(shape: Shape, single: Single) -> dict[str, Json]:
    """What holds the engine to `shape`."""
    if not shape.calls:
        return {"json_schema": schema(shape)}
    return {"grammar": f"{_LARK}{grammar(shape, single)}"}


def trial() -> dict[str, Json]:
    """The smallest request: one token after the first one of the vocabulary."""
    return {**_NEUTRAL, "prompt": [0], "max_tokens": 1, "temperature": 0.0, "cache_prompt": False}


def encode(said: Mapping[str, Json]) -> bytes:
    try:
        return msgspec.json.encode(said)
    except UnicodeEncodeError as error:
        raise BadAsk(
            "The prompt holds half of a surrogate pair, which is no character", param="prompt"
        ) from error


def read(data: bytes) -> Chunk:
    return msgspec.json.decode(data, type=Chunk)


def check(job: Job, header: GgufHeader) -> None:
    """Refuse what the engine would ignore, or answer with nothing, in silence."""
    if not job.prompt and not (job.prompt == "" and header.adds_bos):
        raise BadAsk("The prompt is empty; send at least one token", param="prompt")
    for token in job.sampling.logit_bias or {}:
        if not 0 <= token < header.vocabulary:
            raise BadAsk(
                f"'logit_bias' names token {token}; this model has tokens 0 to {header.vocabulary - 1}",
                param="logit_bias",
            )


def error_of(fault: Fault, shape: Shape | None) -> CortexError:
    """Whose fault it is: the engine answers 400 where the request is to blame."""
    if fault.type == "exceed_context_size_error":
        return PromptTooLong.of(fault.n_prompt_tokens, fault.n_ctx)
    if fault.code == 400:
        return BadAsk(f"The engine refuses the request: {fault.message}", param=_blamed(fault.message, shape))
    return EngineFailed(f"llama.cpp: {fault.message}")


def logprobs(scores: Scores | None, wanted: int | None) -> tuple[TokenLogprob, ...]:
    """The tokens of one chunk; one that ended inside a code point is not among them."""
    if scores is None or wanted is None:
        return ()
    return tuple(
        TokenLogprob(
            token.token,
            _logprob(token),
            tuple((other.token, _logprob(other)) for other in token.top_logprobs[:wanted]),
        )
        for token in scores.content
    )


def _logprob(token: ScoredToken) -> float:
    return _IMPOSSIBLE_LOGPROB if token.logprob is None else max(token.logprob, _IMPOSSIBLE_LOGPROB)


def _sampling(sampling: Sampling, context: int) -> dict[str, Json]:
    def number(value: float | None, neutral: float) -> float:
        return neutral if value is None else value

    penalties = {
        "repeat_penalty": number(sampling.repetition_penalty, 1.0),
        "presence_penalty": number(sampling.presence_penalty, 0.0),
        "frequency_penalty": number(sampling.frequency_penalty, 0.0),
    }
    used = list(penalties.values()) != [1.0, 0.0, 0.0]
    bias: list[Json] = [[token, amount] for token, amount in (sampling.logit_bias or {}).items()]
    return {
        **penalties,
        "repeat_last_n": context if used else 0,
        "temperature": number(sampling.temperature, 1.0),
        "top_k": int(number(sampling.top_k, 0)),
        "top_p": number(sampling.top_p, 1.0),
        "min_p": number(sampling.min_p, 0.0),
        # The engine keeps 32 bits, and the highest number means "random".
        "seed": _RANDOM_SEED if sampling.seed is None else sampling.seed % _RANDOM_SEED,
        "logit_bias": bias,
    }


def _blamed(message: str, shape: Shape | None) -> str | None:
    """The request's field that the engine's message is about, if it shows."""
    if shape is not None and ("grammar" in message or "samplers" in message):
        return shape.param
    return "prompt" if "rompt" in message else None
