"""The words that label values are made of, and one request as the books have it.

Closed sets all: a value that is not among them is `OTHER`.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from cortex.events import StopReason, Usage

Role: TypeAlias = Literal["gateway", "neuron"]
Dialect: TypeAlias = Literal[
    "openai_chat",
    "openai_text",
    "openai_responses",
    "openai_embeddings",
    "anthropic_messages",
    "anthropic_count",
]
# Whom an unfinished request is blamed on; `hung_up` is a client that left, `cut` what cortex ended
# itself (a drain's deadline, a revoked key), `bug` a plain 500.
Outcome: TypeAlias = Literal["ok", "caller", "cortex", "engine", "hung_up", "cut", "bug"]
# Where a request was when its client left; `stall`: it stayed, took nothing, and was cut.
Phase: TypeAlias = Literal["body", "queue", "load", "answer", "stream", "stall"]
# `room` for another model, `idle` by its own limit, `asked` by an operator, `broken` with a fault.
Eviction: TypeAlias = Literal["room", "idle", "asked", "broken"]
# What an engine raised, as it was judged; `child`: its process died; `crash`: so did the last neuron.
Fault: TypeAlias = Literal["memory", "job", "unknown", "sticky", "child", "crash"]
# Why a neuron was taken out of the choice: it does not answer, cannot be reached, has another boot
# id, or spoils what it is sent.
Ejection: TypeAlias = Literal["silent", "unreachable", "restarted", "failing"]
# Why a neuron's report was not believed: it is another neuron's boot, or older than what is known.
Disbelief: TypeAlias = Literal["duplicate", "stale"]

OTHER: Final = "other"
# Where a request was that came to no neuron.
NO_NEURON: Final = "none"
# Who asked without a key.
NO_KEY: Final = "none"
FRESH_S: Final = 1.0  # a storm of scrapes costs one rendering a second
# How an exchange with a neuron failed, as the errors of the relay say it; `engine` is a failure that
# the neuron told of in good order, and whatever else an engine is to blame for.
FAILURES: Final = frozenset(
    {
        "contract",
        "connect",
        "crash",
        "cut",
        "dns",
        "encoding",
        "engine",
        "internal",
        "json",
        "late",
        "no_end",
        "oversize",
        "protocol",
        "redirect",
        "refused",
        "stall",
        "unsent",
    }
)


@dataclass(frozen=True, slots=True)
class Done:
    """One request at its end. Spans are seconds since its arrival; None = never came so far.

    `cold`: its model had to be loaded first. `overhead_s` is what cortex itself took of it. `key`
    is the name of the caller's key, "" without one; `stop` is why the engine stopped, if it did.
    """

    model: str
    dialect: Dialect
    outcome: Outcome
    duration_s: float
    neuron: str = NO_NEURON
    ttft_s: float | None = None
    queue_s: float | None = None
    usage: Usage = Usage()
    cold: bool = False
    overhead_s: float | None = None
    key: str = ""
    stop: StopReason | None = None

    @property
    def token_s(self) -> float | None:
        """Mean seconds per token after the first; None when there was no second one."""
        return None if self.ttft_s is None else token_s(self.ttft_s, self.duration_s, self.usage.completion)


def token_s(ttft_s: float, duration_s: float, completion: int) -> float | None:
    """The same of an answer whose first token came then."""
    if completion < 2 or duration_s <= ttft_s:
        return None
    return (duration_s - ttft_s) / (completion - 1)
