"""How much a listener takes: sizes in bytes, spans in seconds.

One struct for both roles. A gateway's operator sets it in `[limits]`; a neuron uses
the defaults. Each default is written here and nowhere else.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`stall_s` cuts a client that stops reading, `upstream_stall_s` a neuron that stops
    talking, `first_token_s` one that never starts. `queue` bounds all who wait.

    A body of which n bytes came has `request_body_s` and n / 16 KiB/s; and, what is sooner for
    one that hardly moves, 5 s (`request_body_s`, if that is less) and n / 1 KiB/s.
    """

    body: int = 64 * 2**20
    header: int = 16 * 2**10
    connections: int = 16384
    queue: int = 1024
    queue_wait_s: float = 60.0
    drain_s: float = 30.0
    stall_s: float = 60.0
    first_token_s: float = 120.0
    upstream_stall_s: float = 30.0
    header_s: float = 10.0
    request_body_s: float = 30.0
