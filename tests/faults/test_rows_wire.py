"""Rows of the fault matrix that speak of the wire, and of neurons that say what no neuron should.

Behind the gateway stands a fake neuron, one process for all tests of this file, and between them a
toxic proxy where the wire is at fault. Another neuron, which nothing is wrong with, stands by: a
request that may have run must not come there.
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from cortex.config.gateway import Poll
from tests.calls import CHAT, Answered, calling, hello
from tests.checker import Asked, booked_of
from tests.fake_process import NeuronProcess
from tests.faults.runs import HASTY, PATIENT, Run, error_of, running, where
from tests.toxic import LimitData, Proxy, ResetPeer, Slicer, hole, toxic_proxy

STREAMS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
# Only a look that a request causes comes within a test.
SELDOM = Poll(interval_s=60.0, timeout_s=1.0)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NeuronProcess]]:
    folder = tmp_path_factory.mktemp("neurons")
    neurons = [NeuronProcess(folder, name, "a") for name in ("n1", "n2")]
    try:
        for neuron in neurons:
            neuron.begin()
        yield neurons
    finally:
        for neuron in neurons:
            neuron.kill()


@asynccontextmanager
async def wired(
    processes: list[NeuronProcess], *, config=HASTY, poll: Poll = SELDOM
) -> AsyncIterator[tuple[Run, Proxy, NeuronProcess, str]]:
    """The proxy before the neuron that is asked first, that neuron, and the name of the other one."""
    for neuron in processes:
        await neuron.switch()
    async with (
        toxic_proxy(processes[0].port) as one,
        toxic_proxy(processes[1].port) as two,
        running(one, two, behind=processes, config=config, poll=poll) as run,
    ):
        first, other = await run.first()
        yield run, one if first.name == "n1" else two, first, other.name
        assert await run.findings() == []


def late(answer: Answered, *, stream: bool = True) -> bool:
    """Whether a deadline of the gateway's ended it."""
    return error_of(answer)["code"] == "upstream_timeout" and answer.status == (200 if stream else 504)


# -- connections


async def test_a_peer_that_vanishes_in_mid_stream_is_given_up_by_the_timers(processes) -> None:
    """Rows 5, 7: nothing tells its end. The tokens that came are there; it is not repeated."""
    async with wired(processes) as (run, proxy, first, _):
        await first.switch({"do": "slow", "at": "tokens", "after": 3, "seconds": 0.1})
        async with calling(run) as caller:
            sent = time.monotonic()
            await caller.ask(CHAT, hello(stream=True), x_request_id="gone", x_session_id="one")
            await caller.until(b'"2 "')
            with proxy.put(hole()), proxy.put(hole(), "up"):
                answer = await run.heard(caller, "gone", sent)
        assert late(answer) and run.tokens("gone") == (0, 1, 2)
        assert run.ran_at("gone") == [first.name]


async def test_a_peer_that_vanished_while_idle_is_late_and_not_asked_twice(processes) -> None:
    """Row 7: a connection that was kept alive looks as good as ever, and the request is swallowed."""
    async with wired(processes) as (run, proxy, first, _):
        with proxy.put(hole()), proxy.put(hole(), "up"):
            answer = await run.ask("swallowed")
        assert late(answer, stream=False) and where(answer) == first.name
        assert run.ran_at("swallowed") == []


@STREAMS
async def test_a_connection_that_hangs_leads_to_the_other_replica_after_a_second(
    processes, stream: bool
) -> None:
    """Row 9: neither taken nor refused, as by a full backlog."""
    async with wired(processes, config=PATIENT) as (run, proxy, _, other):
        await proxy.drop()
        proxy.deafen()
        began = trio.current_time()
        answer = await run.ask("elsewhere", stream=stream)
        assert answer.status == 200 and where(answer) == other
        assert trio.current_time() - began > 0.9
        await proxy.listen()


@STREAMS
async def test_a_closed_port_leads_to_the_other_replica_at_once(processes, stream: bool) -> None:
    """Row 8."""
    async with wired(processes, config=PATIENT) as (run, proxy, _, other):
        await proxy.drop()
        proxy.close()
        answers = [await run.ask(f"r{number}", stream=stream) for number in range(3)]
        assert {where(answer) for answer in answers} == {other}
        assert {answer.status for answer in answers} == {200}


@STREAMS
async def test_a_reset_before_the_first_byte_is_a_502_that_is_not_repeated(processes, stream: bool) -> None:
    """Row 10: the neuron has the request, and may be at it."""
    async with wired(processes, config=PATIENT) as (run, proxy, first, other):
        with proxy.put(ResetPeer()):
            answer = await run.ask("reset", stream=stream)
        assert (answer.status, error_of(answer)["code"]) == (502, "upstream_failed")
        assert where(answer) == first.name and other not in run.ran_at("reset")


async def test_two_processes_behind_one_address_are_not_one_neuron(processes) -> None:
    """Row 25: that of the two which was known first is refused once the other has been believed."""
    one, two = processes
    await one.switch()
    await two.switch()
    boots = [await boot_of(one), await boot_of(two)]
    async with toxic_proxy(one.port) as proxy, running(proxy, behind=processes) as run:
        proxy.target = two.port
        await proxy.drop()
        await run.heard_of("neuron.up", boots[1])
        proxy.target = one.port
        await proxy.drop()
        for event, level in (("neuron.refused", " ERROR "), ("neuron.lost", " WARNING ")):
            assert level in await run.heard_of(event, *boots)


async def boot_of(neuron: NeuronProcess) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        boot: str = (await http.get(f"{neuron.url}/discovery")).json()["boot_id"]
        return boot


# -- bytes


async def test_a_stream_in_single_bytes_is_the_same_stream(processes) -> None:
    """Rows 11, 13: slow, and split in every code point and event, but whole events in time."""
    async with wired(processes) as (run, proxy, _, _):
        with proxy.put(Slicer(1)):
            answer = await run.ask("sliced")
        assert answer.data[-1] == "[DONE]" and run.tokens("sliced") == (0, 1, 2, 3, 4, 5)


async def test_an_event_that_comes_byte_by_byte_and_never_ends_is_given_up(processes) -> None:
    """Row 11: bytes are no life, whole events are."""
    async with wired(processes) as (run, _, first, _):
        await first.switch({"do": "drip", "at": "tokens", "after": 2, "seconds": 0.02})
        assert late(await run.ask("dripping")) and run.tokens("dripping") == (0, 1)


async def test_a_stream_that_is_cut_anywhere_is_whole_events_and_then_an_error(processes) -> None:
    """Rows 3, 14, 16: half a head, half a chunk, half an event, between events; never a silent end."""
    [neuron, _] = processes
    await neuron.switch()
    async with toxic_proxy(neuron.port) as proxy, running(proxy, behind=[neuron], config=PATIENT) as run:
        most = 0
        while most == 0 or run.asked[-1].end != "complete":
            with proxy.put(LimitData(most, hard=most % 2 == 0)):
                answer = await run.ask(f"cut-{most}")
            if run.asked[-1].end != "complete":
                assert answer.complete and error_of(answer)["code"] == "upstream_failed"
                assert answer.status == (200 if answer.data else 502) and "[DONE]" not in answer.data
            most += 150
            await run.gateway.knows(lambda ledger: ledger.place("n1").ready)
        assert {asked.end for asked in run.asked} == {"refused", "error_event", "complete"}
        assert {len(asked.tokens) for asked in run.asked} >= {0, 2, 4, 6}
        assert await run.findings() == []


@pytest.mark.parametrize(
    ("switch", "code"),
    [
        ({"do": "garbage"}, "upstream_failed"),
        ({"do": "endless"}, "upstream_failed"),
        ({"do": "truncated"}, "upstream_failed"),
        ({"do": "no-end"}, "upstream_failed"),
        ({"do": "close"}, "upstream_failed"),
        ({"do": "reset"}, "upstream_failed"),
        ({"do": "hang"}, "upstream_timeout"),
        ({"do": "fail"}, "engine_failed"),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else "",
)
async def test_what_goes_wrong_in_mid_stream_ends_it_with_one_error(processes, switch, code: str) -> None:
    """Rows 3, 5, 10, 12, 14, 15, 16: the tokens so far, one error event, no end mark; never repeated."""
    async with wired(processes) as (run, _, first, _):
        await first.switch({**switch, "at": "tokens", "after": 3})
        answer = await run.ask("spoilt")
        assert answer.status == 200 and run.tokens("spoilt") == (0, 1, 2)
        assert error_of(answer)["code"] == code
        assert sum('"error"' in data for data in answer.data) == 1 and "[DONE]" not in answer.data
        assert len(answer.body) < 10_000
        assert run.ran_at("spoilt") == [first.name]
        assert await run.findings() == []
        assert "outcome=engine" in run.books.said("request.done")[-1]
        if code != "engine_failed":  # that is told by the neuron itself, in its own log, too
            assert f"neuron={first.name} code={code}" in run.failure("spoilt")


async def test_a_client_that_leaves_with_its_whole_answer_has_not_hung_up(processes) -> None:
    """Rows 3, 30: it closes its connection at once, as curl does; the books say how it ended."""
    async with wired(processes) as (run, _, first, _):
        await run.ask("whole")
        await first.switch({"do": "fail", "at": "tokens", "after": 3})
        await run.ask("failed")
        assert await run.findings() == []
        outcomes = {booked.id: booked.outcome for booked in booked_of(run.books.lines)}
        assert (outcomes["whole"], outcomes["failed"]) == ("ok", "engine")


async def test_text_that_is_no_utf8_passes_and_so_does_what_follows(processes) -> None:
    """Row 13: bytes are passed on as they are; the client's decoder has the say."""
    async with wired(processes) as (run, _, first, _):
        await first.switch({"do": "utf8", "at": "tokens", "after": 2})
        async with calling(run) as caller:
            sent = time.monotonic()
            await caller.ask(CHAT, hello(stream=True), x_request_id="utf8", x_session_id="one")
            answer = await caller.all()
        assert b'"content":"\xc3\xff\xe2\x82"' in answer.body
        text = answer.body.decode(errors="replace")
        assert [f'"{number} "' in text for number in range(6)] == [True] * 6
        assert text.endswith("data: [DONE]\n\n")
        run.asked.append(Asked("utf8", sent, time.monotonic(), "complete", True, tuple(range(6))))


# -- answers that are none


@STREAMS
@pytest.mark.parametrize(
    "switch",
    [
        {"do": "status", "status": 500},
        {"do": "status", "status": 404},
        {"do": "status", "status": 401},
        {"do": "status", "status": 405},
        {"do": "redirect"},
        {"do": "gzip"},
        {"do": "close"},
        {"do": "reset"},
    ],
    ids=lambda switch: " ".join(map(str, switch.values())),
)
async def test_an_answer_that_no_neuron_should_give_is_a_502_without_its_words(
    processes, switch, stream
) -> None:
    """Rows 10, 17, 20, 21, 22: neither blamed on the client, nor followed, decoded or repeated."""
    async with wired(processes) as (run, _, first, _):
        await first.switch(switch)
        answer = await run.ask("odd", stream=stream)
        assert (answer.status, error_of(answer)["code"]) == (502, "upstream_failed")
        assert b"secret" not in answer.body and b"played" not in answer.body.replace(b"(played)", b"")
        assert where(answer) == first.name and run.ran_at("odd") == []
        assert f"neuron={first.name} code=upstream_failed" in run.failure("odd")


@STREAMS
@pytest.mark.parametrize("do", ["full", "stopping"])
async def test_a_refusal_that_says_nothing_ran_leads_to_the_other_replica(processes, do: str, stream) -> None:
    """Rows 18, 19: once; when both refuse, the client is told when to come again."""
    async with wired(processes) as (run, _, first, other):
        await first.switch({"do": do})
        answer = await run.ask("refused", stream=stream)
        assert answer.status == 200 and where(answer) == other
        for neuron in processes:
            await neuron.switch({"do": do})
        await run.gateway.knows(lambda ledger: all(place.ready for place in ledger))
        answer = await run.ask("refused-twice", stream=stream)
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert run.ran_at("refused-twice") == []


async def test_three_failures_in_a_row_send_whoever_has_a_choice_elsewhere(processes) -> None:
    """Row 17: though its health and its reports are fine."""
    async with wired(processes) as (run, _, first, other):
        await first.switch({"do": "status", "status": 500, "times": 0})
        answers = []
        for number in range(6):
            await run.gateway.knows(lambda ledger: all(place.ready for place in ledger))
            answers.append(await run.ask(f"r{number}"))
        assert [answer.status for answer in answers] == [502] * 3 + [200] * 3
        assert {where(answer) for answer in answers[3:]} == {other}
