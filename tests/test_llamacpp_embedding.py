"""llama.cpp makes the vectors that the weights say, and files that would end it are refused before."""

import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from cortex.ask import Sampling
from cortex.demo import GGUF
from cortex.errors import BadAsk, CortexError, LoadFailed, PromptTooLong, Unfit
from cortex.events import Embedded, EngineEvent, Failed, Prefilled, Stopped, Usage
from cortex.harness.base import Engine, Job, LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.weights import read_gguf
from tests import fake_bert, qwen3_by_hand
from tests.fake_bert import CLS, CONTEXT, PAIRS, SEP, WIDTH, WORDS

HARNESS = LlamaCppHarness()
# The engine looks its activation up in a table of half precision.
CLOSE = 1e-3

pytestmark = pytest.mark.skipif(HARNESS.unavailable() is not None, reason=str(HARNESS.unavailable()))


class Driven:
    """An engine, driven to the end of each job."""

    def __init__(self, path: Path, *, context: int = CONTEXT, slots: int = 2, **options: str | int) -> None:
        order = LoadOrder("tiny", path, "cpu", context, slots, options={"threads": 1, **options})
        self.bell = threading.Semaphore(0)
        self.engine: Engine = HARNESS.load(order, lambda done, total: False, self.bell.release)

    def run(self, *prompts: str | tuple[int, ...]) -> dict[int, list[EngineEvent]]:
        """What was said of each; all are submitted at once."""
        heard: dict[int, list[EngineEvent]] = {number: [] for number in range(len(prompts))}
        for number, prompt in enumerate(prompts):
            self.engine.submit(Job(number, prompt, Sampling()))
        while not all(said and isinstance(said[-1], Stopped | Failed) for said in heard.values()):
            assert self.bell.acquire(timeout=20)
            for number, event in self.engine.turn():
                heard[number].append(event)
        return heard

    def vector(self, prompt: str | tuple[int, ...]) -> list[float]:
        said = self.run(prompt)[0]
        assert [type(event) for event in said] == [Prefilled, Embedded, Stopped], said
        assert isinstance(said[1], Embedded)
        return list(struct.unpack(f"<{len(said[1].data) // 4}f", said[1].data))

    def error(self, prompt: str | tuple[int, ...]) -> CortexError:
        (said,) = self.run(prompt)[0]
        assert isinstance(said, Failed)
        return said.error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def driven(folder: Path) -> Iterator[Driven]:
    driven = Driven(fake_bert.put(folder), batch=32)  # which is too small for most inputs
    yield driven
    driven.engine.unload()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello world", (CLS, 4, 5, SEP)),
        ("The cats sat on a mat, hello.", (CLS, 9, 7, 10, 8, 11, 6, 12, 13, 4, 14, SEP)),
        ("hello 日本", (CLS, 4, 1, 1, SEP)),
    ],
)
def test_vectors_are_what_the_weights_make_of_a_text(driven: Driven, text: str, ids: tuple[int, ...]) -> None:
    made = driven.vector(text)
    assert made == pytest.approx(fake_bert.vector(ids), abs=CLOSE)
    assert driven.vector(ids) == made
    assert sum(number**2 for number in made) == pytest.approx(1, abs=1e-5)


def test_token_ids_are_taken_as_they_come(driven: Driven) -> None:
    assert driven.vector((4, 5)) == pytest.approx(fake_bert.vector((4, 5)), abs=CLOSE)
    assert driven.vector((4, 5)) != pytest.approx(driven.vector("hello world"), abs=10 * CLOSE)


def test_inputs_at_once_are_each_their_own(driven: Driven) -> None:
    inputs = (tuple([CLS, *[4] * 40, SEP]), (CLS, 12, SEP))
    said = driven.run(*inputs)
    for number, ids in enumerate(inputs):
        vector = next(event.data for event in said[number] if isinstance(event, Embedded))
        assert struct.unpack(f"<{WIDTH}f", vector) == pytest.approx(fake_bert.vector(ids), abs=CLOSE)
        assert said[number][-1] == Stopped("stop", Usage(prompt=len(ids)))


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_the_catalogues_word_on_pooling_is_the_last(folder: Path, pooling: str) -> None:
    driven = Driven(folder / "tiny-bert.gguf", pooling=pooling)
    try:
        ids = (CLS, 4, 5, 12)
        assert driven.vector(ids) == pytest.approx(fake_bert.vector(ids, pooling), abs=CLOSE)  # type: ignore[arg-type]
    finally:
        driven.engine.unload()


def test_an_input_as_long_as_the_context_is_one_and_a_longer_one_is_refused(driven: Driven) -> None:
    """The engine itself would end the process. faults.md row 47."""
    full = (CLS, *[7] * (CONTEXT - 2), SEP)
    assert len(driven.vector(full)) == WIDTH
    for prompt in ((*full, SEP), "cat " * CONTEXT):
        error = driven.error(prompt)
        assert isinstance(error, PromptTooLong)
        assert error.facts["context_length"] == CONTEXT
    assert driven.error((*full, SEP)).facts["prompt_tokens"] == CONTEXT + 1


@pytest.mark.parametrize("ids", [(4, len(WORDS)), (-1,), (2**31 - 1,)])
def test_what_is_no_token_is_refused(driven: Driven, ids: tuple[int, ...]) -> None:
    error = driven.error(ids)
    assert isinstance(error, BadAsk)
    assert "tokens 0 to 14" in error.message


def test_a_cancelled_input_says_nothing_but_its_end(driven: Driven) -> None:
    driven.engine.submit(Job(7, (CLS, *[7] * 100, SEP), Sampling()))
    driven.engine.cancel(7)
    said: list[EngineEvent] = []
    while not said:
        assert driven.bell.acquire(timeout=20)
        said = [event for _, event in driven.engine.turn()]
    assert isinstance(said[-1], Stopped)
    assert not any(isinstance(event, Embedded | Failed) for event in said)
    assert driven.vector("hello")  # and its slot is free


def test_facts_tell_how_long_the_vectors_are(driven: Driven) -> None:
    facts = driven.engine.facts
    assert (facts.embeds, facts.width, facts.context) == (True, WIDTH, CONTEXT)
    assert facts.kv_tokens_total == 0


def test_an_encoder_keeps_no_cache(folder: Path) -> None:
    order = LoadOrder("tiny", folder / "tiny-bert.gguf", "cpu", CONTEXT, 4, cache="q8")
    promised = HARNESS.preflight(order)
    assert (promised.embeds, promised.cache_bytes, promised.template) == (True, 0, None)
    writes = HARNESS.preflight(LoadOrder("demo", GGUF, "cpu", 256, 4))
    assert not writes.embeds
    assert writes.cache_bytes > 0


def test_a_model_that_writes_makes_vectors_where_the_catalogue_says_so() -> None:
    """As embedding models of such architectures do, also of inputs that are longer than a batch."""
    driven = Driven(GGUF, context=2048, slots=1, pooling="last", batch=64)
    try:
        assert driven.engine.facts.context == 2047  # read in batches, the last token has no room
        text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        ids = driven.engine.tokenise(text)
        assert driven.vector(text) == driven.vector(ids)
        long = tuple((ids * 200)[:2047])
        assert driven.vector(long)
        parted = driven.vector(long[:200])
        assert isinstance(driven.error((*long, 5)), PromptTooLong)
    finally:
        driven.engine.unload()
    once = Driven(GGUF, context=2048, slots=1, pooling="last", batch=2048)
    try:
        assert once.vector(long[:200]) == pytest.approx(parted, abs=10 * CLOSE)
        assert once.vector(long[136:200]) != pytest.approx(parted, abs=10 * CLOSE)  # not the last batch alone
    finally:
        once.engine.unload()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_its_vectors_are_what_the_weights_make(pooling: Literal["last", "mean"]) -> None:
    driven = Driven(GGUF, context=256, slots=1, pooling=pooling, batch=32)
    try:
        ids = driven.engine.tokenise("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n")
        for count in (1, len(ids), 90):
            some = (ids * 6)[:count]
            assert driven.vector(some) == pytest.approx(qwen3_by_hand.vector(some, pooling), abs=CLOSE)
    finally:
        driven.engine.unload()


def without(*keys: str) -> dict[str, object]:
    return {key: value for key, value in PAIRS.items() if key not in keys}


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (PAIRS | {"bert.pooling_type": 4}, "reranker"),
        (PAIRS | {"bert.pooling_type": 0}, "set pooling"),
        (without("bert.pooling_type"), "set pooling"),
        (PAIRS | {"bert.pooling_type": 5}, "pooling_type"),
        (PAIRS | {"bert.block_count": 0}, "block_count"),
        (PAIRS | {"bert.block_count": 513}, "block_count"),
        (without("tokenizer.ggml.seperator_token_id"), "seperator_token_id"),
        (PAIRS | {"tokenizer.ggml.seperator_token_id": 15}, "seperator_token_id"),
        (without("tokenizer.ggml.bos_token_id"), "bos_token_id"),
        (
            without("tokenizer.ggml.bos_token_id")
            | {"tokenizer.ggml.model": "t5", "tokenizer.ggml.add_bos_token": True},
            "bos_token_id",
        ),
    ],
)
def test_a_file_that_would_end_the_process_or_cannot_serve_is_refused(
    tmp_path: Path, pairs: dict[str, object], says: str
) -> None:
    """llama.cpp aborts at most of these: tried in processes of their own. faults.md row 73."""
    path = fake_bert.put(tmp_path, pairs=pairs)
    with pytest.raises(Unfit, match=says):
        HARNESS.preflight(LoadOrder("tiny", path, "cpu", CONTEXT, 1))


def test_a_file_that_names_no_pooling_is_served_as_the_catalogue_says(tmp_path: Path) -> None:
    path = fake_bert.put(tmp_path, pairs=without("bert.pooling_type"))
    assert HARNESS.preflight(LoadOrder("tiny", path, "cpu", 64, 1, options={"pooling": "cls"})).embeds


@pytest.mark.parametrize(
    "pairs",
    [
        PAIRS | {"tokenizer.ggml.model": "t5", "tokenizer.ggml.add_eos_token": True},
        PAIRS
        | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.merges": ["a b"]},
        PAIRS | {"bert.attention.head_count": 3},
        PAIRS | {"bert.context_length": 1000},
        PAIRS | {"tokenizer.ggml.unknown_token_id": 99},
        without("bert.attention.layer_norm_epsilon"),
    ],
)
def test_an_odd_file_is_loaded_or_fails_to_load_and_ends_nothing(
    tmp_path: Path, pairs: dict[str, object]
) -> None:
    path = fake_bert.put(tmp_path, pairs=pairs)
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.test_llamacpp_embedding import Driven\n"
        "from cortex.errors import CortexError\n"
        "try: print(*Driven(Path(sys.argv[1]), context=64).run('hello', (4, 5))[1])\n"
        "except CortexError as error: print(type(error).__name__)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout.splitlines()) in (
        (0, ["LoadFailed"]),
        (0, [ended.stdout.rstrip("\n")]),
    ), ended.stderr[-500:]


def test_weights_that_make_no_numbers_are_not_served(tmp_path: Path) -> None:
    damaged = fake_bert.Weights(
        fake_bert.weights().tables | {"token_embd_norm.bias": [[float("nan")] * WIDTH]}
    )
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged.file())
    with pytest.raises(LoadFailed, match="points nowhere"):
        Driven(path)


def test_header_tells_the_pooling(folder: Path) -> None:
    assert read_gguf(folder / "tiny-bert.gguf").pooling == "mean"
    assert read_gguf(GGUF).pooling is None
