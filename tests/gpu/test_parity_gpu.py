"""On a card, the engine says what transformers says: families, lengths, attention, chunks, caches.

The whole of what tests/exllamav2/test_parity.py asks a part of; `parity` says what is held.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cortex.demo import HF
from cortex.errors import LoadFailed
from tests.exllamav2 import gptq, models, parity, place, planted
from tests.gpu.record import record

reason = place.needs_card()
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(reason is not None, reason=str(reason))]

DEMO = "demo"
ATTENTIONS = ("auto", "flash-attn", "paged", "triton", "unpaged")
# What the reference may hold against a quantised cache: a slip is worth several units.
CACHES = {"q8": 0.5, "q6": 1.5, "q4": 2.5}

Made = Callable[[str], tuple[Path, parity.Reference]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model's folder, and its reference."""

    @cache
    def make(family: str) -> tuple[Path, parity.Reference]:
        device = "cuda" if place.on_card() else "cpu"
        if family == DEMO:
            return HF, parity.Reference(HF, device)
        seed = models.FAMILIES.index(family)
        folder = models.make(tmp_path_factory.mktemp("models") / family, family, seed=seed)
        return folder, parity.Reference(folder, device)

    return make


def asked(known: parity.Driven) -> list[parity.Case]:
    """Everything; in a rehearsal a little of each kind."""
    some = () if place.on_card() else ((1, 257), (31, 256), (255,))
    return [case for case in parity.cases(known, *some) if parity.suited(known, case)]


def hold(known: parity.Driven, reference: parity.Reference, cases: list[parity.Case], **told: object) -> None:
    total, wrong = parity.Parity(), []
    for case in cases:
        came, amiss = parity.judged(known, reference, case)
        total += came
        wrong += amiss
    record("parity", **told, **asdict(total), wrong=wrong)
    assert not wrong, total


@pytest.mark.parametrize("chunk", [256, 1024])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", [*models.FAMILIES, DEMO])
def test_no_answer_is_changed(made: Made, family: str, attention: str, chunk: int) -> None:
    folder, reference = made(family)
    options = {"chunk": chunk, "attention": attention}
    with ExitStack() as stack:
        try:
            known = stack.enter_context(parity.driven(place.harness(), folder, options=options))
        except LoadFailed as error:
            if attention not in ("flash-attn", "triton"):
                raise
            pytest.skip(str(error))
        hold(known, reference, asked(known), model=family, attention=attention, chunk=chunk)


@pytest.mark.parametrize("speculation", ["draft", "a stranger's draft", "ngram"])
def test_guessing_ahead_changes_no_answer(made: Made, tmp_path: Path, speculation: str) -> None:
    folder, reference = made("llama")
    more: dict[str, Any] = {"options": {"speculation": "ngram"}}
    if speculation != "ngram":
        stranger = speculation != "draft"
        draft = models.make(tmp_path / "draft", "llama", seed=7, layers=1) if stranger else folder
        more = {"draft": draft}
    with parity.driven(place.harness(), folder, **more) as known:
        circles = parity.Case("in circles", ((known.prompt(40, 8) * 12,),))
        told = {"model": "llama", "attention": "auto", "chunk": 1024, "speculation": speculation}
        hold(known, reference, [*asked(known), circles], **told)


@pytest.mark.parametrize("kind", CACHES)
def test_a_quantised_cache_is_near(made: Made, kind: str) -> None:
    if not place.on_card():
        pytest.skip("what quantises a cache is compiled")
    folder, reference = made("llama")
    with parity.driven(place.harness(), folder, cache=kind) as known:
        total = parity.Parity()
        for case in asked(known):
            total += parity.judged(known, reference, case)[0]
    record("parity", model="llama", attention="auto", chunk=1024, cache=kind, **asdict(total), wrong=[])
    assert total.gap <= CACHES[kind]
    assert total.score <= CACHES[kind]


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gptq_weights_are_what_they_stand_for(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, graphs: bool
) -> None:
    """Kernels, CUDA graphs and the choice of kernels serve quantised weights only."""
    if not place.on_card():
        pytest.skip("what multiplies quantised weights is compiled")
    folder, _ = made(family)
    packed, plain = gptq.quantised(folder, tmp_path)
    if not graphs:
        monkeypatch.setenv("EXLLAMA_NO_GRAPHS", "1")
        planted.configured(lambda config: setattr(config, "no_graphs", True))(monkeypatch)
    reference = parity.Reference(plain, "cuda")
    with parity.driven(place.harness(), packed) as known:
        what = f"{family}, GPTQ{'' if graphs else ', no graphs'}"
        hold(known, reference, asked(known), model=what, attention="auto", chunk=1024)


@pytest.mark.parametrize("name", planted.FAULTS)
def test_a_planted_fault_is_seen(made: Made, name: str) -> None:
    """What is held above can fail."""
    fault = planted.FAULTS[name]
    folder, reference = made(fault.family)
    with planted.planted(fault), parity.driven(place.harness(), folder, options=fault.options) as known:
        cases = parity.cases(known, (257, 600), (31, 255, 300), (1, 255, 511))
        seen = [parity.judged(known, reference, case) for case in cases if parity.suited(known, case)]
    wrong = [each for _, amiss in seen for each in amiss]
    gap = max(came.gap for came, _ in seen)
    told = any("the reference holds" in each for each in wrong)
    record("faults", fault=name, seen=told, gap=gap, amiss=len(wrong))
    assert told, seen
