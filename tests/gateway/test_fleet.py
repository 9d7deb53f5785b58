"""What a gateway believes of its neurons, how soon it changes its mind, and what follows."""

import logging

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import Poll
from cortex.wire.neuron import ModelLoad, Servable
from tests.fake_neuron import (
    ANSWER,
    IMPATIENT,
    STOPPING,
    STREAM,
    STREAMED,
    WHOLE,
    FakeNeuron,
    Open,
    body,
    fake_neuron,
    open_gateway,
)
from tests.fake_upstream import Hang, Wait
from tests.fake_web import ask
from tests.roles import MIB

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def neurons(gateway: Open) -> dict[str, dict]:
    """GET /fleet, by neuron."""
    return {each["name"]: each for each in (await gateway.http.get("/fleet")).json()["neurons"]}


async def until_state(gateway: Open, name: str, state: str) -> dict:
    while (told := (await neurons(gateway))[name])["state"] != state:  # noqa: ASYNC110 - asked over HTTP
        await trio.sleep(0.01)
    return told


# -- restarts


async def test_a_restarted_neuron_keeps_nothing_of_what_was_believed_of_it() -> None:
    """Row 24: it is asked to load what it had, and serves again."""
    async with fake_neuron("a", "b") as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        await neuron.restart()
        await gateway.knows(lambda ledger: not ledger.holders("a") and ledger.place("n1").ready)
        assert (await gateway.ask("a")).content == ANSWER
        assert neuron.ordered("/models/load") == 1
        assert (await gateway.ask("b")).status_code == 404


async def test_a_restart_between_two_polls_is_seen_by_the_boot_id_alone(caplog) -> None:
    """Row 24: nothing was refused and no poll failed."""
    caplog.set_level(logging.INFO)
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.boot_id = "another"
        await gateway.knows(lambda _: "neuron.lost" in caplog.text)
        await until_state(gateway, "n1", "probation")
        assert caplog.text.count("neuron.up neuron=n1 boot=another") == 1
        assert "it was restarted" in caplog.text


async def test_a_load_on_a_neuron_that_is_restarted_fails_over() -> None:
    """Row 24: those who wait for the old boot's load are sent elsewhere."""
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory *= 2
        one.loading = trio.Event()
        async with open_gateway(one, two, catalogue=["a"]) as gateway, trio.open_nursery() as nursery:
            answers = []

            async def waiter() -> None:
                answers.append(await gateway.ask())

            for _ in range(3):
                nursery.start_soon(waiter)
            await gateway.knows(lambda ledger: ledger.waiting == 3)
            await one.told_to_load()
            await one.restart()
        assert {answer.headers["x-cortex-neuron"] for answer in answers} == {"n2"}


async def test_a_load_on_a_neuron_that_vanishes_fails_over() -> None:
    """Its connection stays open, and nothing comes any more: the polls tell."""
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory *= 2
        one.on["/models/load"].append(one.plan(Hang()))
        async with (
            open_gateway(one, two, catalogue=["a"], poll=IMPATIENT) as gateway,
            trio.open_nursery() as nursery,
        ):

            async def vanish() -> None:
                await one.told_to_load()
                one.silent = True

            nursery.start_soon(vanish)
            assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"
            await one.until(hung_up=1)  # nobody waits for the old order any more


# -- neurons that hang


async def test_a_neuron_that_hangs_is_away_after_failures_times_timeout_and_delays_nobody() -> None:
    """Row 4: it accepts and never answers; the other one is asked and used meanwhile."""
    poll = Poll(interval_s=0.3, timeout_s=1.0, failures=2)
    async with (
        fake_neuron("a") as one,
        fake_neuron("a", "b") as two,
        open_gateway(one, two, poll=poll) as gateway,
    ):
        one.silent = True
        began = trio.current_time()

        async def others() -> None:
            while gateway.ledger.place("n1").ready:
                asked = trio.current_time()
                assert (await gateway.ask("b")).status_code == 200
                assert trio.current_time() - asked < poll.timeout_s, "it waited for a look that hangs"
                await trio.sleep(0.02)

        polls = two.polls
        await others()
        # One interval may pass before the first look that hangs; on a busy machine looks do not count.
        assert 1.55 < trio.current_time() - began < 5
        assert two.polls - polls >= 2
        told = (await neurons(gateway))["n1"]
        assert told["state"] == "away" and "1 s" in told["why"]
        assert {(await gateway.ask("a")).headers["x-cortex-neuron"] for _ in range(4)} == {"n2"}


async def test_a_neuron_that_hangs_from_the_start_does_not_keep_a_gateway_from_starting() -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        one.silent = True
        async with open_gateway(one, two, catalogue=["a"], poll=IMPATIENT) as gateway:
            assert (await gateway.ask("b")).status_code == 200
            answer = await gateway.ask("a")
            assert answer.status_code == 200, "it was never seen to have it, so it is loaded where it can be"
            assert (await neurons(gateway))["n1"]["state"] == "away"
            one.silent = False
            await until_state(gateway, "n1", "ok")


async def test_one_missed_look_changes_nothing() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, poll=IMPATIENT) as gateway:
        neuron.on["/health"].extend([neuron.plan(Hang())] * 2)
        await neuron.polled(4)
        assert (await gateway.ask()).status_code == 200
        assert (await neurons(gateway))["n1"]["state"] == "ok"


async def test_a_neuron_is_away_and_back_in_the_metrics() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        await two.die()
        await until_state(gateway, "n2", "away")
        page = await gateway.page()
        assert 'cortex_neuron_up{neuron="n1"} 1.0' in page
        assert 'cortex_neuron_up{neuron="n2"} 0.0' in page
        assert 'cortex_resident_bytes{model="a",neuron="n1"} 1.048576e+06' in page
        assert 'resident_bytes{model="a",neuron="n2"}' not in page
        assert (await gateway.http.get("/health")).json() == {
            "status": "degraded",
            "neurons": {"healthy": 1, "total": 2},
            "unservable": [],
            "warnings": [],
        }


# -- broken replicas


async def recovering(gateway: Open, *untouched: FakeNeuron) -> None:
    """Refused for a moment, and not a second copy."""
    for stream in (False, True):
        answer = await gateway.ask("a", stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_capacity")
        assert int(answer.headers["retry-after"]) >= 1
        assert "x-should-retry" not in answer.headers
    assert not any(neuron.orders or neuron.requests for neuron in untouched)
    entry = (await gateway.http.get("/v1/models/a")).json()
    assert entry["state"] == entry["locations"][0]["state"] == "recovering"
    health = (await gateway.http.get("/health")).json()
    assert (health["status"], health["unservable"]) == ("impaired", ["a"])


async def test_a_replica_that_cannot_serve_is_waited_for_and_never_copied() -> None:
    """Routing 3: there would be room elsewhere."""
    async with fake_neuron() as one, fake_neuron() as two:
        one.has("a", servable=Servable(ok=False, reason="its engine broke"))
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            assert "its engine broke" in (await gateway.ask("a")).json()["error"]["message"]
            await recovering(gateway, one, two)
            one.has("a")
            await gateway.knows(lambda ledger: ledger.holders("a")[0][1].servable)
            assert (await gateway.ask("a")).status_code == 200


async def test_a_model_on_a_poisoned_device_is_not_copied() -> None:
    async with fake_neuron() as one, fake_neuron() as two:
        one.has("a", servable=Servable(ok=False, reason="the device is poisoned"))
        one.poisoned = True
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            await recovering(gateway, one, two)
            assert len(gateway.ledger.holders("a")) == 1


async def test_a_poisoned_device_takes_nothing_and_is_not_forgotten() -> None:
    """Its neuron will be restarted: the model is refused for now, and not for good."""
    async with fake_neuron() as neuron:
        neuron.poisoned = True
        async with open_gateway(neuron, catalogue=Catalogue({"a": ModelSpec("a")})) as gateway:
            answer = await gateway.ask("a")
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1 and "x-should-retry" not in answer.headers
            assert not neuron.orders


async def test_the_other_replica_serves_while_one_recovers() -> None:
    async with fake_neuron() as one, fake_neuron("a") as two:
        one.has("a", servable=Servable(ok=False, reason="broken"))
        async with open_gateway(one, two) as gateway:
            assert {(await gateway.ask("a")).headers["x-cortex-neuron"] for _ in range(4)} == {"n2"}
            assert (await gateway.http.get("/v1/models/a")).json()["state"] == "loaded"


# -- neurons that stop


async def test_a_stopping_neuron_takes_nobody_new_and_its_models_begin_elsewhere() -> None:
    """Row 70, rolling restarts: what runs there goes on; nobody waits for what is going."""
    async with fake_neuron("a") as one, fake_neuron() as two:
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            go_on = trio.Event()
            one.then(Wait(go_on), STREAMED)
            client = await gateway.dial()
            await client.send(ask(CHAT, body(stream=True)))
            await one.seen(1)
            one.state = "stopping"
            await until_state(gateway, "n1", "stopping")
            answers = [await gateway.ask() for _ in range(3)]
            assert {answer.headers["x-cortex-neuron"] for answer in answers} == {"n2"}
            assert two.ordered("/models/load") == 1 and len(one.requests) == 1
            go_on.set()
            assert (await client.answer()).body == STREAM
            await gateway.knows(lambda ledger: "seats=0" in repr(ledger))


async def test_a_refusal_of_one_that_stops_is_known_before_the_next_poll() -> None:
    poll = Poll(interval_s=60, timeout_s=2)
    async with fake_neuron("a", otherwise=STOPPING) as one, fake_neuron() as two:
        async with open_gateway(one, two, catalogue=["a"], poll=poll) as gateway:
            one.state = "stopping"
            answers = [await gateway.ask() for _ in range(3)]
            assert {answer.headers["x-cortex-neuron"] for answer in answers} == {"n2"}
            assert len(one.requests) == 1


async def test_the_only_neuron_stopping_means_later_and_not_ready() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.state = "stopping"
        await until_state(gateway, "n1", "stopping")
        answer = await gateway.ask()
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert (await gateway.http.get("/readyz")).status_code == 503
        assert not neuron.requests and not neuron.orders


# -- placement


async def test_a_cold_model_goes_where_it_fits_and_then_where_the_least_is_lost() -> None:
    """Free room first; then whoever loses the least; the largest neuron is not always the one."""
    catalogue = Catalogue({name: ModelSpec(name, footprint=60 * MIB) for name in ("a", "b")})
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory, two.memory = 200 * MIB, 100 * MIB
        one.has("x", bytes={"cpu": 150 * MIB}, age_s=100, idle_s=0, load_s=9)
        async with open_gateway(one, two, catalogue=catalogue) as gateway:
            assert (await gateway.ask("a")).headers["x-cortex-neuron"] == "n2"
            two.has("a", bytes={"cpu": 60 * MIB}, load_s=2)
            await gateway.knows(lambda ledger: ledger.place("n2").free("cpu") == 40 * MIB)
            assert (await gateway.ask("b")).headers["x-cortex-neuron"] == "n2"
            assert set(two.residents) == {"b"} and set(one.residents) == {"x"}
            page = await gateway.page()
            assert 'cortex_evictions_total{reason="room"} 1.0' in page


async def test_a_model_is_only_placed_where_the_catalogue_pins_it() -> None:
    catalogue = Catalogue({"a": ModelSpec("a", pinned_on=("n2",)), "b": ModelSpec("b", pinned_on=("n9",))})
    async with (
        fake_neuron() as one,
        fake_neuron() as two,
        open_gateway(one, two, catalogue=catalogue) as gateway,
    ):
        one.memory *= 4
        assert (await gateway.ask("a")).headers["x-cortex-neuron"] == "n2"
        answer = await gateway.ask("b")
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")


async def test_requests_spread_over_replicas_by_what_they_have_to_do() -> None:
    """Least busy by the last report and our own since then; never more than a neuron seats."""
    async with fake_neuron() as one, fake_neuron() as two:
        one.loads["a"] = ModelLoad(id="a", in_flight=2, queue=1)
        for neuron in (one, two):
            neuron.has("a", slots=4, queue=0)
            neuron.otherwise = neuron.plan(Hang())
        async with open_gateway(one, two, poll=Poll(interval_s=60)) as gateway:
            for number in range(8):
                client = await gateway.dial()
                await client.send(ask(CHAT, body()))
                await gateway.knows(lambda ledger, n=number: f"seats={n + 1}" in repr(ledger))
                if number < 3:
                    await two.seen(number + 1)
            await one.seen(4)
            assert [len(neuron.requests) for neuron in (one, two)] == [4, 4]
            client = await gateway.dial()
            await client.send(ask(CHAT, body()))
            await gateway.knows(lambda ledger: ledger.waiting == 1)


# -- two gateways


async def test_two_gateways_share_one_neuron() -> None:
    """Each believes the neuron, which joins their loads; neither forgets what the other loaded."""
    async with fake_neuron() as neuron:
        neuron.answer = lambda raw: STREAMED if b'"stream":true' in raw else WHOLE
        async with (
            open_gateway(neuron, catalogue=["a", "b"]) as one,
            open_gateway(neuron, catalogue=["a", "b"]) as two,
        ):
            answers: list[int] = []

            async def many(gateway: Open, model: str) -> None:
                for number in range(5):
                    answers.append((await gateway.ask(model, stream=number % 2 == 0)).status_code)

            async with trio.open_nursery() as nursery:
                for gateway in (one, two):
                    for model in ("a", "b", "a"):
                        nursery.start_soon(many, gateway, model)
            assert answers == [200] * 30
            for gateway in (one, two):
                await gateway.knows(lambda ledger: "residents=2 seats=0 waiting=0 loads=0" in repr(ledger))
            routes = {dict(request.headers)["x-cortex-route"] for request in neuron.requests}
            assert len(routes) == 2


async def test_what_one_gateway_unloads_the_other_loads_again() -> None:
    async with fake_neuron("a") as neuron:
        async with open_gateway(neuron, catalogue=["a"]) as one, open_gateway(neuron, catalogue=["a"]) as two:
            assert (await one.http.post("/fleet/models/unload", json={"model": "a"})).status_code == 200
            assert not one.ledger.holders("a")
            await two.knows(lambda ledger: not ledger.holders("a"))
            assert (await two.ask()).status_code == 200
            await one.knows(lambda ledger: ledger.holders("a"))
            assert (await one.ask()).status_code == 200
            assert neuron.ordered("/models/load") == 1
