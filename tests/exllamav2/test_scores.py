"""Scores are the model's own, of every token that has text, and belong to that text."""

import math
from typing import Any

import pytest

from cortex.ask import Sampling, Shape
from cortex.events import TokenLogprob, Tokens
from cortex.harness.base import Job
from cortex.text.detokenise import Detokeniser
from tests.exllamav2.emulation import emulated, opt_in
from tests.test_exllamav2_vocabulary import byte_level, folder_of

opt_in()

from cortex.harness.exllamav2.scores import IMPOSSIBLE, Scorer  # noqa: E402
from cortex.harness.exllamav2.vocabulary import Vocabulary  # noqa: E402
from tests.exllamav2.test_engine import GREEDY, SHORT, Bench, Load, folder, load  # noqa: E402, F401 - fixtures


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary.read(folder_of(byte_level(), tmp_path_factory.mktemp("known")))


def scored(
    known: Vocabulary, logits: Any, tokens: tuple[int, ...], wanted: int, hidden: frozenset[int] = frozenset()
) -> list[TokenLogprob]:
    said: list[TokenLogprob] = []
    scorer = Scorer(emulated(), known, wanted, hidden, said.append)
    for token in tokens:
        scorer.look(logits)
        scorer.choose(token)
    return said


def row(known: Vocabulary, seed: int = 1, width: float = 4.0) -> Any:
    torch = emulated().torch
    return torch.randn(known.size, generator=torch.Generator().manual_seed(seed)) * width


@pytest.mark.parametrize("wanted", [0, 1, 5, 20])
@pytest.mark.parametrize("width", [0.001, 1.0, 30.0])
def test_a_score_is_the_logarithm_of_the_probability(known: Vocabulary, wanted: int, width: float) -> None:
    logits = row(known, width=width)
    exact = emulated().torch.log_softmax(logits.double(), -1)
    order = exact.argsort(descending=True).tolist()
    token = known.encode("a")[0]
    (score,) = scored(known, logits, (token,), wanted)
    assert score.text == "a"
    assert score.logprob == pytest.approx(float(exact[token]), abs=1e-4)
    assert [each for each, _ in score.top] == [
        known.piece(token).decode("utf-8", "replace") for token in order[:wanted]
    ]
    assert [value for _, value in score.top] == pytest.approx(
        [float(exact[token]) for token in order[:wanted]], abs=1e-4
    )


def test_what_cannot_be_has_a_score_that_json_can_hold(known: Vocabulary) -> None:
    logits = row(known)
    token = known.encode("a")[0]
    logits[token] = -math.inf
    assert scored(known, logits, (token,), 0)[0].logprob == IMPOSSIBLE
    logits[:] = -math.inf
    logits[token] = 3.0
    (score,) = scored(known, logits, (token,), 2)
    assert (score.logprob, score.top[0]) == (0.0, ("a", 0.0))
    assert score.top[1][1] == IMPOSSIBLE


def test_a_sure_token_is_never_more_than_sure(known: Vocabulary) -> None:
    for seed in range(20):
        logits = row(known, seed, width=0.5)
        logits[7] = 60.0
        assert scored(known, logits, (7,), 1)[0].logprob <= 0.0


def test_a_character_belongs_to_the_token_that_completes_it(known: Vocabulary) -> None:
    text = "aЖ😀b"
    tokens = known.encode(text)
    said = scored(known, row(known), tokens, 0)
    assert len(said) == len(tokens) > len(text)
    assert "".join(score.text for score in said) == text
    assert {score.text for score in said} == {"", "a", "Ж", "😀", "b"}


def test_a_hidden_token_has_no_text_and_breaks_no_character(known: Vocabulary) -> None:
    first, second = known.encode("Ж")
    (marker,) = known.encode("<|im_start|>")
    said = scored(known, row(known), (first, marker, second), 0, frozenset({marker}))
    assert [score.text for score in said] == ["", "", "Ж"]
    assert [score.text for score in scored(known, row(known), (marker,), 0)] == ["<|im_start|>"]


# --- through the engine


def told(bench: Bench, job: Job) -> tuple[bytes, list[TokenLogprob]]:
    bench.engine.submit(job)
    events = [event for _, event in bench.until(job.id) if isinstance(event, Tokens)]
    return b"".join(event.data for event in events), [each for event in events for each in event.logprobs]


HOT = Sampling(1.5, 0.9, 40, 0.0, 3, 0.4, 0.3, 1.2, {60: 2.0})


@pytest.mark.parametrize("asked", [GREEDY, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize(
    "shape", [None, Shape("json_schema", {"enum": ["one", "two"]})], ids=["free", "shaped"]
)
@pytest.mark.parametrize("speculation", [None, "ngram"])
def test_scores_go_with_the_text_of_the_answer_and_are_what_the_model_says(
    load: Load,  # noqa: F811
    asked: Sampling,
    shape: Shape | None,
    speculation: str | None,
) -> None:
    """The same prompt and answer, asked for token by token without anything that sways, say the same."""
    bench = load(options={} if speculation is None else {"speculation": speculation})
    data, scores = told(bench, Job(1, SHORT, asked, max_tokens=12, logprobs=3, shape=shape))
    assert "".join(score.text for score in scores) == Detokeniser().feed(data)
    assert len(scores) > 3
    past = SHORT
    for number, score in enumerate(scores[:6]):
        _, (plain,) = told(bench, Job(10 + number, past, GREEDY, max_tokens=1, logprobs=3))
        for (text, value), (own_text, own) in zip(score.top, plain.top, strict=True):
            assert value == pytest.approx(own, abs=0.02)
            assert text == own_text or abs(own - plain.top[0][1]) < 0.05
        tokens = bench.engine.tokenise(score.text)
        if len(tokens) != 1 or "\ufffd" in score.text:
            break  # the token cannot be told from its text
        past = (*past, *tokens)
