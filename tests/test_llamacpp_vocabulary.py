"""A vocabulary without its model tokenises as the loaded model does, whatever kind it is of."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.demo import GGUF
from cortex.errors import BadAsk, Unfit
from cortex.harness.base import Engine, LoadOrder, Tokenising
from cortex.harness.exllamav2 import ExLlamaV2Harness
from cortex.harness.llamacpp import LlamaCppHarness, vocabulary_in_child
from cortex.weights import digest, read_gguf, write_vocabulary
from tests.fake_gguf import gguf, without
from tests.fake_vocabularies import KINDS, LINES, SPECIAL, bpe, model

HARNESS = LlamaCppHarness()

pytestmark = pytest.mark.skipif(HARNESS.unavailable() is not None, reason=str(HARNESS.unavailable()))

WORDS = (
    *SPECIAL,
    *LINES[0].split(),
    "[MASK]",
    "</s> ",
    "  ",
    "\n\n",
    "\t",
    "\r\n",
    "it's",
    "12345",
    "é",
    "e\u0301",
)
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=12).map("".join)


def never(done: int, total: int) -> bool:
    return False


def order_of(path: Path) -> LoadOrder:
    return LoadOrder("m", path, "cpu", 256, 2, options={"threads": 1}, digest=digest(path))


@pytest.fixture(scope="module", params=["the demo model", *KINDS])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """The loaded model, and its vocabulary alone."""
    path = GGUF
    if request.param in KINDS:
        path = tmp_path_factory.mktemp("models") / "m.gguf"
        path.write_bytes(model(KINDS[request.param]()))
    whole = HARNESS.load(order_of(path), never, lambda: None)
    alone = HARNESS.vocabulary.load(order_of(path), never, lambda: None)
    yield whole, alone
    whole.unload()
    alone.unload()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_every_text_has_the_same_tokens_and_they_the_same_text(
    both: tuple[Engine, Engine], text: str
) -> None:
    whole, alone = both
    tokens = whole.tokenise(text)
    assert alone.tokenise(text) == tokens
    assert alone.detokenise(tokens) == whole.detokenise(tokens)


def test_the_texts_of_these_tests_are_cut_into_words(both: tuple[Engine, Engine]) -> None:
    """Else every vocabulary would be as good as another."""
    tokens = both[1].tokenise(LINES[0])
    assert len(set(tokens)) > 6 and len(tokens) < len(LINES[0])


def test_families_that_are_known_by_their_name_are_known(tmp_path: Path) -> None:
    """Phi-3's special tokens take the blanks behind them along."""
    counts = []
    for name in ("Phi-3 mini", "small"):
        path = tmp_path / "m.gguf"
        path.write_bytes(model(bpe("llama-bpe"), name=name))
        engines = [each.load(order_of(path), never, lambda: None) for each in (HARNESS, HARNESS.vocabulary)]
        whole, alone = (each.tokenise("<|im_end|>   the end") for each in engines)
        assert whole == alone
        counts.append(len(alone))
        for each in engines:
            each.unload()
    assert counts[0] < counts[1]


def refusal(path: Path, said: str = "") -> str:
    order = order_of(path)
    with pytest.raises(Unfit) as refused:
        vocabulary_in_child().load(replace(order, digest=said or order.digest), never, lambda: None)
    return refused.value.message


def test_what_no_vocabulary_can_be_taken_from_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(without("tokenizer.ggml.tokens", without("tokenizer.ggml.bos_token_id"))))
    assert "no vocabulary" in refusal(path) or "tokens" in refusal(path)
    path.write_bytes(model(bpe("qwen2"), architecture="nomic-bert-moe"))
    assert "nomic-bert-moe" in refusal(path)
    path.write_bytes(gguf()[:200])
    assert str(path) in refusal(path)


def test_a_file_that_was_replaced_meanwhile_is_not_taken_for_the_one_that_was_asked_about(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model(bpe("qwen2")))
    assert "changed" in refusal(path, "0" * 32)


def test_nothing_is_left_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = HARNESS.vocabulary.load(order_of(GGUF), never, lambda: None)
    assert [each.name for each in tmp_path.iterdir() if "vocabulary" in each.name] == []
    engine.unload()
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_written_than_the_vocabulary_and_a_few_bytes_a_token(tmp_path: Path) -> None:
    """The weights of the largest model are not looked at."""
    source, target = tmp_path / "m.gguf", tmp_path / "v.gguf"
    source.write_bytes(model(bpe("qwen2")))
    write_vocabulary(source, target)
    assert target.stat().st_size < source.stat().st_size / 4
    assert read_gguf(target).vocabulary == read_gguf(source).vocabulary


def test_a_number_that_is_no_token_is_refused(both: tuple[Engine, Engine]) -> None:
    with pytest.raises(BadAsk):
        both[1].detokenise([10**6])


def test_both_engines_have_a_vocabulary_that_lives_in_a_child() -> None:
    for harness in (HARNESS, ExLlamaV2Harness()):
        assert isinstance(harness, Tokenising) and harness.vocabulary.apart is not None
