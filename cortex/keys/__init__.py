"""The callers' keys: how one is made, which models it may use, what it has left, and who guesses.

Rooms of this floor count and decide; who a caller is, is found out at the door (`web.guard`).
"""

from cortex.keys.accounts import Accounts
from cortex.keys.guesses import Guesses
from cortex.keys.making import digest, new_key

__all__ = ["Accounts", "Guesses", "digest", "new_key"]
