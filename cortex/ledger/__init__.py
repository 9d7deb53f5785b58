"""Who lives where, who sits where, and who waits: the one owner of residency, in both roles.

Every method is synchronous, so under trio each is a critical section: between a look and
the deed nothing can change. The ledger decides and records; `dispatch` obeys and does the
waiting. Nothing here blocks, logs or reads a clock of its own.

Storey upon storey: `residency` keeps places, residents and loads (`rests` what failed a moment ago);
`waiting` adds those who wait, each model's in a `line`, by the `turns` of their keys, with the `claims`
of who waited long and the `crowd` that a bound holds;
`judging` the verdict on each; `seating` the seats, and who is let in; `foresight` tells what would
become of a request, and why; `keeping` adds what a neuron asks to keep its devices: idle times, pins,
and places that are emptied and filled anew.
"""

from cortex.ledger.foresight import Plan
from cortex.ledger.keeping import Ledger
from cortex.ledger.tickets import Decision, Load, Policy, Refuse, Serve, Settled, Ticket, Wait, Want

__all__ = [
    "Decision",
    "Ledger",
    "Load",
    "Plan",
    "Policy",
    "Refuse",
    "Serve",
    "Settled",
    "Ticket",
    "Wait",
    "Want",
]
