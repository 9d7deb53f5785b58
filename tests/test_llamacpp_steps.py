"""Words of one step are heard in one turn, and nothing that is urgent waits for it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import trio

from cortex.ask import Sampling
from cortex.demo import GGUF
from cortex.events import Prefilled, Tokens
from cortex.harness.base import EngineFacts, Gathering, Job, LoadOrder, Memory
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.llamacpp import steps as module
from cortex.harness.llamacpp.engine import LlamaCppEngine
from cortex.harness.llamacpp.steps import Steps
from cortex.harness.seats import Batch
from cortex.harness.turns import SILENT_S
from cortex.harness.worker import DeviceWorker

STREAMS = 8
GREEDY = Sampling(0.0, 1.0, 0, 0.0, None, 0.0, 0.0, 1.0)


def made(
    monkeypatch: pytest.MonkeyPatch, writing: int, gather_s: float = 60.0
) -> tuple[Steps[str], list[int]]:
    """Steps of so many calls, and the rings so far, each with how many words were there."""
    monkeypatch.setattr(module, "GATHER_S", gather_s)
    rings: list[int] = []
    steps: Steps[str] = Steps(lambda: rings.append(len(steps._heard)))
    steps.writing = writing
    return steps, rings


def test_a_step_is_ready_when_every_call_that_writes_has_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, rings = made(monkeypatch, 3)
    assert not steps.ready and steps.due is None
    for word in "ab":
        steps.add(word, urgent=False)
        assert not steps.ready and steps.due is not None
    steps.add("c", urgent=False)
    assert steps.ready and rings == [1, 3], "nobody is woken for the words between"
    assert steps.take(10) == ["a", "b", "c"]
    assert not steps.ready and steps.due is None


def test_who_writes_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for writing in (0, 1):
        steps, rings = made(monkeypatch, writing)
        steps.add("a", urgent=False)
        assert steps.ready and rings == [1]


def test_what_is_urgent_takes_along_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, rings = made(monkeypatch, 8)
    steps.add("a", urgent=False)
    steps.add("first of another answer", urgent=True)
    assert steps.ready and rings == [1, 2]
    assert len(steps.take(10)) == 2
    steps.add("b", urgent=False)
    assert not steps.ready, "that was for once"


def test_a_call_that_says_nothing_in_a_step_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, _ = made(monkeypatch, 8, gather_s=0.0)
    steps.add("a", urgent=False)
    assert steps.ready and steps.due is not None and steps.due <= time.monotonic()


def test_a_turn_takes_no_more_than_it_is_told_and_the_rest_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, _ = made(monkeypatch, 4)
    for word in "abcdef":
        steps.add(word, urgent=False)
    assert steps.take(4) == ["a", "b", "c", "d"]
    steps.writing = 2
    assert steps.ready and steps.take(4) == ["e", "f"]


def test_two_who_speak_first_at_the_same_moment_do_not_leave_the_ring_to_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device's thread sleeps a second where nobody rings: it saw no word when it lay down."""
    steps, rings = made(monkeypatch, 8)

    class Between(deque[str]):
        def append(self, word: str) -> None:
            super().append(word)
            if word == "a":  # its thread is held up here, and another one has its say
                steps.add("b", urgent=False)

    steps._heard = Between()
    steps.add("a", urgent=False)
    assert rings
    assert steps.take(10) == ["a", "b"]
    rings.clear()
    steps.add("c", urgent=False)
    assert rings, "the next step begins anew"


def test_what_is_urgent_stays_so_whoever_adds_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, _ = made(monkeypatch, 8)

    class Asked:
        def __bool__(self) -> bool:  # between the look at it and what follows from that
            steps._urgent = False
            steps.add("an end", urgent=True)
            return False

    steps._urgent = Asked()  # type: ignore[assignment]
    steps.add("a", urgent=False)
    if isinstance(steps._urgent, Asked):
        bool(steps._urgent)
    assert steps.ready


def test_no_word_is_lost_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds the last word has rung, or the words are due: a turn always comes."""
    bell = threading.Semaphore(0)
    monkeypatch.setattr(module, "GATHER_S", 0.002)
    steps: Steps[int] = Steps(bell.release)
    steps.writing = STREAMS
    heard: list[int] = []

    def speak() -> None:
        for number in range(500):
            steps.add(number, urgent=number % 97 == 0)

    threads = [threading.Thread(target=speak) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while len(heard) < 500 * STREAMS and time.monotonic() < until:
        if not steps.ready:
            due = steps.due
            bell.acquire(timeout=SILENT_S if due is None else max(0.0, due - time.monotonic()))
        heard += steps.take(64)
    for thread in threads:
        thread.join()
    assert sorted(heard) == sorted(list(range(500)) * STREAMS)


def test_the_first_word_of_an_answer_waits_for_nobody_though_its_prompt_was_heard_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is what a client waits for, and no step of the others goes with it here."""
    monkeypatch.setattr(module, "GATHER_S", 60.0)
    rung, over, go_on = threading.Event(), threading.Event(), queue.SimpleQueue[bytes]()
    read = b'{"prompt_progress": {"total": 3, "cache": 0, "processed": 3, "time_ms": 1}}'
    words = [
        b'{"choices": [{"index": 0, "text": "%d"}], "__verbose": {"tokens_predicted": %d}}' % (number, number)
        for number in (1, 2)
    ]

    def complete(body: bytes, hear: Callable[[bytes], bool]) -> None:
        if b'"silent' in body:
            hear(read)
            hear(words[0])
            hear(words[1])
            over.wait()
            return
        while (said := go_on.get()) and not hear(said):
            pass

    listener = SimpleNamespace(tokenise=lambda text, as_prompt=False: (1,), close=lambda: None)
    header = SimpleNamespace(adds_bos=False, vocabulary=10, bos=None)
    facts = EngineFacts(Memory(0), context=100, slots=2)
    engine = LlamaCppEngine(
        complete,
        listener,  # type: ignore[arg-type]
        header,  # type: ignore[arg-type]
        facts,
        ring=rung.set,
        measure=lambda: Memory(0),
    )
    said: list[object] = []

    def turns(until: Callable[[], bool]) -> None:
        end = time.monotonic() + 5.0
        while not until():
            assert rung.wait(max(0.0, end - time.monotonic())), "nobody has rung"
            rung.clear()
            while engine.restless():
                said.extend(event for job, event in engine.turn() if job == 2)

    try:
        engine.submit(Job(1, "silent", GREEDY))
        turns(lambda: engine._live[1].predicted > 0)
        engine.submit(Job(2, "x", GREEDY))
        go_on.put(read)
        turns(lambda: any(isinstance(event, Prefilled) for event in said))
        go_on.put(words[0])
        turns(lambda: Tokens(b"1", 1) in said)
    finally:
        over.set()
        go_on.put(b"")
        engine.unload()


async def test_the_engines_words_come_many_at_a_time_and_none_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With llama.cpp itself: so long a wait that only whole steps and urgent words are heard."""
    monkeypatch.setattr(module, "GATHER_S", 30.0)
    batches: list[int] = []
    said = [0] * STREAMS

    async def listen(worker: DeviceWorker, number: int) -> None:
        def hear(batch: Batch) -> bool:
            said[number] += sum(event.count for _, event in batch if isinstance(event, Tokens))
            return True

        job = Job(0, f"{number}. The capital of France is", GREEDY, max_tokens=12)
        async with worker.generate("m", [job]) as mailbox:
            await mailbox.pour(hear)

    with trio.fail_after(25):
        async with trio.open_nursery() as nursery:
            worker = DeviceWorker("cpu-dev-0")
            await nursery.start(worker.run)
            await worker.load(LlamaCppHarness(), LoadOrder("m", GGUF, "cpu", 256, STREAMS))
            engine = worker._thread.loop._engines["m"].engine
            assert isinstance(engine, Gathering)
            take = engine._steps.take
            monkeypatch.setattr(engine._steps, "take", lambda most: batches.append(len(w := take(most))) or w)
            async with trio.open_nursery() as streams:
                for number in range(STREAMS):
                    streams.start_soon(listen, worker, number)
            nursery.cancel_scope.cancel()
    assert all(0 < count <= 12 for count in said)
    assert max(batches) >= STREAMS - 1
