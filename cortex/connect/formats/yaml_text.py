"""YAML: one key at the top, or the first entry of a list there, changed where it stands.

That is all that clients with YAML need. PyYAML reads, and tells where each value stands; the text
is cut by hand, since writing it anew would lose comments and layout. What is laid out otherwise is
refused, by whoever reads the result again.
"""

import re
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cortex.ask import Json
from cortex.connect.formats.unreadable import Unreadable

_ONE_LINE: Final = 2**20


def read(text: str) -> Json:
    """What the text says; nothing is as good as no keys."""
    try:
        said: Json = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(" ".join(str(error).split())) from error
    return {} if said is None else said


def put(text: str, path: tuple[str, ...], value: Json) -> str:
    """What stands at the top under the one key of `path` is `value`."""
    key = _only(path)
    found = _found(text, key)
    if found is None:
        ended = text if not text or text.endswith("\n") else f"{text}\n"
        return ended + _dumped({key: value})
    name, old = found
    start, end = old.start_mark.index, _end(text, old)
    # In flow style, which is one line, whatever it was; a block began on a line of its own.
    shown = _dumped(value, flow=True)
    if not getattr(old, "flow_style", True):
        start, shown = name.end_mark.index, f": {shown}"
    elif _is_block(old):
        # A comment beside its sign is not of the value.
        comment = re.search(r" +#.*", text[start:end].partition("\n")[0])
        shown += comment[0] if comment else ""
    gap = " " if text[start - 1 : start] == ":" else ""
    return text[:start] + gap + shown + text[end:]


def add(text: str, path: tuple[str, ...], value: Json) -> str:
    """`value` is the first entry of the list at the top, which is there."""
    node = _list(text, path)
    if not node.value:
        return put(text, path, [value])
    if node.flow_style:
        raise Unreadable(f"'{path[0]}' is a list in brackets")
    at, column = node.start_mark.index, node.start_mark.column
    lines = _dumped([value]).splitlines()
    return text[:at] + "".join(f"{line}\n{' ' * column}" for line in lines) + text[at:]


def drop(text: str, path: tuple[str, ...]) -> str:
    """No key of `path` stands at the top; it was there."""
    found = _found(text, _only(path))
    if found is None:
        raise Unreadable(f"there is no '{path[0]}'")
    return _without(text, found[0].start_mark.index, _end(text, found[1]))


def take(text: str, path: tuple[str, ...], value: Json) -> str:
    """`value` is no entry of the list at the top any more; it was one."""
    said = read(text)
    entries = said.get(_only(path)) if isinstance(said, dict) else None
    if not isinstance(entries, list) or value not in entries:
        raise Unreadable(f"'{path[0]}' has no such entry")
    if entries == [value]:
        return put(text, path, [])
    node = _list(text, path)
    if node.flow_style:
        raise Unreadable(f"'{path[0]}' is a list in brackets")
    entry = node.value[entries.index(value)]
    return _without(text, entry.start_mark.index, _end(text, entry))


def _without(text: str, at: int, end: int) -> str:
    """The text without the lines from that of `at` to that of `end`."""
    below = text.find("\n", end)
    return text[: text.rfind("\n", 0, at) + 1] + ("" if below < 0 else text[below + 1 :])


def _found(text: str, key: str) -> tuple[Node, Node] | None:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(" ".join(str(error).split())) from error
    if root is None:
        return None
    if not isinstance(root, MappingNode) or root.flow_style:
        raise Unreadable("the settings are no lines of 'key: value'")
    return next(((name, value) for name, value in root.value if name.value == key), None)


def _list(text: str, path: tuple[str, ...]) -> SequenceNode:
    found = _found(text, _only(path))
    if found is None or not isinstance(found[1], SequenceNode):
        raise Unreadable(f"'{path[0]}' is no list")
    return found[1]


def _end(text: str, node: Node) -> int:
    """Where the last word of a value ends: a block's own mark is behind the comments below it, that of
    a text in lines of its own behind the empty ones."""
    while not getattr(node, "flow_style", True) and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    return len(text[:end].rstrip()) if _is_block(node) else end


def _is_block(node: Node) -> bool:
    """Whether it is a text in lines of its own, behind `|` or `>`."""
    return isinstance(node, ScalarNode) and node.style in {"|", ">"}


def _only(path: tuple[str, ...]) -> str:
    if len(path) != 1:
        raise Unreadable(f"'{'.'.join(path)}' is not at the top")
    return path[0]


def _dumped(value: Json, *, flow: bool = False) -> str:
    shown: str = yaml.safe_dump(
        value, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=_ONE_LINE
    )
    # A bare word is followed by the end of a document.
    return shown.removesuffix("\n").removesuffix("\n...") if flow else shown
