"""The engine says what transformers says: the real generator, its pages, masks and ropes, on CPU tensors.

A selection of what a card is asked (tests/gpu/test_parity_gpu.py); `parity` says what is held.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cortex.demo import HF
from tests.exllamav2 import models, parity, planted
from tests.exllamav2.emulation import emulated_runtime, opt_in

opt_in()

CONTEXT = 1024
SOME = (1, 256, 257, 600)
MIXED = (1, 255, 256, 257, 31, 300, 600, 700)
DEMO = "demo"

Open = Callable[..., parity.Driven]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, parity.Reference]]:
    """A model's folder, and its reference."""

    @cache
    def make(family: str) -> tuple[Path, parity.Reference]:
        if family == DEMO:
            return HF, parity.Reference(HF)
        seed = models.FAMILIES.index(family)
        folder = models.make(tmp_path_factory.mktemp("models") / family, family, seed=seed)
        return folder, parity.Reference(folder)

    return make


@pytest.fixture
def opened() -> Iterator[Open]:
    from cortex.harness.exllamav2.loading import ExLlamaV2Harness

    with ExitStack() as stack:

        def open_(folder: Path, **more: Any) -> parity.Driven:
            harness = ExLlamaV2Harness(runtime=emulated_runtime())
            return stack.enter_context(parity.driven(harness, folder, **{"context": CONTEXT, **more}))

        yield open_


def hold(known: parity.Driven, reference: parity.Reference, cases: list[parity.Case]) -> parity.Parity:
    total, wrong = parity.Parity(), []
    for case in cases:
        came, amiss = parity.judged(known, reference, case)
        total += came
        wrong += amiss
    assert not wrong, total
    return total


@pytest.mark.parametrize("family", [*models.FAMILIES, DEMO])
def test_pages_change_no_answer(made: Any, opened: Open, family: str) -> None:
    folder, reference = made(family)
    known = opened(folder, options={"chunk": 256})
    total = hold(known, reference, parity.cases(known, SOME, MIXED, (255, 511)))
    assert total.tokens >= 20 * parity.ANSWER


def test_a_long_prompt_in_large_chunks_changes_no_answer(made: Any, opened: Open) -> None:
    folder, reference = made("qwen3")
    known = opened(folder, context=2048, slots=1, options={"chunk": 1024})
    total = hold(known, reference, parity.cases(known, (2000,), (), (1, 256)))
    assert total.tokens


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_unpaged_attention_changes_no_answer(made: Any, opened: Open, family: str) -> None:
    folder, reference = made(family)
    known = opened(folder, options={"chunk": 256, "attention": "unpaged"})
    assert known.engine.facts.slots == 1
    total = hold(known, reference, parity.cases(known, (1, 257, 600), (), (256,)))
    assert total.tokens


@pytest.mark.parametrize("speculation", ["draft", "a stranger's draft", "ngram"])
def test_guessing_ahead_changes_no_answer(made: Any, opened: Open, tmp_path: Path, speculation: str) -> None:
    folder, reference = made("llama")
    more: dict[str, Any] = {"options": {"chunk": 256, "speculation": "ngram"}}
    if speculation != "ngram":
        stranger = speculation != "draft"
        draft = models.make(tmp_path / "draft", "llama", seed=7, layers=1) if stranger else folder
        more = {"options": {"chunk": 256}, "draft": draft}
    known = opened(folder, **more)
    again = known.prompt(40, 8) * 12
    cases = [*parity.cases(known, (31, 257), (31, 255, 256, 300), ()), parity.Case("in circles", ((again,),))]
    total = hold(known, reference, cases)
    assert total.tokens


@pytest.mark.parametrize("speculation", ["draft", "ngram"])
def test_the_shortest_prompts_are_guessed_ahead_too(made: Any, opened: Open, speculation: str) -> None:
    folder, reference = made("llama")
    more = {"draft": folder} if speculation == "draft" else {}
    told = {"chunk": 256, **({} if more else {"speculation": "ngram"})}
    known = opened(folder, options=told, **more)
    total = hold(known, reference, parity.cases(known, (1, 2, 3), (1, 2, 3, 40), ()))
    assert total.tokens


@pytest.mark.parametrize("name", planted.FAULTS)
def test_a_planted_fault_is_seen(made: Any, opened: Open, name: str) -> None:
    """What is held above can fail."""
    fault = planted.FAULTS[name]
    folder, reference = made(fault.family)
    with planted.planted(fault):
        known = opened(folder, options={"chunk": 256, **fault.options})
        cases = parity.cases(known, (257, 600), (31, 255, 300), (1, 255, 511))
        seen = [parity.judged(known, reference, case) for case in cases if parity.suited(known, case)]
    wrong = [each for _, amiss in seen for each in amiss]
    assert any("the reference holds" in each for each in wrong), seen
