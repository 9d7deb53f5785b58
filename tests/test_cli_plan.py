"""`cortex plan` as it is run: what it prints, and its exit codes."""

import json
import socket

import pytest
import trio

from cortex.wire.fleet import FleetReport
from cortex.wire.plan import PlanPlace, PlanReport
from tests.fake_reports import Played, played_at
from tests.fake_terminal import told

QUESTION = "GET /fleet/plan?model=m"
PLACE = PlanPlace(neuron="n1", chosen=True, standing="fits", why="20GiB free on cuda:0")
LOAD = PlanReport(model="m", decision="load", neuron="n1", why=PLACE.why, need_bytes=2**30, places=[PLACE])
NO = PlanReport(model="m", why="No neuron has room for 'm'", code="no_capacity", status=503, places=[PLACE])


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


async def test_a_plan_is_printed_and_a_refusal_is_exit_code_1() -> None:
    played = Played().says(QUESTION, LOAD)
    async with played_at(played) as url:
        said = await told("plan", "m", "--endpoint", url)
        assert (said.returncode, said.stderr) == (0, b"")
        assert b"m would be loaded on n1" in said.stdout and b">  n1 " in said.stdout
        played.says(QUESTION, NO)
        said = await told("plan", "m", "--endpoint", url, "--json")
        assert said.returncode == 1
        assert json.loads(said.stdout)["code"] == "no_capacity"


async def test_an_unknown_model_is_1_and_a_gateway_that_was_not_asked_is_2() -> None:
    fault = {"error": {"message": "The model 'm' does not exist here.", "code": "model_not_found"}}
    played = Played().says(QUESTION, fault, 404).says("GET /fleet", FleetReport())
    async with played_at(played) as url:
        said = await told("plan", "m", "--endpoint", url)
        assert (said.returncode, said.stdout) == (1, b"")
        assert said.stderr == b"cortex: The model 'm' does not exist here.\n"
        played.says(QUESTION, b"<html>", 502)
        assert (await told("plan", "m", "--endpoint", url)).returncode == 2
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = await told("plan", "m", "--endpoint", f"http://127.0.0.1:{port}")
    assert (said.returncode, said.stdout, said.stderr.count(b"\n")) == (2, b"", 1)
