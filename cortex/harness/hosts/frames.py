"""Messages on a stream of bytes: four bytes of length, then as many bytes.

A length beyond MOST is refused before a byte of the message is kept.
"""

import struct
from typing import Final

# The ids of the largest body that a neuron takes are less; a writer refuses more by name.
MOST: Final = 2**28
_HEAD: Final = struct.Struct(">I")


class TooLong(Exception):
    """No message of ours is that long."""


def framed(message: bytes) -> bytes:
    """`message` as it goes over the line. TooLong when it is more than MOST."""
    if len(message) > MOST:
        raise TooLong(f"{len(message)} bytes")
    return _HEAD.pack(len(message)) + message


class Frames:
    """Bytes in, whole messages out."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. TooLong when the next one would be."""
        self._held += data
        messages: list[bytes] = []
        at = 0
        while len(self._held) - at >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._held, at)
            if length > MOST:
                raise TooLong(f"{length} bytes")
            end = at + _HEAD.size + length
            if len(self._held) < end:
                break
            messages.append(bytes(self._held[at + _HEAD.size : end]))
            at = end
        del self._held[:at]
        return messages
