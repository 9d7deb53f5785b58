"""Reads secrets: what a gateway and its neurons share, and the keys of upstreams.

The token is never part of a message. Who may read the file is looked at as well: a
secret that everyone on the host can read is worth a warning, not a refusal.
"""

import stat
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Final

from cortex.config.lines import Path
from cortex.config.reading import Findings

# 16 random characters are beyond guessing; fewer are a slip.
LEAST: Final = 16
# A header line must hold it.
MOST: Final = 4096


def read_token(file: FilePath, at: Path, found: Findings, least: int = LEAST) -> str | None:
    """The token in `file`; what is wrong with it becomes a fault of the key `at`."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST + 2).strip()
            mode = file.stat().st_mode
    except OSError as error:
        found.fault(at, f"{file} cannot be read: {error.strerror or error}")
        return None
    if wrong := _wrong(data, least):
        found.fault(at, f"{file} {wrong}")
        return None
    if mode & stat.S_IROTH:
        found.warn(at, f"{file} is readable by everyone on this host; chmod o-r it")
    return data.decode("ascii")


def read_variable(name: str, at: Path, found: Findings, env: Mapping[str, str]) -> str | None:
    """The secret in an environment variable, which somebody else chose, short as it may be."""
    text = env.get(name, "").strip()
    if wrong := _wrong(text.encode(), 1):
        found.fault(at, f"the environment variable {name} {wrong}" if text else f"{name} is not set or empty")
        return None
    return text


def _wrong(data: bytes, least: int) -> str:
    if not data:
        return "is empty; put a token into it"
    if len(data) > MOST:
        return f"holds more than {MOST} bytes; a token is one line"
    if not all(0x21 <= byte <= 0x7E for byte in data):
        return "must hold one line of printable ASCII without blanks"
    if len(data) < least:
        return f"holds a token of fewer than {least} characters"
    return ""
