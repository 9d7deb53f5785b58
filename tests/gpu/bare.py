"""exllamav2 with nothing around it: its own generator, sampler and tokenizer, in one loop.

Weights, cache, attention and configuration are the harness's, so that the same numbers are
computed; each prompt is the one that a neuron would make of the same body. What hears it is a
counter. The model is loaded into this process.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cortex.ask import Sampling
from cortex.harness.base import LoadOrder
from cortex.harness.exllamav2 import attention
from cortex.harness.exllamav2.loaded import Loaded
from cortex.harness.exllamav2.runtime import Runtime
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.neuron.prompts import Templates, Voice, prepare
from cortex.text.template import ChatTemplate
from cortex.translator import openai_chat
from tests.bench.client import Burst, Stream
from tests.exllamav2 import place


class Bare:
    """One model, `slots` sequences at once."""

    def __init__(self, path: Path, context: int, slots: int) -> None:
        harness = place.harness()
        order = LoadOrder(path.name, path, "cuda:0", context, slots)
        promised, self.vocabulary = harness.preflight(order), Vocabulary.read(path)
        assert promised.template is not None, f"{path} has no chat template"
        template = ChatTemplate(promised.template, bos=promised.bos, eos=promised.eos)
        self._voice = Voice(Templates(template), promised, Sampling())
        self._runtime: Runtime = vars(harness)["_runtime"]
        self._library = library = self._runtime.library()
        self._runtime.hold(0)
        chosen = attention.install(library, "auto", self._runtime.capability(0))
        self.attention = chosen.name
        self._loaded = Loaded(library, order, promised, chosen, self.vocabulary)
        self._loaded.build(lambda done, total: None)
        self._tokenizer = library.exllamav2.ExLlamaV2Tokenizer(self._loaded.model.config)
        self._generator = self._generator_of(order)
        self._loaded.warm(self._loaded.generator())

    def burst(self, bodies: Sequence[bytes]) -> Burst:
        """Each body is one job, all at once."""
        prompts = [self._prompt(body) for body in bodies]
        began = time.perf_counter()
        first: dict[int, float] = {}
        ended: dict[int, dict[str, Any]] = {}
        for number, (ids, most) in enumerate(prompts):
            self._generator.enqueue(self._job(number, ids, most))
        while self._generator.num_remaining_jobs():
            for result in self._generator.iterate():
                if result["stage"] == "streaming":
                    first.setdefault(result["identifier"], time.perf_counter() - began)
                    if result["eos"]:
                        ended[result["identifier"]] = result
        wall_s = time.perf_counter() - began
        return Burst(tuple(_told(ended[number], first[number]) for number in range(len(bodies))), wall_s)

    def close(self) -> None:
        """The model's memory is given back."""
        self._generator = self._tokenizer = None
        self._loaded.close()
        self._runtime.give_back()

    def _generator_of(self, order: LoadOrder) -> Any:
        return self._library.generator.ExLlamaV2DynamicGenerator(
            model=self._loaded.model,
            cache=self._loaded.cache,
            tokenizer=self._tokenizer,
            max_batch_size=order.slots,
            max_chunk_size=self._loaded.model.config.max_input_len,
            max_q_size=1,
        )

    def _prompt(self, body: bytes) -> tuple[tuple[int, ...], int]:
        (job,) = prepare(openai_chat.read(body), self._voice, "-").jobs
        assert isinstance(job.prompt, str)
        assert job.max_tokens is not None
        return self.vocabulary.encode(job.prompt), job.max_tokens

    def _job(self, number: int, ids: tuple[int, ...], most: int) -> Any:
        library = self._library
        return library.generator.ExLlamaV2DynamicJob(
            input_ids=library.torch.tensor([ids], dtype=library.torch.long),
            max_new_tokens=most,
            gen_settings=library.generator.ExLlamaV2Sampler.Settings.greedy(),
            stop_conditions=sorted(self.vocabulary.eos),
            identifier=number,
        )


def _told(end: dict[str, Any], first_s: float) -> Stream:
    read = end["prompt_tokens"] - end["cached_tokens"]
    return Stream(end["new_tokens"], read, first_s)
