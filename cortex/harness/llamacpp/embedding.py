"""Models that make vectors, in llama.cpp: how they are told apart and loaded, and the engine of one.

A file that names a pooling is such a model; for one that names none the catalogue may. Most poolings
need all of an input in one batch, which is then as long as the context. The engine looks at no limit
of its own before it computes, and ends the process at some: so inputs are counted here, in tokens
that it made itself. It cannot be stopped within an input, so that a cancelled job has its slot for
as long as that takes.
"""

import math
import struct
import time
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import Any, Final

import msgspec

from cortex.errors import BadAsk, EngineFailed, LoadFailed, PromptTooLong, Unfit
from cortex.events import Embedded, EngineEvent, Prefilled, Stopped
from cortex.harness.base import Job, LoadOrder, Preflight
from cortex.harness.llamacpp.asking import Fault, encode
from cortex.harness.llamacpp.engine import Call, Complete, Ended, LlamaCppEngine
from cortex.weights import ENCODERS, GgufHeader

# A twentieth of what one core was seen to do, since others may compute, too.
SECONDS_A_FLOP: Final = 1e-9


def pooling_of(order: LoadOrder, header: GgufHeader) -> str | None:
    """How the model makes one vector of its tokens': as the catalogue says, else the file. None for one
    that writes. Raises Unfit for what is neither."""
    chosen = order.options.get("pooling") or header.pooling
    if chosen == "rank":
        raise Unfit(f"{order.model}: {order.path} scores pairs of texts (a reranker), which is not served")
    if chosen in (None, "none"):
        if header.architecture in ENCODERS:
            raise Unfit(
                f"{order.model}: {order.path} makes vectors and does not say how they are pooled; set "
                "pooling to mean, cls or last in models.toml, as the model's makers do it"
            )
        return None
    return str(chosen)


def context_of(context: int, pooling: str, header: GgufHeader) -> int:
    """The longest input. Read in batches, one as long as all that was trained is refused."""
    return min(context, header.context_length - 1) if _in_batches(pooling, header) else context


def batch_of(context: int, batch: int, pooling: str | None, header: GgufHeader) -> int:
    """Tokens that are computed at once, `batch` where that may be chosen."""
    return batch if pooling is None or _in_batches(pooling, header) else context


def choose(parameters: Any, order: LoadOrder, promised: Preflight, header: GgufHeader, step: int) -> None:  # noqa: ANN401 - the binding is untyped
    """The binding's parameters are those of a model that makes vectors. `step` is what a sequence's
    context is rounded up to."""
    import xllamacpp  # noqa: PLC0415

    pooling = pooling_of(order, header) or ""
    batch = batch_of(promised.context, parameters.n_batch, pooling, header)
    parameters.embedding = True
    parameters.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    parameters.embd_normalize = 2  # to a length of one
    parameters.n_batch = parameters.n_ubatch = batch
    # Read in batches, an input must be shorter than the context that it is read into.
    parameters.n_ctx += order.slots * step


def completes(server: Any) -> Complete:  # noqa: ANN401
    """The engine's call for vectors, in the form of that for completions."""

    def complete(body: bytes, hear: Callable[[bytes], bool]) -> None:
        try:
            hear(server.handle_embeddings(body))
        except (LookupError, ValueError) as error:  # as the binding tells exceptions of C++
            raise RuntimeError(str(error)) from error

    return complete


def width(order: LoadOrder, complete: Complete) -> int:
    """How long the vectors are, by making one, which also touches the weights. LoadFailed when it cannot.

    An engine that is freed before its loop has run waits for that loop for ever, with Python's lock held.
    """
    heard: list[bytes] = []

    def hear(data: bytes) -> bool:
        heard.append(data)
        return False

    complete(_body((0,)), hear)
    try:
        return len(_vector(heard)) // 4
    except EngineFailed as error:
        raise LoadFailed(
            f"{order.model}: llama.cpp loaded {order.path} and cannot run it: {error.message}"
        ) from error


class LlamaCppEmbedder(LlamaCppEngine):
    """One model whose jobs are inputs."""

    def _make_call(self, call: Call) -> None:
        ids = self._input(call.job)
        call.counted_by = time.monotonic() + self._seconds(len(ids))
        heard: list[bytes] = []
        self._listen(call, _body(ids), heard.append)
        if not heard:
            return
        data = _vector(heard)
        if len(data) != 4 * self._facts.width:
            raise EngineFailed(f"llama.cpp made {len(data) // 4} numbers, where {self._facts.width} were due")
        call.prefilled, call.reason, call.vector = Prefilled(len(ids)), "stop", data

    def _end(self, call: Call, ended: Ended) -> list[EngineEvent]:
        events = super()._end(call, ended)
        if call.vector is None or call.prefilled is None or not isinstance(events[-1], Stopped):
            return events
        return [call.prefilled, *([] if call.cancelled else [Embedded(call.vector)]), *events]

    def _input(self, job: Job) -> tuple[int, ...]:
        """Its tokens, with those that belong around a text. Ids are taken as they come."""
        text = isinstance(job.prompt, str)
        ids = (
            self._listener.tokenise(job.prompt, as_prompt=True) if isinstance(job.prompt, str) else job.prompt
        )
        if not ids:
            raise BadAsk("The text has no token in this model's vocabulary", param="input")
        if wrong := next((token for token in ids if not 0 <= token < self._header.vocabulary), None):
            what = "the text has" if text else "there is"
            raise BadAsk(
                f"{what} token {wrong}; this model has tokens 0 to {self._header.vocabulary - 1}",
                param="input",
            )
        if len(ids) > self._facts.context:
            raise PromptTooLong.of(len(ids), self._facts.context)
        return ids

    def _seconds(self, tokens: int) -> float:
        """How long an input may be computed without a word. A byte of weights is two of them at most."""
        known = self._header
        attention = 4 * tokens * known.embedding_length * len(known.kv_heads)
        return tokens * (4 * known.weights_bytes + attention) * SECONDS_A_FLOP


def _in_batches(pooling: str, header: GgufHeader) -> bool:
    return pooling == "last" and header.architecture not in ENCODERS


def _body(ids: tuple[int, ...]) -> bytes:
    return encode({"input": [list(ids)], "encoding_format": "base64"})


class _Vector(msgspec.Struct, frozen=True):
    embedding: str


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Vector] = []
    error: Fault | None = None


def _vector(heard: list[bytes]) -> bytes:
    """The numbers that the engine answered with: single precision, little-endian, every one a number."""
    try:
        said = msgspec.json.decode(heard[0], type=_Answer)
        if said.error is not None:
            raise EngineFailed(f"llama.cpp: {said.error.message}")
        data = b64decode(said.data[0].embedding, validate=True)
        numbers = struct.unpack(f"<{len(data) // 4}f", data)
    except (msgspec.DecodeError, NotBase64, LookupError, struct.error) as error:
        raise EngineFailed(f"llama.cpp answered with what is no vector: {error}") from error
    if not numbers or not all(map(math.isfinite, numbers)) or not any(numbers):
        raise EngineFailed("llama.cpp made a vector that points nowhere: its weights may be damaged")
    return data
