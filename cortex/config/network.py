"""Says where a role listens, and which networks count as its own.

The default of the trusted networks is written here for both roles: loopback, and
the ranges that no router of the open internet forwards.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

PRIVATE: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",  # RFC 1918, with the next two
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",  # RFC 4193
        "100.64.0.0/10",  # RFC 6598: carriers, and overlay networks such as Tailscale
        "169.254.0.0/16",  # link-local, with the next
        "fe80::/10",
    )
)

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or IP, no brackets) and a TCP port; port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_host(text: str) -> str:
    """A host name or IP literal, in lower case; ValueError when it is neither."""
    lowered = text.lower()
    # All digits and dots is meant as an IP, and the resolver would read odd forms of it.
    if ":" in lowered or re.fullmatch(r"[0-9.]+", lowered):
        return str(ip_address(lowered))
    if not _NAME.match(lowered):
        raise ValueError(f"{text!r} is not a host name or IP address")
    return lowered


def read_address(text: str) -> Address:
    """`host:port`, an IPv6 host in brackets; ValueError names the form."""
    found = _ADDRESS.match(text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(f"must be host:port, such as 127.0.0.1:31313 or [::]:31313, not {text!r}")
    return Address(read_host(found[1] or found[2]), int(found[3]))


def read_endpoint(text: str) -> str:
    """`http://host:port` in one spelling; port 80 when none is said, as URLs have it."""
    found = re.match(r"(?i:http)://(?=[^/@?#\s]+/?\Z)([^/]+?)(:[0-9]{1,5})?/?\Z", text)
    if found is None:
        # Not echoed: it may hold a password.
        raise ValueError("must be a plain URL such as http://neuron-1:13131 (no https, user, path or query)")
    address = read_address(found[1] + (found[2] or ":80"))
    if address.port == 0:
        raise ValueError("needs the port on which the neuron listens, not 0")
    return f"http://{address}"


def read_origin(text: str) -> str:
    """`scheme://host[:port]` as browsers send it: lower case, without the scheme's own port."""
    found = re.match(r"([a-z][a-z0-9+.-]*)://([^/\s*@?#]+?)(:[0-9]{1,5})?\Z", text.lower())
    if found is None:
        raise ValueError(f"must be an origin such as http://localhost:3000, not {text!r}")
    scheme, host, port = found[1], found[2], found[3] or ""
    return f"{scheme}://{host}{'' if (scheme, port) in (('http', ':80'), ('https', ':443')) else port}"
