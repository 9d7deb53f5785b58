"""A gateway with `workers = 2`: a supervisor and its processes, over loopback, as an operator runs them."""

import signal
from pathlib import Path

import httpx
import psutil
import pytest
import trio

from cortex.keys import digest
from tests.calls import CHAT, hello
from tests.fake_neuron import DONE, OPENING, STREAM_HEAD, USAGE, FakeNeuron, fake_neuron
from tests.fake_upstream import Wait, chunks, last_chunk
from tests.roles import eventually
from tests.workers.crew import CrewProcess, crew

pytestmark = pytest.mark.slow
REQUESTS = "cortex_requests_total"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


@pytest.fixture
async def neuron():
    async with fake_neuron("a", "b") as neuron:
        yield neuron


async def tells(gateway: CrewProcess, path: str, field: str, value: object) -> bool:
    """Whether some worker answers so."""
    return (await gateway.get(path)).json()[field] == value


async def ask_many(gateway: CrewProcess, count: int) -> list[httpx.Response]:
    """So many requests at once, each over a connection of its own."""
    answers: list[httpx.Response] = []

    async def one() -> None:
        answers.append(await gateway.ask())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return answers


def held(neuron: FakeNeuron) -> trio.Event:
    """The next request is a stream that goes on until this is set."""
    more = trio.Event()
    neuron.scripts.append(
        neuron.plan(STREAM_HEAD + chunks(OPENING), Wait(more), chunks(DONE) + last_chunk(USAGE))
    )
    return more


def owner_of(gateway: CrewProcess, answer: httpx.Response) -> str:
    """The worker that has the connection of `answer`."""
    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
    (owner,) = [name for name, pid in gateway.pids().items() if port in peers_of(pid)]
    return owner


def peers_of(pid: int) -> set[int]:
    connections = psutil.Process(pid).net_connections("tcp")
    return {each.raddr.port for each in connections if each.raddr}


async def test_both_serve_and_one_page_has_what_all_have_counted(tmp_path: Path, neuron: FakeNeuron) -> None:
    async with crew(tmp_path, neuron) as gateway:
        answers = await ask_many(gateway, 40)
        assert [answer.status_code for answer in answers] == [200] * 40
        await gateway.comes_to(REQUESTS, 40)
        assert await gateway.total("cortex_request_duration_seconds_count") == 40
        await gateway.says("request.done", 40)
        served = gateway.served()
        assert set(served) == {"1", "2"} and sum(served.values()) == 40
        routes = {
            value for each in neuron.requests for name, value in each.headers if name == "x-cortex-route"
        }
        assert len(routes) == 2, "each routes under a boot id of its own"
        boots = {(await gateway.get("/fleet")).json()["gateway"]["boot_id"] for _ in range(8)}
        assert len(boots) == 1, "and all are one gateway to who asks"


async def test_a_list_of_processes_shows_which_worker_is_which(tmp_path: Path, neuron: FakeNeuron) -> None:
    """As `ps` has them by their words, and `top` by a short name."""
    async with crew(tmp_path, neuron) as gateway:
        for name, pid in gateway.pids().items():
            shown = psutil.Process(pid)
            assert f"-c 'cortex gateway worker {name} of 2'; " in " ".join(shown.cmdline())
            assert shown.name() == f"cortex-work-{name}"


async def test_who_comes_before_all_serve_is_spread_over_them(tmp_path: Path, neuron: FakeNeuron) -> None:
    process = CrewProcess(tmp_path, [neuron])
    await process.start()
    try:
        await process.says("workers.listening")
        clients = [await trio.open_tcp_stream("127.0.0.1", process.port) for _ in range(12)]
        await process.says("workers.ready")
        for client in clients:
            await client.send_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
        ports = {client.socket.getsockname()[1] for client in clients}
        spread = [len(ports & peers_of(pid)) for pid in process.pids().values()]
        assert sum(spread) == 12 and min(spread) >= 1
        for client in clients:
            await client.aclose()
    finally:
        process.kill()


async def test_a_killed_worker_costs_its_own_streams_alone_and_is_begun_again(
    tmp_path: Path, neuron: FakeNeuron
) -> None:
    """Its counts stay; the others' streams go on, and nobody who comes then is refused."""
    async with crew(tmp_path, neuron) as gateway:
        await ask_many(gateway, 20)
        await gateway.comes_to(REQUESTS, 20)
        more = held(neuron)
        async with gateway.client() as http:
            async with http.stream("POST", CHAT, json=hello(stream=True)) as answer:
                pieces = answer.aiter_bytes()
                first = await anext(pieces)
                other = "2" if owner_of(gateway, answer) == "1" else "1"
                gateway.signal(signal.SIGKILL, other)
                answers = await ask_many(gateway, 20)
                assert [one.status_code for one in answers] == [200] * 20
                more.set()
                rest = first + b"".join([piece async for piece in pieces])
        assert rest.endswith(DONE)
        await gateway.says("worker.lost")
        await gateway.says("worker.started", 3)
        while (await gateway.samples())["cortex_worker_up", (("worker", other),)] != 1:
            assert await gateway.total(REQUESTS) >= 20, "a counter went back"
            await trio.sleep(0.05)
        await gateway.comes_to("cortex_worker_restarts_total", 1)
        await gateway.comes_to(REQUESTS, 41)
        await ask_many(gateway, 10)
        await gateway.comes_to(REQUESTS, 51)


async def test_a_worker_that_hangs_keeps_neither_requests_nor_the_page_waiting(
    tmp_path: Path, neuron: FakeNeuron
) -> None:
    """What it counted last stands on the page, which comes within its bound."""
    async with crew(tmp_path, neuron) as gateway:
        await ask_many(gateway, 20)
        await gateway.comes_to(REQUESTS, 20)
        gateway.signal(signal.SIGSTOP, "2")
        try:
            assert [answer.status_code for answer in await ask_many(gateway, 20)] == [200] * 20
            with trio.fail_after(10):
                await gateway.comes_to(REQUESTS, 40)
            await eventually(lambda: tells(gateway, "/health", "status", "degraded"))
        finally:
            gateway.signal(signal.SIGCONT, "2")


@pytest.mark.parametrize("told", ["the supervisor", "everybody"])
async def test_a_stop_lets_every_stream_finish_and_leaves_nobody(
    tmp_path: Path, neuron: FakeNeuron, told: str
) -> None:
    """A service manager tells all processes of a unit; a terminal does, too."""
    async with crew(tmp_path, neuron) as gateway:
        processes = gateway.processes()
        assert len(processes) == 3
        streams = [held(neuron) for _ in range(4)]
        whole: list[bytes] = []

        async def read() -> None:
            async with (
                gateway.client() as http,
                http.stream("POST", CHAT, json=hello(stream=True)) as answer,
            ):
                whole.append(b"".join([piece async for piece in answer.aiter_bytes()]))

        async with trio.open_nursery() as nursery:
            for _ in streams:
                nursery.start_soon(read)
            await neuron.seen(4)
            if told == "everybody":
                for process in processes[1:]:
                    process.send_signal(signal.SIGTERM)
                await trio.sleep(0.05)  # in any order, and one soon after the other
            processes[0].send_signal(signal.SIGTERM)
            await gateway.says("gateway.draining", 2)
            assert (await gateway.ask()).status_code == 503, "who comes is told, until the end"
            for more in streams:
                more.set()
        assert [each.endswith(DONE) for each in whole] == [True] * 4
        assert await gateway.ended() == 0
        assert not any(process.is_running() for process in processes)
        assert not any("worker.lost" in line or "worker.leaves" in line for line in gateway.lines())


async def test_a_worker_that_is_told_to_go_finishes_and_is_replaced_without_a_loss(
    tmp_path: Path, neuron: FakeNeuron
) -> None:
    async with crew(tmp_path, neuron) as gateway:
        more = held(neuron)
        async with gateway.client() as http, http.stream("POST", CHAT, json=hello(stream=True)) as answer:
            pieces = answer.aiter_bytes()
            first = await anext(pieces)
            gateway.signal(signal.SIGTERM, owner_of(gateway, answer))
            await gateway.says("worker.leaves")
            assert [each.status_code for each in await ask_many(gateway, 20)] == [200] * 20
            more.set()
            rest = first + b"".join([piece async for piece in pieces])
        assert rest.endswith(DONE)
        await gateway.says("worker.ended")
        await gateway.comes_to("cortex_worker_up", 2)
        await gateway.comes_to(REQUESTS, 21)
        assert not any("worker.lost" in line for line in gateway.lines())


async def test_nobody_outlives_a_supervisor_that_is_killed(tmp_path: Path, neuron: FakeNeuron) -> None:
    """The port is free for the next one, whatever the workers were doing."""
    async with crew(tmp_path, neuron) as gateway:
        workers = gateway.processes()[1:]
        gateway.signal(signal.SIGSTOP, "2")
        gateway.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(psutil.wait_procs, workers, 10)
        assert not any(worker.is_running() for worker in workers)
        await gateway.ended()
        await gateway.start()
        await gateway.says("workers.ready", 2)
        assert (await gateway.ask()).status_code == 200


async def test_a_reload_reaches_every_worker(tmp_path: Path, neuron: FakeNeuron) -> None:
    async with crew(tmp_path, neuron) as gateway:
        gateway.signal(signal.SIGHUP)
        await gateway.says("reload.done changed=-", 2)
        key = f'[[keys]]\nname = "k"\nsha256 = "{digest("secret")}"\n'
        gateway.file.write_text(gateway.file.read_text() + key)
        await gateway.says("reload.done changed=keys", 2)
        assert {answer.status_code for answer in await ask_many(gateway, 20)} == {401}
        gateway.file.write_text(gateway.file.read_text() + "[limits]\nqueue = 1\n")
        gateway.signal(signal.SIGHUP)
        await gateway.says("reload.refused", 2)
        (fault, *_) = [line for line in gateway.lines() if "reload.refused" in line]
        assert "limits.queue" in fault and "2 workers" in fault


async def test_the_limits_of_a_key_hold_over_all_workers(tmp_path: Path, neuron: FakeNeuron) -> None:
    """Each worker has its share of `max_in_flight`, and all of them together no more than it."""
    key = f'[[keys]]\nname = "k"\nsha256 = "{digest("secret")}"\nmax_in_flight = 5\n'
    async with crew(tmp_path, neuron, more=key) as gateway:
        more = trio.Event()
        neuron.otherwise = neuron.plan(
            STREAM_HEAD + chunks(OPENING), Wait(more), chunks(DONE) + last_chunk(USAGE)
        )
        statuses: list[int] = []

        async def one() -> None:
            async with gateway.client() as http:
                auth = {"authorization": "Bearer secret"}
                async with http.stream("POST", CHAT, json=hello(stream=True), headers=auth) as answer:
                    if answer.status_code == 429:
                        assert b"2 workers" in await answer.aread()
                    statuses.append(answer.status_code)
                    if statuses.count(429) + statuses.count(200) == 20:
                        more.set()
                    async for _ in answer.aiter_bytes():
                        pass

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert statuses.count(200) == 5 and statuses.count(429) == 15


async def test_what_was_done_through_one_worker_is_known_through_any(
    tmp_path: Path, neuron: FakeNeuron
) -> None:
    """Without waiting for the next look at the neuron, which is far off."""
    async with crew(tmp_path, neuron, poll_s=600) as gateway:
        for _ in range(4):
            async with gateway.client() as http:
                assert (await http.post("/fleet/models/unload", json={"model": "a"})).status_code == 200
            states = [(await gateway.get("/v1/models/a")).json()["state"] for _ in range(6)]
            assert states == ["unloaded"] * 6
            async with gateway.client() as http:
                assert (await http.post("/fleet/models/load", json={"model": "a"})).status_code == 200
            states = [(await gateway.get("/v1/models/a")).json()["state"] for _ in range(6)]
            assert states == ["loaded"] * 6


async def test_a_request_that_waits_is_counted_by_every_worker(tmp_path: Path) -> None:
    async with fake_neuron(known=("a",)) as neuron:
        neuron.loading = trio.Event()
        async with crew(tmp_path, neuron) as gateway, trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(gateway.ask)
            for _ in range(6):
                await eventually(lambda: tells(gateway, "/fleet", "waiting", 6))
            neuron.loading.set()
        assert neuron.ordered("/models/load") <= 2, "one for each worker, which the neuron joins"


async def test_a_worker_that_cannot_start_ends_the_supervisor_with_its_error(tmp_path: Path) -> None:
    """A file that is spoilt for the workers: one message, and the exit code of a faulty file."""
    folder = tmp_path
    async with fake_neuron("a") as neuron:
        process = CrewProcess(folder, [neuron])
        process.file.write_text(process.file.read_text() + "[limits]\nconnections = 1\n")
        await process.start()
        assert await process.ended() == 2
        assert sum("limits.connections" in line for line in process.lines()) == 1


async def test_a_reload_reaches_a_worker_that_has_yet_to_serve(tmp_path: Path, neuron: FakeNeuron) -> None:
    """It may have read the files of before."""
    async with crew(tmp_path, neuron) as gateway:
        gateway.signal(signal.SIGKILL, "2")
        await gateway.says("worker.started", 3)
        gateway.signal(signal.SIGHUP)
        await gateway.says("reload.done changed=-", 2)


async def test_a_terminals_interrupt_at_any_moment_is_the_supervisors_business(
    tmp_path: Path, neuron: FakeNeuron
) -> None:
    """Ctrl-C is told to all of its processes, of which one may have just begun."""
    process = CrewProcess(tmp_path, [neuron])
    await process.start()
    await process.says("worker.started")
    for each in reversed(process.processes()):
        each.send_signal(signal.SIGINT)
    assert await process.ended() == 0
    assert not any("Traceback" in line or "worker.lost" in line for line in process.lines())
