"""POST /v1/embeddings on the wire: the request typed, the answer written.

`input` and whatever another engine would obey are raw here and judged by the translator. A vector is
single precision: as text each number has the nine digits that bring the same bits back, as base64
it is those bits, little-endian.
"""

import struct
from base64 import b64encode
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from cortex.wire.openai_bodies import ABSENT, Forbidden, ModelName
from cortex.wire.openai_bodies import PROMPT as INPUT

__all__ = ["BODY", "INPUT", "MOST_INPUTS", "NEUTRAL", "answer", "answer_bytes"]

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
BODY: Final = msgspec.json.Decoder(EmbeddingsBody)
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


def answer_bytes(inputs: int, width: int, *, base64: bool) -> int:
    """How long the answer with so many vectors of that many numbers may become."""
    return inputs * (64 + width * _WRITTEN_BYTES["base64" if base64 else "float"])


def _as_base64(vector: bytes) -> bytes:
    return b'"%b"' % b64encode(vector)


def _as_numbers(vector: bytes) -> bytes:
    numbers = struct.unpack(f"<{len(vector) // _FLOAT_BYTES}f", vector)
    return b"[%b]" % ",".join([f"{number:.9g}" for number in numbers]).encode()
