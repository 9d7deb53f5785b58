"""A child process costs its own model when it goes, and goes whenever it should.

Real processes; the engines in them are scripted, and break as `fake_children` says.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Sampling
from cortex.demo import GGUF
from cortex.errors import EngineFailed, LoadFailed, NotHereNow, TooBig
from cortex.events import EngineEvent, Failed, Stopped, Tokens
from cortex.harness import codec, orders
from cortex.harness.base import Job, LoadOrder
from cortex.harness.folders import Folder
from cortex.harness.hosts import child as child_module
from cortex.harness.hosts import frames, lines, process, spawn
from cortex.harness.hosts.child import Outbox
from cortex.harness.hosts.frames import Frames, TooLong, framed
from cortex.harness.hosts.lines import Lines
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.losses import Crash
from cortex.harness.scripted import ScriptedHarness
from cortex.harness.watch import Limits
from cortex.harness.worker import DeviceWorker, Mailbox

NEUTRAL = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
BIG = 10**6  # a context that nobody comes to the end of


@asynccontextmanager
async def working(limits: Limits = Limits()) -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker("cpu-dev-0", limits=limits)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


def made_by(factory: str) -> ScriptedHarness:
    return ScriptedHarness(factory=f"tests.fake_children:{factory}")


def endless(model: str = "m") -> LoadOrder:
    return LoadOrder(model, Path(model), "cpu", BIG, 2, options={"endless": True})


async def bring(worker: DeviceWorker, model: str = "m", factory: str | None = None) -> int:
    """`model` in a child; answers its process."""
    harness = ScriptedHarness() if factory is None else made_by(factory)
    await worker.load(harness, endless(model), isolated=True)
    pid = worker.host(model).pid
    assert pid is not None
    return pid


async def everything(mailbox: Mailbox) -> list[EngineEvent]:
    heard: list[EngineEvent] = []
    while True:
        try:
            heard += [event for _, event in await mailbox.take()]
        except trio.EndOfChannel:
            return heard


async def say(worker: DeviceWorker, model: str = "m", **more: object) -> list[EngineEvent]:
    async with worker.generate(model, [Job(0, "a b c", NEUTRAL, **more)]) as mailbox:
        return await everything(mailbox)


async def cause(worker: DeviceWorker, model: str = "m") -> str:
    """What a request hears whose answer its engine does not survive."""
    failed = (await say(worker, model))[-1]
    assert isinstance(failed, Failed)
    assert type(failed.error) is EngineFailed
    return failed.error.message


async def until(fact: Callable[[], bool]) -> None:
    while not fact():  # noqa: ASYNC110 - a process rings no bell here
        await trio.sleep(0.002)


def proc(pid: int, name: str) -> Path:
    return Path(f"/proc/{pid}", name)


def alive(pid: int) -> bool:
    """Whether the process is there, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def folders(root: Path) -> list[Path]:
    return sorted(root.glob("cortex-engine-*"))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where children's folders are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


# -- how it ends ------------------------------------------------------------------------------


async def test_a_killed_child_is_heard_at_once_and_leaves_nothing(temporary: Path) -> None:
    """Row 75: dead within 0.1 s, by the best of some tries on a busy machine."""
    took: list[float] = []
    async with working() as worker:
        for _ in range(5):
            pid = await bring(worker)
            async with worker.generate("m", [Job(0, "x", NEUTRAL)] * 3) as mailbox:
                await mailbox.take()
                began = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                ends = [event for event in await everything(mailbox) if isinstance(event, Failed)]
                took.append(time.monotonic() - began)
            assert [type(end.error) for end in ends] == [EngineFailed, EngineFailed, NotHereNow]
            assert ends[0].error.message == "m: its process was killed by SIGKILL"
            assert ends[2].error.not_started
            with pytest.raises(NotHereNow):
                await say(worker)
            assert not alive(pid)
        await until(lambda: not folders(temporary))
    assert min(took) < 0.1, took


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("aborts", "was killed by SIGABRT: GGML_ASSERT(n > 0) failed"),
        ("faults", "was killed by SIGSEGV: Fatal Python error: Segmentation fault"),
        ("leaves", "exited with code 3"),
        ("loses_its_device", "lost its device: RuntimeError: CUDA error"),
    ],
)
async def test_a_death_is_told_by_what_it_was(factory: str, told: str) -> None:
    """Row 75, and 76 in a child: the engine's last word says more than the signal."""
    async with working() as worker:
        deaths: list[tuple[str, str]] = []
        worker.on_death = lambda model, why: deaths.append((model, why))
        await bring(worker, factory=factory)
        message = await cause(worker)
        assert told in message
        assert [model for model, _ in deaths] == ["m"]
        assert deaths[0][1] in message
        await bring(worker)
        assert isinstance((await say(worker, max_tokens=3))[-1], Stopped)


async def test_a_death_costs_nobody_else_anything() -> None:
    async with working() as worker:
        bystander = await bring(worker, "bystander")
        await worker.load(ScriptedHarness(), endless("here"))
        await bring(worker, "bad", "aborts")
        async with (
            worker.generate("bystander", [Job(0, "x", NEUTRAL)]) as one,
            worker.generate("here", [Job(0, "x", NEUTRAL)]) as other,
        ):
            await cause(worker, "bad")
            for mailbox in (one, other):
                for _ in range(3):
                    assert not any(isinstance(event, Failed) for _, event in await mailbox.take())
        assert worker.host("bystander").pid == bystander


async def test_an_engine_that_raises_in_a_child_is_judged_as_on_a_thread() -> None:
    async with working() as worker:
        pid = await bring(worker, factory="raises")
        assert "ZeroDivisionError" in await cause(worker)
        assert alive(pid)
        assert "ZeroDivisionError" in (worker.fault("m") or "")
        await worker.unload("m")
        assert not alive(pid)


@pytest.mark.parametrize(
    ("factory", "told"),
    [("aborts_in_load", "SIGABRT"), ("cannot_be_made", "ImportError: libgomp.so.1")],
)
async def test_a_death_in_a_load_is_a_load_that_failed(factory: str, told: str) -> None:
    """Row 73: abort there costs the load, and the neuron lives."""
    async with working() as worker:
        deaths: list[str] = []
        worker.on_death = lambda model, why: deaths.append(why)
        await bring(worker, "here")
        with pytest.raises(LoadFailed, match=told):
            await bring(worker, "m", factory)
        assert (worker.loading, deaths) == ({}, [])
        assert isinstance((await say(worker, "here", max_tokens=3))[-1], Stopped)


async def test_a_real_engine_dies_alone_in_the_middle_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = LlamaCppHarness()
    if (why_not := harness.unavailable()) is not None:
        pytest.skip(str(why_not))
    monkeypatch.setattr("tempfile.tempdir", None)  # sockets have short names
    async with working() as worker:
        order = LoadOrder("demo", GGUF, "cpu", 2048, 2, options={"threads": 1})
        await worker.load(harness, order, isolated=True)
        (token,) = await worker.tokenise("demo", "a")
        job = Job(0, "x", Sampling(temperature=0.0, logit_bias={token: 100.0}))
        async with worker.generate("demo", [job]) as mailbox:
            while not any(isinstance(event, Tokens) for _, event in await mailbox.take()):
                pass
            pid = worker.host("demo").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert isinstance((await everything(mailbox))[-1], Failed)
        await worker.load(harness, order, isolated=True)
        assert isinstance((await say(worker, "demo", max_tokens=3))[-1], Stopped)


async def test_a_load_that_holds_its_interpreter_does_not_hold_ours() -> None:
    """What a process is for: the constructor of a real engine holds it for a second a GiB."""
    async with working() as worker:
        late: list[float] = []

        async def tick() -> None:
            while True:
                began = trio.current_time()
                await trio.sleep(0.01)
                late.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await bring(worker, factory="holds_in_load")
            nursery.cancel_scope.cancel()
        assert sum(late) > 1.0
        assert max(late) < 0.5


# -- hangs ------------------------------------------------------------------------------------

# A child needs some time for its imports, which count as its load.
SHORT_TURN = Limits(turn_s=0.4, warmup_s=0.4, load_s=20.0)


@pytest.mark.parametrize(
    ("factory", "told"), [("hangs", "exited with code 70: device.hung"), ("holds", "SIGALRM")]
)
async def test_a_hang_in_a_turn_is_the_end_of_the_child(
    factory: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 77 in a child, with the interpreter held and not held: it prints its stacks and goes."""
    async with working(SHORT_TURN) as worker:
        await bring(worker, factory=factory)
        assert told in await cause(worker)
    assert "fake_children.py" in caplog.text


async def test_a_hang_in_a_load_is_the_end_of_the_load() -> None:
    async with working(Limits(load_s=1.0)) as worker:
        with pytest.raises(LoadFailed, match=r"code 70: device\.hung"):
            await bring(worker, factory="hangs_in_load")


async def test_a_child_that_is_stopped_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can do nothing itself, not even see that it does nothing."""
    monkeypatch.setattr(process, "MERCY_S", 0.2)
    monkeypatch.setattr(process, "LOOK_S", 0.1)
    monkeypatch.setattr(process, "DUMP_S", 0.1)
    async with working(Limits(turn_s=1.5, warmup_s=1.5, load_s=20.0)) as worker:
        pid = await bring(worker)
        async with worker.generate("m", [Job(0, "x", NEUTRAL)]) as mailbox:
            await mailbox.take()
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: worker.heartbeat_age_s > 1.0)
            failed = (await everything(mailbox))[-1]
        assert isinstance(failed, Failed)
        assert "no sign of life" in failed.error.message


async def test_a_child_that_does_not_begin_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_S", 0.5)
    async with working() as worker:
        with pytest.raises(LoadFailed, match="did not begin within"):
            await bring(worker, factory="never_begins")


async def test_a_child_that_does_not_unload_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "EXIT_S", 0.2)
    async with working() as worker:
        pid = await bring(worker, factory="refuses_to_unload")
        await worker.unload("m")
        assert not alive(pid)


async def test_a_child_outlives_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is stopped, and in whatever state the child is."""
    for factory in (None, "refuses_to_unload", "never_begins"):
        monkeypatch.setattr("cortex.harness.worker.STOP_S", 0.5)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                worker = DeviceWorker("cpu-dev-0")
                await nursery.start(worker.run)
                if factory == "never_begins":
                    nursery.start_soon(_ignoring, bring, worker, "m", factory)
                    await until(lambda: worker.host("m").isolation == "process")  # noqa: B023
                    await until(lambda: worker.host("m").pid is not None)  # noqa: B023
                    pid = worker.host("m").pid
                else:
                    pid = await bring(worker, factory=factory)
                nursery.cancel_scope.cancel()
        assert pid is not None
        assert not alive(pid)


async def _ignoring(deed, *said: object) -> None:
    with suppress(LoadFailed):
        await deed(*said)


# -- what it is given -------------------------------------------------------------------------


async def test_a_child_gets_what_it_needs_and_nothing_else(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", "/where/compiled/parts/lie")
    with (temporary / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with working() as worker:
            pid = await bring(worker)
            told = dict(each.split("=", 1) for each in proc(pid, "environ").read_text().split("\0") if each)
            assert set(told) <= {*spawn.environment(os.environ), "TMPDIR"}
            assert not {"HF_TOKEN", "PYTHONSTARTUP"} & set(told)
            assert told["OMP_NUM_THREADS"] == "1"
            assert told["XDG_CACHE_HOME"] == "/where/compiled/parts/lie"
            (folder,) = folders(temporary)
            assert told["TMPDIR"] == str(folder)
            assert folder.stat().st_mode & 0o777 == 0o700
            opened = [os.readlink(each) for each in proc(pid, "fd").iterdir()]
            assert sorted(each.split(":")[0] for each in opened) == ["/dev/null"] * 2 + ["pipe", "socket"]
            assert os.getsid(pid) == pid
            limits = proc(pid, "limits").read_text()
            assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
            assert int(proc(pid, "oom_score_adj").read_text()) == 500


async def test_signals_to_a_whole_service_are_the_neurons_to_obey() -> None:
    async with working() as worker:
        pid = await bring(worker)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        assert isinstance((await say(worker, max_tokens=50))[-1], Stopped)
        assert worker.host("m").pid == pid


async def test_what_a_child_prints_is_in_our_log_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with working() as worker:
        await bring(worker, factory="talks")
        assert isinstance((await say(worker, max_tokens=20))[-1], Stopped)
        await until(lambda: "red" in caplog.text)
        await worker.unload("m")
    said = [record.getMessage() for record in caplog.records if "engine.said" in record.getMessage()]
    assert all(each.startswith("engine.said model=m text=") for each in said)
    assert len(said[0]) < lines.LONGEST + 100
    assert said[0].endswith(f"({100_000 - lines.LONGEST} more bytes)")
    assert "half a line" in said[-1]


PARENT = """
import sys, trio
from pathlib import Path
from cortex.harness.base import LoadOrder
from cortex.harness.scripted import ScriptedHarness
from cortex.harness.worker import DeviceWorker

async def main():
    worker = DeviceWorker("cpu-dev-0")
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await worker.load(ScriptedHarness(), LoadOrder("m", Path("m"), "cpu", 100, 1), isolated=True)
        print(worker.host("m").pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_child_dies_with_its_neuron_and_its_folder_is_swept(temporary: Path) -> None:
    """Whatever kills the neuron: the kernel takes the child along."""
    with trio.fail_after(30):
        neuron = subprocess.Popen(  # noqa: ASYNC220 - a moment
            [sys.executable, "-c", PARENT],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(spawn.__file__).parents[3])},
        )
        assert neuron.stdout is not None
        with neuron.stdout as told:
            pid = int(await trio.to_thread.run_sync(told.readline))
        assert running(pid)
        neuron.kill()
        neuron.wait()
        await until(lambda: not running(pid))
        assert len(folders(temporary)) == 1
        folder = Folder.made("cortex-engine-")
        assert folders(temporary) == [folder.path]
        another = Folder.made("cortex-engine-")
        assert len(folders(temporary)) == 2, "a folder that is held was swept"
        folder.remove()
        another.remove()
        assert folders(temporary) == []


async def test_a_child_whose_line_ends_ends(temporary: Path) -> None:
    """Where the kernel does not tell of a parent's death, the socket does."""
    plan = spawn.Plan(model="m", device="cpu-dev-0", factory="cortex.harness.scripted:ScriptedHarness")
    born = spawn.start(plan, temporary)
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(born.line)
        born.line.close()
        await until(lambda: born.process.poll() is not None)
    os.close(born.errors)
    assert born.process.returncode == 0


def test_a_child_is_started_by_our_own_interpreter_alone() -> None:
    plan = spawn.Plan(model="m", device="d", factory="f", path=["/x"])
    program, isolated, *rest = spawn.command(plan)
    assert (program, isolated) == (sys.executable, "-I")
    assert json.loads(rest[-1])["path"] == ["/x"]


def test_a_list_of_processes_shows_whose_model_a_child_has() -> None:
    """Whatever its name is, that runs nothing."""
    plan = spawn.Plan(model="a'; exit(1); '\n\u00e9", device="cuda:0", factory="f")
    line = spawn.command(plan)[3]
    assert line.startswith("\"cortex model a'; exit(1); '\\n\\xe9 on cuda:0\"; import json")
    assert compile(line, "", "exec")


# -- the line ---------------------------------------------------------------------------------


async def test_a_neuron_that_does_not_read_holds_up_no_engine() -> None:
    """The words wait in the child, in order, and none is lost."""
    async with working() as worker:
        pid = await bring(worker)
        async with worker.generate("m", [Job(0, "x", NEUTRAL, max_tokens=50_000)]) as mailbox:
            first = [event for _, event in await mailbox.take()]
            _stand_still_until_idle(pid)
            heard = [*first, *await everything(mailbox)]
        numbers = b"".join(event.data for event in heard if isinstance(event, Tokens)).split()
        assert numbers == [b"%d" % number for number in range(50_000)]


def _stand_still_until_idle(pid: int) -> None:
    """The whole loop stands still until the child has used no processor for five looks."""
    deadline, looks = time.monotonic() + 20, [""]
    while len(looks) < 5:
        assert time.monotonic() < deadline, "the child goes on for ever"
        time.sleep(0.05)
        used = proc(pid, "stat").read_text().rpartition(")")[2].split()[11]
        looks = [*looks, used] if looks[-1] == used else [used]


def test_words_that_nobody_reads_wait_in_order_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ends: list[int] = []
    monkeypatch.setattr(child_module, "leave", lambda code, why: ends.append(code))
    monkeypatch.setattr(child_module, "MOST_UNREAD", 2**20)
    with ours, theirs:
        outbox = Outbox(theirs)
        word = orders.Undone(1, EngineFailed("x" * 1000))
        told = 0
        while not ends:
            outbox.tell(word)
            told += 1
        assert ends == [child_module.UNREAD]
        assert 1000 < told < 3000


def test_what_is_late_is_written_once_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    outbox = Outbox(theirs)
    threading.Thread(target=outbox.write, daemon=True).start()
    for ticket in range(5000):
        outbox.tell(orders.Undone(ticket, EngineFailed("x" * 1000)))
    heard: list[int] = []
    read = Frames()
    ours.settimeout(20)
    while len(heard) < 5000:
        heard += [codec.word_of(each).ticket for each in read.feed(ours.recv(2**16))]
    outbox.flush()
    assert heard == list(range(5000))
    ours.close()


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
def test_messages_come_out_whole_however_they_are_cut(messages: list[bytes], cut: int) -> None:
    line = b"".join(map(framed, messages))
    read = Frames()
    heard = [each for at in range(0, len(line), cut) for each in read.feed(line[at : at + cut])]
    assert heard == messages


def test_a_message_that_is_too_long_is_refused_at_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST", 10)
    with pytest.raises(TooLong):
        framed(b"x" * 11)
    with pytest.raises(TooLong):
        Frames().feed(b"\0\0\0\x0b")
    assert Frames().feed(framed(b"x" * 10)) == [b"x" * 10]


async def test_a_request_that_is_too_large_for_the_line_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with working() as worker:
        await bring(worker)
        monkeypatch.setattr(frames, "MOST", 1000)
        async with worker.generate("m", [Job(0, "x" * 2000, NEUTRAL)]) as mailbox:
            (failed,) = await everything(mailbox)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, TooBig)
        with pytest.raises(TooBig):
            await worker.tokenise("m", "x" * 2000)
        assert len(await worker.tokenise("m", "a b")) == 2


@pytest.mark.parametrize(
    "word", [orders.Gone("other"), orders.Done(10**6), orders.Heard("other", ()), orders.Faulted("x", "y")]
)
async def test_a_child_speaks_for_itself_alone(word: orders.Word) -> None:
    """What it says of others, or to others, is the end of it, and of nothing else."""
    async with working() as worker:
        await bring(worker, "other")
        await bring(worker)
        child = worker._children["m"]
        async with worker.generate("m", [Job(0, "x", NEUTRAL)]) as mailbox:
            await mailbox.take()
            child._begun.set()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                theirs.sendall(framed(codec.encode(word)))
                ours.setblocking(False)
                await child._read(ours)
            failed = (await everything(mailbox))[-1]
        assert isinstance(failed, Failed)
        assert "said what" in failed.error.message
        assert isinstance((await say(worker, "other", max_tokens=3))[-1], Stopped)


async def test_what_cannot_be_dealt_with_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that were told a word before the one that breaks hear it, and hear it once."""
    told: list[orders.Word] = []

    def hear(words: Sequence[orders.Word]) -> None:
        told.extend(words)
        raise ZeroDivisionError("a bug")

    plan = spawn.Plan(model="m", device="cpu", factory="x:y")
    child = process.ProcessHost(plan, hear, busy=lambda: True, ended=lambda: None)
    monkeypatch.setattr(process, "HEAVY", 100)
    first = orders.Heard("m", [(1, Tokens(b"word", 1))])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        heavy = orders.Heard("m", [(1, Tokens(b"x" * 200, 1))])
        theirs.sendall(b"".join(framed(codec.encode(word)) for word in (first, heavy)))
        ours.setblocking(False)
        await child._read(ours)
    assert told == [first]
    assert "could not be dealt with" in child.cause


@given(st.binary(min_size=1, max_size=30))
def test_bytes_that_make_no_sense_are_told_apart_from_words(data: bytes) -> None:
    with pytest.raises((codec.Garbled, TooLong)):
        for message in Frames().feed(framed(data)):
            codec.word_of(message)


def test_of_what_a_dying_child_prints_the_reason_is_kept() -> None:
    said = Lines("m")
    said.feed(b"loading\nCUDA error: out of luck\nFatal Python error: Aborted\n\nThread 0x1 (most recent")
    said.feed(b" call first):\n  File x\nExtension modules: y\n")
    said.end()
    assert said.last == "CUDA error: out of luck"
    bare = Lines("m")
    bare.feed(
        textwrap.dedent("""\
        Fatal Python error: Segmentation fault

        Current thread 0x1 (most recent call first):
    """).encode()
    )
    assert bare.last == "Fatal Python error: Segmentation fault"


# -- again and again --------------------------------------------------------------------------


@pytest.mark.slow
async def test_twenty_deaths_leave_nothing_behind(temporary: Path) -> None:
    def held() -> tuple[int, int, int]:
        fds = list(Path("/proc/self/fd").iterdir())
        return len(fds), len(list(Path("/proc/self/task").iterdir())), len(folders(temporary))

    async with working() as worker:
        after: list[tuple[int, int, int]] = []
        for _ in range(20):
            pid = await bring(worker)
            async with worker.generate("m", [Job(0, "x", NEUTRAL)]) as mailbox:
                await mailbox.take()
                child = worker._children["m"]
                os.kill(pid, signal.SIGKILL)
                await everything(mailbox)
                await child.over.wait()
            assert not alive(pid)
            after.append(held())
        assert after[-1] <= after[2], after
        assert (worker._children, worker._residents, worker._replies) == ({}, {}, {})


def test_a_child_is_made_of_what_its_neuron_is_made_of_wherever_another_cortex_lies(tmp_path: Path) -> None:
    """Both ends of the line are one build: an installed one does not come before the checkout that runs."""
    room = tmp_path / "cortex" / "harness" / "hosts"
    room.mkdir(parents=True)
    for folder in (room, room.parent, room.parent.parent):
        (folder / "__init__.py").touch()
    (room / "child.py").write_text("def main(told):\n    print('ours')\n")
    plan = spawn.Plan(model="m", device="cpu", factory="x:y", path=[str(tmp_path), *spawn._path()])
    done = subprocess.run(spawn.command(plan), capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout == "ours\n"


async def test_a_child_of_another_build_than_its_neuron_says_so_and_takes_no_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An upgrade under a neuron that runs: what the one says would be another message to the other. It is
    not held against the model."""
    monkeypatch.setattr(codec, "BUILD", "another")
    crashes: list[Crash] = []
    async with working() as worker:
        worker.on_crash = crashes.append
        with pytest.raises(LoadFailed, match=r"another build .*; restart the neuron"):
            await bring(worker)
    assert [crash.shot for crash in crashes] == [True]
