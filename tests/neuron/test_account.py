"""What one request came to, and how its speed enters the mean of its model."""

import pytest
import trio

from cortex.events import Prefilled, Text, Usage
from cortex.neuron.account import Account

UNKNOWN = (None, None)


async def account(usage: Usage, prefill_s: float = 2.0, decode_s: float = 4.0) -> Account:
    """A request that was seated at once, and ends now."""
    made = Account(trio.current_time(), "m", "n1")
    made.seated = trio.current_time()
    await trio.sleep(prefill_s)
    made.hear([Text("a")])
    await trio.sleep(decode_s)
    made.hear([Text("b")])
    made.usage = usage
    return made


async def test_the_first_speed_is_the_mean_and_each_further_one_a_fifth_of_it(autojump_clock) -> None:
    usage = Usage(prompt=100, cached=20, completion=21)
    done = await account(usage)
    assert done.rates(UNKNOWN) == (80 / 2.0, 20 / 4.0)
    assert done.rates((140.0, 10.0)) == pytest.approx((0.8 * 140 + 0.2 * 40, 0.8 * 10 + 0.2 * 5))
    # A speed that stays as it is becomes the mean, however far the mean was off.
    mean = (1000.0, 0.5)
    for _ in range(60):
        mean = done.rates(mean)
    assert mean == pytest.approx((40.0, 5.0), rel=1e-2)


@pytest.mark.parametrize(
    ("usage", "prefill_s", "decode_s", "rates"),
    [
        # A prompt that was cached whole, or an answer of one token, says nothing of speed.
        (Usage(prompt=5, cached=5, completion=21), 2.0, 4.0, (7.0, 0.8 * 9 + 0.2 * 5)),
        (Usage(prompt=80, completion=1), 2.0, 4.0, (0.8 * 7 + 0.2 * 40, 9.0)),
        (Usage(prompt=80, completion=0), 2.0, 4.0, (0.8 * 7 + 0.2 * 40, 9.0)),
        # Nor does what took no time that a clock can tell.
        (Usage(prompt=80, completion=21), 0.0, 0.0, (7.0, 9.0)),
    ],
)
async def test_what_says_nothing_of_speed_leaves_the_mean(
    autojump_clock, usage: Usage, prefill_s: float, decode_s: float, rates: tuple[float, float]
) -> None:
    done = await account(usage, prefill_s, decode_s)
    assert done.rates((7.0, 9.0)) == pytest.approx(rates)


async def test_a_request_that_was_never_heard_leaves_the_mean(autojump_clock) -> None:
    made = Account(trio.current_time(), "m", "n1")
    assert made.rates((7.0, 9.0)) == (7.0, 9.0)
    made.seated = trio.current_time()
    await trio.sleep(1)
    made.hear([Prefilled(80)])
    made.usage = Usage(prompt=80)
    assert made.rates((7.0, 9.0)) == (7.0, 9.0)


async def test_the_books_have_the_times_from_the_arrival_on(autojump_clock) -> None:
    made = Account(trio.current_time(), "m", "n1")
    await trio.sleep(1)
    made.seated = trio.current_time()
    await trio.sleep(2)
    made.hear([Text("a")])
    made.usage = Usage(prompt=3, completion=1)
    await trio.sleep(4)
    done = made.done("openai_chat", "ok")
    assert (done.queue_s, done.ttft_s, done.duration_s) == pytest.approx((1, 3, 7))
    assert (done.model, done.neuron, done.usage) == ("m", "n1", Usage(prompt=3, completion=1))
