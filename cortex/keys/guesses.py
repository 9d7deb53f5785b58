"""Who tries keys that nobody has, and how long he has to wait.

Counts different wrong keys by address: a client that is set up wrongly repeats one, and
harms nobody behind the same address. One who tries more than MOST within a minute is told
to wait until the first of them is a minute old. Wrong keys only are asked about here: a good
one passes at any time, as many callers may share the address of a proxy.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

from cortex.errors import TooMuch

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MOST: Final = 20
MINUTE_S: Final = 60.0
# Whoever has more addresses than this to try from pushes out his own first ones.
ADDRESSES: Final = 10_000


class Guesses:
    """Wrong keys of the last minute, of which an address may try `most`. `clock` counts seconds and never
    jumps."""

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock, self._most = clock, most
        # By network, the one heard of last at the end; its wrong keys by fingerprint, oldest first.
        self._tried: OrderedDict[str, dict[str, float]] = OrderedDict()

    def check(self, address: Address) -> None:
        """Raises TooMuch while another wrong key from `address` is one too many."""
        tried, now = self._tried.get(_network(address)), self._clock()
        if tried is None:
            return
        _forget(tried, now)
        if len(tried) > self._most:
            wait_s = next(iter(tried.values())) + MINUTE_S - now
            raise TooMuch(
                f"{len(tried)} different API keys that nobody has came from {address} within a minute, and "
                f"this is another. Try again in {wait_s:.1f} s; a good one is taken at any time.",
                retry_after_s=wait_s,
                reason="auth_rate",
            )

    def wrong(self, address: Address, fingerprint: str) -> bool:
        """A wrong key came from `address`; answers whether it is one more within the minute."""
        network, now = _network(address), self._clock()
        tried = self._tried.setdefault(network, {})
        self._tried.move_to_end(network)
        if len(self._tried) > ADDRESSES:
            self._tried.popitem(last=False)
        _forget(tried, now)
        another = fingerprint not in tried
        tried.setdefault(fingerprint, now)
        return another


def _forget(tried: dict[str, float], now: float) -> None:
    for fingerprint in [name for name, at in tried.items() if at <= now - MINUTE_S]:
        del tried[fingerprint]


def _network(address: Address) -> str:
    """Whose addresses are one party's: of IPv6 the /64 that any host may pick from."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
