"""How a job's next token is chosen: everything but the draw itself is done here.

The library draws, and no more, since its own steps are others than what is asked for: its top_p
takes a set that is no nucleus, bias comes after the penalties, low temperatures become greedy, and
all of it changes the logits that scores are made of. Here the order is that of the other engines:
bias, penalties over prompt and answer, grammar, temperature, top_k, top_p, min_p.

A job's `Chooser` is the library's filter. It raises nothing, as that would end its neighbours too.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from cortex.ask import Sampling
from cortex.errors import BadAsk
from cortex.events import TokenLogprob
from cortex.harness.base import Job
from cortex.harness.exllamav2.grammar import Grammar
from cortex.harness.exllamav2.runtime import Library
from cortex.harness.exllamav2.scores import Scorer
from cortex.harness.exllamav2.vocabulary import Vocabulary

NO_NUMBERS: Final = (
    "the model computes no numbers in half precision, which is all that exllamav2 has; choose a quantised "
    "form of the model, or serve it as an upstream"
)
NO_WAY_ON: Final = "the model gives no finite logit to any token that the JSON schema allows"
# How many of the likeliest tokens are looked at first: a nucleus is seldom larger, and it takes a
# fortieth of the time that sorting a whole vocabulary takes.
_LIKELIEST: Final = 256
# What the library would do by itself, and what takes it out of the way. Its defaults are not neutral.
_NEUTRAL: Final[Mapping[str, object]] = {
    "token_repetition_penalty": 1.0,
    "token_repetition_range": -1,
    "token_repetition_decay": 0,
    "token_frequency_penalty": 0.0,
    "token_presence_penalty": 0.0,
    "temperature": 1.0,
    "smoothing_factor": 0.0,
    "min_temp": 0.0,
    "max_temp": 0.0,
    "temp_exponent": 1.0,
    "top_p": 0.0,
    "top_a": 0.0,
    "min_p": 0.0,
    "tfs": 0.0,
    "typical": 0.0,
    "skew": 0.0,
    "temperature_last": False,
    "mirostat": False,
    "mirostat_tau": 1.5,
    "mirostat_eta": 0.1,
    "mirostat_mu": None,
    "token_bias": None,
    "cfg_scale": None,
    "dry_allowed_length": 2,
    "dry_base": 1.75,
    "dry_multiplier": 0.0,
    "dry_sequence_breakers": None,
    "dry_range": 0,
    "dry_max_ngram": 20,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "xtc_ignore_tokens": None,
}


def settings(library: Library, job: Job) -> Any:  # noqa: ANN401 - the library is untyped
    """What the library's sampler is told: to take the likeliest, or to draw by what is left."""
    return library.generator.ExLlamaV2Sampler.Settings(
        **_NEUTRAL, top_k=1 if _greedy(job.sampling) else 0, post_sampling_hooks=[]
    )


def seed(job: Job) -> int | None:
    """What the job's draws begin with; None for another beginning every time. Negative numbers are
    seeds like others."""
    return None if job.sampling.seed is None else job.sampling.seed % 2**64


def check(job: Job, vocabulary: Vocabulary) -> None:
    """Refuse a bias of what is no token."""
    for token in job.sampling.logit_bias or {}:
        if not 0 <= token < vocabulary.size:
            raise BadAsk(
                f"'logit_bias' names token {token}; this model has tokens 0 to {vocabulary.size - 1}",
                param="logit_bias",
            )


class Chooser:
    """Leaves in the logits of one job what may be drawn, as the library's filter.

    `scored` is told the score of every token chosen, where the job wants them. After a `fault` only
    the answer's end is left, and whoever drives the job fails it.
    """

    def __init__(
        self,
        library: Library,
        vocabulary: Vocabulary,
        job: Job,
        prompt: Sequence[int],
        *,
        grammar: Grammar | None = None,
        scored: Callable[[TokenLogprob], None] = lambda score: None,
    ) -> None:
        self._torch, self._vocabulary, self._grammar = library.torch, vocabulary, grammar
        self._fault: str | None = None
        self._closed = None if grammar is None else _closing(library)
        self._bias = _Bias(library, job.sampling.logit_bias or {})
        self._penalties = _Penalties(library, job.sampling, prompt)
        self._cut = _Cut(library, job.sampling)
        self._scorer: Scorer | None = None
        if job.logprobs is not None:
            hidden = vocabulary.hidden(job.visible)
            self._scorer = Scorer(library, vocabulary, job.logprobs, hidden, scored)
        self._allowed: Future[bytes] | None = None

    @property
    def fault(self) -> str | None:
        """Why the job cannot go on."""
        return self._fault or (self._grammar.fault if self._grammar is not None else None)

    # What follows is called by the library, by these names.

    def begin(self, prefix_str: str) -> None:
        """The first token is about to be chosen."""

    def can_mask_logits(self) -> bool:
        return True

    def use_background_worker(self) -> bool:
        """What a grammar allows is worked out while the device computes."""
        return self._grammar is not None

    def background_prepare_logit_mask(self, pool: ThreadPoolExecutor) -> None:
        if self._grammar is not None:
            self._allowed = pool.submit(self._grammar.allowed)

    def background_drop(self) -> None:
        """What is being worked out is for nothing."""
        if self._allowed is not None:
            self._allowed.exception()
            self._allowed = None

    def get_next(self, mask: bool) -> bool:
        return True

    def mask_logits(self, logits: Any) -> Any:  # noqa: ANN401 - all rows of the weights
        """What may be drawn, in logits of its own; the model's stay as they are."""
        known = logits[: self._vocabulary.size]
        if not math.isfinite(float(known.max())):
            self._fault = NO_NUMBERS
        elif self._scorer is not None:
            self._scorer.look(known)
        left = known if self.fault else self._limit(self._penalties(self._bias(known)))
        if self.fault or not math.isfinite(float(left.max())):
            self._fault = self.fault or NO_WAY_ON
            left = self._ended(known)
        left = self._cut(left)
        if left is known:
            return logits
        whole = self._torch.full_like(logits, -math.inf)
        whole[: len(left)] = left
        return whole

    def feed(self, token: Any) -> None:  # noqa: ANN401 - as above
        """`token` was chosen."""
        chosen = int(token.item())
        if self._scorer is not None:
            self._scorer.choose(chosen)
        self._penalties.count(chosen)
        if self._grammar is not None:
            self._grammar.accept(chosen)

    def _limit(self, logits: Any) -> Any:  # noqa: ANN401 - as above
        """Without the tokens that the grammar forbids."""
        if self._grammar is None or self._closed is None:
            return logits
        coming, self._allowed = self._allowed, None
        bits = self._grammar.allowed() if coming is None else coming.result()
        return logits + self._closed(bits)[: len(logits)]

    def _ended(self, known: Any) -> Any:  # noqa: ANN401 - as above
        """Nothing but the answer's end."""
        left = self._torch.full_like(known, -math.inf)
        left[min(self._vocabulary.eos, default=0)] = 0.0
        if self._scorer is not None:
            self._scorer.look(left)
        return left


class _Bias:
    """Moves the logits of some tokens."""

    def __init__(self, library: Library, bias: Mapping[int, float]) -> None:
        torch = library.torch
        self._tokens = torch.tensor(list(bias), dtype=torch.long)
        self._amounts = torch.tensor(list(bias.values()), dtype=torch.float)

    def __call__(self, logits: Any) -> Any:  # noqa: ANN401 - as above
        if not len(self._tokens):
            return logits
        return logits.index_add(0, self._tokens, self._amounts)


class _Penalties:
    """Makes the tokens of prompt and answer less likely. The repetition penalty divides what is
    likely and multiplies what is not; the others are taken off, once or as often as it came."""

    def __init__(self, library: Library, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._torch = library.torch
        self._repetition = _number(sampling.repetition_penalty, 1.0)
        self._presence = _number(sampling.presence_penalty, 0.0)
        self._frequency = _number(sampling.frequency_penalty, 0.0)
        self._used = (self._repetition, self._presence, self._frequency) != (1.0, 0.0, 0.0)
        counts = Counter(prompt if self._used else ())
        self._places = {token: place for place, token in enumerate(counts)}
        self._tokens = self._torch.tensor(list(counts), dtype=self._torch.long)
        self._counts = self._torch.tensor(list(counts.values()), dtype=self._torch.float)

    def __call__(self, logits: Any) -> Any:  # noqa: ANN401 - as above
        if not len(self._tokens):
            return logits
        seen = logits[self._tokens]
        seen = self._torch.where(seen > 0, seen / self._repetition, seen * self._repetition)
        seen -= self._counts * self._frequency + self._presence
        return logits.index_copy(0, self._tokens, seen)

    def count(self, token: int) -> None:
        """`token` was said."""
        if not self._used:
            return
        place = self._places.setdefault(token, len(self._tokens))
        if place == len(self._tokens):
            self._tokens = self._torch.cat((self._tokens, self._tokens.new_tensor([token])))
            self._counts = self._torch.cat((self._counts, self._counts.new_zeros(1)))
        self._counts[place] += 1


class _Cut:
    """Leaves the likeliest tokens: as many as top_k, as have top_p together, and as are min_p times as
    likely as the first. What is left is divided by the temperature."""

    def __init__(self, library: Library, sampling: Sampling) -> None:
        self._torch = library.torch
        self._greedy = _greedy(sampling)
        self._temperature = _number(sampling.temperature, 1.0)
        self._top_k = max(0, int(_number(sampling.top_k, 0)))
        self._top_p = _number(sampling.top_p, 1.0)
        min_p = _number(sampling.min_p, 0.0)
        self._least = math.log(min_p) if min_p > 0 else -math.inf  # below the first, after temperature

    def __call__(self, logits: Any) -> Any:  # noqa: ANN401 - as above
        if self._greedy:
            return logits
        if self._top_k or self._top_p < 1:
            return self._nucleus(logits)
        if self._temperature == 1 and self._least == -math.inf:
            return logits
        scaled = (logits - logits.max()) / self._temperature
        if self._least == -math.inf:
            return scaled
        return scaled.masked_fill_(scaled < self._least, -math.inf)

    def _nucleus(self, logits: Any) -> Any:  # noqa: ANN401 - as above
        size = len(logits)
        count = min(self._top_k or _LIKELIEST, size)
        while True:
            values, tokens = self._torch.topk(logits, count)
            scaled = (values - values[0]) / self._temperature
            among = scaled if self._top_k else (logits - values[0]) / self._temperature
            kept = self._kept(scaled, among)
            if kept < count or self._top_k or count == size:
                break
            count = min(8 * count, size)
        left = self._torch.full_like(logits, -math.inf)
        left[tokens[:kept]] = scaled[:kept]
        return left

    def _kept(self, scaled: Any, among: Any) -> int:  # noqa: ANN401 - as above
        """How many of `scaled`, the likeliest of all `among` whom top_p counts, stay. All of them where
        more may have to."""
        kept = int((scaled >= self._least).sum())
        if self._top_p < 1:
            reached = scaled.double().exp().cumsum(0) >= self._top_p * among.exp().sum().double()
            kept = min(kept, int((~reached).sum()) + 1)
        return max(1, kept)


def _greedy(sampling: Sampling) -> bool:
    """Whether only the likeliest token can come."""
    return (
        _number(sampling.temperature, 1.0) <= 0
        or int(_number(sampling.top_k, 0)) == 1
        or _number(sampling.top_p, 1.0) <= 0
    )


def _closing(library: Library) -> Callable[[bytes], Any]:
    """Makes minus infinity of each bit that is not set, and 0 of the others: what is added to logits.
    By a table of all bytes, since choosing one by one takes ten times as long."""
    import numpy  # noqa: PLC0415

    each = numpy.unpackbits(numpy.arange(256, dtype=numpy.uint8)[:, None], axis=1, bitorder="little")
    table = numpy.where(each == 1, 0.0, -numpy.inf).astype(numpy.float32)
    return lambda bits: library.torch.from_numpy(table[numpy.frombuffer(bits, dtype=numpy.uint8)].reshape(-1))


def _number(value: float | None, neutral: float) -> float:
    return neutral if value is None else value
