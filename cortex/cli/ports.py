"""A taken port is found before anything starts, and its owner is named.

Asking is done by binding and letting go, so a port that is taken in the moment after
still fails, in the role's own bind.
"""

import errno
import os
import socket
from collections.abc import Iterable
from typing import Final

import psutil

from cortex.config.network import Address
from cortex.errors import CortexError

_COMMAND: Final = 60  # so much of a command line tells whose it is
_OURS: Final = {"cortex", "cortex.py"}
_REASONS: Final = {
    errno.EACCES: "only root may listen there; choose a port above 1023",
    errno.EADDRNOTAVAIL: "this host has no such address",
}


class CannotListen(CortexError):
    """A listener's address is taken, or not ours to take."""

    code, blame = "cannot_listen", "caller"


def ensure_free(addresses: Iterable[Address], port_remedy: str, host_remedy: str) -> None:
    """Every address can be listened on. CannotListen names the first that cannot, who has
    it, and the remedy for its port or for its host."""
    for address in addresses:
        try:
            _try(address)
        except socket.gaierror as error:
            raise CannotListen(f"cannot listen on {address}: {error.strerror}; {host_remedy}") from error
        except OSError as error:
            reason = _REASONS.get(error.errno or 0) or error.strerror
            if error.errno == errno.EADDRINUSE:
                reason = f"the port is taken by {who_has(address.port)}"
            remedy = host_remedy if error.errno == errno.EADDRNOTAVAIL else port_remedy
            raise CannotListen(f"cannot listen on {address}: {reason}; {remedy}") from error


def who_has(port: int) -> str:
    """The process that listens on `port`, as far as this user may know."""
    for pid in _holders(port):
        # The command line says more than "python3" does.
        words = _command(pid)
        text = " ".join([os.path.basename(words[0]), *words[1:]]) if words else ""
        short = text if len(text) <= _COMMAND else text[:_COMMAND] + "…"
        return f"pid {pid} ({short})" if short else f"pid {pid}"
    return "another user's process (ss -ltnp as root names it)"


def cortex_has(port: int) -> bool:
    """Whether a cortex listens on `port`, as far as this user may know."""
    return any(_is_cortex(_command(pid)) for pid in _holders(port))


def _holders(port: int) -> list[int]:
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return []
    there = (each for each in found if each.status == psutil.CONN_LISTEN and each.laddr)
    return [each.pid for each in there if each.laddr.port == port and each.pid is not None]


def _command(pid: int) -> list[str]:
    try:
        process = psutil.Process(pid)
        return process.cmdline() or [process.name()]
    except psutil.Error:
        return []


def _is_cortex(words: list[str]) -> bool:
    """Whether it is the command, by itself or as a script or module of a Python."""
    return any(os.path.basename(word) in _OURS for word in words[:2]) or words[1:3] == ["-m", "cortex"]


def _try(address: Address) -> None:
    for family, kind, protocol, _, place in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            # As the listeners do it: what is only waiting out its last packets is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
