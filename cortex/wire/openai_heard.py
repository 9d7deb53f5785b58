"""What OpenAI-compatible engines answer, typed: chunks, errors, the list of models.

Lenient where they differ and nothing is lost by it: fields may be missing or null, and
reasoning has two names. Only what is used is decoded. What it means is the translators'
business.
"""

from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

# No true count is larger, and millions of them add up to what reports may say.
MOST_TOKENS: Final = 2**31


class HeardFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class HeardCall(msgspec.Struct):
    """A piece of a tool call; in a stream its arguments come bit by bit."""

    index: int | None = None
    id: str | None = None
    function: HeardFunction | None = None


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[HeardCall] | None = None


class HeardTop(msgspec.Struct):
    token: str
    logprob: float | None = None


class HeardToken(msgspec.Struct):
    token: str
    logprob: float | None = None
    top_logprobs: list[HeardTop] | None = None


class HeardLogprobs(msgspec.Struct):
    """Chat's form is `content`; that of text completions, three lists side by side."""

    content: list[HeardToken] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class HeardChoice(msgspec.Struct):
    """`stop_reason` and `matched_stop` are two names of the stop string, or of a token's id."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None
    logprobs: HeardLogprobs | None = None


class HeardPrompt(msgspec.Struct):
    cached_tokens: int | None = None


class HeardCompletion(msgspec.Struct):
    reasoning_tokens: int | None = None


class HeardUsage(msgspec.Struct):
    """`estimated` is our own word for counts that nobody told."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: HeardPrompt | None = None
    completion_tokens_details: HeardCompletion | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False

    @property
    def believable(self) -> bool:
        """Whether the prompt was counted, and nothing less than nothing or beyond all counts."""
        said = (self.prompt_tokens, self.completion_tokens or 0)
        return all(tokens is not None and 0 <= tokens <= MOST_TOKENS for tokens in said)


class HeardError(msgspec.Struct):
    """`n_prompt_tokens` and `n_ctx` are llama-server's, the other numbers our own."""

    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    retry_after: float | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None
    prompt_tokens: int | None = None
    context_length: int | None = None


class HeardChunk(msgspec.Struct):
    """One event. Some engines put an error's fields on the outside."""

    choices: list[HeardChoice] | None = None
    usage: HeardUsage | None = None
    error: HeardError | str | None = None
    object: str | None = None
    message: str | None = None
    code: str | int | None = None


class HeardRefusal(msgspec.Struct):
    """The body of a status that is none of success: `detail` is FastAPI's word."""

    error: HeardError | str | None = None
    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    detail: msgspec.Raw = msgspec.Raw()


class HeardMeta(msgspec.Struct):
    """llama-server's: the context of a slot, and what the model was trained for."""

    n_ctx: int | None = None
    n_ctx_train: int | None = None


class HeardParameters(msgspec.Struct):
    max_seq_len: int | None = None
    use_vision: Any = None


class HeardMetadata(msgspec.Struct):
    max_request_context_length: int | None = None


class HeardModel(msgspec.Struct):
    """One entry of GET /v1/models, with every name that engines have for the context, and for sight."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None
    meta: HeardMeta | None = None
    parameters: HeardParameters | None = None
    metadata: HeardMetadata | None = None
    architecture: Any = None
    vision: Any = None
    capabilities: msgspec.Raw = msgspec.Raw()

    @property
    def able(self) -> frozenset[str]:
        """What it says, as cortex does, that it can do. Others have objects of this name."""
        try:
            return frozenset(msgspec.json.decode(self.capabilities, type=list[str]))
        except ValueError:
            return frozenset()

    @property
    def sees(self) -> bool:
        """Whether it says, in the words of llama-server, TabbyAPI or cortex, that it reads pictures. Others
        have other things under these names."""
        inputs = self.architecture.get("input_modalities") if isinstance(self.architecture, dict) else None
        if isinstance(inputs, list) and "image" in inputs:
            return True
        return self.vision is True or (self.parameters is not None and self.parameters.use_vision is True)

    @property
    def trained(self) -> int | None:
        """What the model was trained for; a server may have been started with less."""
        return self.meta.n_ctx_train if self.meta else None

    @property
    def context(self) -> int | None:
        """Tokens of one sequence as it is served; None when it does not say."""
        said = (
            self.max_model_len,
            self.context_length,
            self.context_window,
            self.meta and self.meta.n_ctx,
            self.parameters and self.parameters.max_seq_len,
            self.metadata and self.metadata.max_request_context_length,
        )
        return next((tokens for tokens in said if tokens and tokens > 0), None)


class HeardModels(msgspec.Struct):
    data: list[HeardModel]


CHUNK: Final = msgspec.json.Decoder(HeardChunk)
REFUSAL: Final = msgspec.json.Decoder(HeardRefusal)
MODELS: Final = msgspec.json.Decoder(HeardModels)


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """The value of `data`; None when it is not what it should be. Bytes that are no UTF-8 become
    replacement characters, so that they cost no more than themselves."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError:
        return decode(data.decode("utf-8", "replace").encode(), decoder)
    except (ValueError, RecursionError):
        return None
