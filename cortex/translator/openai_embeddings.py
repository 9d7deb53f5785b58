"""POST /v1/embeddings: texts or token ids, one vector for each, in their order.

Lists are bounded, nothing is ever cut, and an empty input is refused by its index: no engine has a
meaning for it. `dimensions` is for whoever serves the model, who knows what its vectors are.
Deliberately without effect: user.
"""

from collections.abc import Iterable
from typing import Final, NoReturn, TypeAlias

from msgspec import Raw

from cortex.ask import Ask, Embed
from cortex.errors import BadAsk, EngineFailed, Unsupported, UpstreamFailed
from cortex.events import Embedded, Event, Failed, Stopped, Usage
from cortex.wire import embeddings as wire
from cortex.wire import reading
from cortex.wire.openai import Reply
from cortex.wire.openai_bodies import ABSENT, Forbidden
from cortex.wire.openai_heard import MOST_TOKENS

# As many token ids as the longest prompt of a completion may have.
_MOST_NODES: Final = 1_048_576

_Input: TypeAlias = str | tuple[int, ...]


def read(body: bytes) -> Ask:
    """The request in neutral words. BadAsk or Unsupported name what cannot be obeyed."""
    wanted = reading.decode(body, wire.BODY)
    reading.refuse_twins(body)
    _refuse(wanted)
    if wanted.model is None:
        raise BadAsk("'model' is missing: name one of GET /v1/models", param="model")
    form = wanted.encoding_format or "float"
    if form not in ("float", "base64"):
        raise Unsupported("'encoding_format' is float or base64", param="encoding_format")
    return Ask(
        model=wanted.model,
        embed=Embed(_inputs(wanted.input), dimensions=wanted.dimensions, base64=form == "base64"),
    )


def whole(reply: Reply, events: Iterable[Event]) -> bytes:
    """The JSON answer that `events` add up to. A failure among them is raised."""
    embed = None if reply.ask is None else reply.ask.embed
    if embed is None:
        raise TypeError("an answer of vectors needs the inputs that it is for")
    vectors: dict[int, bytes] = {}
    tokens, estimated = 0, False
    for event in events:
        match event:
            case Embedded(data, choice=index):
                vectors[index] = data
            case Stopped(usage=usage):
                tokens, estimated = tokens + usage.prompt, estimated or usage.estimated
            case Failed(error):
                raise error
            case _:
                raise TypeError(f"{type(event).__name__} is no vector")
    if sorted(vectors) != list(range(len(embed.inputs))):
        raise EngineFailed(
            f"the engine made {len(vectors)} vectors of {len(embed.inputs)} inputs; send it again"
        )
    ordered = (vectors[index] for index in range(len(vectors)))
    return wire.answer(reply.model, ordered, tokens, base64=embed.base64, estimated=estimated)


def write(ask: Ask, model: str) -> bytes:
    """The body that asks an upstream for all vectors of `ask` at once; `model` is its name there."""
    if ask.embed is None:
        raise ValueError("no vectors are asked for")
    try:
        return wire.question(model, ask.embed.inputs, ask.embed.dimensions)
    except UnicodeEncodeError as error:
        raise BadAsk(
            "'input' holds half of a surrogate pair, which is no character", param="input"
        ) from error


def hear(body: bytes, ask: Ask, asked_bytes: int) -> tuple[list[Embedded], Stopped]:
    """What an upstream's answer to that says: a vector for each input, in their order, and the end.
    Raises UpstreamFailed for anything less, and Unsupported where `dimensions` were not obeyed."""
    inputs = len(ask.embed.inputs) if ask.embed is not None else 0
    try:
        said = reading.decode(body, wire.HEARD)
        vectors = {each.index if each.index is not None else at: each for at, each in enumerate(said.data)}
        bits = [wire.bits_of(vectors[index].embedding) for index in range(inputs)]
    except (BadAsk, ValueError, LookupError) as error:
        raise UpstreamFailed("The upstream answers with what are no embeddings of the inputs") from error
    if len(said.data) != inputs or len({len(each) for each in bits}) != 1:
        raise UpstreamFailed("The upstream answers with another number of embeddings, or unlike ones")
    _ensure_obeyed(ask.embed, len(bits[0]) // 4)
    tokens = 0 if said.usage is None else said.usage.prompt_tokens or said.usage.total_tokens or 0
    # No input is without a token. As elsewhere where nobody tells: about four bytes are one.
    told = 0 < tokens <= MOST_TOKENS
    usage = Usage(prompt=tokens if told else -(-asked_bytes // 4), estimated=not told)
    return [Embedded(each, choice=index) for index, each in enumerate(bits)], Stopped("stop", usage)


def _ensure_obeyed(embed: Embed | None, width: int) -> None:
    if embed is not None and embed.dimensions not in (None, width):
        raise Unsupported(
            f"'dimensions' is {embed.dimensions}, and the engine that serves this model makes vectors of "
            f"{width} numbers all the same: leave it out",
            param="dimensions",
        )


def _refuse(wanted: wire.EmbeddingsBody) -> None:
    for name in Forbidden.__struct_fields__:
        if not reading.absent(getattr(wanted, name)):
            raise BadAsk(f"'{name}' is not accepted: it is the operator's to set", param=name)
    for name, neutral in wire.NEUTRAL.items():
        value = getattr(wanted, name)
        if value is not ABSENT and memoryview(value).tobytes() not in neutral:
            raise Unsupported(f"'{name}' is not supported for embeddings; leave it out", param=name)


def _inputs(raw: Raw) -> tuple[_Input, ...]:
    found = reading.long_part(raw, wire.INPUT, "input", _MOST_NODES)
    match found:
        case None | "" | []:
            raise BadAsk("'input' is missing or empty", param="input")
        case str():
            return (found,)
        case [int(), *_]:
            return (_ids(found, "input"),)
    if len(found) > wire.MOST_INPUTS:
        raise BadAsk(
            f"'input' has {len(found)} entries, and {wire.MOST_INPUTS} are the most: send several requests",
            param="input",
        )
    texts = isinstance(found[0], str)
    return tuple(_entry(entry, f"input[{index}]", texts=texts) for index, entry in enumerate(found))


def _entry(entry: str | int | list[int], name: str, *, texts: bool) -> _Input:
    if isinstance(entry, int) or isinstance(entry, str) is not texts:
        _mixed()
    if not entry:
        raise BadAsk(f"'{name}' is empty: leave it out", param=name)
    return entry if isinstance(entry, str) else _ids(entry, name)


def _ids(found: list[str | int | list[int]] | list[int], name: str) -> tuple[int, ...]:
    ids = tuple(entry for entry in found if isinstance(entry, int))
    if len(ids) != len(found):
        _mixed()
    if min(ids) < 0 or max(ids) >= 2**31:
        raise BadAsk(f"'{name}' holds a number that is no token id", param=name)
    return ids


def _mixed() -> NoReturn:
    raise BadAsk(
        "'input' is one text, a list of texts, a list of token ids, or a list of such lists; not a mixture",
        param="input",
    )
