"""A new key, and the digest by which it is known.

A key is a prefix, by which people and scanners of secrets know what they found, and 43
letters and digits from the system's source of randomness: 256 bits, so that a plain
SHA-256 is safe to store. Nothing of it is a date, a name or a checksum.
"""

import hashlib
import secrets
import string
from typing import Final

PREFIX: Final = "sk-cortex-"
_LETTERS: Final = string.ascii_letters + string.digits
_LENGTH: Final = 43


def new_key() -> str:
    """A key that nobody has seen."""
    return PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def digest(key: str) -> str:
    """The lower-case hex SHA-256 of `key`, as `[[keys]]` has it."""
    return hashlib.sha256(key.encode()).hexdigest()
