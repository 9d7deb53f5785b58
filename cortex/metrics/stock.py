"""What happens to models, and to the devices that they live on.

Loads, evictions, tidying up and faults. Who lives where at present is for the book.
"""

from collections.abc import Callable
from typing import get_args

from cortex.errors import CortexError
from cortex.metrics.names import Eviction, Fault, Role
from cortex.metrics.traffic import Traffic


class Stock(Traffic):
    """Every load, and everybody who left."""

    def __init__(
        self,
        known: Callable[[str], bool],
        *,
        role: Role = "gateway",
        dropped_records: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(known, role=role, dropped_records=dropped_records, clock=clock)
        self._loading = self._gauge("loads_in_flight", "Loads under way")
        self._load_failures = self._counters("load_failures", "Loads that failed, by code", "model", "reason")
        self._evictions = self._counters("evictions", "Models unloaded", "reason")
        self._evictions.begin(get_args(Eviction))
        self._defrags = self._counter("defrags", "Devices emptied and refilled")
        self._defrag_bytes = self._counter("defrag_bytes", "Memory that this gave back")
        self._leaked = self._gauges(
            "device_leaked_bytes", "Memory held by an empty device beyond its first floor", "device"
        )
        self._faults = self._counters("device_faults", "What engines raised or died of, by kind", "kind")
        self._faults.begin(get_args(Fault))
        self._quarantined = self._gauge("models_quarantined", "Models that brought a process down twice")
        self._unservable = self._gauge("models_unservable", "Models of the catalogue that nobody can serve")

        self._config_faults = self._gauge("config_faults", "Faults of files that were not taken over")

    def cold_start(self, model: str) -> None:
        """A request found its model not resident and a load begins for it."""
        self._of(model).cold_starts.inc()

    def loads_from(self, read: Callable[[], int]) -> None:
        """`read` says how many loads are under way. It is called at a scrape, from a thread."""
        self._loading.set_function(read)

    def loaded(self, model: str, load_s: float) -> None:
        """A load came to its good end."""
        self._of(model).load.observe(load_s)

    def load_failed(self, model: str, error: CortexError) -> None:
        """A load ended without its model."""
        self._load_failures.at(self._label(model), error.code).inc()

    def evicted(self, reason: Eviction) -> None:
        """A resident was sent away."""
        self._evictions.at(reason).inc()

    def unservable(self, count: int) -> None:
        """So many models of the catalogue are beyond everybody at present."""
        self._unservable.set(count)

    def refused_files(self, faults: int) -> None:
        """So many faults are in files that were changed, and are not in force for it."""
        self._config_faults.set(faults)

    def quarantined(self, count: int) -> None:
        """So many models are not loaded here, since they brought a process down."""
        self._quarantined.set(count)

    def defragged(self, won_bytes: int) -> None:
        """A device was emptied and refilled, which gave back so many bytes."""
        self._defrags.inc()
        self._defrag_bytes.inc(won_bytes)

    def floor_rose(self, device: str, leaked_bytes: int) -> None:
        """So many bytes more than at first stay taken on the device when it is empty."""
        self._leaked.only(device, {(): leaked_bytes})

    def device_fault(self, kind: Fault) -> None:
        """An engine raised, or a process died of one."""
        self._faults.at(kind).inc()
