"""Admission by tokens is enough for an engine whose KV cache comes in pages."""

from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Sampling
from cortex.catalogue import PAGE
from cortex.events import Stopped
from cortex.harness.base import EngineFacts, Job, Memory
from cortex.harness.seats import Mailbox, Seated, Seats


def seated(number: int, kv_tokens: int) -> Seated:
    return Seated(Job(number, "x", Sampling(), kv_tokens=kv_tokens), Mailbox(1), 0)


# The worst of them need one token of their last page.
COUNTS = st.integers(1, 6 * PAGE) | st.integers(0, 5).map(lambda pages: pages * PAGE + 1)


@given(
    kv_pages=st.integers(1, 12),
    slots=st.integers(1, 8),
    kv_tokens=st.lists(COUNTS, min_size=1, max_size=30),
)
def test_live_jobs_never_need_more_pages_than_the_cache_has_and_one_a_slot(
    kv_pages: int, slots: int, kv_tokens: list[int]
) -> None:
    """So many an engine of pages allocates: each job may leave its last page all but empty."""
    total = kv_pages * PAGE
    seats = Seats("m", EngineFacts(Memory(0), context=total, slots=slots, kv_tokens=total))
    for number, count in enumerate(kv_tokens):
        seats.waiting.append(seated(number, min(count, total)))
    while seats.waiting:
        while seats.admits:
            first = seats.waiting.popleft()
            seats.live[first.job.id] = first
        assert seats.live, "nobody waits for ever"
        assert sum(-(-each.job.kv_tokens // PAGE) for each in seats.live.values()) <= kv_pages + slots
        seats.hear([(next(iter(seats.live)), Stopped("stop"))], {})
