"""The engine against the real generator: whose turn it is, who waits, and what is left when it ends."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cortex.ask import Sampling, Shape
from cortex.errors import BadAsk, EngineFailed, LoadFailed, PromptTooLong
from cortex.events import EngineEvent, Failed, Prefilled, Started, Stopped, Tokens
from cortex.harness.base import Busy, Job, LoadOrder, Resettable
from cortex.harness.driven import Driven
from tests.exllamav2 import models
from tests.exllamav2.emulation import emulated_runtime, opt_in

opt_in()

GREEDY = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
CHUNK, CONTEXT, SLOTS = 256, 1024, 4
LONG = tuple(20 + at % 400 for at in range(900))
SHORT = tuple(range(40, 60))
LETTER = 60  # a token that a bias makes every answer of


@dataclass
class Bench:
    engine: Any
    rung: threading.Event

    def turn(self) -> list[tuple[int, EngineEvent]]:
        while not self.engine.restless():
            assert self.rung.wait(20), "it has work and does not ring"
            self.rung.clear()
        return list(self.engine.turn())

    def until(self, *ids: int) -> list[tuple[int, EngineEvent]]:
        said: list[tuple[int, EngineEvent]] = []
        deadline = time.monotonic() + 60
        while {*ids} - {job for job, event in said if isinstance(event, Stopped | Failed)}:
            assert time.monotonic() < deadline
            said += self.turn()
        return said

    def answer(self, job: Job) -> tuple[bytes, Stopped]:
        self.engine.submit(job)
        said = [event for _, event in self.until(job.id)]
        assert isinstance(said[-1], Stopped), said
        return b"".join(each.data for each in said if isinstance(each, Tokens)), said[-1]

    def started(self, job: Job) -> None:
        """It writes."""
        self.engine.submit(job)
        while not any(number == job.id and isinstance(event, Tokens) for number, event in self.turn()):
            pass

    @property
    def generator(self) -> Any:
        return self.engine._generator


def endless(number: int, prompt: tuple[int, ...] = SHORT, **more: Any) -> Job:
    return Job(number, prompt, replace(GREEDY, logit_bias={LETTER: 100.0}), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make(tmp_path_factory.mktemp("models") / "llama", "llama")


Load = Callable[..., Bench]


@pytest.fixture
def load(folder: Path) -> Iterator[Load]:
    from cortex.harness.exllamav2 import ExLlamaV2Harness

    benches: list[Bench] = []

    def load(**more: Any) -> Bench:
        rung = threading.Event()
        harness = ExLlamaV2Harness(runtime=emulated_runtime())
        engine = harness.load(order(folder, **more), lambda done, total: False, rung.set)
        benches.append(Bench(engine, rung))
        return benches[-1]

    yield load
    for bench in benches:
        bench.engine.unload()


def order(folder: Path, *, options: dict[str, Any] | None = None, **more: Any) -> LoadOrder:
    told = {"chunk": CHUNK, "attention": "paged", **(options or {})}
    return LoadOrder(**{"model": "m", "path": folder, "device": "cuda:0", "context": CONTEXT,
                        "slots": SLOTS, "options": told, **more})  # fmt: skip


def test_who_writes_waits_for_one_chunk_of_a_newcomer_at_most(load: Load) -> None:
    bench = load()
    bench.started(endless(1))
    bench.engine.submit(endless(2, LONG))
    turns = 0
    while True:
        said = bench.turn()
        assert any(job == 1 and isinstance(event, Tokens) for job, event in said)
        if any(job == 2 and isinstance(event, Prefilled) for job, event in said):
            break
        turns += any(job.sequences[0].kv_position for job in bench.generator.active_jobs[1:])
    assert turns >= len(LONG) // CHUNK


def test_long_newcomers_are_read_one_after_another_and_short_ones_together(load: Load) -> None:
    bench = load()
    for number in (1, 2):
        bench.engine.submit(endless(number, (number + 10, *LONG)))
    while len(bench.engine._ready) < 2:
        time.sleep(0)
    reading = 0
    while not all(not call.reading for call in bench.engine._live.values()):
        bench.turn()
        reading = max(reading, sum(not job.is_prefill_done() for job in bench.generator.active_jobs))
    assert reading == 1
    for number in (1, 2):
        bench.engine.cancel(number)
    bench.until(1, 2)
    for number in range(3, 3 + SLOTS):
        bench.engine.submit(endless(number, (number + 10, *SHORT)))
    while len(bench.engine._ready) < SLOTS:
        time.sleep(0)
    assert {job for job, event in bench.turn() if isinstance(event, Prefilled)} == set(range(3, 3 + SLOTS))


@pytest.mark.parametrize("when", ["unready", "ready", "waiting", "reading", "writing"])
def test_a_job_is_called_off_whatever_it_is_at(load: Load, when: str) -> None:
    bench = load()
    if when == "waiting":
        bench.engine.submit(endless(1, LONG))
    bench.engine.submit(endless(2, (11, *LONG)))
    match when:
        case "ready" | "waiting":
            while len(bench.engine._ready) < 1 + (when == "waiting"):
                time.sleep(0)
            if when == "waiting":
                bench.turn()
        case "reading":
            bench.turn()
            assert not bench.generator.active_jobs[0].is_prefill_done()
        case "writing":
            while not bench.engine._live[2].said:
                bench.turn()
    bench.engine.cancel(2)
    bench.engine.cancel(2)
    said = bench.until(2)
    assert [type(event) for job, event in said if job == 2 and isinstance(event, Stopped | Failed)] == [
        Stopped
    ]
    if when == "waiting":
        bench.engine.cancel(1)
        bench.until(1)
    assert not bench.generator.referenced_pages
    for number in range(3, 3 + SLOTS):
        bench.engine.submit(endless(number, max_tokens=2))
    bench.until(*range(3, 3 + SLOTS))


def test_what_raised_in_a_turn_is_forgotten_and_the_engine_says_what_it_said_before(load: Load) -> None:
    """Row 74."""
    bench = load()
    before = bench.answer(Job(1, LONG, GREEDY, max_tokens=8))[0]
    assert isinstance(bench.engine, Resettable)
    for _ in range(3):  # each with an answer between
        bench.started(endless(2))
        broken = bench.generator

        def iterate() -> None:
            raise RuntimeError("CUDA out of memory")

        broken.iterate = iterate
        with pytest.raises(RuntimeError, match="out of memory"):
            bench.turn()
        bench.engine.reset()
        assert bench.generator is not broken
        assert bench.answer(Job(3, LONG, GREEDY, max_tokens=8))[0] == before


def test_what_fails_while_another_model_loads_can_sample_again_on_many_threads(
    load: Load, folder: Path
) -> None:
    """The library loads in inference mode, and turns are taken meanwhile."""
    from cortex.harness.exllamav2 import ExLlamaV2Harness

    bench, broken = load(), []

    def progress(done: int, total: int) -> bool:
        if 0 < done < total and not broken:
            broken.append(bench.generator)
            bench.engine.reset()
        return False

    harness = ExLlamaV2Harness(runtime=emulated_runtime())
    harness.load(order(folder, model="other"), progress, lambda: None).unload()
    assert broken
    assert bench.generator is not broken[0]
    # As where the vocabulary is smaller than the model's rows, which are masked in place.
    bench.generator.tokenizer.get_vocab_size = lambda: models.VOCABULARY - 1
    for number in range(1, 1 + SLOTS):
        bench.engine.submit(Job(number, SHORT, GREEDY, max_tokens=3))
    ends = [event for _, event in bench.until(*range(1, 1 + SLOTS)) if isinstance(event, Stopped)]
    assert len(ends) == SLOTS


def test_no_thread_of_a_generator_outlives_it(load: Load) -> None:
    bench = load()
    threads = threading.active_count()
    for number in range(1, 1 + SLOTS):
        bench.engine.submit(endless(number))
    while not all(call.said for call in bench.engine._live.values()):
        bench.turn()
    assert threading.active_count() > threads + 1
    bench.engine.reset()
    assert threading.active_count() == threads + 1  # that which makes jobs ready


def test_an_answer_that_cannot_go_on_leaves_the_generator_where_no_token_ends_answers(load: Load) -> None:
    bench = load()
    for number in (1, 2):
        bench.started(endless(number))
    call = bench.engine._live[2]
    call.job.stop_tokens.clear()
    call.chooser._fault = "no way on"
    assert any(job == 2 and isinstance(event, Failed) for job, event in bench.until(2))
    assert [job.identifier for job in bench.generator.active_jobs] == [1]


def test_an_engine_that_fails_again_and_again_is_given_up(load: Load) -> None:
    bench = load()
    bench.engine.reset()
    bench.engine.reset()
    with pytest.raises(EngineFailed, match="no job ended"):
        bench.engine.reset()


def test_a_job_that_cannot_be_made_ready_fails_alone(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cortex.harness.exllamav2 import engine

    bench = load()
    bench.started(endless(1))

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine.sampling, "settings", broken)
    bench.engine.submit(endless(2))
    said = bench.until(2)
    (error,) = [event.error for job, event in said if job == 2]
    assert isinstance(error, EngineFailed)
    assert "a bug" in error.message
    assert any(record.getMessage() == "job.unready" for record in caplog.records)
    assert any(job == 1 for job, _ in bench.turn())


def test_prompts_are_refused_by_name(load: Load) -> None:
    bench = load()
    for job, kind, words in (
        (Job(1, (), GREEDY), BadAsk, "empty"),
        (Job(2, (5, 100_000), GREEDY), BadAsk, "100000 is no token"),
        (Job(3, LONG + LONG, GREEDY), PromptTooLong, "1800"),
        (Job(4, "half \ud800 of a pair", GREEDY), BadAsk, "surrogate"),
        (Job(5, SHORT, GREEDY, shape=Shape("json_schema", {"type": "nonsense"})), BadAsk, "response_format"),
    ):
        bench.engine.submit(job)
        ((number, event),) = bench.until(job.id)
        assert (number, type(event)) == (job.id, Failed)
        assert isinstance(event.error, kind), event.error
        assert words in event.error.message or words == event.error.param


def test_a_prompt_that_was_read_before_is_not_read_again(load: Load) -> None:
    bench = load()
    first, second = (bench.answer(Job(n, LONG, GREEDY, max_tokens=4)) for n in (1, 2))
    assert first[0] == second[0]
    assert (first[1].usage.cached, second[1].usage.prompt) == (0, len(LONG))
    assert second[1].usage.cached >= 3 * 256


def scores_of(bench: Bench, job: Job) -> list[float]:
    bench.engine.submit(replace(job, logprobs=0))
    said = [event for _, event in bench.until(job.id) if isinstance(event, Tokens)]
    return [score.logprob for event in said for score in event.logprobs]


@pytest.mark.parametrize("speculation", ["draftmodel", "ngram"])
def test_what_was_guessed_beyond_an_answer_is_nobodys_beginning(
    load: Load, folder: Path, speculation: str
) -> None:
    """An answer ends three tokens before a page's end; two of those guessed lie on the next page."""
    more = {"draft": folder} if speculation == "draftmodel" else {"options": {"speculation": "ngram"}}
    bench, name = load(model="quick", **more), f"iterate_{speculation}_gen"
    guesses: list[list[int]] = []
    guess = getattr(bench.generator, name)

    def overheard(results: Any) -> Any:
        guessed = guess(results)
        guesses.extend([] if guessed is None else guessed.tolist())
        return guessed

    setattr(bench.generator, name, overheard)
    bench.answer(Job(1, LONG[:254], GREEDY, max_tokens=1))
    beginning = tuple(guesses[0][2:])
    asked = Job(2, (*beginning, *range(200, 220)), GREEDY, max_tokens=2)
    assert scores_of(bench, asked) == pytest.approx(scores_of(load(), asked), abs=0.02)


def test_a_page_that_another_one_equals_is_nobodys_beginning(load: Load) -> None:
    """It was read, given to a job that did not come to write on it, and read elsewhere meanwhile."""
    bench = load(kv_tokens=CONTEXT)
    bench.answer(Job(1, LONG, GREEDY, max_tokens=1))
    for number in (2, 3):  # each takes as many pages as it may come to need
        bench.started(endless(number, SHORT[number:]))
    bench.engine.cancel(2)
    bench.engine.submit(Job(4, LONG, GREEDY, max_tokens=1))
    bench.until(4)
    bench.engine.cancel(3)
    bench.until(3)
    asked = Job(5, LONG[512:556], GREEDY, max_tokens=2)
    assert scores_of(bench, asked) == pytest.approx(scores_of(load(), asked), abs=0.02)


def test_a_text_begins_as_the_model_was_taught(load: Load, folder: Path, tmp_path: Path) -> None:
    begun = shutil.copytree(folder, tmp_path / "begun")
    told = json.loads((begun / "tokenizer_config.json").read_text())
    told |= {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    (begun / "tokenizer_config.json").write_text(json.dumps(told))
    plain, begins = load(), load(model="begun", path=begun)
    wanted = scores_of(plain, Job(1, "<|endoftext|>def", GREEDY, max_tokens=2))
    assert scores_of(begins, Job(1, "def", GREEDY, max_tokens=2)) == pytest.approx(wanted, abs=0.02)
    assert scores_of(plain, Job(2, "def", GREEDY, max_tokens=2)) != pytest.approx(wanted, abs=0.02)


def test_asked_for_nothing_it_says_nothing(load: Load) -> None:
    bench = load()
    bench.engine.submit(Job(1, SHORT, GREEDY, max_tokens=0))
    assert [type(event) for _, event in bench.until(1)] == [Started, Prefilled, Stopped]


def test_scores_are_the_models_own_whatever_bias_says(load: Load) -> None:
    bench = load()
    told = []
    for number, bias in ((1, None), (2, {LETTER: -50.0})):
        job = Job(number, SHORT, replace(GREEDY, logit_bias=bias), max_tokens=1, logprobs=3)
        bench.engine.submit(job)
        events = [event for _, event in bench.until(number)]
        told.append(next(event.logprobs[0] for event in events if isinstance(event, Tokens)))
    assert told[0].top == told[1].top


@pytest.mark.parametrize("speculation", ["draft", "ngram"])
def test_guessing_ahead_changes_no_word_and_no_count(load: Load, folder: Path, speculation: str) -> None:
    plain = load()
    prompt = SHORT * 20
    wanted, _ = plain.answer(Job(1, prompt, GREEDY, max_tokens=21, logprobs=1))
    more = {"draft": folder} if speculation == "draft" else {"options": {"speculation": "ngram"}}
    quick = load(model="quick", **more)
    calls = 0
    said, stopped = b"", None
    quick.engine.submit(Job(1, prompt, GREEDY, max_tokens=21, logprobs=1))
    scores = 0
    while stopped is None:
        calls += 1
        for _, event in quick.turn():
            if isinstance(event, Tokens):
                said += event.data
                scores += len(event.logprobs)
            stopped = event if isinstance(event, Stopped) else stopped
    assert (said, stopped.reason, stopped.usage.completion) == (wanted, "length", 21)
    assert scores == 21
    if speculation == "draft":
        assert calls < 21  # a model guesses itself well


@pytest.mark.parametrize("speculation", [None, "draft", "ngram"])
def test_answers_end_where_the_context_does_whatever_is_asked(
    load: Load, folder: Path, speculation: str | None
) -> None:
    more = {"draft": folder} if speculation == "draft" else {}
    bench = load(options={"speculation": "ngram"} if speculation == "ngram" else {}, **more)
    for number, length in enumerate((CONTEXT - 1, CONTEXT - 5, CONTEXT - 7)):
        prompt = tuple(range(100, 100 + number)) + LONG + LONG
        for most in (None, 10**6):
            stopped = bench.answer(endless(number, prompt[:length], max_tokens=most))[1]
            assert (stopped.reason, stopped.usage.completion) == ("length", CONTEXT - length)


def test_a_prompt_is_learnt_for_guesses_a_chunk_at_a_time(load: Load) -> None:
    bench = load(options={"speculation": "ngram"})
    bench.engine.submit(endless(1, LONG))
    learnt = [0]
    while learnt[-1] < len(LONG):
        bench.turn()
        learnt.append(max((job.ngram_position for job in bench.generator.active_jobs), default=0))
        assert learnt[-1] - learnt[-2] <= CHUNK
    assert len(learnt) > len(LONG) // CHUNK


def test_what_repeats_is_guessed(load: Load) -> None:
    bench = load(options={"speculation": "ngram"})
    bench.engine.submit(endless(1, (50, 51), max_tokens=40))
    turns = 0
    while True:
        turns += 1
        if any(isinstance(event, Stopped) for _, event in bench.turn()):
            break
    assert turns <= 12  # five at a time
    round_ = (*range(40, 60), *range(40, 60), *range(40, 45))
    job = bench.engine._loaded.job(input_ids=bench.engine._library.torch.tensor([round_]), max_new_tokens=9)
    bench.generator._learn(job)
    assert bench.generator._guess(job) == [45, 46, 47, 48]


def test_jobs_share_a_cache_when_the_order_says_so(load: Load) -> None:
    assert load().engine.facts.kv_tokens is None
    facts = load(model="shared", kv_tokens=2048).engine.facts
    assert (facts.kv_tokens, facts.kv_tokens_total) == (2048, 2048)


def test_unpaged_attention_serves_one_job_at_a_time_and_says_the_same(load: Load) -> None:
    bench = load(model="unpaged", options={"attention": "unpaged"})
    assert bench.engine.facts.slots == 1
    paged = load()
    for number, prompt in enumerate((SHORT, LONG)):
        job = Job(number, prompt, GREEDY, max_tokens=8)
        assert bench.answer(job)[0] == paged.answer(job)[0]


def test_adapters_do_what_merged_weights_would(load: Load, folder: Path, tmp_path: Path) -> None:
    merged, adapter = models.adapted(folder, tmp_path)
    job = Job(1, SHORT, GREEDY, max_tokens=8, logprobs=2)
    plain, adapted, reference = (
        bench.answer(job)[0]
        for bench in (load(), load(model="adapted", lora=(adapter,)), load(model="merged", path=merged))
    )
    assert adapted == reference != plain


def test_a_model_that_computes_no_numbers_is_refused(folder: Path, tmp_path: Path) -> None:
    from cortex.harness.exllamav2 import ExLlamaV2Harness

    sick = models.poisoned(folder, tmp_path / "sick")
    with pytest.raises(LoadFailed, match="no numbers in half precision"):
        ExLlamaV2Harness(runtime=emulated_runtime()).load(order(sick), lambda *_: False, lambda: None)


def test_a_load_that_is_given_up_anywhere_leaves_no_memory_and_no_thread(folder: Path) -> None:
    from cortex.harness.exllamav2 import ExLlamaV2Harness

    runtime, reports = emulated_runtime(), []
    harness = ExLlamaV2Harness(runtime=runtime)
    harness.load(order(folder), lambda *bytes_: bool(reports.append(bytes_)), lambda: None).unload()
    runtime.give_back()
    threads, held = threading.active_count(), runtime.held_bytes([0])
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert all(done <= total for done, total in reports)
    for patience in range(len(reports)):
        answers = iter([False] * patience + [True])
        with pytest.raises(LoadFailed, match="given up"):
            harness.load(order(folder), lambda *_, told=answers: next(told), lambda: None)
        runtime.give_back()
        assert (threading.active_count(), runtime.held_bytes([0])) == (threads, held)


def test_an_unload_in_the_middle_of_everything_frees_all(load: Load) -> None:
    runtime = emulated_runtime()
    runtime.give_back()
    threads, held = threading.active_count(), runtime.held_bytes([0])
    bench = load(model="gone")
    assert runtime.held_bytes([0]) > held
    bench.started(endless(1))
    for number in (2, 3):
        bench.engine.submit(endless(number, LONG))
    bench.turn()
    bench.engine.unload()
    runtime.give_back()
    assert (threading.active_count(), runtime.held_bytes([0])) == (threads, held)


def test_a_job_that_is_being_made_ready_is_no_silence(load: Load) -> None:
    bench = load()
    assert isinstance(bench.engine, Busy)
    before = time.monotonic()
    bench.engine.submit(endless(1))
    assert before <= bench.engine.silent_since() <= time.monotonic()
    bench.engine.cancel(1)


def test_a_job_that_is_never_ready_is_a_silence_after_a_while(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cortex.harness.exllamav2 import engine

    bench, go_on = load(), threading.Event()
    monkeypatch.setattr(engine, "READY_S", 0.0)
    monkeypatch.setattr(engine.sampling, "check", lambda *_: go_on.wait(30))
    bench.engine.submit(endless(1))
    submitted = time.monotonic()
    while time.monotonic() == submitted:
        pass
    assert bench.engine.silent_since() <= submitted
    go_on.set()


def test_a_model_over_two_devices_is_split_as_room_was_reserved_and_says_the_same(
    folder: Path, tmp_path: Path, load: Load
) -> None:
    deep = models.make(tmp_path / "deep", "llama", layers=8)
    whole = load(path=deep)
    for shares, least, most in (
        ({"cuda:0": 2**30, "cuda:1": 2**30}, 0.3, 0.7),
        ({"cuda:0": 2**30, "cuda:1": 3 * 2**30}, 0.05, 0.45),
        ({"cuda:1": 2**30, "cuda:3": 2**30}, 0.0, 0.0),
    ):
        bench = load(path=deep, model="spread", device=next(iter(shares)), shares=shares)
        layers = [each for each in bench.engine._loaded.model.modules if hasattr(each, "layer_idx")]
        places = [each.device_idx for each in layers]
        assert places == sorted(places)
        assert set(places) == {int(name[-1]) for name in shares}
        assert least <= places.count(0) / len(places) <= most
        job = Job(1, LONG, GREEDY, max_tokens=6)
        assert bench.answer(job)[0] == whole.answer(job)[0]


def test_it_is_not_to_blame_for_what_happens_in_the_turns_of_others(load: Load) -> None:
    bench = load()
    driven, job = Driven("m", bench.engine, 1, ""), endless(1)
    driven.take(job)
    bench.started(job)
    assert driven.live
    assert not driven.computes
