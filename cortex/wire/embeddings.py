"""POST /v1/embeddings on the wire: the request typed, the answer written.

`input` and whatever another engine would obey are raw here and judged by the translator. A vector is
single precision: as text each number has the nine digits that bring the same bits back, as base64
it is those bits, little-endian. What an upstream is asked and answers is here, too.
"""

import math
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from cortex.wire.openai_bodies import ABSENT, Forbidden, ModelName
from cortex.wire.openai_bodies import PROMPT as INPUT

__all__ = [
    "BODY",
    "HEARD",
    "INPUT",
    "MOST_INPUTS",
    "NEUTRAL",
    "EmbeddingsAnswer",
    "EmbeddingsBody",
    "HeardEmbeddings",
    "HeardVector",
    "answer",
    "answer_bytes",
    "bits_of",
    "question",
]

MOST_INPUTS: Final = 2048
_FLOAT_BYTES: Final = 4
# "-1.23456789e-05," and what base64 makes of four bytes.
_WRITTEN_BYTES: Final = {"float": 16, "base64": 6}


class EmbeddingsBody(Forbidden, kw_only=True):
    """POST /v1/embeddings. `user` has no effect, and is in no struct."""

    model: ModelName | None = None
    input: Raw = ABSENT
    encoding_format: str | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    # What would change the vectors elsewhere and is not done here; `NEUTRAL` values pass.
    stream: Raw = ABSENT
    messages: Raw = ABSENT
    input_type: Raw = ABSENT
    task: Raw = ABSENT
    task_type: Raw = ABSENT
    prompt_name: Raw = ABSENT
    instruction: Raw = ABSENT
    truncate: Raw = ABSENT
    truncation: Raw = ABSENT
    truncate_prompt_tokens: Raw = ABSENT
    add_special_tokens: Raw = ABSENT
    normalize: Raw = ABSENT
    embd_normalize: Raw = ABSENT
    embed_dtype: Raw = ABSENT
    output_dtype: Raw = ABSENT
    output_dimension: Raw = ABSENT
    late_chunking: Raw = ABSENT


_OFF: Final = frozenset({b"", b"null", b"false"})
_ON: Final = frozenset({b"", b"null", b"true"})
_SAID: Final = frozenset({"model", "input", "encoding_format", "dimensions"})
_OWN: Final = {
    **dict.fromkeys(("add_special_tokens", "normalize"), _ON),
    "embd_normalize": frozenset({b"", b"null", b"2"}),
    "truncate": _OFF | {b'"NONE"', b'"none"'},
    "output_dtype": frozenset({b"", b"null", b'"float"'}),
    "embed_dtype": frozenset({b"", b"null", b'"float32"'}),
}
# By field, the values that ask for nothing.
NEUTRAL: Final = {
    name: _OWN.get(name, _OFF)
    for name in EmbeddingsBody.__struct_fields__
    if name not in _SAID and name not in Forbidden.__struct_fields__
}


class EmbeddingAnswer(msgspec.Struct):
    """One vector; as text the numbers of it in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(msgspec.Struct):
    """`estimated` is there, and true, where an upstream told no counts."""

    prompt_tokens: int
    total_tokens: int
    estimated: Literal[True] | UnsetType = UNSET


class EmbeddingsAnswer(msgspec.Struct):
    """What `answer` writes."""

    object: Literal["list"]
    data: list[EmbeddingAnswer]
    model: str
    usage: EmbeddingsUsage


class HeardVector(msgspec.Struct):
    """`embedding` is raw, for `bits_of`: all numbers of an answer at once would keep every other thread
    waiting."""

    embedding: Raw
    index: int | None = None


class HeardTokens(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class HeardEmbeddings(msgspec.Struct):
    """What an upstream answers; its model is its own name for it."""

    data: list[HeardVector]
    usage: HeardTokens | None = None


BODY: Final = msgspec.json.Decoder(EmbeddingsBody)
HEARD: Final = msgspec.json.Decoder(HeardEmbeddings)
_VECTOR: Final = msgspec.json.Decoder(list[float] | str)
_encode: Final = msgspec.json.Encoder().encode


def answer(
    model: str, vectors: Iterable[bytes], prompt_tokens: int, *, base64: bool, estimated: bool
) -> bytes:
    """The JSON answer, whose `data` are `vectors` in their order."""
    write = _as_base64 if base64 else _as_numbers
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, write(vector))
        for index, vector in enumerate(vectors)
    )
    usage = b'{"prompt_tokens":%d,"total_tokens":%d%b}' % (
        prompt_tokens,
        prompt_tokens,
        b',"estimated":true' if estimated else b"",
    )
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, _encode(model), usage)


def question(model: str, inputs: Sequence[str | tuple[int, ...]], dimensions: int | None) -> bytes:
    """The body that an upstream is asked with. UnicodeEncodeError for half a character."""
    # Ids of one input are a list of lists, too: not every engine takes a bare list of numbers.
    said: dict[str, object] = {"model": model, "input": inputs, "encoding_format": "float"}
    if dimensions is not None:
        said["dimensions"] = dimensions
    return _encode(said)


def bits_of(written: Raw) -> bytes:
    """The numbers in single precision, little-endian, whichever form they came in. ValueError when they
    are none."""
    vector = _VECTOR.decode(written)
    if isinstance(vector, str):
        data = b64decode(vector, validate=True)
        numbers: Sequence[float] = struct.unpack(f"<{len(data) // _FLOAT_BYTES}f", data[: len(data) // 4 * 4])
        if len(data) % _FLOAT_BYTES:
            raise ValueError("not whole numbers")
    else:
        numbers = vector
        try:
            data = struct.pack(f"<{len(vector)}f", *vector)
        except OverflowError as error:
            raise ValueError("a number beyond single precision") from error
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError("no numbers")
    return data


def answer_bytes(inputs: int, width: int, *, base64: bool) -> int:
    """How long the answer with so many vectors of that many numbers may become."""
    return inputs * (64 + width * _WRITTEN_BYTES["base64" if base64 else "float"])


def _as_base64(vector: bytes) -> bytes:
    return b'"%b"' % b64encode(vector)


def _as_numbers(vector: bytes) -> bytes:
    numbers = struct.unpack(f"<{len(vector) // _FLOAT_BYTES}f", vector)
    return b"[%b]" % ",".join([f"{number:.9g}" for number in numbers]).encode()
