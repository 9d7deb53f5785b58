"""Whether an engine says what transformers says, which computes in single precision.

Half precision rounds, so a token is not always the reference's own. Each is judged on the engine's
own answer so far: either it is the reference's likeliest, or the reference holds the two to be
nearly as likely (TIE); and few may be such. A mask, a rope or a page that is wrong moves logits by
whole units, and meets neither. Scores are compared with the reference's log-softmax.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cortex.ask import Sampling
from cortex.events import EngineEvent, Failed, Prefilled, Stopped, TokenLogprob, Tokens, Usage
from cortex.harness.base import Harness, Job, LoadOrder

GREEDY: Final = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
# Around a page of 256 tokens, over several chunks of a prompt, and the shortest.
LENGTHS: Final = (1, 255, 256, 257, 600, 2000)
MIXED: Final = (*LENGTHS, 31, 700)
# Tokens that a second prompt has in common with the one before.
SHARED: Final = (1, 255, 256, 511)
ANSWER: Final = 24
PAGE: Final = 256
CONTEXT: Final = 2048
SLOTS: Final = 8

TIE: Final = 0.05
SCORE: Final = 0.08
# One token in twelve: ties are one in fifty with these models.
PARTED: Final = 1 / 12
TOP: Final = 4
PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine said to a prompt. `scores` are of the tokens that have text. An `endless` one had
    to do without the others."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    scores: tuple[TokenLogprob, ...]
    usage: Usage
    endless: bool


@dataclass(frozen=True, slots=True)
class Parity:
    """How near some answers come. `parted` tokens are not the reference's; `gap` is how much
    likelier (in logits) it held its own at worst, `score` how far a log-probability is off at worst."""

    answers: int = 0
    tokens: int = 0
    parted: int = 0
    gap: float = 0.0
    score: float = 0.0

    def __add__(self, other: "Parity") -> "Parity":
        return Parity(
            self.answers + other.answers,
            self.tokens + other.tokens,
            self.parted + other.parted,
            max(self.gap, other.gap),
            max(self.score, other.score),
        )

    def faults(self, tie: float = TIE, score: float = SCORE) -> list[str]:
        """What is beyond the bounds; nothing where the engine says what the reference says."""
        told = {
            f"nothing was compared: {self}": not self.tokens,
            f"a token that the reference holds to be {self.gap:.3f} worse than its own": self.gap > tie,
            f"{self.parted} of {self.tokens} tokens are not the reference's": (
                self.parted > max(2, PARTED * self.tokens)
            ),
            f"a log-probability is off by {self.score:.3f}": self.score > score,
        }
        return [what for what, so in told.items() if so]


class Reference:
    """A model as transformers computes it, in single precision, the plainest attention it has."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        import torch
        import transformers

        self._torch, self._device = torch, device
        self._model = (
            transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            .eval()
            .to(device)
        )

    def logits(self, prompt: Sequence[int], ids: Sequence[int]) -> Any:
        """What it computes for each token of the answer `ids`: a row for each."""
        torch = self._torch
        with torch.no_grad():
            tokens = torch.tensor([[*prompt, *ids[:-1]]], device=self._device)
            return self._model(tokens).logits[0, len(prompt) - 1 :].float().cpu()

    def judge(self, answer: Answer, silent: frozenset[int] = frozenset()) -> Parity:
        """`silent` are the tokens without text: their scores are not told."""
        torch = self._torch
        logits = self.logits(answer.prompt, answer.ids)
        said = torch.tensor(answer.ids)[:, None]
        wanted = torch.log_softmax(logits, 1)
        if answer.endless:
            logits[:, sorted(silent)] = -torch.inf
        gaps = (logits.max(1).values - logits.gather(1, said)[:, 0]).tolist()
        told = [at for at, token in enumerate(answer.ids) if token not in silent]
        if len(told) != len(answer.scores):
            raise AssertionError(f"{len(answer.scores)} scores of {len(told)} tokens")
        off = [0.0]
        for at, score in zip(told, answer.scores, strict=True):
            off.append(abs(score.logprob - float(wanted[at, answer.ids[at]])))
            best = wanted[at].topk(len(score.top)).values.tolist()
            off.extend(abs(own - ref) for (_, own), ref in zip(score.top, best, strict=True))
        return Parity(1, len(gaps), sum(gap > 0 for gap in gaps), max(gaps), max(off))


@dataclass(slots=True)
class Driven:
    """An engine, driven to the end of what it is asked, and the ids that its generator tells."""

    engine: Any
    rung: threading.Event
    special: frozenset[int]  # never in a prompt
    size: int  # of the vocabulary
    silent: frozenset[int]  # have no text in an answer
    _ids: dict[int, list[int]] = field(default_factory=dict)
    _number: int = 0

    def answers(self, *prompts: Sequence[int], endless: bool = True) -> list[Answer]:
        """All at once. `endless` ones run to their limit."""
        jobs = [self._job(prompt, endless) for prompt in prompts]
        self._listen()
        for job in jobs:
            self.engine.submit(job)
        said: dict[int, list[EngineEvent]] = {job.id: [] for job in jobs}
        deadline = time.monotonic() + PATIENCE_S
        while not all(events and isinstance(events[-1], Stopped | Failed) for events in said.values()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer in {PATIENCE_S:.0f} s")
            while not self.engine.restless():
                if not self.rung.wait(PATIENCE_S):
                    raise TimeoutError("it has work and does not ring")
                self.rung.clear()
            for number, event in self.engine.turn():
                said[number].append(event)
        return [self._answer(job, said[job.id]) for job in jobs]

    def forget(self) -> None:
        """Nothing is known of prompts that were read."""
        self.engine.reset()

    def prompt(self, length: int, seed: int) -> tuple[int, ...]:
        """Random tokens, none of them special."""
        chance = random.Random(1000 * seed + length)
        plain = [token for token in range(self.size) if token not in self.special]
        return tuple(chance.choices(plain, k=length))

    def _job(self, prompt: Sequence[int], endless: bool) -> Job:
        self._number += 1
        bias = dict.fromkeys(sorted(self.silent), -100.0) if endless else None
        return Job(self._number, tuple(prompt), replace(GREEDY, logit_bias=bias), ANSWER, logprobs=TOP)

    def _listen(self) -> None:
        """The generator's own results are heard as they pass; a reset makes another generator."""
        generator, ids = self.engine._generator, self._ids
        if "iterate" in vars(generator):
            return
        iterate = generator.iterate

        def heard() -> Any:
            results = iterate()
            for result in results:
                for part in (result, result.get("held", {})):
                    tokens = part.get("token_ids")
                    if tokens is not None:
                        ids.setdefault(result["identifier"], []).extend(tokens.flatten().tolist())
            return results

        generator.iterate = heard

    def _answer(self, job: Job, events: list[EngineEvent]) -> Answer:
        *_, end = events
        if not isinstance(end, Stopped):
            raise AssertionError(f"it failed: {end}")
        ids = tuple(self._ids.pop(job.id))
        scores = tuple(each for event in events if isinstance(event, Tokens) for each in event.logprobs)
        prefilled = next(event for event in events if isinstance(event, Prefilled))
        if (prefilled.prompt_tokens, end.usage.completion) != (len(job.prompt), len(ids)):
            raise AssertionError(f"{end.usage}, and there were {len(job.prompt)} and {len(ids)} tokens")
        endless = job.sampling.logit_bias is not None
        return Answer(tuple(job.prompt), ids, scores, end.usage, endless)


@contextmanager
def driven(harness: Harness, folder: Path, **more: Any) -> Iterator[Driven]:
    """The model, loaded; `more` is of its order, and `options` too."""
    rung = threading.Event()
    order = LoadOrder(
        **{"model": "m", "path": folder, "device": "cuda:0", "context": CONTEXT, "slots": SLOTS, **more}
    )
    engine: Any = harness.load(order, lambda done, total: False, rung.set)
    try:
        known = engine._vocabulary
        yield Driven(engine, rung, known.specials | known.eos, known.size, known.hidden(()) | known.eos)
    finally:
        engine.unload()


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts that are put one after another; those of a group at once. `cached`: how many tokens of
    the last group's prompts must not be read again, at least."""

    name: str
    groups: tuple[tuple[tuple[int, ...], ...], ...]
    cached: int | None = None
    endless: bool = True


def cases(
    known: Driven,
    lengths: Sequence[int] = LENGTHS,
    mixed: Sequence[int] = MIXED,
    shared: Sequence[int] = SHARED,
) -> list[Case]:
    """What is put to an engine that has forgotten everything: alone, mixed, and with what was read before."""
    told = [Case(f"one of {length}", (((known.prompt(length, 1)),),)) for length in lengths]
    if mixed:
        told.append(Case(f"{len(mixed)} at once", (tuple(known.prompt(length, 2) for length in mixed),)))
        told.append(
            Case("to their own ends", tuple((known.prompt(100 + n, 6),) for n in range(4)), endless=False)
        )
    for common in shared:
        first, other = known.prompt(700, 3), known.prompt(320, 4)
        told.append(Case(f"{common} shared", ((first,), ((*first[:common], *other),)), common // PAGE * PAGE))
    if shared:
        again = known.prompt(600, 5)
        told.append(Case("the same again", ((again,), (again,)), 2 * PAGE))
    return told


def judged(known: Driven, reference: Reference, case: Case) -> tuple[Parity, list[str]]:
    """How the case went, and what is wrong with it. Prompts that were not read before are never cached."""
    known.forget()
    sum_, wrong = Parity(), []
    for number, group in enumerate(case.groups):
        answers = known.answers(*group, endless=case.endless)
        sum_ = sum((reference.judge(each, known.silent) for each in answers), sum_)
        for each in answers:
            least = case.cached if case.cached is not None and number else 0
            if each.usage.cached < least or (not number and each.usage.cached):
                wrong.append(f"{each.usage.cached} tokens were cached, wanted {least}")
    return sum_, [f"{case.name}: {each}" for each in (*wrong, *sum_.faults())]


def suited(known: Driven, case: Case) -> bool:
    """Whether it takes as many at once."""
    return max(map(len, case.groups)) <= known.engine.facts.slots
