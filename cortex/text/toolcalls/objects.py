"""A call's JSON is found without parsing it, and then read once, whole.

The arguments go on as the model spelled them: numbers keep their digits.
"""

from collections.abc import Sequence

import msgspec


class ObjectEnd:
    """Finds the end of a JSON object: braces, strings, escapes."""

    def __init__(self) -> None:
        self.whole = False
        self.broken = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def scan(self, text: str, at: int) -> int:
        """Where the object ends or breaks, else the text's end."""
        while at < len(text) and not (self.whole or self.broken):
            at = self._string(text, at) if self._in_string else self._structure(text, at)
        return at

    def _structure(self, text: str, at: int) -> int:
        """Up to the next string, or the object's end."""
        depth = self._depth
        for end in range(at, len(text)):
            char = text[end]
            if char == '"':
                self._in_string = True
                break
            if char == "{":
                depth += 1
            elif char == "}":
                depth -= 1
                if not depth:
                    self.whole = True
                    break
        self._depth = depth
        return end + 1

    def _string(self, text: str, at: int) -> int:
        """Past the string's end. A raw line end cannot be in a string: it breaks the
        object at once, instead of keeping the rest of the answer back."""
        escaped = self._escaped
        for end in range(at, len(text)):
            char = text[end]
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                self._in_string = False
                break
            if char == "\n":
                self.broken = True
                break
        self._escaped = escaped
        return end + 1


def read_call(body: str, keys: Sequence[str]) -> tuple[str, str] | None:
    """Name and arguments of the call `body`, which has its arguments under the first of
    `keys` that is there; None when it is no call. Without any of them it has no arguments."""
    try:
        call = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(call.get("name", b'""'), type=str)
        found = next((call[key] for key in keys if key in call), msgspec.Raw(b"null"))
        arguments = read_arguments(bytes(found).decode())
    except (msgspec.MsgspecError, RecursionError):
        return None
    return (name, arguments) if name and arguments is not None else None


def read_arguments(text: str) -> str | None:
    """The JSON text of an object, from an object, a string that holds one, or null; None for
    anything else."""
    try:
        if text == "null":
            return "{}"
        if text.startswith('"'):
            text = msgspec.json.decode(text, type=str)
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return None
    return text
