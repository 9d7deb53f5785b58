"""GET /fleet/plan: what a gateway would do, why, and that it does just that."""

import logging

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.wire.neuron import Servable
from tests.fake_neuron import FULL, STOPPING, WHOLE, Open, fake_neuron, open_gateway
from tests.fake_upstream import Wait
from tests.roles import MIB

CATALOGUE = Catalogue(
    {
        "a": ModelSpec("a", footprint=MIB),
        "big": ModelSpec("big", footprint=600 * MIB),
        "huge": ModelSpec("huge", footprint=2000 * MIB),
        "kept": ModelSpec("kept", footprint=MIB, pinned_on=("n2",)),
    },
    {"short": "a"},
)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def planned(gateway: Open, model: str) -> dict:
    answer = await gateway.http.get("/fleet/plan", params={"model": model})
    assert answer.status_code == 200, answer.text
    return answer.json()


def standings(plan: dict) -> dict[str, str]:
    return {place["neuron"]: place["standing"] for place in plan["places"]}


async def test_a_plan_names_the_place_and_a_reason_for_every_neuron_and_changes_nothing() -> None:
    async with fake_neuron("x", "y") as one, fake_neuron() as two, fake_neuron() as three:
        one.has("x", bytes={"cpu": 500 * MIB}, idle_s=900)
        one.has("y", bytes={"cpu": 500 * MIB}, pinned=True)
        two.memory = 500 * MIB
        three.poisoned = True
        async with open_gateway(one, two, three, catalogue=CATALOGUE) as gateway:
            before = repr([gateway.ledger, *gateway.ledger])
            # Polls go on meanwhile, and change nothing either.
            plan = await planned(gateway, "big")
            assert plan["model"] == "big" and plan["need_bytes"] == 600 * MIB
            assert (plan["decision"], plan["neuron"], plan["code"]) == ("refuse", None, "no_capacity")
            assert standings(plan) == {"n1": "no_room", "n2": "too_small", "n3": "device_lost"}
            assert plan["places"][0]["stays"] == [{"model": "y", "why": "is pinned"}]
            assert repr([gateway.ledger, *gateway.ledger]).count("loading") == before.count("loading")
            assert not one.orders and not two.orders and not three.orders

            one.has("y", bytes={"cpu": 500 * MIB})
            await gateway.knows(lambda ledger: not ledger.place("n1").residents["y"].pinned)
            plan = await planned(gateway, "big")
            assert (plan["decision"], plan["neuron"]) == ("load", "n1")
            chosen = plan["places"][0]
            assert chosen["chosen"] and chosen["standing"] == "evicts"
            assert chosen["evicts"] == [
                {"model": "x", "bytes": 500 * MIB},
                {"model": "y", "bytes": 500 * MIB},
            ]
            assert chosen["need"] == {"cpu": 600 * MIB} and chosen["free"] == {"cpu": 24 * MIB}
            assert not one.orders


async def test_what_is_planned_is_what_happens() -> None:
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory, two.memory = 800 * MIB, 800 * MIB - 1024
        async with open_gateway(one, two, catalogue=CATALOGUE) as gateway:
            for model, neuron in (("big", "n1"), ("a", "n2"), ("kept", "n2")):
                plan = await planned(gateway, model)
                assert (plan["decision"], plan["neuron"]) == ("load", neuron)
                answer = await gateway.ask(model)
                assert answer.headers["x-cortex-neuron"] == neuron
                plan = await planned(gateway, model)
                assert (plan["decision"], plan["neuron"]) == ("serve", neuron)
                assert standings(plan)[neuron] == "serves"
            assert (await gateway.ask("kept")).headers["x-cortex-neuron"] == "n2"


async def test_a_load_under_way_is_joined() -> None:
    async with fake_neuron() as one, open_gateway(one, catalogue=CATALOGUE) as gateway:
        one.loading = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.ask, "a")
            await one.told_to_load()
            plan = await planned(gateway, "a")
            assert (plan["decision"], plan["neuron"], standings(plan)) == ("join", "n1", {"n1": "loading"})
            one.loading.set()


async def test_an_alias_is_resolved_and_a_name_that_nothing_has_is_404() -> None:
    async with fake_neuron("a") as one, open_gateway(one, catalogue=CATALOGUE) as gateway:
        assert (await planned(gateway, "short"))["model"] == "a"
        answer = await gateway.http.get("/fleet/plan", params={"model": "hug"})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert "huge" in answer.json()["error"]["message"]


async def test_a_model_that_one_neuron_knows_of_itself_is_pinned_nowhere() -> None:
    async with fake_neuron(known=["theirs"]) as one, fake_neuron() as two:
        async with open_gateway(one, two) as gateway:
            plan = await planned(gateway, "theirs")
            assert (plan["decision"], plan["neuron"], plan["need_bytes"]) == ("load", "n1", None)
            assert standings(plan) == {"n1": "fits", "n2": "unknown"}
            assert "pin" not in plan["places"][1]["why"]


@pytest.mark.parametrize(("query", "param"), [("", "model"), ("?model=", "model"), ("?model=a&n=1", "n")])
async def test_a_query_that_is_no_plan_is_told_so(query: str, param: str) -> None:
    async with fake_neuron("a") as one, open_gateway(one) as gateway:
        answer = await gateway.http.get(f"/fleet/plan{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_who_cannot_serve_or_is_away_is_told_with_the_cause() -> None:
    async with fake_neuron("a") as one, fake_neuron() as two:
        one.has("a", servable=Servable(ok=False, reason="its engine died"))
        async with open_gateway(one, two, catalogue=CATALOGUE) as gateway:
            await two.die()
            await gateway.knows(lambda ledger: not ledger.place("n2").ready)
            plan = await planned(gateway, "a")
            assert (plan["decision"], plan["status"]) == ("refuse", 503)
            assert standings(plan) == {"n1": "recovering", "n2": "unhealthy"}
            assert "its engine died" in plan["places"][0]["why"]
            assert plan["places"][1]["why"].endswith(" cannot be reached: Connection refused")


# -- what an answer and its log line say of it


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.getMessage().startswith("request.done")
    ]


async def test_the_log_line_of_a_request_has_the_reason_of_its_route(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "cortex.gateway")
    async with fake_neuron("r") as one, fake_neuron("r") as two:
        async with open_gateway(one, two, catalogue=CATALOGUE) as gateway:
            assert (await gateway.ask("kept")).headers["x-cortex-neuron"] == "n2"
            await gateway.ask("kept")
            held = trio.Event()
            for neuron in (one, two):
                neuron.then(Wait(held), WHOLE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.ask, "r")
                await gateway.knows(lambda ledger: "seats=1" in repr(ledger))
                nursery.start_soon(gateway.ask, "r")
                await gateway.knows(lambda ledger: "seats=2" in repr(ledger))
                held.set()
            await gateway.ask("nothing-like-it")
    cold, warm, *pair, unknown = lines(caplog)
    assert " route=cold " in cold and " route=only-replica " in warm
    assert sorted("affinity" in line for line in pair) == [False, True]
    assert sorted("least-busy" in line for line in pair) == [False, True]
    assert " neuron=- route=- " in unknown


ANSWERS = {
    "an answer": (None, {}, 200),
    "a neuron that is full": (FULL, {}, 503),
    "one that is stopping": (STOPPING, {}, 503),
    "a stream": (None, {"stream": True}, 200),
}


@pytest.mark.parametrize(("said", "more", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_every_answer_names_the_model_and_the_neuron(
    said: bytes | None, more: dict, status: int
) -> None:
    async with fake_neuron("a") as one, open_gateway(one, catalogue=CATALOGUE) as gateway:
        if said is not None:
            one.then(said)
        answer = await gateway.ask("short", **more)
        assert answer.status_code == status
        assert answer.headers.get_list("x-cortex-model") == ["a"]
        assert answer.headers.get_list("x-cortex-neuron") == ["n1"]


async def test_a_refusal_before_any_neuron_names_the_model_alone() -> None:
    async with fake_neuron() as one, open_gateway(one, catalogue=CATALOGUE) as gateway:
        answer = await gateway.ask("huge")
        assert answer.status_code == 503
        assert answer.headers["x-cortex-model"] == "huge"
        assert "x-cortex-neuron" not in answer.headers
        answer = await gateway.ask("nothing-like-it")
        assert "x-cortex-model" not in answer.headers
