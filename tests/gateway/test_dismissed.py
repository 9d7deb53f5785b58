"""Neurons that were taken out, or moved, while somebody waits for their answers."""

import pytest
import trio

from cortex.config.gateway import GatewayConfig, NeuronRef, Poll
from cortex.config.limits import Limits
from cortex.gateway.pins import Pins
from tests.fake_neuron import IMPATIENT, WHOLE, FakeNeuron, Open, body, fake_neuron, open_gateway
from tests.fake_upstream import Hang, Wait
from tests.fake_web import ask

# Longer than it takes to find out that a neuron is away: it is forgotten then.
SILENT_S = 1.2
SOON = GatewayConfig(limits=Limits(upstream_stall_s=SILENT_S))


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def reform(gateway: Open, **neurons: FakeNeuron) -> None:
    """The file names these from here on."""
    refs = tuple(NeuronRef(name, neuron.url) for name, neuron in neurons.items())
    gateway.gateway._parts.fleet.reform(refs, IMPATIENT, silent_s=SILENT_S)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["taken out", "moved"])
async def test_who_waits_for_a_neuron_that_has_left_and_falls_silent_is_told(how: str) -> None:
    """A whole answer has no deadline but the neuron's signs of life, which nobody else asks for any more."""
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        one.then(Hang())
        async with open_gateway(one, two, config=SOON, poll=IMPATIENT) as gateway:
            async with trio.open_nursery() as nursery:
                answers = []

                async def wait() -> None:
                    answers.append(await gateway.ask("a"))

                nursery.start_soon(wait)
                await one.seen(1)
                if how == "moved":
                    reform(gateway, n1=two)
                else:
                    reform(gateway, n2=two)
                one.silent = True
            assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [
                (504, "upstream_timeout")
            ]
            assert "no sign of life" in answers[0].json()["error"]["message"]
            await gateway.knows(lambda ledger: "seats=0" in repr(ledger))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["taken out", "moved"])
async def test_who_waits_for_a_neuron_that_has_left_and_lives_has_the_answer(how: str) -> None:
    """However long it takes: it is asked on until nobody waits there."""
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        ready = trio.Event()
        one.then(Wait(ready), WHOLE)
        async with open_gateway(one, two, config=SOON, poll=IMPATIENT) as gateway:
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body("a")))
            await one.seen(1)
            if how == "moved":
                reform(gateway, n1=two)
            else:
                reform(gateway, n2=two)
            await trio.sleep(1.2 * SILENT_S)
            ready.set()
            assert (await client.answer()).status == 200


async def test_a_neuron_that_gets_another_name_drains_under_the_old_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It answers under both, with one boot id: nobody is refused for it, and nobody cut."""
    async with fake_neuron("a") as neuron:
        ready = trio.Event()
        neuron.then(Wait(ready), WHOLE)
        async with open_gateway(neuron, config=SOON, poll=IMPATIENT) as gateway:
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body("a")))
            await neuron.seen(1)
            reform(gateway, longer=neuron)
            await gateway.knows(lambda ledger: ledger.place("longer").ready)
            await neuron.polled(2 * 2 * (IMPATIENT.failures + 1))
            assert gateway.ledger.place("n1").residents["a"].seats == 1, "nobody was cut"
            ready.set()
            assert (await client.answer()).status == 200
            await gateway.knows(lambda ledger: ledger.place("n1") is None)
            assert gateway.ledger.place("longer").ready
            pins = gateway.gateway._parts.fleet.forgotten.__self__
            assert isinstance(pins, Pins) and set(pins._told) == {"longer"}, "nobody remembers the old one"
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_a_request_whose_neuron_left_since_its_seat_was_given_is_tried_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the ledger's word and the task's next step the fleet may have forgotten the neuron."""
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        async with open_gateway(one, two, poll=Poll(interval_s=0.05)) as gateway:
            fleet = gateway.gateway._parts.fleet
            find, gone = type(fleet).__getitem__, []

            def forgotten(self, name: str):
                if not gone:
                    gone.append(self._neurons.pop(name))
                return find(self, name)

            monkeypatch.setattr(type(fleet), "__getitem__", forgotten)
            answer = await gateway.ask("a")
            assert answer.status_code == 200
            assert gone and answer.headers["x-cortex-neuron"] != gone[0].name
            gone[0].remote.close()  # the fleet, which did not forget it as it does, would not
            assert len(one.requests) + len(two.requests) == 1
            page = await gateway.page()
            assert 'cortex_retries_total{reason="unsent"} 1.0' in page


async def test_a_neuron_may_be_taken_out_and_back_and_out_again_while_somebody_is_there() -> None:
    """Each time somebody sees it off; it is forgotten once."""
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        ready = trio.Event()
        one.then(Wait(ready), WHOLE)
        async with open_gateway(one, two, config=SOON) as gateway:
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body("a")))
            await one.seen(1)
            reform(gateway, n2=two)
            reform(gateway, n1=one, n2=two)
            reform(gateway, n2=two)
            ready.set()
            assert (await client.answer()).status == 200
            await gateway.knows(lambda ledger: ledger.place("n1") is None)
            assert (await gateway.ask("b")).status_code == 200


async def test_a_neuron_under_another_name_serves_while_those_of_the_old_one_are_seen_off() -> None:
    """It has the boot id of one that is on its way out."""
    async with fake_neuron("a") as one:
        ready = trio.Event()
        one.then(Wait(ready), WHOLE)
        async with open_gateway(one, config=SOON) as gateway:
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body("a")))
            await one.seen(1)
            reform(gateway, other=one)
            await gateway.knows(lambda ledger: any(place.name == "other" for place, _ in ledger.holders("a")))
            assert (await gateway.ask("a")).headers["x-cortex-neuron"] == "other"
            ready.set()
            assert (await client.answer()).status == 200
            await gateway.knows(lambda ledger: ledger.place("n1") is None)
            assert (await gateway.ask("a")).status_code == 200
