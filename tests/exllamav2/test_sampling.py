"""A token is chosen as llama.cpp would choose it here, whatever the library does by itself.

What may be drawn, and how likely, is held against the chain written out plainly in double precision.
"""

import dataclasses
import importlib.util
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cortex.ask import Sampling, Shape
from cortex.errors import BadAsk, EngineFailed
from cortex.events import Failed, Tokens
from cortex.harness.base import Job
from tests.exllamav2.emulation import STUB, emulated, opt_in
from tests.test_exllamav2_vocabulary import byte_level, folder_of

opt_in()

from cortex.harness.exllamav2 import sampling  # noqa: E402
from cortex.harness.exllamav2.sampling import Chooser  # noqa: E402
from cortex.harness.exllamav2.vocabulary import Vocabulary  # noqa: E402
from tests.exllamav2.test_engine import SHORT, Bench, Load, folder, load  # noqa: E402, F401 - fixtures

PLAIN = Sampling(1.0, 1.0, 0, 0.0, None, 0.0, 0.0, 1.0)
PROMPT = (3, 4, 5, 5, 5, 390)


def asked(**said: Any) -> Sampling:
    return dataclasses.replace(PLAIN, **said)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary.read(
        folder_of(byte_level(), tmp_path_factory.mktemp("known"), config={"eos_token_id": 1})
    )


def chooser(known: Vocabulary, asked: Sampling, prompt: Sequence[int] = PROMPT) -> Chooser:
    return Chooser(emulated(), known, Job(1, "x", asked), prompt)


def row(known: Vocabulary, seed: int, width: float = 3.0) -> Any:
    """Logits as the library hands them over, filled up with what must never be drawn."""
    torch = emulated().torch
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(known.size + -known.size % 32 + 32, generator=generator) * width
    logits[known.size :] = 99.0
    return logits


def likely(logits: Any, said: Sampling, past: Sequence[int], size: int) -> dict[int, float]:
    """The chain of the other engines."""
    scores = dict(enumerate(logits[:size].double().tolist()))
    for token, amount in (said.logit_bias or {}).items():
        scores[token] += amount
    for token, count in Counter(past).items():
        score = scores[token]
        score = score / said.repetition_penalty if score > 0 else score * said.repetition_penalty
        scores[token] = score - count * said.frequency_penalty - said.presence_penalty
    order = sorted(scores, key=lambda token: -scores[token])
    if said.temperature == 0:
        return {order[0]: 1.0}
    scaled = {token: (scores[token] - scores[order[0]]) / said.temperature for token in order}
    order = order[: said.top_k or None]
    weights = weighed(scaled, order)
    if said.top_p < 1:
        total, kept = 0.0, 0
        while total < said.top_p and kept < len(order):
            total += weights[order[kept]]
            kept += 1
        order = order[: max(1, kept)]
    least = math.log(said.min_p) if said.min_p else -math.inf
    return weighed(scaled, [token for token in order if scaled[token] >= least])


def weighed(scaled: dict[int, float], order: list[int]) -> dict[int, float]:
    total = math.fsum(math.exp(scaled[token]) for token in order)
    return {token: math.exp(scaled[token]) / total for token in order}


def left(chosen_by: Chooser, logits: Any, *, greedy: bool = False) -> dict[int, float]:
    """What may be drawn, and how likely it is."""
    torch = emulated().torch
    limited = chosen_by.mask_logits(logits.clone())
    assert limited.shape == logits.shape
    limited = limited[: chosen_by._vocabulary.size]
    if greedy:
        return {int(limited.argmax()): 1.0}
    weights = torch.softmax(limited.double(), -1)
    return {token: float(weights[token]) for token in weights.nonzero().flatten().tolist()}


CASES = {
    "as it is": asked(),
    "heat": asked(temperature=1.7),
    "cold": asked(temperature=0.3),
    "colder than the library can": asked(temperature=0.004),
    "nothing at random": asked(temperature=0.0),
    "nothing at random, however it is cut": asked(temperature=0.0, top_k=7, top_p=0.4, min_p=0.2),
    "top_k": asked(top_k=7),
    "top_k beyond the vocabulary": asked(top_k=10**6),
    "top_k of one": asked(top_k=1),
    "top_p": asked(top_p=0.7),
    "top_p of nearly all": asked(top_p=0.999, temperature=2.0),
    "top_p of nearly none": asked(top_p=1e-9),
    "top_p of none": asked(top_p=0.0),
    "min_p": asked(min_p=0.05),
    "min_p of one": asked(min_p=1.0),
    "top_k and top_p": asked(top_k=20, top_p=0.8, temperature=0.7),
    "top_p and min_p": asked(top_p=0.95, min_p=0.02, temperature=1.5),
    "all cuts": asked(top_k=30, top_p=0.9, min_p=0.1, temperature=1.2),
    "presence": asked(presence_penalty=1.5),
    "frequency": asked(frequency_penalty=0.9),
    "repetition": asked(repetition_penalty=1.8),
    "repetition the other way": asked(repetition_penalty=0.6),
    "all penalties": asked(presence_penalty=-1.0, frequency_penalty=0.5, repetition_penalty=1.3),
    "bias": asked(logit_bias={3: 2.5, 7: -100.0, 9: 100.0}),
    "bias before penalties": asked(logit_bias={5: 4.0}, repetition_penalty=1.5, temperature=0.5),
    "everything": Sampling(0.8, 0.9, 40, 0.01, None, 0.3, 0.2, 1.1, {3: 1.0, 390: -2.0}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_what_may_be_drawn_is_what_the_other_engines_leave(known: Vocabulary, name: str, seed: int) -> None:
    said = CASES[name]
    logits = row(known, seed, width=(3.0, 0.5, 8.0, 0.01)[seed])
    wanted = likely(logits, said, PROMPT, known.size)
    if len(wanted) == 1:
        assert left(chooser(known, said), logits, greedy=True) == wanted
        return
    found = left(chooser(known, said), logits)
    # What can hardly come may be in the one and not in the other.
    found, wanted = ({token: p for token, p in each.items() if p > 1e-9} for each in (found, wanted))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_the_answer_so_far_counts_like_the_prompt(known: Vocabulary) -> None:
    torch = emulated().torch
    said = asked(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.2)
    answer = [7, 7, 3, 8, 7]
    walking = chooser(known, said)
    for at, token in enumerate(answer):
        logits = row(known, at)
        past = [*PROMPT, *answer[:at]]
        assert left(walking, logits) == pytest.approx(likely(logits, said, past, known.size), abs=1e-6)
        walking.feed(torch.tensor([[token]]))


def test_what_the_model_computed_stays_as_it_was(known: Vocabulary) -> None:
    """Scores are made of it, and the library keeps it in one place for all jobs."""
    logits = row(known, 1)
    before = logits[: known.size].clone()
    chooser(known, CASES["everything"]).mask_logits(logits)
    assert emulated().torch.equal(logits[: known.size], before)


def test_a_large_nucleus_is_whole(known: Vocabulary, tmp_path: Path) -> None:
    """Larger than what is looked at first, and than the next step, too."""
    size = 30_000
    large = dataclasses.replace(known, pieces=(b"x",) * size)
    torch = emulated().torch
    logits = torch.randn(size, generator=torch.Generator().manual_seed(5))
    for top_p in (0.5, 0.9, 0.9999):
        found = left(chooser(large, asked(top_p=top_p), ()), logits)
        wanted = likely(logits, asked(top_p=top_p), (), size)
        assert abs(len(found) - len(wanted)) <= 1  # where the last one lies on the border
        assert sum(found[token] for token in wanted if token in found) == pytest.approx(1.0, abs=1e-4)


# --- the library draws


def drawn(known: Vocabulary, said: Sampling, logits: Any, seed: int) -> int:
    library = emulated()
    job = Job(1, "x", dataclasses.replace(said, seed=seed))
    tokens, *_ = library.generator.ExLlamaV2Sampler.sample(
        logits.clone().view(1, 1, -1),
        sampling.settings(library, job),
        library.torch.tensor([PROMPT]),
        random.Random(sampling.seed(job)).random(),
        Silent(known),
        filters=[chooser(known, said)],
    )
    return int(tokens[0, 0])


class Silent:
    def __init__(self, known: Vocabulary) -> None:
        self._size = known.size

    def get_vocab_size(self) -> int:
        return self._size


@pytest.mark.parametrize("name", ["top_k", "all cuts", "cold", "as it is", "min_p", "top_k and top_p"])
def test_draws_are_as_frequent_as_they_are_likely(known: Vocabulary, name: str) -> None:
    logits, said, draws = row(known, 6), CASES[name], 2000
    wanted = likely(logits, said, PROMPT, known.size)
    found = Counter(drawn(known, said, logits, seed) for seed in range(draws))
    for token, weight in wanted.items():
        spread = math.sqrt(draws * weight * (1 - weight)) + 1
        assert abs(found[token] - draws * weight) < 5 * spread, (token, weight)
    assert found.keys() <= wanted.keys()


def test_nothing_at_random_is_the_likeliest_whatever_the_seed(known: Vocabulary) -> None:
    for name in (
        "nothing at random",
        "top_k of one",
        "top_p of none",
        "min_p of one",
        "top_p of nearly none",
    ):
        for seed in range(5):
            logits = row(known, seed)
            assert drawn(known, CASES[name], logits, seed) == int(logits[: known.size].argmax())


def test_among_equals_the_first_is_the_likeliest(known: Vocabulary) -> None:
    logits = row(known, 3)
    logits[[9, 70, 200]] = 50.0
    assert drawn(known, CASES["nothing at random"], logits, 1) == 9


def test_every_setting_of_the_library_is_set_on_purpose() -> None:
    library = emulated()
    kind = library.generator.ExLlamaV2Sampler.Settings
    own = {"ngram_trie", "ngram_index", "ngram_history"}  # the state of a step that is off
    names = {field.name for field in dataclasses.fields(kind)} - own
    assert names == {*sampling._NEUTRAL, "top_k", "post_sampling_hooks"}
    one, other = (sampling.settings(library, Job(1, "x", PLAIN)) for _ in range(2))
    assert one.post_sampling_hooks is not other.post_sampling_hooks


def test_seeds_of_any_size_and_sign_are_seeds_of_their_own() -> None:
    seeds = [sampling.seed(Job(1, "x", asked(seed=seed))) for seed in (0, 1, -1, 2**40 + 1, 2**63)]
    assert len({random.Random(seed).random() for seed in seeds}) == len(seeds)
    assert sampling.seed(Job(1, "x", PLAIN)) is None


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_bias_of_what_is_no_token_is_refused(known: Vocabulary, token: int) -> None:
    with pytest.raises(BadAsk, match=f"names token {token}") as caught:
        sampling.check(Job(1, "x", asked(logit_bias={5: 1.0, token: 1.0})), known)
    assert caught.value.param == "logit_bias"
    sampling.check(Job(1, "x", asked(logit_bias={0: 1.0, known.size - 1: 1.0})), known)


# --- numbers that are none


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["as it is", "nothing at random", "everything"])
def test_logits_that_are_no_numbers_end_the_job_with_a_fault(
    known: Vocabulary, bad: float, name: str
) -> None:
    """The library's own sampler takes any token for the likeliest then."""
    logits = row(known, 1)
    logits[17] = bad
    broken = chooser(known, CASES[name])
    assert left(broken, logits, greedy=True) == {min(known.eos): 1.0}
    assert broken.fault is not None and "half precision" in broken.fault


def test_a_logit_of_minus_infinity_is_a_number_and_all_of_them_are_none(known: Vocabulary) -> None:
    logits = row(known, 1)
    logits[17] = -math.inf
    sound = chooser(known, CASES["everything"])
    assert 17 not in left(sound, logits)
    assert sound.fault is None
    logits[: known.size] = -math.inf
    sound.mask_logits(logits)
    assert sound.fault is not None


def test_a_job_whose_logits_are_no_numbers_fails_alone(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    bench = load()
    limit = Chooser.mask_logits

    def broken(self: Chooser, logits: Any) -> Any:
        if self._bias._tokens.tolist() == [9]:
            logits = logits + math.nan
        return limit(self, logits)

    alone, _ = bench.answer(Job(7, SHORT, asked(temperature=0.0), max_tokens=8))
    monkeypatch.setattr(Chooser, "mask_logits", broken)
    bench.engine.submit(Job(1, SHORT, asked(logit_bias={9: 1.0}), max_tokens=8, logprobs=1))
    bench.engine.submit(Job(2, SHORT, asked(temperature=0.0), max_tokens=8))
    said = bench.until(1, 2)
    (fault,) = [event for number, event in said if number == 1 and isinstance(event, Failed)]
    assert isinstance(fault.error, EngineFailed)
    assert b"".join(each.data for number, each in said if number == 2 and isinstance(each, Tokens)) == alone


# --- through the generator


def answers(bench: Bench, jobs: Sequence[Job]) -> list[bytes]:
    for job in jobs:
        bench.engine.submit(job)
    said = bench.until(*(job.id for job in jobs))
    assert not [event for _, event in said if isinstance(event, Failed)]
    return [
        b"".join(each.data for number, each in said if number == job.id and isinstance(each, Tokens))
        for job in jobs
    ]


def mixed(first: int) -> list[Job]:
    """As many as are sampled by threads of their own."""
    shape = Shape("json_schema", {"enum": ["one", "two"]})
    return [
        Job(first, SHORT, asked(seed=5, temperature=1.5, top_p=0.9), max_tokens=20),
        Job(
            first + 1,
            SHORT,
            asked(temperature=0.0, frequency_penalty=1.5, presence_penalty=0.5),
            max_tokens=20,
        ),
        Job(first + 2, SHORT, asked(seed=6, logit_bias={9: 3.0}, repetition_penalty=1.4), max_tokens=20),
        Job(first + 3, SHORT, asked(seed=7, top_k=30), max_tokens=20, shape=shape, logprobs=2),
    ]


@pytest.mark.parametrize("speculation", [None, "ngram"])
def test_jobs_of_every_kind_say_beside_each_other_what_they_say_alone(
    load: Load,  # noqa: F811
    speculation: str | None,
) -> None:
    bench = load(options={} if speculation is None else {"speculation": speculation})
    alone = [answers(bench, [job])[0] for job in mixed(10)]
    assert answers(bench, mixed(20)) == alone
    assert len(set(alone)) == len(alone)
    assert alone[3] in (b'"one"', b'"two"')


def test_the_same_seed_says_the_same_and_no_seed_another_thing(load: Load) -> None:  # noqa: F811
    bench = load()

    def say(seed: int | None) -> bytes:
        return answers(bench, [Job(1, SHORT, asked(seed=seed, temperature=1.5), max_tokens=16)])[0]

    assert say(4) == say(4) != say(5)
    assert say(-4) != say(4)
    assert say(None) != say(None)


# --- the stand-in says what the compiled functions say


@pytest.fixture
def stub() -> Iterator[Any]:
    compiled = importlib.util.find_spec("exllamav2_ext")
    if compiled is None or Path(str(compiled.origin)).parent == STUB:
        pytest.skip("the compiled extension is not importable here")
    spec = importlib.util.spec_from_file_location("stand_in", STUB / "exllamav2_ext.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def test_the_stand_in_draws_what_the_extension_draws(stub: Any) -> None:
    import exllamav2_ext
    import torch

    def draw(extension: Any, logits: Any, top_k: int, chance: float) -> int:
        tokens, probs = torch.empty((1, 1), dtype=torch.long), torch.empty((1, 1))
        none = torch.empty((1, 1), device="meta")
        extension.sample_basic(
            logits.clone().view(1, 1, -1), 1.0, top_k, 0.0, 0.0, 0.0, 0.0, 0.0, chance, tokens, probs, none,
            none, none, False, [], 1.5, 0.1, 1.0, none, 0.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0,
        )  # fmt: skip
        return int(tokens)

    source = torch.Generator().manual_seed(1)
    for seed in range(300):
        logits = torch.randn(640, generator=source) * (1 + seed % 5)
        if seed % 3 == 0:
            logits[torch.randperm(640, generator=source)[:630]] = -math.inf
        for top_k in (0, 1, 7):
            chance = float(torch.rand((), generator=source))
            assert draw(stub, logits, top_k, chance) == draw(exllamav2_ext, logits, top_k, chance)
