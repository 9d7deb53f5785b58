"""Every figure that Prometheus reads, in one object with its own registry.

A role makes one `Metrics` and passes it down; there is a method for each happening, so
that no caller knows a metric's name. Label sets are closed: types close the dialects,
outcomes and phases, `known` the models, `keys` the keys, and whatever else there may be
counts as "other", so that invented names cannot grow the page.

`names` holds the words; `page` the registry, and what is true of any process; `traffic` adds
requests and what became of them, `stock` the models; `book` adds the fleet, and is the whole.
`slots` are what is counted, and where that is read at a scrape; `series` keeps what is shown by name,
and `vllm` says some of it again in the names of vLLM.
"""

from cortex.metrics.book import Metrics
from cortex.metrics.names import (
    FRESH_S,
    NO_KEY,
    NO_NEURON,
    OTHER,
    Dialect,
    Disbelief,
    Done,
    Ejection,
    Eviction,
    Fault,
    Outcome,
    Phase,
    Role,
)
from cortex.metrics.page import CONTENT_TYPE

__all__ = [
    "CONTENT_TYPE",
    "FRESH_S",
    "NO_KEY",
    "NO_NEURON",
    "OTHER",
    "Dialect",
    "Disbelief",
    "Done",
    "Ejection",
    "Eviction",
    "Fault",
    "Metrics",
    "Outcome",
    "Phase",
    "Role",
]
