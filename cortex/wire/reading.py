"""Bytes from a caller become typed values, or a `BadAsk` that names the place at fault.

JSON costs per node, not per byte. So every decode here is typed, fields nobody asked
for are skipped without being built, and lists and free-form schemas stay raw until
their size is known to be bearable. Nothing but `BadAsk` leaves this file, whatever the
bytes are. What the fields mean is the translators' business.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from cortex.ask import Json
from cortex.errors import BadAsk, brief

T = TypeVar("T")

# One small field (stop strings, a bias table, a tool choice) with room to spare.
SMALL_BYTES: Final = 64 * 1024
# Up to here a search of a body takes less time than to decode it once more.
_SHORT_BYTES: Final = 4096
# A letter has no other escape than one that begins so; within a text, quotes are escaped.
_ESCAPE: Final = b"\\u00"
# About 40 ms of decoding: 2048 messages of some sixty nodes each.
MOST_NODES: Final = 131_072
MOST_DEPTH: Final = 64
_DETAIL: Final = 300

_PLACE: Final = re.compile(r" - at (?:`key` in )?`(\$[^`]*)`\Z")
# How a fault names kinds of values: by the words of Python, and what JSON calls them.
_QUOTED: Final = re.compile(r"(?:(?<=^Expected )|(?<=, got ))`[^`]*`")
_JSON_WORDS: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_KINDS: Final = re.compile(rf"\b(?:{'|'.join(_JSON_WORDS)})\b")
# Clients that count in UTF-16 cut a text within an emoji, and the decoder's words do not tell.
_HALF: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class _Object(msgspec.Struct):
    """Any object."""


_OBJECT: Final = msgspec.json.Decoder(_Object)
_TREE: Final = msgspec.json.Decoder(dict[str, Any])


def decode(body: bytes | str | msgspec.Raw, decoder: msgspec.json.Decoder[T], name: str = "") -> T:
    """The value of `body`. `name` is the field that it is the value of, "" for a whole body."""
    subject = f"'{name}'" if name else "The body"
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as fault:
        text = in_json_words(fault)
        place = _PLACE.search(text)
        path = name + place[1][1:] if place else name
        path = path.removeprefix(".")
        detail = text[: place.start()] if place else text
        raise BadAsk(f"'{path}': {detail}" if path else f"The body: {detail}", param=path or None) from fault
    except RecursionError as fault:
        raise BadAsk(f"{subject} is nested too deeply", param=name or None) from fault
    except ValueError as fault:  # malformed JSON, or text that is not UTF-8
        detail = str(fault).removeprefix("JSON is malformed: ")
        if _HALF.search(body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body)):
            detail = "it holds half of a surrogate pair, which is no character; cut texts between characters"
        raise BadAsk(f"{subject} is not valid JSON: {detail}", param=name or None) from fault


def of_peer(data: bytes, kind: type[T]) -> T:
    """What another process of ours says. ValueError, and nothing else, when it is no `kind`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError as fault:
        raise ValueError("it is nested too deeply") from fault
    except ValueError as fault:  # of msgspec, or text that is not UTF-8
        raise ValueError(brief(str(fault), _DETAIL)) from fault


def object_text(raw: msgspec.Raw, name: str) -> str:
    """The JSON text of the object in the field `name`, as it was sent; of an empty one when absent."""
    if absent(raw):
        return "{}"
    try:
        text = bytes(raw).decode()
    except UnicodeDecodeError as fault:  # what is not decoded as JSON is not looked at for that
        raise BadAsk(f"'{name}' is not valid JSON: its text is no UTF-8", param=name) from fault
    if not text.startswith("{"):
        raise BadAsk(f"'{name}' must be an object", param=name)
    return text


def is_object(text: bytes) -> bool:
    """Whether `text` is one whole JSON object. Its inside is skipped and not built."""
    try:
        _OBJECT.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def absent(raw: msgspec.Raw) -> bool:
    """Whether the field was left out or null, which is the same to every client library."""
    length = len(raw)
    return not length or (length == len(b"null") and bytes(raw) == b"null")


def part(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], name: str, most_bytes: int = SMALL_BYTES
) -> T | None:
    """The value of the field `name`, which must not be longer than `most_bytes`; None when absent."""
    if absent(raw):
        return None
    if memoryview(raw).nbytes > most_bytes:
        raise BadAsk(f"'{name}' is longer than {most_bytes} bytes", param=name)
    return decode(raw, decoder, name)


def long_part(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], name: str, most_nodes: int = MOST_NODES
) -> T | None:
    """The value of a field of any length that has at most `most_nodes` nodes; None when absent."""
    if absent(raw):
        return None
    if not _bearable(bytes(raw), most_nodes):
        raise BadAsk(f"'{name}' has more than {most_nodes} JSON values", param=name)
    return decode(raw, decoder, name)


def tree(raw: msgspec.Raw, name: str, most_bytes: int = SMALL_BYTES) -> dict[str, Json]:
    """A free-form object, such as a JSON schema: bounded in bytes and depth; empty when absent."""
    found = part(raw, _TREE, name, most_bytes) or {}
    level: list[Json] = [found]
    for _ in range(MOST_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return found
    raise BadAsk(f"'{name}' is nested deeper than {MOST_DEPTH} levels", param=name)


def refuse_twins(body: bytes) -> None:
    """`model` and `stream` stand in the body at most once: readers differ on which one counts.

    For a body that has been decoded: the two values are known to be small. A second
    decode that skips all else is quicker than a search for the keys' bytes, where the body is no short one.
    """
    if len(body) <= _SHORT_BYTES and _spelt_once(body):
        return
    seen: set[type] = set()

    def note(kind: type[_Model] | type[_Stream], _: object) -> object:
        # Raised at once: each further one would cost a call.
        if kind in seen:
            raise BadAsk(f"'{kind.name}' is given more than once", param=kind.name)
        seen.add(kind)
        return kind()

    decode(body, msgspec.json.Decoder(_Twins, dec_hook=note))


def _spelt_once(body: bytes) -> bool:
    """Whether neither key can be there twice."""
    return (
        body.rfind(_ESCAPE) < 0
        and body.rfind(b'"stream"') == body.find(b'"stream"')
        and body.rfind(b'"model"') == body.find(b'"model"')
    )


def lone(body: bytes, key: bytes) -> int:
    """Where the `key`, with its quotes, is spelt in `body`, which has it: the one place where it can be. -1
    where there may be others."""
    at = body.find(key)
    return at if at == body.rfind(key) and body.rfind(_ESCAPE) < 0 else -1


class _Model:
    """Stands for one value of the key `model`."""

    name: Final = "model"


class _Stream:
    """Stands for one value of the key `stream`."""

    name: Final = "stream"


class _Twins(msgspec.Struct):
    model: _Model = _Model()
    stream: _Stream = _Stream()


def in_json_words(fault: Exception) -> str:
    """The decoder's words for what it expected and got, in those that JSON has for it."""
    return _QUOTED.sub(
        lambda named: _KINDS.sub(lambda kind: _JSON_WORDS[kind[0]], named[0]), str(fault), count=2
    )


def _bearable(raw: bytes, most_nodes: int) -> bool:
    """Whether `raw` has at most `most_nodes` values; commas and braces within text are free."""
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") <= most_nodes:
        return True
    bones, strings = _STRING.subn(b"", raw, count=most_nodes + 1)
    return strings <= most_nodes and bones.count(b",") + bones.count(b"{") + bones.count(b"[") <= most_nodes


def _children(node: Json) -> Iterator[Json]:
    if isinstance(node, dict):
        yield from node.values()
    elif isinstance(node, list):
        yield from node
