"""Control calls to a neuron go by connections of its own, and what stands against them has its name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from cortex.config.gateway import NeuronRef
from cortex.errors import TooSlow, Unreachable, UpstreamFailed
from cortex.gateway import remote as module
from cortex.gateway.remote import Remote
from cortex.web.pool import Pool
from cortex.wire import neuron as wire
from tests.fake_upstream import Close, FakeUpstream, Script, fake_upstream, script, whole

HEALTH = whole(200, msgspec.json.encode(wire.Health(boot_id="b")))


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@asynccontextmanager
async def reaching(*scripts: Script, connect_s: float = 5.0) -> AsyncIterator[tuple[Remote, FakeUpstream]]:
    async with fake_upstream(*scripts, otherwise=script(HEALTH)) as upstream:
        pool = Pool("127.0.0.1", upstream.port, connect_s=connect_s)
        remote = Remote(NeuronRef("n1", f"http://127.0.0.1:{upstream.port}", token="secret"), pool)
        try:
            yield remote, upstream
        finally:
            remote.close()
            pool.close()


async def test_calls_go_over_one_connection_that_is_kept_and_nobody_elses() -> None:
    """However many other neurons there are: a pool for all of them is walked for each call."""
    async with reaching() as (remote, upstream), reaching() as (other, elsewhere):
        for _ in range(3):
            assert (await remote.health()).boot_id == "b"
        await other.health()
        assert upstream.connections == elsewhere.connections == 1
        [request, *_] = upstream.requests
        assert request.head[0] == "GET /health HTTP/1.1"
        assert "authorization: Bearer secret" in request.head and "accept-encoding: identity" in request.head


async def test_who_has_left_is_called_no_more_and_its_connection_is_closed() -> None:
    async with reaching() as (remote, upstream):
        await remote.health()
        remote.retire()
        with pytest.raises(Unreachable, match="left the fleet"):
            await remote.health()
        await upstream.until(open=0)
        assert len(upstream.requests) == 1


async def test_a_refused_connection_is_unreachable_and_told_with_its_reason() -> None:
    dead = Remote(NeuronRef("n2", "http://127.0.0.1:1"), Pool("127.0.0.1", 1))
    with pytest.raises(Unreachable) as refused:
        await dead.health()
    assert refused.value.message == "Neuron 'n2' at http://127.0.0.1:1 cannot be reached: Connection refused"


async def test_a_connection_that_nobody_takes_in_time_is_no_proof_that_nobody_is_there() -> None:
    """The first is away at once; the second is away after some misses."""
    async with reaching(connect_s=0.0) as (remote, _):
        with pytest.raises(TooSlow) as late:
            await remote.health()
        assert late.value.not_started and "'n1' did not take the connection" in late.value.message


@pytest.mark.parametrize("steps", [(Close(),), (HEALTH[:-5], Close())], ids=["no answer", "half an answer"])
async def test_a_neuron_that_breaks_off_is_named_with_what_it_was_asked(steps) -> None:
    async with reaching(script(*steps)) as (remote, upstream):
        with pytest.raises(UpstreamFailed, match=r"^Neuron 'n1' broke off at /health \(.+\); see its log$"):
            await remote.health()
        assert len(upstream.requests) == 1, "it may have done what it was asked"
        assert (await remote.health()).boot_id == "b"


async def test_an_answer_that_is_no_report_ends_where_it_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGEST_REPORT_BYTES", 100)
    async with reaching(script(whole(200, b" " * 101))) as (remote, _):
        with pytest.raises(UpstreamFailed, match="answered /health with over 100 bytes"):
            await remote.health()
