"""Two workers of one gateway that load: what the one does, the other knows in time."""

from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig, NeuronRef, Poll
from cortex.errors import CortexError, LoadFailed
from cortex.gateway import Process, service
from cortex.gateway.wants import want_of
from cortex.ledger import Load
from cortex.wire import neuron as wire
from cortex.workers.crew import Crew
from tests.fake_neuron import FakeNeuron, fake_neuron
from tests.fake_upstream import Close
from tests.roles import ANY, MIB
from tests.workers.linked import linked, until

CATALOGUE = Catalogue({"m": ModelSpec("m", footprint=100 * MIB)})


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(20):
        yield


def opened(crew: Crew, *neurons: FakeNeuron):
    """A worker that looks at its neurons at the start, and when it is told to."""
    refs = tuple(NeuronRef(f"n{number}", neuron.url) for number, neuron in enumerate(neurons, 1))
    config = GatewayConfig(
        listen=ANY, metrics_listen=ANY, neurons=refs, poll=Poll(interval_s=600.0, timeout_s=2.0)
    )
    return service.opened(config, CATALOGUE, Process(crew=crew))


async def bring(gateway: service.Gateway) -> None:
    """As an order does, or a request would."""
    parts = gateway._parts
    await parts.dispatch.bring(want_of(parts.passage._views, "m", ""))


async def try_to_bring(gateway: service.Gateway) -> None:
    with suppress(CortexError):
        await bring(gateway)


async def test_two_workers_that_would_load_one_model_at_two_neurons_load_it_once() -> None:
    """The second has an older picture of the fleet, and would choose another neuron."""
    async with fake_neuron() as small, fake_neuron() as big, linked(2) as (_, (one, two)):
        big.memory = 10 * MIB
        async with opened(two, big, small) as late:
            big.memory = 4096 * MIB
            big.loading = trio.Event()
            async with opened(one, big, small) as early, trio.open_nursery() as nursery:
                nursery.start_soon(bring, early)
                await big.told_to_load()
                # As a neuron's report has it from then on.
                big.residents["m"] = wire.ResidentReport(id="m", state="loading", bytes={"cpu": MIB})
                nursery.start_soon(bring, late)
                await until(lambda: late.ledger.holders("m") and not late.ledger.loads)
                big.loading.set()
        assert (big.ordered("/models/load"), small.ordered("/models/load")) == (1, 0)


async def test_a_model_that_broke_a_neuron_under_one_worker_is_refused_by_the_other() -> None:
    """A second neuron broken over it is one too many, whoever ordered it."""
    async with fake_neuron() as here, fake_neuron() as there, linked(2) as (_, (one, two)):
        here.on["/models/load"].append(here.plan(Close()))
        there.on["/models/load"].append(there.plan(Close()))
        async with opened(one, here) as first, opened(two, there) as second, trio.open_nursery() as nursery:
            nursery.start_soon(try_to_bring, first)
            await until(lambda: "m" in second._parts.loader._broke)
            with pytest.raises(LoadFailed, match="broke twice"):
                await bring(second)
            nursery.cancel_scope.cancel()


async def test_a_load_is_looked_at_by_the_others_when_it_is_done() -> None:
    async with fake_neuron() as neuron, linked(2) as (_, (one, two)):
        async with opened(one, neuron) as first, opened(two, neuron) as second:
            await bring(first)
            await until(lambda: second.ledger.holders("m"))


async def test_who_waits_at_one_is_counted_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.gateway.fellows.ASK_S", 0.05)
    async with fake_neuron() as neuron, linked(2) as (exchange, (one, two)):
        neuron.loading = trio.Event()
        async with opened(one, neuron) as first, opened(two, neuron) as second:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bring, first)
                report = second._parts.report
                await until(lambda: report.fleet_report(governs=True).waiting == 1)
                (row,) = report.fleet_report(governs=True).models
                assert (row.id, row.waiting) == ("m", 1)
                neuron.loading.set()
            assert report.status([]) == "ok"
            exchange.members[0].ready = False
            await until(lambda: report.status([]) == "degraded")
            assert "1 worker of this gateway" in " ".join(report.told(governs=False))


async def test_a_claim_that_is_given_up_before_its_answer_is_nobodys() -> None:
    """Else nobody but its worker would load the model at once, for as long as that one lives."""
    async with fake_neuron() as neuron, linked(2) as (_, (one, two)):
        async with opened(one, neuron) as first:
            load = cast(
                "Load", SimpleNamespace(want=SimpleNamespace(model="m"), place=SimpleNamespace(name="n1"))
            )
            with trio.CancelScope() as scope:
                scope.cancel()
                async with first._fellows.alone(load):
                    pass
            await one.gather("state")  # what was said before has arrived
        assert await two.claim("m", "n2") == "n2"
