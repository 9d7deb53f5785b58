"""llama.cpp's HTTP side, which cannot be switched off, and which has the tokeniser.

It listens on a unix socket in a folder of our own (mode 0700, removed by `close`) and
wants a random key. One blocking exchange at a time, on the device's thread or a job's.
"""

import http.client
import secrets
import socket
from collections.abc import Sequence
from typing import Final

import msgspec

from cortex.errors import BadAsk, EngineFailed, LoadFailed
from cortex.harness.folders import Folder

_LONGEST_SOCKET: Final = 100  # the kernel's limit is 107 bytes
_DEADLINE_S: Final = 60.0  # a megabyte of text takes about a second


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Content(msgspec.Struct):
    content: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Listener:
    """Where one engine listens, and what it knows of tokens."""

    def __init__(self) -> None:
        self._held = Folder.made("cortex-llamacpp-")
        self.folder = self._held.path
        self.socket = str(self.folder / "e.sock")
        self.key = secrets.token_urlsafe(32)
        if len(self.socket.encode()) > _LONGEST_SOCKET:
            self.close()
            raise LoadFailed(f"{self.socket} is too long for a socket's name; set TMPDIR to a shorter path")

    def tokenise(self, text: str, *, as_prompt: bool = False) -> tuple[int, ...]:
        """Ids of `text`, special tokens understood; `as_prompt` with what the engine adds to one."""
        try:
            said = msgspec.json.encode({"content": text, "add_special": as_prompt, "parse_special": True})
        except UnicodeEncodeError as error:
            raise BadAsk("The text holds half of a surrogate pair, which is no character") from error
        return tuple(msgspec.json.decode(self._ask("/tokenize", said), type=_Tokens).tokens)

    def detokenise(self, ids: Sequence[int]) -> str:
        """The text of `ids`, all of which are tokens."""
        data = self._ask("/detokenize", msgspec.json.encode({"tokens": ids}))
        # Bytes that are no character come as they are.
        whole = data.decode("utf-8", "replace").encode()
        return msgspec.json.decode(whole, type=_Content).content

    def close(self) -> None:
        """The folder is gone. The engine must have closed its end before."""
        self._held.remove()

    def _ask(self, path: str, said: bytes) -> bytes:
        connection = _UnixConnection(self.socket)
        try:
            connection.request("POST", path, said, {"Authorization": f"Bearer {self.key}"})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineFailed(f"llama.cpp's tokeniser does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise EngineFailed(f"llama.cpp's tokeniser answered {answer.status}: {data[:200]!r}")
        return data
