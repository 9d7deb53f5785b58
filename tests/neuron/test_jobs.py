"""Every load is a job: seen while it runs, called off when nobody else wants it, kept a while when over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import httpx
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cortex.errors import DoesNotFit, LoadFailed, Stopping
from cortex.harness.scripted import Gate, Script
from cortex.ledger import Ledger, Load
from cortex.ledger.outlook import Outlook
from cortex.neuron.jobs import KEEP, KEEP_S, Job, Jobs
from cortex.neuron.progress import Progress
from cortex.places import Resident, Room
from tests.calls import CHAT, Json, calling, fault_of, hello, residents, settings, text_of, until
from tests.fake_ledger import policy, resident, want
from tests.roles import MIB, Running, running_neuron, specs

BIG = Script(reply="hi", bytes=60 * MIB)


def neuron(folder: Path, scripts: dict[str, Script], **more: object):
    """A device of 100 MiB."""
    catalogue = specs(folder, *scripts)
    return running_neuron(folder, catalogue, scripts, memory=100 * MIB, config=settings(**more))


async def order(role: Running, model: str, **more: object) -> httpx.Response:
    return await role.http.post("/models/load?wait=false", json={"spec": {"id": model}, **more})


async def jobs(role: Running) -> list[Json]:
    return (await role.http.get("/models/jobs")).json()["jobs"]


async def state_of(role: Running, job: str) -> str:
    return (await role.http.get(f"/models/jobs/{job}")).json()["state"]


@pytest.fixture
async def hang_guard():
    with trio.fail_after(30):
        yield


# -- on a neuron


async def test_a_load_that_is_not_waited_for_is_followed_to_its_end(hang_guard, tmp_path: Path) -> None:
    slow = Event()
    async with neuron(tmp_path, {"a": replace(BIG, slow_load=slow)}) as role:
        answer = await order(role, "a")
        told = answer.json()
        assert (answer.status_code, told["model"]) == (202, "a")
        assert told["state"] in ("queued", "loading")
        assert (await order(role, "a")).json()["id"] == told["id"]  # one load, one job
        url, seen = f"/models/jobs/{told['id']}", []
        async with role.http.stream("GET", url, headers={"accept": "text/event-stream"}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    seen.append(msgspec.json.decode(line[6:]))
                    if seen[-1]["done_bytes"] == 30 * MIB:
                        assert (seen[-1]["phase"], seen[-1]["total_bytes"]) == ("load", 60 * MIB)
                        slow.set()
                elif line.startswith("event: "):
                    assert line[7:] in ("queued", "loading", "done")
        assert [seen[-1]["state"], {one["id"] for one in seen}] == ["done", {told["id"]}]
        assert (await role.http.get(url)).json()["state"] == "done"
        assert (await residents(role))["a"]["state"] == "loaded"
        # Who asks for what is here has a job that is over.
        assert (await order(role, "a")).json()["state"] == "done"
        assert [job["state"] for job in await jobs(role)] == ["done", "done"]


async def test_a_load_that_a_request_began_is_a_job_too(hang_guard, tmp_path: Path) -> None:
    slow = Event()
    async with neuron(tmp_path, {"a": replace(BIG, slow_load=slow)}) as role, trio.open_nursery() as nursery:
        nursery.start_soon(speak, role, "a")
        await until(lambda: is_loading(role), 5)
        (job,) = await jobs(role)
        assert (job["model"], job["state"], job["device"], job["waiting"]) == ("a", "loading", "cpu", 1)
        # A request waits for it: it is not for others to call off.
        answer = await role.http.delete(f"/models/jobs/{job['id']}")
        assert (answer.status_code, fault_of(answer)["waiting"]) == (409, 1)
        slow.set()


async def speak(role: Running, model: str) -> None:
    assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"


async def is_loading(role: Running) -> bool:
    return [job["state"] for job in await jobs(role)] == ["loading"]


async def test_a_job_that_is_called_off_leaves_nothing_and_no_grudge(hang_guard, tmp_path: Path) -> None:
    slow = Event()
    async with neuron(tmp_path, {"a": replace(BIG, slow_load=slow), "b": BIG}) as role:
        told = (await order(role, "a")).json()
        await until(lambda: is_loading(role), 5)
        answer = await role.http.delete(f"/models/jobs/{told['id']}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert await residents(role) == {} and "a" not in role.engines
        again = await role.http.delete(f"/models/jobs/{told['id']}")
        assert (again.status_code, again.json()["state"]) == (200, "cancelled")
        await speak(role, "b")
        slow.set()
        await speak(role, "a")


async def test_a_job_whose_request_has_left_may_be_called_off(hang_guard, tmp_path: Path) -> None:
    """Row 61: the load goes on without who began it, until somebody says that nobody wants it."""
    slow = Event()
    async with neuron(tmp_path, {"a": replace(BIG, slow_load=slow)}) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello("a"))
            await until(lambda: is_loading(role), 5)
        (job,) = await jobs(role)
        await until(lambda: nobody_waits(role), 5)
        assert (await role.http.delete(f"/models/jobs/{job['id']}")).json()["state"] == "cancelled"


async def nobody_waits(role: Running) -> bool:
    return [job["waiting"] for job in await jobs(role)] == [0]


async def test_a_job_that_waits_for_room_is_queued_and_can_be_called_off(hang_guard, tmp_path: Path) -> None:
    gate = Gate(2)
    scripts = {"a": Script(endless=True, hold=gate, bytes=60 * MIB), "b": BIG}
    async with neuron(tmp_path, scripts) as role, calling(role) as caller:
        await caller.ask(CHAT, hello("a", stream=True, max_tokens=3))
        await caller.until(b" 1")
        first = (await order(role, "b")).json()
        assert (first["state"], first["eta_s"]) == ("queued", None)
        assert (await role.http.delete(f"/models/jobs/{first['id']}")).json()["state"] == "cancelled"
        second = (await order(role, "b")).json()
        assert second["id"] != first["id"]
        gate.open()
        await caller.all()
        await until(lambda: ended(role, second["id"]), 5)
        assert await state_of(role, second["id"]) == "done"
        assert set(await residents(role)) == {"b"}


async def ended(role: Running, job: str) -> bool:
    return await state_of(role, job) in ("done", "failed", "cancelled")


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [(Script(bytes=101 * MIB), 507, "does_not_fit"), (Script(unfit="it is cut"), 422, "unfit_model")],
)
async def test_what_can_be_refused_at_once_is(
    hang_guard, tmp_path: Path, script: Script, status: int, code: str
) -> None:
    async with neuron(tmp_path, {"a": script}) as role:
        answer = await order(role, "a")
        assert (answer.status_code, fault_of(answer)["code"]) == (status, code)
        assert {job["state"] for job in await jobs(role)} <= {"failed"}


async def test_a_load_that_fails_is_told_by_its_job(hang_guard, tmp_path: Path) -> None:
    torn = LoadFailed("a: the weights are torn")
    async with neuron(tmp_path, {"a": Script(load_error=torn)}) as role:
        told = (await order(role, "a")).json()
        await until(lambda: ended(role, told["id"]), 5)
        job = (await role.http.get(f"/models/jobs/{told['id']}")).json()
        assert job["state"] == "failed"
        assert job["error"] == {"code": "load_failed", "status": 502, "message": torn.message}


async def test_an_odd_question_is_refused_by_name(hang_guard, tmp_path: Path) -> None:
    async with neuron(tmp_path, {"a": BIG}) as role:
        answer = await role.http.get("/models/jobs/load-77")
        assert (answer.status_code, fault_of(answer)["code"]) == (404, "job_not_found")
        assert (await role.http.delete("/models/jobs/load-77")).status_code == 404
        answer = await role.http.post("/models/load?wait=maybe", json={"spec": {"id": "a"}})
        assert (answer.status_code, fault_of(answer)["param"]) == (400, "wait")
        answer = await role.http.post("/models/load?wait=true", json={"spec": {"id": "a"}})
        assert answer.json()["resident"]["state"] == "loaded"


# -- the book itself


class ByHand:
    """A loader whose loads end as the test says."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.go = trio.Event()

    async def load(self, load: Load) -> Resident:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return resident(load.want.model)


@asynccontextmanager
async def book(**usual: float) -> AsyncIterator[tuple[Jobs, ByHand, Ledger, dict[str, Progress]]]:
    ledger = Ledger(trio.current_time, policy())
    ledger.open("p", [Room("g", 100)])
    for model, seconds in usual.items():
        ledger._paces.note(model, 0, seconds)
    loader, progress = ByHand(), {}
    made = Jobs(loader, ledger, progress.get)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made, loader, ledger, progress
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def loading(made: Jobs, ledger: Ledger, model: str = "a") -> AsyncIterator[Job]:
    _, load = ledger.arrive(want(model))
    assert isinstance(load, Load)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.load, load)
        await wait_all_tasks_blocked()
        yield made.open(model)


async def test_the_pace_of_a_phase_tells_when_it_ends(autojump_clock) -> None:
    async with book() as (made, loader, ledger, progress), loading(made, ledger) as job:
        assert made.told(job).eta_s is None
        progress["a"] = Progress("download", 100, 1000)  # a part was there before
        await trio.sleep(1)
        assert made.told(job).eta_s is None
        progress["a"] = Progress("download", 300, 1000)
        await trio.sleep(1)
        began = job.since
        expected = 700 * (trio.current_time() - began) / 200
        assert made.told(job).eta_s == pytest.approx(expected, abs=0.1)
        progress["a"] = Progress("load", 0, 50)  # another phase, another pace
        await trio.sleep(1)
        assert made.told(job).eta_s is None
        progress["a"] = Progress("load", 25, 50)
        assert made.told(job).eta_s == pytest.approx(trio.current_time() - job.since, abs=0.1)
        loader.go.set()


async def test_what_loads_usually_take_stands_in_for_a_pace_that_is_not_known(autojump_clock) -> None:
    async with book(a=20.0) as (made, loader, ledger, progress), loading(made, ledger) as job:
        progress["a"] = Progress("load")
        await trio.sleep(5)
        assert made.told(job).eta_s == 15.0
        assert ledger.outlook("a") == Outlook("load", 0, 0, 15.0)
        await trio.sleep(500)
        assert made.told(job).eta_s == 0.0
        assert ledger.outlook("a") == Outlook("load"), "late, and nobody knows by how much"
        loader.go.set()


@pytest.mark.parametrize(
    ("error", "state"),
    [(LoadFailed("torn"), "failed"), (DoesNotFit("big"), "failed"), (Stopping("going"), "cancelled")],
)
async def test_a_job_ends_as_its_load_does(autojump_clock, error: Exception, state: str) -> None:
    async with book() as (made, loader, ledger, _):
        loader.error = error
        with pytest.RaisesGroup(type(error)):
            async with loading(made, ledger) as job:
                loader.go.set()
        assert (job.state, job.ended is not None) == (state, True)


async def test_a_load_that_takes_the_place_of_a_lost_one_is_another_job(autojump_clock) -> None:
    """What the lost one does yet, its thread being slow to let go, ends nothing of the other."""
    async with book() as (made, loader, ledger, _), loading(made, ledger) as lost:
        ledger.open("q", [Room("g", 100)])
        ledger.lost("p", "poisoned")
        ((_, load),) = ledger.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.load, load)
            await wait_all_tasks_blocked()
            other = made.open("a")
            assert (lost.state, lost.device, other.state, other.device) == ("cancelled", "p", "loading", "q")
            assert other.id != lost.id and made.find(lost.id) is lost
            loader.go.set()
        assert (lost.state, other.state) == ("cancelled", "done")


async def test_an_order_that_stands_is_one_job_through_both_loads(autojump_clock) -> None:
    async with book() as (made, loader, ledger, _), loading(made, ledger) as job:
        job.ordered = trio.CancelScope()
        ledger.open("q", [Room("g", 100)])
        (lost,) = ledger.lost("p", "poisoned")
        ((_, load),) = ledger.settle()
        first, loader.go = loader.go, trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.load, load)
            await wait_all_tasks_blocked()
            first.set()
            await wait_all_tasks_blocked()
            assert (made.open("a") is job, job.state, job.device) == (True, "loading", "q")
            assert job.load is load is not lost
            loader.go.set()
        assert job.state == "done"


async def test_finished_jobs_are_kept_for_a_time_and_up_to_a_number(autojump_clock) -> None:
    async with book() as (made, *_):
        for number in range(KEEP + 5):
            made.end(made.open(f"m{number}"))
        listed = made.report().jobs
        assert len(listed) == KEEP and listed[0].model == f"m{KEEP + 4}"
        await trio.sleep(KEEP_S - 1)
        late = made.open("late")
        made.end(late)
        await trio.sleep(2)
        assert [job.model for job in made.report().jobs] == ["late"]
        assert made.find(late.id) is late
