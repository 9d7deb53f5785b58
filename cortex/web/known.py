"""Request heads that were judged before: a client sends the same one again and again.

Parsing a head and finding out whose key it holds costs more than passing a request on. What is true of
a head is true of every other with the same bytes from the same address, under the same policy; only the
length of the body may differ, which is cut out first. Nothing is remembered of a head that is refused or
odd in any way: those are judged anew by the visit. Of the heads themselves, which hold keys, a keyed
digest is kept.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from cortex.errors import CortexError
from cortex.web import guard, head
from cortex.web.connection import Headers
from cortex.web.framing import Terms
from cortex.web.guard import Policy
from cortex.web.head import Head
from cortex.web.site import Route, Site
from cortex.wire import neuron

# A head has a few hundred bytes, and what is known of one a few kilobytes.
MOST: Final = 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ ]?([0-9]{1,9})\r\n", re.IGNORECASE)


@dataclass(slots=True)
class Known:
    """What is true of every request with this head, apart from `head.length`, up to the time `until`.
    Without credentials: `caller` is whose they were. `notes` are for who answers it, by what they are
    about."""

    head: Head
    route: Route
    caller: str
    peer: str
    policy: Policy
    until: datetime | None
    notes: dict[str, bytes] = field(default_factory=dict)

    def terms(self, request_id: str) -> Terms:
        """What holds for the answer."""
        return Terms(request_id, dialect=self.route.dialect)


class Heads:
    """One for each door."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}
        self._salt = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._known)

    def recognise(self, raw: bytes, peer: str, site: Site) -> tuple[Known, int] | None:
        """What is known of the head in `raw`, which ends with its empty line, and how long its body is.
        None where it is not plainly a request that may be answered at once."""
        found = _LENGTH.search(raw)
        if found is None:
            return None
        start, end = found.span(1)
        mark = hashlib.blake2b(
            b"%b\0%b\0%b" % (peer.encode(), raw[:start], raw[end:]), digest_size=16, key=self._salt
        ).digest()
        known = self._known.get(mark)
        if known is None or known.policy is not site.policy:
            known = _judged(raw, peer, site)
            if known is None:
                return None
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[mark] = known
        if known.until is not None and site.policy.now() >= known.until:
            return None
        return known, int(found[1])


def _judged(raw: bytes, peer: str, site: Site) -> Known | None:
    buffer = bytearray(raw)
    try:
        if head.take(buffer, len(raw)) is None or buffer:
            return None
        parsed = head.parse(raw)
        route = site.routes.get(parsed.path)
        if route is None or route.quick is None or not _plain(parsed):
            return None
        visitor = guard.visitor(site.policy, peer, parsed.headers)
        scope = site.scope_of(parsed.method, parsed.path)
        caller = guard.admit(site.policy, headers=parsed.headers, visitor=visitor, scope=scope)
    except CortexError:
        return None
    until = next((each.expires for each in site.policy.credentials if each.name == caller), None)
    kept = Headers(pair for pair in parsed.headers if pair[0] not in guard.CREDENTIALS)
    return Known(replace(parsed, headers=kept), route, caller, str(visitor.address), site.policy, until)


def _plain(parsed: Head) -> bool:
    return (
        parsed.method == "POST"
        and parsed.version == "1.1"
        and parsed.keep_alive
        and not parsed.chunked
        and not parsed.expects
        and parsed.headers.get("origin") is None
        and parsed.headers.get(neuron.PROGRESS) is None
    )
