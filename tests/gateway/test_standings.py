"""A client that finds no room learns why of each neuron, and nothing of other models."""

import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.errors import NeverFits, NoRoom
from cortex.evictor import Rules
from cortex.gateway.standings import MOST, explained
from cortex.ledger import Ledger, Policy, Want
from cortex.places import Room
from tests.calls import fault_of
from tests.fake_neuron import fake_neuron, open_gateway
from tests.roles import MIB

BIG = ModelSpec("big", footprint=900 * MIB)


async def test_a_refusal_for_want_of_room_says_how_it_is_at_each_neuron() -> None:
    with trio.fail_after(30):
        await refused_for_room()


async def refused_for_room() -> None:
    async with fake_neuron() as one, fake_neuron() as two:
        one.has("secret-model", bytes={"cpu": 600 * MIB}, pinned=True)
        two.memory = 100 * MIB
        catalogue = Catalogue({"big": BIG, "secret-model": ModelSpec("secret-model")})
        async with open_gateway(one, two, catalogue=catalogue) as gateway:
            answer = await gateway.ask("big")
            assert (answer.status_code, fault_of(answer)["code"]) == (503, "no_capacity")
            said = fault_of(answer)["message"]
            assert "n1: full of what may not leave for it; n2: too small" in said
            assert "secret" not in said
            await one.die()
            await gateway.knows(lambda ledger: not ledger.place("n1").ready)
            answer = await gateway.ask("big")
            assert answer.headers["retry-after"]
            assert "n1: away; n2: too small" in fault_of(answer)["message"]


def ledger_of(count: int) -> tuple[Ledger, Want]:
    ledger = Ledger(lambda: 0.0, Policy(Rules("lru", 0.0), 10, 30.0, delegates=True))
    for number in range(count):
        ledger.open(f"n{number:03}", [Room("cpu", 1000 * MIB, 990 * MIB)])
    return ledger, Want("big", BIG, need_bytes=900 * MIB, may_load=True)


def test_neurons_in_the_same_way_are_told_together_and_at_most_four_by_name() -> None:
    ledger, want = ledger_of(9)
    told = explained(ledger, want, NoRoom("No.", retry_after_s=7, facts={"needed_bytes": 1}))
    assert "n000, n001, n002, n003 and 5 more: " in told.message
    assert (told.retry_after_s, told.facts) == (7, {"needed_bytes": 1})


def test_what_says_all_there_is_stays_as_it_is_and_so_it_does_in_a_large_fleet() -> None:
    ledger, want = ledger_of(2)
    never = NeverFits("No place could ever hold it")
    assert explained(ledger, want, never) is never
    ledger, want = ledger_of(MOST + 1)
    error = NoRoom("No.")
    assert explained(ledger, want, error) is error
