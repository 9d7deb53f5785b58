"""JSON with comments and trailing commas, as clients keep their settings in.

A text is read into a tree whose nodes know where they stand, and a change is a cut at one such
place: comments, order and layout are their owner's. New members take the indentation of their
neighbours.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Final

from cortex.ask import Json
from cortex.connect.formats.unreadable import Unreadable

_SPACE: Final = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null')
# What may follow a value on its own line, and stays with it. As the one above it matches whatever
# comes next: with a condition behind the loop, runs of spaces would be tried in all their parts.
_REST: Final = re.compile(r"(?:[ \t]+|/\*[^\n]*?\*/|,)*(?://[^\n]*)?")
# A text nested deeper than any client's settings are.
_DEEPEST: Final = 100


@dataclass(slots=True)
class _Node:
    """A value and where it stands. `children` of an object have keys; `begin` is where a key stands."""

    start: int
    end: int
    value: Json
    children: "list[_Child]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Child:
    key: str | None
    begin: int
    node: _Node


def read(text: str) -> Json:
    """What the text says."""
    return _tree(text).value


def put(text: str, path: tuple[str, ...], value: Json) -> str:
    """What stands at `path` is `value`; objects on the way are made."""
    node = _tree(text)
    for depth, key in enumerate(path):
        found = _named(node, key)
        if found is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _insert_last(text, node, key, value)
        node = found.node
    return text[: node.start] + _rendered(value, _margin(text, node.start), text) + text[node.end :]


def add(text: str, path: tuple[str, ...], value: Json) -> str:
    """`value` is the first entry of the list at `path`, which is there."""
    node = _at(_tree(text), path)
    margin = _margin(text, node.start)
    if not node.children:
        return text[: node.start] + _rendered([value], margin, text) + text[node.end :]
    first = node.children[0].node.start
    inner = _margin(text, first)
    gap = f",\n{inner}" if _leads(text, first) else ", "
    return text[:first] + _rendered(value, inner, text) + gap + text[first:]


def drop(text: str, path: tuple[str, ...]) -> str:
    """Nothing stands at `path`, which is there."""
    return _without(text, _at(_tree(text), path[:-1]), path[-1])


def take(text: str, path: tuple[str, ...], value: Json) -> str:
    """`value` is no entry of the list at `path` any more; it was one."""
    node = _at(_tree(text), path)
    return _without(text, node, next(i for i, each in enumerate(node.children) if each.node.value == value))


def _without(text: str, node: _Node, which: str | int) -> str:
    index = which if isinstance(which, int) else _index(node, which)
    child = node.children[index]
    start, end = child.begin, child.node.end
    comma = _comma(text, end)
    if comma is not None:
        end = comma + 1
    elif index:
        # The last one: the comma before it goes, whatever comments stand between.
        before = node.children[index - 1].node.end
        at = _comma(text, before)
        if at is None:
            raise Unreadable("a comma is missing")
        text = text[:at] + text[at + 1 :]
        start, end = start - 1, end - 1
        if not _leads(text, start):
            start = len(text[:start].rstrip(" \t"))
    rest = re.compile(r"[ \t]*\r?\n").match(text, end)
    if _leads(text, start) and rest is not None:
        start, end = text.rfind("\n", 0, start) + 1, rest.end()
    return text[:start] + text[end:]


def _comma(text: str, end: int) -> int | None:
    """Where the comma behind the value that ends at `end` stands."""
    at = _skip(text, end)
    return at if text.startswith(",", at) else None


def _insert_last(text: str, node: _Node, key: str, value: Json) -> str:
    if not isinstance(node.value, dict):
        raise Unreadable(f"what should hold '{key}' is no object")
    if not node.children:
        outer = _margin(text, node.start)
        inner = outer + _unit(text)
        within = text[node.start + 1 : node.end - 1].rstrip()
        member = f"{json.dumps(key, ensure_ascii=False)}: {_rendered(value, inner, text)}"
        return f"{text[: node.start]}{{{within}\n{inner}{member}\n{outer}}}{text[node.end :]}"
    last = node.children[-1]
    inner = _margin(text, last.begin)
    member = f"{json.dumps(key, ensure_ascii=False)}: {_rendered(value, inner, text)}"
    end = last.node.end
    comma = _comma(text, end)
    if comma is None:
        text = f"{text[:end]},{text[end:]}"
    behind = (end if comma is None else comma) + 1
    if not _leads(text, last.begin):
        return f"{text[:behind]} {member}{text[behind:]}"
    at = _line_end(text, behind)
    return f"{text[:at]}\n{inner}{member}{'' if comma is None else ','}{text[at:]}"


def _line_end(text: str, behind: int) -> int:
    """Behind the comments that end the line of `behind`; `behind` when more follows on it."""
    found = _REST.match(text, behind)
    at = behind if found is None else found.end()
    return at if text.startswith(("\n", "\r\n"), at) else behind


def _rendered(value: Json, margin: str, text: str) -> str:
    """`value` as it looks behind `margin`, in the text's own steps."""
    return json.dumps(value, indent=_unit(text), ensure_ascii=False).replace("\n", f"\n{margin}")


def _unit(text: str) -> str:
    """One step of indentation."""
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found else "  "


def _margin(text: str, at: int) -> str:
    """The indentation of the line of `at`."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _leads(text: str, at: int) -> bool:
    """Whether nothing stands before `at` on its line, which is not the first."""
    begin = text.rfind("\n", 0, at) + 1
    return begin > 0 and not text[begin:at].strip()


def _index(node: _Node, key: str) -> int:
    """Of the last one of that name: that is whom readers believe."""
    return max(i for i, each in enumerate(node.children) if each.key == key)


def _named(node: _Node, key: str) -> _Child | None:
    return next((each for each in reversed(node.children) if each.key == key), None)


def _at(node: _Node, path: tuple[str, ...]) -> _Node:
    for key in path:
        found = _named(node, key)
        if found is None:
            raise Unreadable(f"there is no '{key}'")
        node = found.node
    return node


def _tree(text: str) -> _Node:
    """The whole text. Unreadable with the line of what is wrong."""
    node = _value(text, _skip(text, 0), 0)
    if (end := _skip(text, node.end)) != len(text):
        raise _wrong(text, end, "something stands behind the end")
    if not isinstance(node.value, dict):
        raise _wrong(text, node.start, "the settings are no object")
    return node


def _value(text: str, at: int, depth: int) -> _Node:
    if depth > _DEEPEST:
        raise _wrong(text, at, "it is nested too deeply")
    if text.startswith("{", at):
        return _object(text, at, depth)
    if text.startswith("[", at):
        return _list(text, at, depth)
    found = _SCALAR.match(text, at)
    if found is None:
        raise _wrong(text, at, "no value")
    try:
        value: Json = json.loads(found[0])
    except ValueError as error:
        raise _wrong(text, at, "no value") from error
    return _Node(at, found.end(), value)


def _object(text: str, start: int, depth: int) -> _Node:
    value: dict[str, Json] = {}
    node = _Node(start, start, value)
    at = _skip(text, start + 1)
    while not text.startswith("}", at):
        key = _value(text, at, depth)
        if not isinstance(key.value, str):
            raise _wrong(text, at, "a key in quotes is missing")
        colon = _skip(text, key.end)
        if not text.startswith(":", colon):
            raise _wrong(text, colon, "a colon is missing")
        child = _value(text, _skip(text, colon + 1), depth + 1)
        node.children.append(_Child(key.value, at, child))
        value[key.value] = child.value
        at = _next(text, child.end, "}")
    node.end = at + 1
    return node


def _list(text: str, start: int, depth: int) -> _Node:
    value: list[Json] = []
    node = _Node(start, start, value)
    at = _skip(text, start + 1)
    while not text.startswith("]", at):
        child = _value(text, at, depth + 1)
        node.children.append(_Child(None, at, child))
        value.append(child.value)
        at = _next(text, child.end, "]")
    node.end = at + 1
    return node


def _next(text: str, end: int, closing: str) -> int:
    """Where the next child or the closing bracket stands."""
    at = _skip(text, end)
    if text.startswith(",", at):
        return _skip(text, at + 1)
    if not text.startswith(closing, at):
        raise _wrong(text, at, f"a comma or '{closing}' is missing")
    return at


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _wrong(text: str, at: int, what: str) -> Unreadable:
    return Unreadable(f"line {text.count(chr(10), 0, at) + 1}: {what}")
