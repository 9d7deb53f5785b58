"""What becomes of a gauge where several processes count for one gateway.

Counters and histograms are summed anyhow. Of gauges, what each has of its own is a sum; of what all look at
alike, one that sees it worse tells of trouble, and else the highest stands.
"""

from collections.abc import Callable
from typing import Final

# What a process has of its own.
SUMMED: Final = frozenset(
    {
        "cortex_in_flight",
        "cortex_waiting",
        "cortex_loads_in_flight",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)
# Whoever does not reach a neuron has trouble, though others do; and the first that began, began it all.
LEAST: Final = frozenset(
    {"cortex_neuron_up", "cortex_device_up", "process_max_fds", "process_start_time_seconds"}
)
# All see the same, some of them a moment later; and of descriptors, each has a limit of its own, which
# whoever has most of them comes to first.
MOST: Final = frozenset(
    {
        "cortex_build_info",
        "cortex_config_faults",
        "cortex_device_leaked_bytes",
        "cortex_device_memory_bytes",
        "cortex_device_temperature_celsius",
        "cortex_device_utilization_ratio",
        "cortex_key_day_limit_tokens",
        "cortex_key_day_tokens",
        "cortex_models_quarantined",
        "cortex_models_unservable",
        "cortex_neuron_probation",
        "cortex_resident_bytes",
        "process_open_fds",
    }
)


def rule_of(gauge: str) -> Callable[[float, float], float]:
    """How two values of a gauge of that name become one."""
    if gauge in SUMMED:
        return _sum
    return min if gauge in LEAST else max


def _sum(one: float, other: float) -> float:
    return one + other
