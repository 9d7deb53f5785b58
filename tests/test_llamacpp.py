"""llama.cpp does what cortex promises: no default of its own, no lost error, nothing left behind.

The contract that it shares with other engines is in tests/contract.
"""

import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cortex.ask import Sampling, Shape
from cortex.demo import GGUF
from cortex.errors import BadAsk, EngineFailed, LoadFailed, PromptTooLong, Unfit, Unsupported
from cortex.events import EngineEvent, Failed, Prefilled, Stopped, Tokens
from cortex.harness.base import Job, LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness, allocator, asking, engine, loading
from cortex.harness.llamacpp.engine import LlamaCppEngine
from cortex.harness.llamacpp.listener import Listener
from cortex.weights import footprint, read_gguf
from tests.fake_gguf import PAIRS, Tensor, gguf

GREEDY = Sampling(0.0, 1.0, 0, 0.0, None, 0.0, 0.0, 1.0)
FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ORDER = LoadOrder("demo", GGUF, "cpu", 2048, 2, options={"threads": 1, "batch": 32})
HARNESS = LlamaCppHarness()

pytestmark = pytest.mark.skipif(HARNESS.unavailable() is not None, reason=str(HARNESS.unavailable()))


def never(done: int, total: int) -> bool:
    return False


class Driven:
    """An engine, driven to the end of each job."""

    def __init__(self, order: LoadOrder) -> None:
        self.bell = threading.Semaphore(0)
        self.engine: LlamaCppEngine = HARNESS.load(order, never, self.bell.release)

    def run(self, job: Job) -> list[EngineEvent]:
        self.engine.submit(job)
        heard: list[EngineEvent] = []
        while not heard or not isinstance(heard[-1], Stopped | Failed):
            assert self.bell.acquire(timeout=20)
            heard += [event for _, event in self.engine.turn()]
        return heard

    def text(self, job: Job) -> str:
        events = self.run(job)
        assert isinstance(events[-1], Stopped), events
        return b"".join(event.data for event in events if isinstance(event, Tokens)).decode()

    def error(self, job: Job) -> Exception:
        events = self.run(job)
        assert [type(event) for event in events] == [Failed], events
        return events[0].error


@pytest.fixture(scope="module")
def driven() -> Iterator[Driven]:
    driven = Driven(ORDER)
    yield driven
    driven.engine.unload()


def test_the_demo_model_answers(driven: Driven) -> None:
    assert driven.text(Job(1, FRANCE, GREEDY)) == "The capital of France is Paris."


def test_every_parameter_reads_back_as_it_was_set() -> None:
    """Names shift between releases; a setter that is gone must not go unnoticed."""
    listener = Listener()
    try:
        options = {"threads": 3, "batch": 64, "mmap": False}
        order = replace(ORDER, slots=3, context=700, cache="q8", options=options)
        promised = HARNESS.preflight(order)
        said = loading.parameters(order, promised, listener)
        assert said.model.path == str(GGUF)
        assert (said.n_parallel, said.n_ctx, said.n_batch, said.n_ubatch) == (3, 3 * 768, 64, 64)
        assert (said.cpuparams.n_threads, said.cpuparams_batch.n_threads) == (3, 3)
        assert (said.kv_unified, said.ctx_shift, said.fit_params, said.warmup) == (False,) * 4
        assert (said.cache_type_k.name, said.cache_type_v.name) == ("GGML_TYPE_Q8_0",) * 2
        assert said.load_mode.name == "LLAMA_LOAD_MODE_NONE"
        assert 1 <= said.cache_ram_mib <= 512
        assert said.verbosity == 0
        assert (said.hostnames, said.api_keys, said.n_threads_http) == ([listener.socket], [listener.key], 1)
        assert (said.endpoint_slots, said.ui, said.chat_template) == (
            False,
            False,
            "{{ messages[0].content }}",
        )
        assert dir(said) == dir(type(said)())  # no name was invented
    finally:
        listener.close()


def test_every_sampling_field_is_sent_and_neutral_by_default() -> None:
    said = asking.body(Job(1, "x", Sampling()), "x", 512)
    assert said["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]
    neutral = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repeat_last_n": 0,
        "dry_multiplier": 0.0,
        "xtc_probability": 0.0,
        "mirostat": 0,
        "dynatemp_range": 0.0,
        "logit_bias": [],
        "stop": [],
        "max_tokens": -1,
        "stream": True,
    }
    assert {key: said[key] for key in neutral} == neutral
    assert "json_schema" not in said
    assert "logprobs" not in said


def test_what_a_job_says_is_what_is_sent() -> None:
    sampling = Sampling(0.5, 0.9, 40, 0.05, 7, 0.1, 0.2, 1.1, {5: -2.0})
    said = asking.body(Job(1, "x", sampling, max_tokens=9, logprobs=0), (1, 2), 512)
    wanted = {
        "prompt": [1, 2],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repeat_penalty": 1.1,
        "repeat_last_n": 512,
        "logit_bias": [[5, -2.0]],
        "max_tokens": 9,
        "logprobs": 1,
    }
    assert {key: said[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("sampling", "same"),
    [
        (replace(GREEDY, temperature=4.0, seed=3, top_k=1), True),
        (replace(GREEDY, temperature=4.0, seed=3, top_p=1e-9), True),
        (replace(GREEDY, temperature=4.0, seed=3, min_p=1.0), True),
        (replace(GREEDY, temperature=20.0, seed=3), False),
        (replace(GREEDY, presence_penalty=100.0), False),
        (replace(GREEDY, frequency_penalty=100.0), False),
        (replace(GREEDY, repetition_penalty=50.0), False),
    ],
)
def test_each_sampling_field_works(driven: Driven, sampling: Sampling, same: bool) -> None:
    """A chain of one candidate is greedy however hot; penalties and heat change the text."""
    answer = driven.text(Job(1, FRANCE, sampling, max_tokens=12))
    assert (answer == "The capital of France is Paris.") is same


def test_seeds_differ_and_each_repeats(driven: Driven) -> None:
    def say(seed: int | None) -> str:
        return driven.text(Job(1, FRANCE, replace(GREEDY, temperature=20.0, seed=seed), max_tokens=12))

    assert say(1) == say(1) != say(2)
    assert say(-1) == say(-1)
    assert say(2**40 + 5) == say(2**40 + 5) != say(5)
    assert say(None) != say(None)


def test_a_schema_is_obeyed(driven: Driven) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    job = Job(1, FRANCE, GREEDY, shape=Shape("json_schema", schema), max_tokens=60)
    assert driven.text(job).replace(" ", "") == '{"city":"Paris"}'
    assert driven.text(job).replace(" ", "") == '{"city":"Paris"}'


def test_any_object_is_an_object(driven: Driven) -> None:
    said = driven.text(Job(1, FRANCE, GREEDY, shape=Shape("json_object"), max_tokens=8))
    assert said.startswith("{")


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "(("}, {"type": 7}]
)
def test_a_schema_that_the_engine_would_ignore_is_refused(driven: Driven, schema: dict) -> None:
    """It answers in prose otherwise, and nobody is told."""
    for _ in range(2):
        error = driven.error(Job(1, FRANCE, GREEDY, shape=Shape("json_schema", schema)))
        assert isinstance(error, Unsupported)
        assert error.param == "response_format"


def test_a_schema_with_a_prompt_that_is_too_long_fails_for_the_prompt(driven: Driven) -> None:
    schema = {"type": "object", "properties": {"only": {"const": "here"}}}
    job = Job(1, FRANCE * 300, GREEDY, shape=Shape("json_schema", schema))
    assert isinstance(driven.error(job), PromptTooLong)


def test_the_prompt_of_a_shaped_answer_is_told_as_read_once(driven: Driven) -> None:
    schema = {"type": "object", "properties": {"told": {"const": "once"}}, "required": ["told"]}
    prompt = FRANCE.replace("France", "a land of which nobody has asked before")
    events = driven.run(Job(1, prompt, GREEDY, max_tokens=3, shape=Shape("json_schema", schema)))
    prefilled = [event for event in events if isinstance(event, Prefilled)]
    assert len(prefilled) == 1
    assert prefilled[0].prompt_tokens - prefilled[0].cached_tokens > 5
    assert events[-1].usage.cached == prefilled[0].cached_tokens


@pytest.mark.parametrize(
    ("job", "param"),
    [
        (Job(1, FRANCE, replace(GREEDY, logit_bias={5000: 1.0})), "logit_bias"),
        (Job(1, FRANCE, replace(GREEDY, logit_bias={-1: 1.0})), "logit_bias"),
        (Job(1, (1, 999_999), GREEDY), "prompt"),
        (Job(1, (-4,), GREEDY), "prompt"),
        (Job(1, "a\ud800b", GREEDY), "prompt"),
    ],
)
def test_what_the_caller_got_wrong_names_the_field(driven: Driven, job: Job, param: str) -> None:
    error = driven.error(job)
    assert isinstance(error, BadAsk)
    assert error.param == param


def test_a_repeated_prompt_is_read_from_the_cache(driven: Driven) -> None:
    prompt = FRANCE.replace("capital", "old capital")
    first, second = (driven.run(Job(n, prompt, GREEDY, max_tokens=2))[-1].usage for n in (1, 2))
    assert second.cached == first.prompt - 1 > first.cached


def test_a_prompt_is_cancelled_while_it_is_read(driven: Driven) -> None:
    """Between two batches of the prompt, and before the first token."""
    prompt = driven.engine.tokenise("x y ") * 480
    driven.engine.submit(Job(1, tuple(prompt[:1900]), GREEDY))
    heard: list[EngineEvent] = []
    assert driven.bell.acquire(timeout=20)
    driven.engine.cancel(1)
    while not heard or not isinstance(heard[-1], Stopped | Failed):
        heard += [event for _, event in driven.engine.turn()]
    assert not any(isinstance(event, Tokens) for event in heard)


def test_each_batch_of_a_prompt_is_a_sign_of_life(driven: Driven) -> None:
    """Row 77: reading a long prompt says nothing to the client, and is no hang."""
    prompt = driven.engine.tokenise("y z ") * 480
    driven.engine.submit(Job(1, tuple(prompt[:1900]), GREEDY))
    signs: set[float] = set()
    heard: list[EngineEvent] = []
    while not any(isinstance(event, Prefilled) for event in heard):
        assert driven.bell.acquire(timeout=20)
        signs.add(driven.engine.silent_since())
        heard += [event for _, event in driven.engine.turn()]
    assert len(signs) > 10
    driven.engine.cancel(1)
    while not isinstance(heard[-1], Stopped | Failed):
        assert driven.bell.acquire(timeout=20)
        heard += [event for _, event in driven.engine.turn()]
    assert driven.engine.silent_since() >= max(signs)


def test_a_call_that_writes_and_then_says_nothing_is_silent_whoever_else_speaks() -> None:
    driven, stuck, go = Driven(ORDER), threading.Event(), threading.Event()
    real = driven.engine._complete
    assert real is not None

    def sticks(body: bytes, hear: Callable[[bytes], bool]) -> None:
        def once(chunk: bytes) -> bool:
            stop = hear(chunk)
            if b"verbose" in chunk and b"prompt_progress" not in chunk:
                stuck.set()
                go.wait(20)
            return stop

        real(body, once)

    driven.engine._complete = sticks
    driven.engine.submit(Job(1, FRANCE, GREEDY))
    assert stuck.wait(20)
    driven.engine._complete = real
    while driven.engine.restless():
        driven.engine.turn()
    since = driven.engine.silent_since()
    driven.engine.submit(Job(2, FRANCE, GREEDY, max_tokens=1))
    heard: list[tuple[int, EngineEvent]] = []
    while not any(at == 2 and isinstance(event, Stopped) for at, event in heard):
        assert driven.engine.silent_since() == since
        assert driven.bell.acquire(timeout=20)
        heard += driven.engine.turn()
    go.set()
    driven.engine.unload()


def test_a_large_prompt_that_is_cut_into_tokens_is_no_hang_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 77: the engine says nothing meanwhile, for as long as the prompt is large, and no longer."""
    driven, go = Driven(ORDER), threading.Event()
    monkeypatch.setattr(driven.engine, "_complete", lambda body, hear: go.wait(20))
    monkeypatch.setattr(engine, "COUNTING_S", 1e-3)
    driven.engine.submit(Job(1, "word " * 40, GREEDY))
    signs = {driven.engine.silent_since()}
    while len(signs) < 3:
        signs.add(driven.engine.silent_since())
    deadline = min(signs) + 0.2
    while time.monotonic() <= deadline + 0.01:
        driven.engine.silent_since()
    assert driven.engine.silent_since() == driven.engine.silent_since() <= deadline
    go.set()
    driven.engine.unload()


def test_special_tokens_are_understood(driven: Driven) -> None:
    assert len(driven.engine.tokenise("<|im_start|>")) == 1
    with pytest.raises(BadAsk, match="surrogate"):
        driven.engine.tokenise("\udfff")


def test_each_call_has_a_thread_with_a_name(driven: Driven) -> None:
    driven.run(Job(1, FRANCE, GREEDY, max_tokens=1))
    here = threading.current_thread().name
    assert f"{here}-slot-0" in {thread.name for thread in threading.enumerate()}


def test_a_bug_in_a_callback_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Driven(ORDER)

    class Broken(list):  # type: ignore[type-arg]
        def append(self, what: object) -> None:
            _, chunk = what  # type: ignore[misc]
            if isinstance(chunk, bytes):
                raise ZeroDivisionError
            super().append(what)

        def popleft(self) -> object:
            return self.pop(0)

    driven.engine._steps._heard = Broken()  # type: ignore[assignment]
    driven.engine.submit(Job(1, FRANCE, GREEDY))
    assert driven.bell.acquire(timeout=20)
    with pytest.raises(RuntimeError, match="call thread") as caught:
        driven.engine.turn()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    driven.engine.unload()


def test_what_the_engine_raises_fails_the_job() -> None:
    driven = Driven(ORDER)

    def refuse(body: bytes, hear: object) -> None:
        raise RuntimeError("the second form of an error")

    driven.engine._complete, kept = refuse, driven.engine._complete
    error = driven.error(Job(1, FRANCE, GREEDY))
    assert isinstance(error, EngineFailed)
    assert "second form" in error.message
    driven.engine._complete = lambda body, hear: None
    assert "without saying how" in str(driven.error(Job(2, FRANCE, GREEDY)))
    driven.engine._complete = kept
    assert driven.text(Job(3, FRANCE, GREEDY, max_tokens=1)) == "The"
    driven.engine.unload()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (asking.Fault("too much", 400, "exceed_context_size_error", 9, 5), PromptTooLong),
        (asking.Fault("failed to parse grammar", 400, "invalid_request_error"), BadAsk),
        (asking.Fault("Context size has been exceeded", 500, "server_error"), EngineFailed),
        (asking.Fault("?"), EngineFailed),
    ],
)
def test_errors_are_named_by_whose_fault_they_are(fault: asking.Fault, kind: type[Exception]) -> None:
    shape = Shape("json_object", param="text.format")
    error = asking.error_of(fault, shape)
    assert type(error) is kind
    assert (error.param == "text.format") is ("grammar" in fault.message)
    assert type(asking.error_of(fault, None)) is kind


def test_the_listener_is_private_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    driven = Driven(ORDER)
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_ISSOCK((folder / "e.sock").stat().st_mode)
    listener = driven.engine._listener
    key, listener.key = listener.key, "guessed"
    with pytest.raises(EngineFailed, match="401"):
        listener.tokenise("x")
    listener.key = key
    listener.tokenise("x")
    driven.engine.unload()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_a_killed_neuron_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the one of a neuron that lives is not."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "cortex-llamacpp-left"
    left.mkdir(mode=0o700)
    (left / "e.sock").touch()
    one, other = Listener(), Listener()
    assert sorted(tmp_path.iterdir()) == sorted([one.folder, other.folder])
    one.close()
    free = os.dup(0)
    # A second time closes nobody else's descriptor, though it has the number that was ours.
    one.close()
    os.close(free)
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_no_tcp_port_is_opened() -> None:
    def listening() -> set[str]:
        rows = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
        rows += Path("/proc/self/net/tcp6").read_text().splitlines()[1:]
        return {row.split()[9] for row in rows if row.split()[3] == "0A"}

    def own() -> set[str]:
        links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))
        return {link[8:-1] for link in links if link.startswith("socket:[")}

    driven = Driven(ORDER)
    assert listening() & own() == set()
    driven.engine.unload()


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_signals_stay_pythons() -> None:
    """The binding once took SIGINT and SIGTERM for itself."""

    def caught() -> tuple[str, ...]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return tuple(line for line in lines if line.startswith(("SigCgt", "SigIgn", "SigBlk")))

    before, handler = caught(), signal.getsignal(signal.SIGTERM)
    driven = Driven(ORDER)
    driven.run(Job(1, FRANCE, GREEDY, max_tokens=1))
    assert caught() == before
    assert signal.getsignal(signal.SIGTERM) is handler
    driven.engine.unload()


CYCLES = """
import threading
import time
from tests.test_llamacpp import FRANCE, GREEDY, ORDER, Driven, Job, loading

def cycles():
    for _ in range(4):
        driven = Driven(ORDER)
        driven.run(Job(1, FRANCE, GREEDY, max_tokens=2))
        driven.engine.unload()
        print(loading._resident_bytes())

device = threading.Thread(target=cycles)
device.start()
device.join()
"""


def test_what_an_unload_frees_is_the_hosts_again() -> None:
    """glibc would keep 8 MiB of the second engine, and 1 MiB more of each. A process of its own, since it
    is the first load that changes what the allocator does; a thread, since heaps of threads are others."""
    root = Path(__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", CYCLES], cwd=root, capture_output=True, check=True)
    first, *_, last = (int(line) for line in told.stdout.split())
    assert last - first < 2 * 2**20


def test_what_an_operator_says_of_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: chosen.append((option, value)))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    allocator.settle()
    assert chosen == []
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    allocator.settle()
    assert len(chosen) == 2
    del library.mallopt  # as other C libraries are
    allocator.settle()
    allocator.trim()
    assert len(chosen) == 2


@pytest.mark.slow
def test_loading_and_unloading_leaks_nothing() -> None:
    """Also without a job in between: an engine that is freed at once must not hang."""

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    def cycle(job: bool) -> None:
        driven = Driven(ORDER)
        if job:
            driven.run(Job(1, FRANCE, GREEDY, max_tokens=2))
        driven.engine.unload()

    for turn in range(10):
        cycle(job=turn % 2 == 0)
    before, memory = held(), loading._resident_bytes()
    for turn in range(20):
        cycle(job=turn % 2 == 0)
    assert held() == before
    assert loading._resident_bytes() - memory < 16 * 2**20


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"cache": "q6"}, "choose fp16, q8 or q4"),
        ({"options": {"thread": 2}}, "no option thread"),
        ({"context": 0}, "must be positive"),
        ({"slots": 0}, "must be positive"),
        ({"path": Path("/nowhere/model.gguf")}, "no such file"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_unfit(change: dict[str, object], fault: str) -> None:
    with pytest.raises(Unfit, match=fault):
        HARNESS.preflight(replace(ORDER, **change))
    with pytest.raises(Unfit, match=fault):
        HARNESS.load(replace(ORDER, **change), never, lambda: None)


@pytest.mark.parametrize("context", [1, 256, 300, 2048, 4096])
def test_the_context_promised_is_the_context_had(context: int) -> None:
    order = replace(ORDER, context=context, slots=1)
    driven = Driven(order)
    promised = HARNESS.preflight(order).context
    assert promised == driven.engine.facts.context == {1: 256, 256: 256, 300: 512}.get(context, 2048)
    error = driven.error(Job(1, tuple(driven.engine.tokenise("a")) * 5000, GREEDY))
    assert error.facts["context_length"] == promised
    driven.engine.unload()


@pytest.mark.parametrize("cache", ["fp16", "q8", "q4"])
def test_each_kind_of_cache_serves(cache: str) -> None:
    driven = Driven(replace(ORDER, cache=cache))
    assert driven.text(Job(1, FRANCE, GREEDY)) == "The capital of France is Paris."
    driven.engine.unload()


def test_the_promise_counts_weights_cache_and_the_prompts_kept() -> None:
    promised, header = HARNESS.preflight(ORDER), read_gguf(GGUF)
    weights, cache, overhead = footprint(header, 2048, 2, "fp16", 32)
    assert (promised.weights_bytes, promised.cache_bytes) == (weights, cache)
    assert promised.overhead_bytes == overhead + cache // 2**20 * 2**20
    assert (promised.trained_context, promised.architecture) == (2048, "qwen3")
    assert promised.template is not None
    assert promised.eos == "<|im_end|>"


def broken_files() -> dict[str, bytes]:
    whole = GGUF.read_bytes()
    architecture = whole.replace(b"qwen3", b"qwenX")
    vocabulary = whole.replace(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwenX")
    return {
        "empty": b"",
        "garbage": bytes(range(256)) * 100,
        "header cut": whole[:1000],
        "half": whole[: len(whole) // 2],
        "end cut": whole[:-100],
        "version": whole[:4] + struct.pack("<I", 99) + whole[8:],
        "counts": whole[:8] + b"\xff" * 16 + whole[24:],
        "zeroed metadata": whole[:24] + b"\0" * 2000 + whole[2024:],
        "architecture": architecture,
        "vocabulary": vocabulary,
        "no tokens": gguf(PAIRS, [Tensor("token_embd.weight", (128, 4))]),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_corrupt_file_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 73; in most cases before the engine sees the file."""
    path = tmp_path / "model.gguf"
    path.write_bytes(broken_files()[name])
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises((Unfit, LoadFailed)) as caught:
        HARNESS.load(replace(ORDER, path=path), never, lambda: None)
    assert str(path) in caught.value.message
    assert list(folder.iterdir()) == []
    if name in ("architecture", "vocabulary", "no tokens"):
        assert isinstance(caught.value, LoadFailed)
        assert "does not say why" in caught.value.message


def test_a_broken_template_in_the_file_does_not_keep_the_model_out(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(GGUF, path)
    data = path.read_bytes()
    at = data.index(b"{%- if tools %}")
    path.write_bytes(data[:at] + b"{%- if tools %%" + data[at + 15 :])
    driven = Driven(replace(ORDER, path=path))
    assert driven.text(Job(1, FRANCE, GREEDY)) == "The capital of France is Paris."
    driven.engine.unload()


def test_a_begin_token_is_added_as_the_header_says(tmp_path: Path) -> None:
    """The engine's own habit is not trusted: what the header told is what happens."""
    driven = Driven(ORDER)
    assert driven.engine._adds_as_told
    driven.engine._header = replace(driven.engine._header, adds_bos=True)
    driven.engine._adds_as_told = False
    begin = driven.engine.tokenise(driven.engine._header.bos or "")
    assert driven.engine._prompt(Job(1, FRANCE, GREEDY)) == begin + driven.engine.tokenise(FRANCE)
    ids = (1, 2, 3)
    assert driven.engine._prompt(Job(1, ids, GREEDY)) == ids
    driven.engine.unload()


def test_a_cpu_without_the_instructions_is_told_so() -> None:
    old = LlamaCppHarness(cpu_flags=lambda: frozenset({"sse4_2", "fma"}))
    why_not = old.unavailable()
    assert why_not is not None and why_not.code == "unsupported_cpu"
    assert str(why_not) == "the CPU lacks avx2, f16c, which the llama.cpp binding is compiled for"
    assert LlamaCppHarness(cpu_flags=lambda: None).unavailable() is None


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "install libgomp1"),
        ("raise ImportError('something else')", "cannot be imported: something else"),
    ],
)
def test_a_binding_that_cannot_be_imported_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, remedy: str
) -> None:
    (tmp_path / "xllamacpp.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    why_not = HARNESS.unavailable()
    assert why_not is not None and why_not.code == "import_failed"
    assert remedy in str(why_not)


def test_a_binding_that_is_absent_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    why_not = HARNESS.unavailable()
    assert why_not is not None and (why_not.code, why_not.remedy) == (
        "not_installed",
        "pip install xllamacpp",
    )


def test_a_folder_name_too_long_for_a_socket_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(LoadFailed, match="TMPDIR"):
        HARNESS.load(ORDER, never, lambda: None)
    assert list(deep.iterdir()) == []
