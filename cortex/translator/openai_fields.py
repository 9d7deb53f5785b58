"""The request fields that dialects share, read by the same rules.

`begin` makes an `Ask` of all that chat and text completions share, without what each says in its
own way; `model`, `sampling` and `refuse` serve the other dialects too. A field
that cortex knows and cannot obey is refused by name; a field that only steers another
engine is refused unless its value is the neutral one. Bounds of numbers are in the
wire structs.
"""

from operator import attrgetter
from typing import Final

from msgspec import Raw

from cortex.ask import Ask, Sampling, Shape
from cortex.errors import BadAsk, Unsupported
from cortex.wire import reading
from cortex.wire.openai_bodies import (
    ABSENT,
    BIAS,
    FORMAT,
    NEUTRAL,
    STOP,
    STREAM_OPTIONS,
    Body,
    Forbidden,
    Foreign,
    Rarely,
    Spoken,
)

_FOREIGN: Final = Rarely(NEUTRAL)
_SAMPLED: Final = attrgetter(*(name for name in Sampling.__slots__ if name in Spoken.__struct_fields__))
_UNSAID: Final = Sampling()
_AS_USUAL: Final = _SAMPLED(_UNSAID)


def begin(body: Body) -> Ask:
    """The `Ask` with every field that both dialects have."""
    refuse(body)
    name, stream = model(body), bool(body.stream)
    return Ask(
        model=name,
        sampling=sampling(body, body.logit_bias),
        max_tokens=body.max_tokens,
        stop=_stop(body),
        n=1 if body.n is None else body.n,
        shape=_shape(body),
        stream=stream,
        include_usage=_include_usage(body) and stream,
    )


def refuse(body: Foreign) -> None:
    """Raises for a field that would let the caller in, or change the answer where cortex would not."""
    for name, value in _FOREIGN.sent(body):
        if memoryview(value).tobytes() in NEUTRAL[name]:
            continue
        if name in Forbidden.__struct_fields__:
            raise BadAsk(f"'{name}' is not accepted: it is the operator's to set", param=name)
        raise Unsupported(f"'{name}' is not supported; leave it out", param=name)


def model(body: Spoken) -> str:
    """The name that the caller gave."""
    if body.model is None:
        raise BadAsk("'model' is missing: name one of GET /v1/models", param="model")
    return body.model


def sampling(body: Spoken, bias: Raw = ABSENT) -> Sampling:
    """How a body of any dialect wants it sampled; `bias` is its field `logit_bias`, where it has one."""
    if _SAMPLED(body) == _AS_USUAL and reading.absent(bias):
        return _UNSAID
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),  # -1 also means off
        min_p=body.min_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=reading.part(bias, BIAS, "logit_bias") or None,
    )


def _stop(body: Body) -> tuple[str, ...]:
    stop = reading.part(body.stop, STOP, "stop") or ()  # forms send "" where nothing was typed
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _include_usage(body: Body) -> bool:
    options = reading.part(body.stream_options, STREAM_OPTIONS, "stream_options")
    if options is None:
        return False
    if options.continuous_usage_stats:
        name = "stream_options.continuous_usage_stats"
        raise Unsupported(f"'{name}' is not supported; include_usage ends the stream with it", param=name)
    return bool(options.include_usage)


def _shape(body: Body) -> Shape | None:
    wanted = reading.part(body.response_format, FORMAT, "response_format", 2 * reading.SMALL_BYTES)
    match wanted.type if wanted else "text":
        case "text":
            return None
        case "json_object":
            return Shape("json_object")
        case "json_schema":
            name = "response_format.json_schema.schema"
            if wanted is None or wanted.json_schema is None or reading.absent(wanted.json_schema.schema):
                raise BadAsk(f"'{name}' is missing", param=name)
            return Shape("json_schema", reading.tree(wanted.json_schema.schema, name))
        case other:
            raise Unsupported(
                f"response_format '{other}' is not supported; say text, json_object or json_schema",
                param="response_format.type",
            )
