"""The benchmarks can still be run, and judge what they saw rightly."""

import json
from array import array
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cortex.demo import GGUF
from tests.bench.bare import Bare
from tests.bench.client import Burst, Stream
from tests.bench.health import Phase
from tests.bench.ticking import PERIOD_S, Ticks, _tick
from tests.bench.ways import Prompts, Way, in_turns, ratios


@pytest.mark.parametrize("name", ["cycles", "health", "hosts", "throughput", "turns"])
def test_each_says_how_it_is_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        import_module(f"tests.bench.{name}").main(["--help"])
    assert left.value.code == 0
    assert "--model" in capsys.readouterr().out


def test_the_bare_engine_makes_the_tokens_that_each_request_asks_for() -> None:
    bare = Bare(GGUF, context=256, slots=2, threads=1)
    body = {"model": "any", "messages": [{"role": "user", "content": "Tell me a long story."}]}
    body |= {"max_tokens": 5, "temperature": 0, "stream": True}
    done = bare.burst([json.dumps(body).encode()] * 2)
    prompts = Prompts("any", bare.listener.tokenise)
    read = bare.burst(prompts.long(2, 100) + prompts.long(1, 100))
    bare.close()
    assert done.tokens == 10
    assert all(0 < stream.first_s <= done.wall_s for stream in done.streams)
    assert all(90 <= stream.read <= 140 for stream in read.streams), (
        "prompts are new, and as long as asked for"
    )


def test_a_burst_tells_how_fast_it_read_and_wrote() -> None:
    done = Burst((Stream(11, 30, 1.0), Stream(11, 60, 2.0)), 2.0)
    assert (done.tokens, done.speed, done.prefill_speed) == (22, 11.0, 45.0)


def test_ways_are_compared_round_by_round_and_none_always_comes_first() -> None:
    said: list[str] = []

    def way(name: str, *took_s: float) -> Way:
        left = list(took_s)

        def burst(bodies: object) -> Burst:
            said.append(name)
            return Burst((Stream(10, 0, 0.1),), left.pop(0))

        return Way(name, burst, (psutil.Process(),))

    one, other = way("one", 1.0, 2.0), way("other", 2.0, 2.0)
    in_turns((one, other), 2, list)
    assert said == ["other", "one", "one", "other"]
    assert ratios(one, other) == [0.5, 1.0]


def test_only_what_the_loop_did_in_a_phase_counts_for_it(tmp_path: Path) -> None:
    file = tmp_path / "ticks"
    file.write_bytes(array("d", [2, 1.0, 0.5, 9.0, 7.0, 1.5, 0.25, 3.0, 8.0]).tobytes())
    ticks = Ticks.read(file)
    assert ticks == Ticks([(1.0, 0.5), (9.0, 7.0)], [(1.5, 0.25), (3.0, 8.0)])
    lags, passes, health = Phase("idle", [(0.0, 1.0), (1.0, 2.0)], {"/health": [0.1, 0.3]}, 0.2).rows(
        "h", ticks
    )
    assert lags == "| h | idle | 1.00 | loop is late | 1 | 500.0 | 500.0 | 500.0 | 0.20 |"
    assert "| 1 | 250.0 |" in passes
    assert "/health | 2 | 300.0 | 300.0 | 300.0 |" in health


async def test_a_loop_that_stood_still_is_late_for_all_of_that_time() -> None:
    lags = array("d")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tick, lags)
        await wait_all_tasks_blocked()
        until = trio.current_time() + 0.2
        while trio.current_time() < until:
            pass
        # Its time is up, so that it runs first.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert sum(lag > 0.1 for lag in lags[1::2]) >= 0.08 / PERIOD_S
