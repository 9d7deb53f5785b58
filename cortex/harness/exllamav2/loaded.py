"""A model in a device's memory: weights, KV cache, and what speeds it up or adapts it.

Made once a load, freed once. It makes generators, any number of them one after another over the
same weights and cache, since one that raised must not be used again. Everything here is done on
the device's thread.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cortex.ask import Sampling
from cortex.catalogue import PAGE
from cortex.errors import LoadFailed
from cortex.harness.base import Job, LoadOrder, Preflight
from cortex.harness.exllamav2.attention import Attention
from cortex.harness.exllamav2.configure import configured
from cortex.harness.exllamav2.generating import generator_of, job_of
from cortex.harness.exllamav2.guards import DRAFTED, cache_tokens, chunk_of, draft_order, preflight
from cortex.harness.exllamav2.runtime import Library
from cortex.harness.exllamav2.sampling import Chooser, settings
from cortex.harness.exllamav2.vocabulary import Vocabulary

# From as many jobs on a pool samples; its threads are made when they are needed.
SAMPLING_THREADS: Final = 16
EVERYTHING_GB: Final = 10.0**6
_CACHES: Final = {
    "fp16": "ExLlamaV2Cache",
    "q8": "ExLlamaV2Cache_Q8",
    "q6": "ExLlamaV2Cache_Q6",
    "q4": "ExLlamaV2Cache_Q4",
}
# Tokens that a trial reads and says: enough for the kernels to be chosen and graphs to be recorded.
_TRIAL_PROMPT, _TRIAL_TOKENS = 8, 8


class _Silent:
    """The tokenizer that a generator is given: no token has text. The library would hold tokens back
    until their text is whole, and decodes every word of the vocabulary for that; text is made above."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._size = vocabulary.size

    def get_id_to_piece_list(self, include_special_tokens: bool = False) -> "_Silent":
        return self

    def __getitem__(self, token: int) -> str:
        return ""

    def get_vocab_size(self) -> int:
        return self._size


@dataclass(slots=True)
class Loaded:
    """`build` fills it; `close` frees it, however far that came."""

    library: Library
    order: LoadOrder
    promised: Preflight
    attention: Attention
    vocabulary: Vocabulary
    model: Any = None
    cache: Any = None
    draft: Any = None
    draft_cache: Any = None
    loras: list[Any] = field(default_factory=list)
    _jobs: Any = field(init=False)

    def __post_init__(self) -> None:
        self._jobs = job_of(self.library)

    @property
    def slots(self) -> int:
        """How many jobs its generators take; unpaged attention serves one at a time."""
        return self.order.slots if self.attention.paged else 1

    @property
    def drafts(self) -> int:
        """Tokens guessed ahead of every one that is computed."""
        return DRAFTED if self.order.draft is not None or self._ngram else 0

    @property
    def _ngram(self) -> bool:
        return self.order.options.get("speculation") == "ngram"

    def build(self, progress: Callable[[int, int], None]) -> None:
        """Weights and caches are on the device. `progress(done, total)` is told in bytes of weights,
        and may raise to give the load up."""
        total = self.promised.weights_bytes
        began = 0
        if self.order.draft is not None:
            order = draft_order(self.order)
            header = preflight(order)
            began = min(header.weights_bytes, total)
            self.draft = self._weights(order, header, lambda part: progress(int(began * part), total))
        self.model = self._weights(
            self.order, self.promised, lambda part: progress(began + int((total - began) * part), total)
        )
        tokens = cache_tokens(self.order)
        self.cache = self._cache(self.model, tokens)
        if self.draft is not None:
            self.draft_cache = self._cache(self.draft, tokens)
        lora = self.library.exllamav2.ExLlamaV2Lora
        self.loras = [lora.from_directory(self.model, str(folder)) for folder in self.order.lora]

    def generator(self) -> Any:  # noqa: ANN401 - the library is untyped
        """A fresh one, with no jobs and nothing remembered of prompts."""
        # Sampling threads write into its buffers, and may not where these were made in inference mode: as
        # in a turn that fails while another model loads.
        with self.library.torch.inference_mode(False):
            made = generator_of(self.library)(
                model=self.model,
                cache=self.cache,
                tokenizer=_Silent(self.vocabulary),
                max_batch_size=self.slots,
                max_chunk_size=chunk_of(self.order),
                max_q_size=self.drafts + 1,
                draft_model=self.draft,
                draft_cache=self.draft_cache,
                num_draft_tokens=DRAFTED,
                use_ngram_draft=self._ngram,
                max_sampling_threads=min(SAMPLING_THREADS, os.cpu_count() or 1),
                paged=self.attention.paged,
            )
        if self.loras:
            made.set_loras(self.loras)
        return made

    def job(self, **told: Any) -> Any:  # noqa: ANN401 - as above
        """A job for any of its generators. May be made on another thread."""
        return self._jobs(**told)

    def warm(self, generator: Any) -> None:  # noqa: ANN401 - as above
        """The device has met the longest prompt and the widest step that may come, and what it said
        at a trial are numbers. Raises LoadFailed when they are none."""
        torch = self.library.torch
        context, chunk = self.promised.context, chunk_of(self.order)
        pages = torch.arange(math.ceil(context / PAGE), dtype=torch.int32)
        steps = [(1, min(chunk, context), True)]
        if self.attention.paged:
            steps.append((self.slots, self.drafts + 1, False))
        for batch, length, reads in steps:
            lengths = torch.full((batch,), max(0, context - length), dtype=torch.int32)
            for model, cache in ((self.model, self.cache), (self.draft, self.draft_cache)):
                if model is not None:
                    model.forward_chunk(
                        input_ids=torch.zeros((batch, length), dtype=torch.long),
                        preprocess_only=reads,
                        attn_params=generator.get_paged_params(
                            batch, pages.expand(batch, -1).contiguous(), lengths, length
                        ),
                        cache=cache,
                    )
        self._try(generator)

    def close(self) -> None:
        """Nothing here holds memory of the device any more."""
        for lora in self.loras:
            lora.unload()
        for model in (self.model, self.draft):
            if model is not None:
                model.unload()
        self.model = self.cache = self.draft = self.draft_cache = None
        self.loras = []

    def _weights(self, order: LoadOrder, header: Preflight, progress: Callable[[float], None]) -> Any:  # noqa: ANN401
        config = configured(self.library, order, header)
        model = self.library.exllamav2.ExLlamaV2(config)
        try:
            model.load(split(order, model), callback=lambda done, of: progress(done / of))
        except BaseException:
            model.unload()
            raise
        return model

    def _cache(self, model: Any, tokens: int) -> Any:  # noqa: ANN401 - as above
        kind = getattr(self.library.exllamav2, _CACHES[self.order.cache])
        return kind(model, batch_size=1, max_seq_len=tokens)

    def _try(self, generator: Any) -> None:  # noqa: ANN401 - as above
        """What half precision cannot hold comes out as no number, and every answer would be noise."""
        torch = self.library.torch
        prompt = (0,) * _TRIAL_PROMPT
        asked = Job(0, prompt, Sampling(temperature=0.0))
        chooser = Chooser(self.library, self.vocabulary, asked, prompt)
        job = self.job(
            input_ids=torch.tensor([prompt], dtype=torch.long),
            max_new_tokens=_TRIAL_TOKENS + self.drafts,
            gen_settings=settings(self.library, asked),
            filters=[chooser],
        )
        generator.enqueue(job)
        while generator.num_remaining_jobs():
            generator.iterate()
            if chooser.fault is not None:
                raise LoadFailed(f"{self.order.model}: {chooser.fault}")
        generator.reset_page_table()


def split(order: LoadOrder, model: Any) -> list[float]:  # noqa: ANN401 - as above
    """Gigabytes for each device, from cuda:0 on, so that the library puts as much of the weights on
    each as room was reserved there, layer after layer in CUDA's order. The last takes what is left."""
    indexes, reserved = devices_of(order), sum(order.shares.values())
    parts = [0.0] * indexes[-1] + [EVERYTHING_GB]
    modules = list(model.modules[1:])  # the embedding stays with the host
    whole, done, share = sum(each.weight_footprint() for each in modules), 0, 0
    for index in indexes[:-1]:
        share += order.shares[f"cuda:{index}"]
        mine: list[Any] = []
        while modules and done + modules[0].weight_footprint() / 2 <= whole * share / reserved:
            done += modules[0].weight_footprint()
            mine.append(modules.pop(0))
        parts[index] = _room(model, mine) / 2**30
    return parts


def _room(model: Any, modules: list[Any]) -> float:  # noqa: ANN401 - as above
    """Bytes with which the library puts these on a device, and not one more: their weights, the
    largest buffers among them, and what it takes off before the first."""
    if not modules:
        return 0.0
    config, attention = model.config, [each for each in modules if hasattr(each, "temp_attn_size")]
    weights = sum(each.weight_footprint() for each in modules)
    buffers = max(each.scratch_space() for each in modules)
    buffers += max((each.temp_attn_size() for each in attention), default=0)
    fixed = 4 * config.head_dim * config.max_seq_len
    fixed += 2 * config.max_input_len * (config.hidden_size + config.max_input_len)
    return float(weights + buffers + fixed) + 0.5  # for what is lost on the way to gigabytes


def devices_of(order: LoadOrder) -> list[int]:
    """The numbers of its devices, in CUDA's order."""
    names = order.shares or {order.device: 0}
    return sorted(int(name.partition(":")[2]) for name in names)
