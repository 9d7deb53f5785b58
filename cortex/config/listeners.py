"""Two listeners of one role need two addresses, and the fault belongs to the file.

Each address by itself can be free, so that only the second bind would tell, and without
a name. What two names resolve to is not looked up here.
"""

from cortex.config.lines import Path
from cortex.config.network import Address
from cortex.config.reading import Findings, Values

_EVERYWHERE = ("::", "0.0.0.0")  # noqa: S104 - compared with, not listened on


def check_listeners(said: Values, at: Path, usual: tuple[Address, Address], found: Findings) -> None:
    """A fault when `listen` and `metrics_listen`, or what is usual for them, cannot both be had."""
    listen, metrics = said.get("listen", usual[0]), said.get("metrics_listen", usual[1])
    if not clash(listen, metrics):
        return
    key, other = ("metrics_listen", "listen") if "metrics_listen" in said else ("listen", "metrics_listen")
    taken = listen if other == "listen" else metrics
    found.fault((*at, key), f"takes the port of {other}, {taken}; each needs one of its own")


def clash(one: Address, other: Address) -> bool:
    """Whether who listens at `one` is in the way of `other`."""
    if one.port != other.port or one.port == 0:
        return False
    hosts = {one.host, other.host}
    if len(hosts) == 1 or "::" in hosts:  # :: takes IPv4 too
        return True
    return _EVERYWHERE[1] in hosts and not any(":" in host for host in hosts)
