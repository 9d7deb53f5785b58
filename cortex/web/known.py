"""Request heads that were judged before: a client sends the same one again and again.

Parsing a head and finding out whose key it holds costs more than passing a request on. What is true of
a head is true of every other with the same bytes from the same address, under the same policy; only the
length of the body may differ, which is cut out first. Nothing is remembered of a head that is refused or
odd in any way: those are judged anew by the visit. Of the heads themselves, which hold keys, a keyed
digest is kept; but a connection compares what comes next to its own last one.
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
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
_MOST_DIGITS: Final = 9
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ ]?([0-9]{1,%d})\r\n" % _MOST_DIGITS, re.IGNORECASE)


@dataclass(slots=True)
class Known:
    """What is true of every request with this head, apart from `head.length`, up to the time `until`.
    Without credentials: `caller` is whose they were. `notes` are for who answers it, by the model that
    is asked for."""

    head: Head
    route: Route
    caller: str
    peer: str
    policy: Policy
    until: datetime | None
    # What the client calls its request, "" where it says nothing, or no id.
    given_id: str = ""
    notes: dict[str, object] = field(default_factory=dict)

    def terms(self, request_id: str) -> Terms:
        """What holds for the answer."""
        return Terms(request_id, dialect=self.route.dialect)

    def holds(self, site: Site) -> bool:
        """Whether it is true still."""
        policy = self.policy
        return policy is site.policy and (self.until is None or policy.now() < self.until)


class Last:
    """The head of the last request on a connection: the next one is nearly always the same, and to compare
    it costs less than to look it up."""

    __slots__ = ("_begin", "_end", "_known")

    def __init__(self, known: Known, begin: bytes, end: bytes) -> None:
        self._known, self._begin, self._end = known, begin, end

    def recognise(self, buffer: bytes, site: Site) -> tuple[Known, int, int] | None:
        """What `buffer` begins with, if it is that head again: what is known of it, where it ends, and how
        long its body is."""
        if not buffer.startswith(self._begin):
            return None
        start = len(self._begin)
        stop = buffer.find(b"\r", start)
        digits = buffer[start:stop]
        if not (digits.isdigit() and len(digits) <= _MOST_DIGITS and buffer.startswith(self._end, stop)):
            return None
        return (self._known, stop + len(self._end), int(digits)) if self._known.holds(site) else None


class Heads:
    """One for each door."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}
        self._salt = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._known)

    def recognise(self, raw: bytes, peer: str, site: Site) -> tuple[Known, int, Last] | None:
        """What is known of the head in `raw`, which ends with its empty line, how long its body is, and
        how to know it again. None where it is not plainly a request that may be answered at once."""
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
                # The oldest, and no more: to judge all anew that are in use is a burst of work.
                del self._known[next(iter(self._known))]
            self._known[mark] = known
        return (known, int(found[1]), Last(known, raw[:start], raw[end:])) if known.holds(site) else None


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
    peer, given = str(visitor.address), given_id(parsed.headers)
    return Known(replace(parsed, headers=kept), route, caller, peer, site.policy, until, given)


def given_id(headers: Headers) -> str:
    """The client's own id for its request; "" where it has none that may be one."""
    given = headers.get(neuron.REQUEST_ID)
    return given if given is not None and _REQUEST_ID.match(given) else ""


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
