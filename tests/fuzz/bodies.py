"""Requests that clients were seen to send, and what a hostile one would make of them.

A mutation knows what JSON is: it puts a value of another type, size or meaning at some place, moves
a part to where it does not belong, takes a key away or gives it twice. Bytes are damaged last.
"""

import json
from copy import deepcopy
from typing import Any, Final

from cortex.ask import Json
from cortex.wire import anthropic_bodies, openai_bodies, responses_bodies
from tests.fuzz.tape import Tape
from tests.recorded import clients, requests

# What stands for bytes that no encoder would write.
_RAW: Final = "\ue000%d\ue000"
_LONG: Final = "long " * 3000
_WORDS: Final = sorted(
    {
        name
        for wire in (openai_bodies, anthropic_bodies, responses_bodies)
        for struct in vars(wire).values()
        for name in getattr(struct, "__struct_fields__", ())
    }
    | {"text", "image", "image_url", "document", "tool_use", "tool_result", "function", "custom", "namespace"}
    | {"json_schema", "json_object", "user", "assistant", "system", "developer", "tool", "required", "any"}
    | {"message", "reasoning", "function_call", "function_call_output", "input_text", "output_text"}
    | {"input_image", "thinking", "redacted_thinking", "allowed_tools", "$schema", "type", "auto", "none"}
)
_RAWS: Final = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0.0",
    b"9" * 400,
    b"1.5e-400",
    b'"\\ud800"',
    b'"\\udc00\\ud800 x"',
    b'"\\u0000\\u2028\\u0085"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b"[" * 200 + b"]" * 200,
    b"[" * 5000,
    b'{"a":' * 70 + b"1" + b"}" * 70,
    b'1,"model":"other"',
    b'1,"stream":true,"stream":false',
    b'"a","type":"image"',
    b"[" + b"0," * 3000 + b"0]",
    b"\t [\r\n]\t",
    b"tru",
    b"'x'",
    b"",
)
_VALUES: Final[tuple[Json, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    1e308,
    "",
    " ",
    "a",
    _LONG,
    "é😀\u2028\u0000\x7f",
    "..",
    "{{ x }}",
    "</think>",
    '{"a": 1}',
    "data:image/png;base64,iVBORw0KGgo=",
    [],
    {},
    [None],
    [[]],
    {"type": "text"},
    {"type": "text", "text": "x"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    ["x"] * 40,
    {str(number): number for number in range(40)},
)


def _trimmed(value: Any, most: int = 3) -> Any:
    """`value` with short lists: a mutation is one place among few."""
    if isinstance(value, list):
        return [_trimmed(each, most) for each in value[-most:]]
    if isinstance(value, dict):
        return {key: _trimmed(each, most) for key, each in value.items()}
    return value[:80] if isinstance(value, str) and not value.startswith("data:") else value


def corpus() -> dict[str, list[Any]]:
    """Bodies by the path where they were sent, without those that tell nothing more."""
    found: dict[str, dict[str, Any]] = {}
    for client in clients():
        for one in requests(client):
            body = _trimmed(json.loads(one.body))
            shape = json.dumps(_bones(body), sort_keys=True)
            found.setdefault(one.path, {}).setdefault(shape, body)
    return {path: list(bodies.values()) for path, bodies in found.items()}


def _bones(value: Any) -> Any:
    """`value` without what its texts and numbers say."""
    if isinstance(value, dict):
        return {key: value[key] if key in ("type", "role") else _bones(value[key]) for key in value}
    return [_bones(each) for each in value] if isinstance(value, list) else type(value).__name__


def mutated(tape: Tape, bodies: list[Any]) -> bytes:
    """One of `bodies`, damaged here and there."""
    body = deepcopy(tape.of(bodies))
    other = tape.of(bodies)
    raws: list[bytes] = []
    for _ in range(tape.of((1, 1, 1, 2, 5))):
        _mutate(tape, body, other, raws)
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    for number, raw in enumerate(raws):
        data = data.replace(json.dumps(_RAW % number, ensure_ascii=False).encode(), raw)
    return _damaged(tape, data) if tape.below(16) == 15 else data


def _mutate(tape: Tape, body: Any, other: Any, raws: list[bytes]) -> None:
    home, key = _place(tape, body)
    if home is None:
        return
    match tape.below(8):
        case 0 | 1:
            home[key] = deepcopy(tape.of(_VALUES))
        case 2:
            home[key] = _RAW % len(raws)
            raws.append(tape.of(_RAWS))
        case 3:
            there, name = _place(tape, other)
            home[key] = None if there is None else deepcopy(there[name])
        case 4:
            home[key] = tape.of(_WORDS)
        case 5 if isinstance(home, dict):
            home[tape.of(_WORDS)] = home.pop(key)
        case 6 if isinstance(home, dict):
            home[tape.of(_WORDS)] = deepcopy(tape.of(_VALUES))
        case 5 | 6 if len(home) < 50:
            home[:] = home * (2 + tape.below(20))
        case _:
            del home[key]


def _place(tape: Tape, root: Any) -> tuple[Any, Any]:
    """A place in `root`: what holds it, and its key."""
    home, key = None, None
    here = root
    while isinstance(here, dict | list) and here and (home is None or tape.below(4)):
        home = here
        key = tape.of(sorted(here)) if isinstance(here, dict) else tape.below(len(here))
        here = home[key]
    return home, key


def _damaged(tape: Tape, data: bytes) -> bytes:
    at = tape.below(len(data) % 65536 + 1)
    match tape.below(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + tape.rest(3) + data[at:]
        case 2:
            return data[:at] + tape.rest(2) + data[at + 2 :]
        case 3:
            return b"\xef\xbb\xbf" + data
        case _:
            return data.decode("utf-8", "replace").encode("utf-16")
