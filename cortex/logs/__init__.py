"""Log records become single lines, and writing them never holds up the loop.

`calls` reads what a call of a logger says; `lines` has what a line looks like, as text or as JSON, and the
request id that it carries; `outlet` writes the lines on a thread. What is worth a record is left to the
floors above.
"""

from cortex.logs.calls import OPEN, Open, escape, word
from cortex.logs.lines import Figure, Given, Json, Text, bind_request, request_id
from cortex.logs.outlet import BOUND, GRACE_S, Format, Outlet, configure, dropped, say

__all__ = [
    "BOUND",
    "GRACE_S",
    "OPEN",
    "Figure",
    "Format",
    "Given",
    "Json",
    "Open",
    "Outlet",
    "Text",
    "bind_request",
    "configure",
    "dropped",
    "escape",
    "request_id",
    "say",
    "word",
]
