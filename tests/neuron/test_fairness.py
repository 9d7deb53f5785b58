"""A neuron's own line is as fair as a gateway's: keys take turns, by what gateways say of them."""

from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Gate, Script
from cortex.wire import neuron as wire
from tests.calls import CHAT, fault_of, figures, hello, settings, until
from tests.roles import MIB, Running, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


ROUTED = {wire.ROUTE: "boot-1"}


async def order_of(tmp_path: Path, *callers: dict[str, str]) -> list[str]:
    """Which requests the engine has, one after another, when all have come before the first is done."""
    gate = Gate()
    script = Script(reply="hi", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings(slots=1)) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        async with trio.open_nursery() as nursery:
            for number, caller in enumerate([{}, *callers]):
                nursery.start_soon(ask, role, {**caller, wire.REQUEST_ID: str(number)})

                async def stands(number: int = number) -> bool:
                    return (await figures(role)).get("a") == (1, number)

                await until(stands, 5)
            gate.open()
        return [job.request_id for job in role.engines["a"].jobs][1:]


async def ask(role: Running, headers: dict[str, str]) -> None:
    assert (await role.http.post(CHAT, json=hello(), headers=headers)).status_code == 200


def key(name: str, share: str = "") -> dict[str, str]:
    return {**ROUTED, wire.KEY_NAME: name, **({wire.KEY_SHARE: share} if share else {})}


async def test_keys_take_turns_and_callers_without_one_come_last(tmp_path: Path) -> None:
    callers = [key("x"), ROUTED, key("x"), key("x"), key("y"), {}]
    assert await order_of(tmp_path, *callers) == ["1", "5", "3", "4", "2", "6"]


async def test_a_share_counts(tmp_path: Path) -> None:
    callers = [key("x"), key("x"), key("y", "4"), key("y", "4"), key("y", "4")]
    assert await order_of(tmp_path, *callers) == ["1", "3", "4", "5", "2"]


async def test_a_key_is_believed_of_a_gateway_alone(tmp_path: Path) -> None:
    lie = {wire.KEY_NAME: "x", wire.KEY_SHARE: "1000"}
    assert await order_of(tmp_path, {}, lie, key("y")) == ["3", "1", "2"]


async def test_a_routed_request_waits_no_longer_than_its_gateway_says(tmp_path: Path) -> None:
    gate = Gate()
    config = settings(slots=1)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(hold=gate), config=config) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, role, {})

            async def sits() -> bool:
                return (await figures(role)).get("a") == (1, 0)

            await until(sits, 5)
            refused = await role.http.post(CHAT, json=hello(), headers={**ROUTED, wire.PATIENCE: "0.05"})
            assert refused.status_code == 503 and fault_of(refused)["code"] == "overloaded"
            assert refused.headers[wire.NOT_STARTED] == "1"
            wrong = await role.http.post(CHAT, json=hello(), headers={**ROUTED, wire.PATIENCE: "soon"})
            assert wrong.status_code == 400 and fault_of(wrong)["param"] == wire.PATIENCE
            gate.open()


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf", "much"])
async def test_a_share_that_is_none_is_refused(tmp_path: Path, share: str) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        assert (
            await role.http.post("/models/load", json={"spec": {"id": "a"}, "key": "x"})
        ).status_code == 200
        refused = await role.http.post(CHAT, json=hello(), headers=key("x", share))
        assert refused.status_code == 400 and fault_of(refused)["param"] == wire.KEY_SHARE
        assert (
            await role.http.post("/models/load", json={"spec": {"id": "a"}, "share": 0})
        ).status_code == 400


async def test_room_goes_to_orders_by_the_turns_of_their_keys(tmp_path: Path) -> None:
    """One model fits at a time, and somebody sits at the first."""
    gate = Gate()
    scripts = {"a": Script(reply="hi", hold=gate, bytes=60 * MIB)}
    scripts.update({model: Script(reply="hi", bytes=60 * MIB) for model in "bcde"})
    known = specs(tmp_path, *scripts)
    async with running_neuron(tmp_path, known, scripts, memory=100 * MIB, config=settings()) as role:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, role, {})

            async def sits() -> bool:
                return (await figures(role)).get("a") == (1, 0)

            await until(sits, 5)
            for model, whose in (("b", ""), ("c", "x"), ("d", "x"), ("e", "y")):
                order = {"spec": {"id": model}, "key": whose}
                assert (await role.http.post("/models/load?wait=false", json=order)).status_code == 202
            gate.open()

        async def done() -> bool:
            rows = (await role.http.get("/models/jobs")).json()["jobs"]
            return {row["state"] for row in rows} == {"done"}

        await until(done, 5)
        assert list(role.engines) == ["a", "c", "e", "d", "b"]
