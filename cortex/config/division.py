"""Each worker of a gateway has its share of what the whole gateway may take.

A limit that one process keeps by itself is divided, so that all shares come to the limit and not to
more; what cannot be divided is a fault of the file. What is not here every worker has whole: sizes and
spans, and `tokens_per_day`, which the neurons count for all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.config.lines import Path
from cortex.config.reading import Findings, Values

if TYPE_CHECKING:
    from cortex.config.gateway import GatewayConfig

# One core serves thousands of requests a second, and each worker asks every neuron how it is.
MOST_WORKERS: Final = 64
_WHOLES: Final = ("connections", "queue")
_OF_KEYS: Final = ("max_in_flight", "requests_per_minute")


def share(whole: int, index: int, workers: int) -> int:
    """What the worker `index`, from 0, has of `whole`: the shares of all are `whole` together."""
    return whole // workers + (index < whole % workers)


def divided(config: "GatewayConfig", index: int, workers: int) -> "GatewayConfig":
    """`config` with that worker's shares. ValueError names the limit that is too small for all."""
    for at, why in _undivided(config.limits, config.keys, workers):
        raise ValueError(f"{'.'.join(map(str, at))} {why}")
    limits = replace(
        config.limits,
        connections=share(config.limits.connections, index, workers),
        queue=share(config.limits.queue, index, workers),
    )
    return replace(config, limits=limits, keys=tuple(_divided(key, index, workers) for key in config.keys))


def check_division(values: Values, found: Findings) -> None:
    """A fault for each limit of a file that cannot be divided among its workers."""
    workers = values.get("gateway", {}).get("workers", 1)
    limits = Limits(**{name: value for name, value in values.get("limits", {}).items() if name in _WHOLES})
    keys = [
        Key("", "", **{name: row[name] for name in _OF_KEYS if name in row}) for row in values.get("keys", [])
    ]
    for at, why in _undivided(limits, keys, workers):
        found.fault(at, why)


def _undivided(limits: Limits, keys: Sequence[Key], workers: int) -> Iterator[tuple[Path, str]]:
    why = (
        f"is less than the {workers} workers (gateway.workers), each of which needs a share of it: raise it, "
        "or have fewer workers"
    )
    if limits.connections < workers:
        yield ("limits", "connections"), why
    # None may wait, or one at each worker.
    if 0 < limits.queue < workers:
        yield ("limits", "queue"), why
    for i, key in enumerate(keys):
        for name in _OF_KEYS:
            if (most := getattr(key, name)) is not None and most < workers:
                yield ("keys", i, name), why


def _divided(key: Key, index: int, workers: int) -> Key:
    def part(most: int | None) -> int | None:
        return None if most is None else share(most, index, workers)

    return replace(
        key, max_in_flight=part(key.max_in_flight), requests_per_minute=part(key.requests_per_minute)
    )
