"""What a turn brings reaches its readers at once: one wake-up of trio, and no task of theirs."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cortex.ask import Sampling
from cortex.errors import EngineFailed
from cortex.events import EngineEvent, Failed, Stopped, Tokens
from cortex.harness.base import EngineFacts, Job, Memory
from cortex.harness.hosts.thread import ThreadHost
from cortex.harness.orders import Heard, Word
from cortex.harness.scripted import Gate, Script, ScriptedHarness, scripted_order
from cortex.harness.seats import Batch, Mailbox, Seated, Seats
from cortex.harness.worker import DeviceWorker

STREAMS = 32
WORD, END = Tokens(b"word", 1), Stopped("stop")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def seats(*mailboxes: Mailbox) -> Seats:
    """A resident with a live job for each; the job's id is its number."""
    made = Seats("m", EngineFacts(Memory(0), context=100, slots=len(mailboxes)))
    for number, mailbox in enumerate(mailboxes):
        made.live[number] = Seated(Job(number, "x", Sampling()), mailbox, 0)
    return made


def turn(resident: Seats, *said: tuple[int, EngineEvent]) -> None:
    """The engine had a turn, in which its jobs said this."""
    heard: dict[Mailbox, None] = {}
    resident.hear(said, heard)
    for mailbox in heard:
        mailbox.ring()


class Steps(trio.abc.Instrument):
    """How often tasks ran whose name begins with `name`."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.startswith(self.name)


async def pouring(mailbox: Mailbox, into: Callable[[Batch], bool]) -> None:
    await mailbox.pour(into)


async def test_a_turn_wakes_trio_once_and_no_reader_however_many_streams_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device's thread does not ask for a wake-up a stream, nor does one cost a switch of tasks."""
    heard: list[list[Batch]] = [[] for _ in range(STREAMS)]
    wakes: list[int] = []
    hand_over = ThreadHost._hand_over

    def counted(host: ThreadHost) -> None:
        wakes.append(len(host._words))
        hand_over(host)

    gate, worker = Gate(), DeviceWorker("cpu-dev-0")
    harness = ScriptedHarness(Script(endless=True, hold=gate))
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await nursery.start(worker.run)
        await worker.load(harness, scripted_order(slots=STREAMS))
        for each in heard:
            job = Job(0, "x", Sampling(temperature=0.0))
            mailbox = await stack.enter_async_context(worker.generate("scripted", [job]))
            nursery.start_soon(pouring, mailbox, lambda batch, each=each: each.append(batch) or True)
        monkeypatch.setattr(ThreadHost, "_hand_over", counted)
        await wait_all_tasks_blocked()
        steps = Steps(f"{__name__}.pouring")
        trio.lowlevel.add_instrument(steps)
        for number in range(1, 6):
            gate.let(1)
            while not all(len(each) == number for each in heard):  # noqa: ASYNC110 - the thread's word
                await trio.sleep(0.001)
        trio.lowlevel.remove_instrument(steps)
        assert (wakes, steps.count) == ([1] * 5, 0)
        assert [batch[-1] for batch in heard[0]] == [(0, Tokens(data, 1)) for data in (b"0", *_numbers(4))]
        nursery.cancel_scope.cancel()


def _numbers(last: int) -> list[bytes]:
    return [b" %d" % number for number in range(1, last + 1)]


async def test_what_several_turns_brought_while_trio_was_away_is_handed_over_at_once() -> None:
    heard: list[Sequence[Word]] = []
    host = ThreadHost("cpu-dev-0", {}, heard.append)
    host._token = trio.lowlevel.current_trio_token()
    words = [Heard("m", [(0, Tokens(b"%d" % number, 1))]) for number in range(3)]
    for word in words:
        host._tell(word)
    await wait_all_tasks_blocked()
    assert heard == [words]


async def test_what_all_jobs_of_one_request_say_in_a_turn_is_handed_over_together() -> None:
    mailbox, heard = Mailbox(3), []
    resident = Seats("m", EngineFacts(Memory(0), context=100, slots=3))
    for number in range(3):
        resident.live[number] = Seated(Job(number, "x", Sampling()), mailbox, number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.pour, lambda batch: heard.append(batch) or True)
        await wait_all_tasks_blocked()
        turn(resident, (0, WORD), (1, WORD), (2, WORD))
        turn(resident, (2, WORD), (0, END), (1, END), (2, END))
    assert heard == [[(0, WORD), (1, WORD), (2, WORD)], [(2, WORD), (0, END), (1, END), (2, END)]]


async def test_what_came_before_is_handed_over_first_and_pouring_ends_with_the_last_job() -> None:
    mailbox, heard = Mailbox(1), []
    resident = seats(mailbox)
    turn(resident, (0, WORD))
    turn(resident, (0, WORD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.pour, lambda batch: heard.append(batch) or True)
        await wait_all_tasks_blocked()
        assert heard == [[(0, WORD), (0, WORD)]]
        turn(resident, (0, END))
    assert heard[1:] == [[(0, END)]]
    await mailbox.pour(heard.append)
    assert len(heard) == 2, "there is nothing more"


async def test_a_reader_that_has_enough_is_handed_nothing_more_until_it_comes_back() -> None:
    mailbox, heard = Mailbox(1), []
    resident = seats(mailbox)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.pour, heard.append)
        await wait_all_tasks_blocked()
        turn(resident, (0, WORD))
        turn(resident, (0, WORD))
        turn(resident, (0, END))
    assert heard == [[(0, WORD)]]
    await mailbox.pour(lambda batch: heard.append(batch) or True)
    assert heard == [[(0, WORD)], [(0, WORD), (0, END)]]


async def test_what_a_reader_raises_is_raised_where_it_reads_and_nowhere_else() -> None:
    """Whoever rings belongs to all streams of the device."""
    bad, good, heard = Mailbox(1), Mailbox(1), []
    resident = seats(bad, good)
    async with trio.open_nursery() as nursery:

        async def broken() -> None:
            with pytest.raises(ZeroDivisionError):
                await bad.pour(lambda batch: 1 / 0)

        nursery.start_soon(broken)
        nursery.start_soon(good.pour, lambda batch: heard.append(batch) or True)
        await wait_all_tasks_blocked()
        turn(resident, (0, WORD), (1, WORD))
        turn(resident, (0, END), (1, END))
    assert heard == [[(0, WORD)], [(0, END)]]


async def test_a_reader_that_is_cancelled_leaves_the_rest_to_the_next_one() -> None:
    mailbox, heard = Mailbox(1), []
    resident = seats(mailbox)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.pour, lambda batch: heard.append(batch) or True)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    turn(resident, (0, WORD))
    assert heard == []
    assert await mailbox.take() == [(0, WORD)]
    with trio.CancelScope() as gone:
        gone.cancel()
        turn(resident, (0, END))
        await mailbox.pour(lambda batch: heard.append(batch) or True)
    assert gone.cancelled_caught and heard == []
    assert await mailbox.take() == [(0, END)]


async def test_who_is_failed_all_at_once_hears_it_at_once_behind_what_was_said() -> None:
    """An unload, a fault, a device that is lost: no turn ends then."""
    mailbox, waiting, heard, error = Mailbox(1), Mailbox(1), [], EngineFailed("gone")
    resident = seats(mailbox)
    resident.waiting.append(Seated(Job(1, "x", Sampling()), waiting, 0))
    async with trio.open_nursery() as nursery:
        for each in (mailbox, waiting):
            nursery.start_soon(each.pour, lambda batch: heard.append(batch) or True)
        await wait_all_tasks_blocked()
        resident.hear([(0, WORD)], {})
        resident.fail_all(error, error)
    assert heard == [[(0, WORD), (0, Failed(error))], [(0, Failed(error))]]
