"""The contract of harness/base.py, held by every kind of engine that can run here.

The engine is driven as a device's thread drives it: blocking, one turn after another. An
upstream's engine runs against real servers; what such a server does not tell (tokens of a text,
counts before the end) is excused in one place each. exllamav2 runs on a card, else emulated where
that is opted for.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from cortex.ask import Sampling
from cortex.demo import GGUF, HF
from cortex.errors import BadAsk, LoadFailed, PromptTooLong, Unsupported
from cortex.events import EngineEvent, Failed, Prefilled, Started, Stopped, Tokens, Usage
from cortex.harness.base import Engine, Harness, Job, LoadOrder, Said
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.scripted import Script, ScriptedHarness
from tests.contract.upstream_cases import SERVERS, Upstream, serving, why_not
from tests.exllamav2 import place

GREEDY = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
WILD = replace(GREEDY, temperature=2.0)  # the most that a request may ask for
CONTEXT, SLOTS = 512, 3


def asked(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


FRANCE = asked("What is the capital of France?")
GREEK = "Καλημέρα 😀 ναι"


class Bell:
    """What `ring` rings."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        self._rung.set()

    def wait(self) -> None:
        assert self._rung.wait(20), "the engine has work and does not ring"
        self._rung.clear()


@dataclass
class Bench:
    """One engine, and the means to drive it."""

    harness: Harness
    order: LoadOrder
    engine: Engine
    bell: Bell
    reference: Engine | None = None  # who knows the tokens of an upstream's model

    @property
    def elsewhere(self) -> bool:
        return self.reference is not None

    def tokenise(self, text: str) -> tuple[int, ...]:
        return (self.reference or self.engine).tokenise(text)

    def turn(self) -> list[Said]:
        while not self.engine.restless():
            self.bell.wait()
        return list(self.engine.turn())

    def until(self, ids: set[int]) -> list[Said]:
        """Turns until each of `ids` has ended."""
        said: list[Said] = []
        deadline = time.monotonic() + 30
        while ids - {job for job, event in said if isinstance(event, Stopped | Failed)}:
            assert time.monotonic() < deadline
            said += self.turn()
        return said

    def run(self, *jobs: Job) -> list[list[EngineEvent]]:
        for job in jobs:
            self.engine.submit(job)
        said = self.until({job.id for job in jobs})
        return [[event for job_id, event in said if job_id == job.id] for job in jobs]

    def answer(self, job: Job) -> tuple[bytes, Stopped]:
        (events,) = self.run(job)
        stopped = events[-1]
        assert isinstance(stopped, Stopped), events
        return spoken(events), stopped

    def idle(self) -> bool:
        """Nothing more comes: a moment is given to engines with threads of their own."""
        time.sleep(0.02)
        return not self.engine.restless()


def spoken(events: list[EngineEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Tokens))


def never(done: int, total: int) -> bool:
    return False


def order_for(name: str, upstream: Upstream | None) -> LoadOrder:
    if name == "exllamav2":
        return LoadOrder(name, HF, "cuda:0", CONTEXT, SLOTS, options={"chunk": 256})
    path = GGUF.with_name("no-weights") if name == "scripted" else GGUF
    options: dict[str, str | int | bool] = {"threads": 1} if name == "llamacpp" else {}
    if upstream is not None:
        options = {**upstream.options}
    return LoadOrder(name, path, "cpu", CONTEXT, SLOTS, options=options)


def harness_for(name: str, upstream: Upstream | None, script: Script | None = None) -> Harness:
    if upstream is not None:
        return upstream.harness
    if name == "exllamav2":
        return place.harness()
    return ScriptedHarness(script) if name == "scripted" else LlamaCppHarness()


Open = Callable[..., Bench]


@pytest.fixture(scope="module")
def reference() -> Iterator[Engine]:
    """The demo model here, for the tokens that a server does not tell."""
    engine = LlamaCppHarness().load(order_for("llamacpp", None), never, lambda: None)
    yield engine
    engine.unload()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Upstream]]:
    """The server of a name, started once."""
    with ExitStack() as stack:
        running: dict[str, Upstream] = {}

        def server(name: str) -> Upstream:
            if name not in running:
                folder = str(tmp_path_factory.mktemp(name))
                running[name] = stack.enter_context(serving(name, folder, CONTEXT, 2 * SLOTS))
            return running[name]

        yield server


EXLLAMAV2 = pytest.param("exllamav2", marks=pytest.mark.gpu)


@pytest.fixture(params=["scripted", "llamacpp", EXLLAMAV2, *SERVERS])
def open_bench(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Loads the engine under test; a `script` is for the scripted one alone."""
    benches: list[Bench] = []
    upstream, known = None, None
    if request.param in SERVERS:
        if (reason := why_not(request.param)) is not None:
            pytest.skip(reason)
        upstream = request.getfixturevalue("servers")(request.param)
        known = request.getfixturevalue("reference")
    elif request.param == "exllamav2" and (reason := place.why_not()) is not None:
        pytest.skip(reason)

    def load(script: Script | None = None) -> Bench:
        harness, bell = harness_for(request.param, upstream, script), Bell()
        order = order_for(request.param, upstream)
        if (reason := harness.unavailable()) is not None:
            pytest.skip(str(reason))
        bench = Bench(harness, order, harness.load(order, never, bell.ring), bell, known)
        benches.append(bench)
        return bench

    yield load
    for bench in benches:
        bench.engine.unload()


def test_what_is_loaded_is_what_was_promised(open_bench: Open) -> None:
    bench = open_bench()
    promised, facts = bench.harness.preflight(bench.order), bench.engine.facts
    assert (facts.context, facts.slots) == (promised.context, SLOTS)
    assert facts.bytes >= promised.weights_bytes
    assert (facts.bytes == 0) is bench.elsewhere
    assert facts.chats is bench.elsewhere
    assert promised.trained_context >= promised.context


def test_events_come_in_order_and_end_once(open_bench: Open) -> None:
    (events,) = open_bench().run(Job(7, FRANCE, GREEDY))
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Started, Prefilled]
    assert kinds[-1] is Stopped
    assert set(kinds[2:-1]) == {Tokens}


def test_counts_agree_with_each_other(open_bench: Open) -> None:
    bench = open_bench()
    (events,) = bench.run(Job(1, FRANCE, GREEDY))
    usage = events[-1].usage
    assert sum(event.count for event in events if isinstance(event, Tokens)) == usage.completion > 0
    assert usage.prompt == len(bench.tokenise(FRANCE))
    # An upstream tells at the end.
    assert events[1].prompt_tokens == (0 if bench.elsewhere else usage.prompt)


def test_text_and_its_ids_are_the_same_prompt(open_bench: Open) -> None:
    bench = open_bench()
    ids = bench.tokenise(FRANCE)
    assert bench.answer(Job(1, FRANCE, GREEDY))[0] == bench.answer(Job(2, ids, GREEDY))[0] != b""


def test_text_beyond_ascii_comes_whole(open_bench: Open) -> None:
    greek = asked("Say something in Greek.")
    for script in (Script(reply="Καλημέρα 😀!"), Script(reply="Καλημέρα 😀!", split=True)):
        answer, _ = open_bench(script).answer(Job(1, greek, GREEDY))
        assert answer.decode("utf-8").startswith("Καλημέρα")


def test_a_tokeniser_reads_any_text_or_says_that_it_is_not_here(open_bench: Open) -> None:
    bench = open_bench()
    if bench.elsewhere:
        for question in (lambda: bench.engine.tokenise("a"), lambda: bench.engine.detokenise((1,))):
            with pytest.raises(Unsupported, match="tokenizer is not here"):
                question()
        return
    assert bench.tokenise("") == ()
    for text in (GREEK, "a\0b", " " * 9, "<|im_start|>"):
        assert len(bench.tokenise(text)) > 0
        assert bench.tokenise(text) == bench.tokenise(text)


def tokenising(bench: Bench) -> Bench:
    if bench.elsewhere:
        pytest.skip("an upstream's tokenizer is not here")
    return bench


def test_ids_become_the_text_that_they_were(open_bench: Open) -> None:
    engine = tokenising(open_bench()).engine
    for text in ("", GREEK, "a b  c", FRANCE):
        assert engine.detokenise(engine.tokenise(text)) == text


def test_ids_that_end_within_a_character_become_text_all_the_same(open_bench: Open) -> None:
    engine = tokenising(open_bench(Script(split=True))).engine
    ids = engine.tokenise("Ж" * 5)
    assert isinstance(engine.detokenise(ids[:1]), str)
    assert isinstance(engine.detokenise(ids[1:]), str)


@pytest.mark.parametrize("number", [-1, 2**62, 10**30])
def test_a_number_that_is_no_token_is_refused(open_bench: Open, number: int) -> None:
    with pytest.raises(BadAsk, match="no token"):
        tokenising(open_bench()).engine.detokenise((number,))


def test_memory_is_measured_again_and_is_no_less_than_promised(open_bench: Open) -> None:
    bench = open_bench()
    promised, memory = bench.harness.preflight(bench.order), bench.engine.memory()
    assert (memory.weights_bytes, memory.cache_bytes) == (promised.weights_bytes, promised.cache_bytes)
    if bench.harness.name == "exllamav2":
        return  # what it promises beside these is measured on a card: tests/gpu/bench_lifetimes.py
    assert bench.engine.facts.bytes >= promised.bytes
    assert memory.bytes >= promised.bytes


@pytest.mark.parametrize("limit", [1, 3])
def test_max_tokens_ends_with_length(open_bench: Open, limit: int) -> None:
    _, stopped = open_bench().answer(Job(1, FRANCE, GREEDY, max_tokens=limit))
    assert (stopped.reason, stopped.usage.completion) == ("length", limit)


@pytest.mark.parametrize("limit", [2**31, 2**32 + 5, 10**12])
def test_more_tokens_than_any_context_holds_cut_nothing(open_bench: Open, limit: int) -> None:
    bench = open_bench()
    whole, stopped = bench.answer(Job(1, FRANCE, GREEDY))
    assert bench.answer(Job(2, FRANCE, GREEDY, max_tokens=limit))[0] == whole
    assert stopped.reason == "stop"


def test_no_tokens_asked_for_is_no_tokens_said(open_bench: Open) -> None:
    answer, stopped = open_bench().answer(Job(1, FRANCE, GREEDY, max_tokens=0))
    assert (answer, stopped.reason, stopped.usage.completion) == (b"", "length", 0)
    assert stopped.usage.prompt > 0


def test_without_a_limit_an_answer_runs_to_the_end_of_the_context(open_bench: Open) -> None:
    bench = open_bench(Script(endless=True, tokens_per_turn=50))
    _, stopped = bench.answer(endless(bench, 1))
    assert stopped.reason == "length"
    assert stopped.usage.prompt + stopped.usage.completion == CONTEXT


def endless(bench: Bench, number: int, **more: object) -> Job:
    """A job that does not stop by itself: every token is the same one."""
    token = bench.tokenise("a")[0]
    return Job(number, FRANCE, replace(GREEDY, logit_bias={token: 100.0}), **more)


def test_a_prompt_that_does_not_fit_fails_with_both_numbers_before_it_starts(open_bench: Open) -> None:
    bench = open_bench()
    (events,) = bench.run(Job(1, FRANCE * 100, GREEDY))
    assert [type(event) for event in events] == [Failed]
    error = events[0].error
    assert isinstance(error, PromptTooLong)
    assert error.facts == {
        "prompt_tokens": len(bench.tokenise(FRANCE * 100)),
        "context_length": CONTEXT,
    }
    assert bench.answer(Job(2, FRANCE, GREEDY, max_tokens=2))[1].usage.completion == 2


@pytest.mark.parametrize("prompt", ["", ()])
def test_an_empty_prompt_is_refused(open_bench: Open, prompt: str | tuple[int, ...]) -> None:
    (events,) = open_bench().run(Job(1, prompt, GREEDY))
    assert [type(event) for event in events] == [Failed]
    assert isinstance(events[0].error, BadAsk)


def test_a_cancelled_job_ends_at_the_next_step_and_frees_its_slot(open_bench: Open) -> None:
    bench = open_bench(Script(endless=True))
    bench.engine.submit(endless(bench, 1))
    said: list[Said] = []
    while not any(isinstance(event, Tokens) for _, event in said):
        said += bench.turn()
    bench.engine.cancel(1)
    last = bench.until({1})[-1][1]
    assert isinstance(last, Stopped)
    assert last.reason == "stop"
    assert last.usage.completion < 400
    for number in range(2, 2 + SLOTS):
        bench.engine.submit(endless(bench, number, max_tokens=2))
    bench.until(set(range(2, 2 + SLOTS)))


def test_a_job_is_cancelled_before_it_has_said_anything(open_bench: Open) -> None:
    bench = open_bench(Script(endless=True))
    bench.engine.submit(endless(bench, 1))
    bench.engine.cancel(1)
    said = bench.until({1})
    assert isinstance(said[-1][1], Stopped)
    assert sum(isinstance(event, Stopped | Failed) for _, event in said) == 1
    assert bench.idle()


def test_cancelling_what_is_unknown_or_over_is_no_error(open_bench: Open) -> None:
    bench = open_bench()
    bench.engine.cancel(99)
    bench.answer(Job(1, FRANCE, GREEDY, max_tokens=1))
    bench.engine.cancel(1)
    assert bench.idle()


def test_one_job_more_than_there_are_slots_is_a_bug(open_bench: Open) -> None:
    bench = open_bench(Script(endless=True))
    for number in range(SLOTS):
        bench.engine.submit(endless(bench, number))
    with pytest.raises(RuntimeError, match=f"more than {SLOTS}"):
        bench.engine.submit(endless(bench, SLOTS))


def test_jobs_beside_each_other_say_what_each_says_alone(open_bench: Open) -> None:
    """Greedy decoding does not depend on the company."""
    bench = open_bench()
    questions = [asked(f"What is the capital of {name}?") for name in ("France", "Italy", "Japan")]
    alone = [bench.answer(Job(n, question, GREEDY))[0] for n, question in enumerate(questions)]
    for round_ in range(1, 6):
        together = bench.run(
            *(Job(10 * round_ + n, question, GREEDY) for n, question in enumerate(questions))
        )
        assert [spoken(events) for events in together] == alone


def test_the_same_seed_says_the_same(open_bench: Open) -> None:
    bench = open_bench()
    jobs = [Job(n, FRANCE, replace(WILD, seed=11), max_tokens=12) for n in range(3)]
    answers = [bench.answer(job)[0] for job in jobs]
    assert len(set(answers)) == 1


def test_a_bias_forces_a_token_and_bans_one(open_bench: Open) -> None:
    bench = open_bench()
    plain, _ = bench.answer(Job(1, FRANCE, GREEDY, max_tokens=4))
    (token,) = bench.tokenise("a")
    forced, _ = bench.answer(Job(2, FRANCE, replace(GREEDY, logit_bias={token: 100.0}), max_tokens=4))
    assert forced == b"aaaa"
    first = bench.tokenise(plain.decode())[0]
    banned, _ = bench.answer(Job(3, FRANCE, replace(GREEDY, logit_bias={first: -100.0}), max_tokens=4))
    assert banned[:3] != plain[:3]


@pytest.mark.parametrize("alternatives", [0, 1, 3])
def test_logprobs_come_with_as_many_alternatives_as_asked_for(open_bench: Open, alternatives: int) -> None:
    (events,) = open_bench().run(Job(1, FRANCE, GREEDY, max_tokens=3, logprobs=alternatives))
    scored = [each for event in events if isinstance(event, Tokens) for each in event.logprobs]
    assert len(scored) == 3
    assert all(len(each.top) == alternatives and each.logprob <= 0 for each in scored)
    assert "".join(each.text for each in scored).encode() == spoken(events)


def test_without_logprobs_none_are_said(open_bench: Open) -> None:
    (events,) = open_bench().run(Job(1, FRANCE, GREEDY, max_tokens=3))
    assert not any(event.logprobs for event in events if isinstance(event, Tokens))


def test_unload_ends_what_is_live_and_leaves_no_thread(open_bench: Open) -> None:
    before = threading.active_count()
    bench = open_bench(Script(endless=True))
    for number in range(SLOTS):
        bench.engine.submit(endless(bench, number))
    bench.turn()
    bench.engine.unload()
    assert threading.active_count() == before


def test_a_load_that_is_given_up_leaves_nothing(open_bench: Open, tmp_path, monkeypatch) -> None:
    bench = open_bench()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = threading.active_count()
    reports: list[tuple[int, int]] = []
    bench.harness.load(bench.order, lambda *bytes_: bool(reports.append(bytes_)), bench.bell.ring).unload()
    assert [done <= total for done, total in reports] == [True] * len(reports)
    assert len(reports) >= 2
    # How often neighbours have a turn while a server is asked depends on the server.
    for patience in range(2 if bench.elsewhere else len(reports)):
        answers = iter([False] * patience + [True])
        with pytest.raises(LoadFailed, match="given up"):
            bench.harness.load(bench.order, lambda *_, told=answers: next(told), bench.bell.ring)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_usage_of_a_cancelled_job_is_told(open_bench: Open) -> None:
    bench = open_bench(Script(endless=True))
    bench.engine.submit(endless(bench, 1))
    said: list[Said] = []
    while sum(event.count for _, event in said if isinstance(event, Tokens)) < 5:
        said += bench.turn()
    bench.engine.cancel(1)
    said += bench.until({1})
    usage = said[-1][1].usage
    assert usage == Usage(
        # Nobody told an upstream's engine before it hung up: four bytes of the request are one.
        prompt=usage.prompt if bench.elsewhere else len(bench.tokenise(FRANCE)),
        cached=usage.cached,
        completion=sum(event.count for _, event in said if isinstance(event, Tokens)),
        estimated=bench.elsewhere,
    )
    assert usage.prompt > 0


def test_two_engines_live_side_by_side(open_bench: Open) -> None:
    one, other = open_bench(), open_bench()
    answers = [bench.answer(Job(1, FRANCE, GREEDY))[0] for bench in (one, other, one)]
    assert len(set(answers)) == 1
    one.engine.unload()
    assert other.answer(Job(2, FRANCE, GREEDY))[0] == answers[0]
