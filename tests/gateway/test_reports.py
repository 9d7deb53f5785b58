"""Whose reports are believed, what is said of those that are not, and of neurons with nothing to serve."""

import logging

import msgspec
import pytest
import trio

from cortex.config.gateway import NeuronRef, Poll
from cortex.wire import neuron as wire
from tests.fake_neuron import IMPATIENT, FakeNeuron, Open, fake_neuron, open_gateway
from tests.fake_upstream import whole


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def rows(gateway: Open) -> dict[str, dict]:
    return {each["name"]: each for each in (await gateway.http.get("/fleet")).json()["neurons"]}


async def until(gateway: Open, name: str, state: str) -> dict:
    """The row, once it has that state."""
    while (row := (await rows(gateway))[name])["state"] != state:  # noqa: ASYNC110 - asked over HTTP
        await trio.sleep(0.01)
    return row


def says(neuron: FakeNeuron, path: str, body: msgspec.Struct, times: int = 400) -> None:
    """A control route answers that, for so many times."""
    neuron.on[path].extend([neuron.plan(whole(200, msgspec.json.encode(body)))] * times)


def numbered(neuron: FakeNeuron, seq: int) -> None:
    """The next report has that number, and the residents of this moment."""
    health = msgspec.json.decode(neuron.report("/health").partition(b"\r\n\r\n")[2], type=wire.Health)
    models = msgspec.json.decode(neuron.report("/models").partition(b"\r\n\r\n")[2], type=wire.Residents)
    says(neuron, "/health", msgspec.structs.replace(health, seq=seq), 1)
    says(neuron, "/models", msgspec.structs.replace(models, seq=seq + 1), 1)


# -- row 25: two neurons claim one name


async def test_of_two_entries_that_lead_to_one_neuron_the_second_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 25: told in the log once, and in /fleet; its devices are not counted twice."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, neuron) as gateway:
        first, second = await in_order(gateway)
        row = (await rows(gateway))[second]
        assert f"'{first}'" in row["why"] and neuron.boot_id in row["why"]
        await neuron.polled(6)
        refused = [each for each in caplog.records if "neuron.refused" in each.getMessage()]
        assert [(each.levelname, neuron.boot_id in each.getMessage()) for each in refused] == [
            ("ERROR", True)
        ]
        assert [place.name for place, _ in gateway.ledger.holders("a")] == [first]
        told = f'cortex_reports_refused_total{{neuron="{second}",reason="duplicate"}}'
        assert told in await gateway.page()


async def test_the_second_entry_is_believed_once_the_first_has_moved() -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two, open_gateway(one, one) as gateway:
        first, second = await in_order(gateway)
        fleet = gateway.gateway._parts.fleet
        refs = (NeuronRef(first, two.url), NeuronRef(second, one.url))
        fleet.reform(refs, Poll(interval_s=0.05), silent_s=30.0)
        await gateway.knows(lambda ledger: {place.name for place, _ in ledger.holders("a")} == {second})
        await gateway.knows(lambda ledger: ledger.holders("b"))
        assert (await gateway.ask("b")).headers["x-cortex-neuron"] == first


async def in_order(gateway: Open) -> list[str]:
    """Whoever answered first, and the other one, once it was refused."""
    found: dict[str, dict] = {}
    while sorted(row["state"] for row in found.values()) != ["away", "ok"]:
        found = await rows(gateway)
    return sorted(found, key=lambda name: found[name]["state"], reverse=True)


async def test_two_processes_that_answer_at_one_address_in_turns_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 25: a boot id that comes again is of a process that was never gone."""
    caplog.set_level(logging.INFO)
    often = Poll(interval_s=0.05, failures=1000)
    async with fake_neuron("a") as neuron, open_gateway(neuron, poll=often) as gateway:
        first = neuron.boot_id
        for boot_id in ("second", first, "second", first):
            neuron.boot_id = boot_id
            await neuron.polled(3)
        row = (await rows(gateway))["n1"]
        assert "two processes" in row["why"] and first in row["why"] and "second" in row["why"]
        assert caplog.text.count("neuron.refused") == 1
        assert caplog.text.count("neuron.lost") == 1, "the fleet does not flap with it"


async def test_whoever_is_left_of_two_processes_is_believed_after_so_many_looks() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        first, neuron.boot_id = neuron.boot_id, "second"
        await neuron.polled(3)
        neuron.boot_id = first
        await until(gateway, "n1", "away")
        await until(gateway, "n1", "probation")
        assert (await gateway.ask("a")).status_code == 200


# -- row 26: an old report comes late


async def test_a_report_that_is_older_than_what_is_known_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Row 26: numbered by boot; one miss, and no belief."""
    async with fake_neuron("a") as neuron:
        numbered(neuron, 11)
        async with open_gateway(neuron, poll=Poll(interval_s=60)) as gateway:
            fleet = gateway.gateway._parts.fleet
            del neuron.residents["a"]
            numbered(neuron, 9)
            await fleet.look_again("n1")
            assert gateway.ledger.holders("a") and fleet["n1"].failures == 1
            assert "report.stale neuron=n1" in caplog.text
            assert 'cortex_reports_refused_total{neuron="n1",reason="stale"} 1.0' in await gateway.page()
            numbered(neuron, 13)
            await fleet.look_again("n1")
            assert not gateway.ledger.holders("a") and fleet["n1"].failures == 0


async def test_numbers_begin_anew_with_each_boot() -> None:
    async with fake_neuron("a") as neuron:
        numbered(neuron, 500)
        async with open_gateway(neuron, poll=Poll(interval_s=60)) as gateway:
            neuron.boot_id = "another"
            del neuron.residents["a"]
            numbered(neuron, 1)
            await gateway.gateway._parts.fleet.look_again("n1")
            assert not gateway.ledger.holders("a")


# -- it answers, and cannot serve


LOST = [
    ({"poisoned": True}, "cpu is poisoned"),
    ({"absent": True}, "cpu is absent"),
]


@pytest.mark.parametrize(("lost", "why"), LOST, ids=["poisoned", "absent"])
async def test_a_neuron_without_a_device_that_computes_is_unfit(lost: dict[str, bool], why: str) -> None:
    async with fake_neuron() as neuron:
        device = wire.DeviceHealth(name="cpu", memory_total=9, memory_free=9, **lost)
        says(neuron, "/health", wire.Health(boot_id=neuron.boot_id, devices=[device]))
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            await unfit(gateway, why)
            assert (await gateway.ask("a")).status_code == 503
            assert not neuron.orders


@pytest.mark.parametrize(("lost", "why"), LOST, ids=["poisoned", "absent"])
async def test_a_fleet_that_lacks_one_device_of_two_is_degraded(lost: dict, why: str) -> None:
    async with fake_neuron("a") as neuron:
        one, two = (
            wire.DeviceHealth(name=name, memory_total=2**30, memory_free=2**30) for name in ("cpu", "cpu:1")
        )
        lacks = msgspec.structs.replace(two, **lost)
        says(neuron, "/health", wire.Health(boot_id=neuron.boot_id, devices=[one, lacks]))
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            assert (await gateway.http.get("/health")).json()["status"] == "degraded", why


async def test_a_neuron_none_of_whose_engines_is_available_is_unfit_and_not_asked_to_load() -> None:
    broken = wire.HarnessReport(name="llamacpp", why_not="its library is not installed")
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory *= 4
        says(one, "/discovery", wire.Discovery(boot_id=one.boot_id, harnesses=[broken]))
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            row = await until(gateway, "n1", "unfit")
            assert "llamacpp: its library is not installed" in row["why"]
            assert (await gateway.http.get("/health")).json()["status"] == "degraded"
            assert (await gateway.http.get("/readyz")).status_code == 200, "there is another one"
            assert (await gateway.ask("a")).headers["x-cortex-neuron"] == "n2"
            assert not one.orders
            places = (await gateway.http.get("/fleet/plan?model=b")).json().get("places", [])
            assert all(place["standing"] == "unhealthy" for place in places if place["neuron"] == "n1")


async def test_one_engine_that_is_available_is_enough() -> None:
    some = [wire.HarnessReport(name="x", why_not="no"), wire.HarnessReport(name="y", available=True)]
    async with fake_neuron() as neuron:
        says(neuron, "/discovery", wire.Discovery(boot_id=neuron.boot_id, harnesses=some))
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            assert (await gateway.http.get("/readyz")).status_code == 200
            assert (await gateway.ask("a")).status_code == 200


async def test_a_neuron_whose_default_models_all_failed_is_unfit_until_one_is_there() -> None:
    """It may still load another: only trying shows."""
    failed = wire.Activation(failed={"a": "its file is cut short"})
    async with fake_neuron() as neuron:
        device = wire.DeviceHealth(name="cpu", memory_total=2**40, memory_free=2**40)
        says(neuron, "/health", wire.Health(boot_id=neuron.boot_id, devices=[device], activation=failed))
        async with open_gateway(neuron, catalogue=["b"]) as gateway:
            await unfit(gateway, "a: its file is cut short")
            assert (await gateway.ask("b")).status_code == 200
            await until(gateway, "n1", "ok")
            assert (await gateway.http.get("/readyz")).status_code == 200


async def unfit(gateway: Open, why: str) -> None:
    row = await until(gateway, "n1", "unfit")
    assert why in row["why"]
    assert (await gateway.http.get("/readyz")).status_code == 503
    assert (await gateway.http.get("/health")).json()["status"] != "ok"


async def test_a_neuron_that_has_somebody_who_serves_is_fit_whatever_else_failed() -> None:
    failed = wire.Activation(failed={"a": "its file is cut short"}, completed=["b"])
    async with fake_neuron("b") as neuron:
        says(neuron, "/health", wire.Health(boot_id=neuron.boot_id, activation=failed))
        async with open_gateway(neuron, poll=IMPATIENT) as gateway:
            assert (await rows(gateway))["n1"]["state"] == "ok"
            assert (await gateway.http.get("/readyz")).status_code == 200
