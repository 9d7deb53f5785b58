"""The callers' keys: how one is made, which models it may use, and what it has left.

Rooms of this floor count and decide; who a caller is, is found out at the door (`web.guard`).
"""

from cortex.keys.accounts import Accounts
from cortex.keys.making import digest, new_key

__all__ = ["Accounts", "digest", "new_key"]
