"""Log records become single lines, and writing them never holds up the loop.

`lines` has what a line looks like, as text or as JSON, and the request id that it carries;
`outlet` writes the lines on a thread. What is worth a record is left to the floors above.
"""

from cortex.logs.lines import Json, Text, bind_request, escape, request_id, word
from cortex.logs.outlet import BOUND, GRACE_S, Format, Outlet, configure, dropped, say

__all__ = [
    "BOUND",
    "GRACE_S",
    "Format",
    "Json",
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
