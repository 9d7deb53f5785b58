"""Which replica serves a request, where a cold model goes, and why not elsewhere.

Routing goes by this list. Its numbers stand wherever a step of it is taken:

1. Resolve the alias: flat, one lookup.
2. Loaded and servable replicas: the least busy (what its last report told, plus our own requests
   since); among equals the one that affinity points to, then the name. A place that has to prove
   itself gets few of those who have another one.
3. A replica that is there and cannot serve: wait or refuse, never a second copy.
4. Nobody has it: free room, then the cheapest eviction (bytes x load seconds, by how long nobody
   has used them), then the fewest that leave, then the most free bytes, then the name. Only where it
   may live and would fit.
5. Who could hold it is not well: refused for now.
6. Nobody could ever: refused for good.

Pure: the same question gives the same answer, and asking changes nothing. `choice` decides between
places, `affinity` says to which of them a conversation belongs, and `reasons` puts the decision into
words for every place. The ledger asks all of them.
"""

from cortex.router.affinity import nearest, points
from cortex.router.choice import (
    Merit,
    Placement,
    Question,
    Ranked,
    Route,
    Victims,
    merit,
    most_bytes,
    never,
    placements,
    rank,
    route,
    ways,
    weight,
)
from cortex.router.reasons import Case, Judges, Reason, Standing, explain

__all__ = [
    "Case",
    "Judges",
    "Merit",
    "Placement",
    "Question",
    "Ranked",
    "Reason",
    "Route",
    "Standing",
    "Victims",
    "explain",
    "merit",
    "most_bytes",
    "nearest",
    "never",
    "placements",
    "points",
    "rank",
    "route",
    "ways",
    "weight",
]
