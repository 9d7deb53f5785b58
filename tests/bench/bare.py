"""llama.cpp with nothing around it, set up and asked by cortex's own words.

The parameters are those of the harness and each request is the one that a neuron would
make of the same body, so that only what carries the tokens differs. A callback that
counts is all that listens. The model is loaded into this process.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cortex.ask import Sampling
from cortex.harness.base import LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness, asking
from cortex.harness.llamacpp.listener import Listener
from cortex.harness.llamacpp.loading import parameters
from cortex.neuron.prompts import Templates, Voice, prepare
from cortex.text.template import ChatTemplate
from cortex.translator import openai_chat
from tests.bench.client import Burst, Stream


@dataclass(slots=True)
class _Heard:
    """One call: when it spoke first, and the chunks that tell of its counts."""

    progress: bytes = b"{}"
    first_at: float = 0.0
    last: bytes = b""

    def hear(self, chunk: bytes) -> bool:
        """The engine's callback; False lets it go on."""
        if not self.first_at:
            if b'"prompt_progress"' in chunk:
                self.progress = chunk
            else:
                self.first_at = time.perf_counter()
        self.last = chunk
        return False

    def told(self, began: float) -> Stream:
        last, progress = asking.read(self.last), asking.read(self.progress).prompt_progress
        if last.choice.finish_reason is None:
            raise RuntimeError(f"no whole answer, but {last}")
        counts, cached = last.verbose, 0 if progress is None else progress.cache
        read = counts.tokens_evaluated - cached
        return Stream(counts.tokens_predicted, read, self.first_at - began)


class Bare:
    """One model, `slots` sequences at once."""

    def __init__(self, path: Path, context: int, slots: int, threads: int) -> None:
        import xllamacpp

        options: dict[str, str | int | bool] = {"threads": threads}
        order = LoadOrder(path.stem, path, "cpu", context, slots, options=options)
        promised = LlamaCppHarness().preflight(order)
        assert promised.template is not None, f"{path} has no chat template"
        template = ChatTemplate(promised.template, bos=promised.bos, eos=promised.eos)
        self._voice = Voice(Templates(template), promised, Sampling())
        self._context = promised.context
        self.listener = Listener()
        self._server = xllamacpp.Server(parameters(order, promised, self.listener))

    def burst(self, bodies: Sequence[bytes]) -> Burst:
        """Each body is one call, on a thread of its own, all at once."""
        said = [self._said(body) for body in bodies]
        heard = [_Heard() for _ in bodies]
        calls = [
            threading.Thread(target=self._server.handle_completions, args=(each, ear.hear))
            for each, ear in zip(said, heard, strict=True)
        ]
        began = time.perf_counter()
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        wall_s = time.perf_counter() - began
        return Burst(tuple(ear.told(began) for ear in heard), wall_s)

    def close(self) -> None:
        """The engine's memory and its folder are given back."""
        del self._server
        self.listener.close()

    def _said(self, body: bytes) -> bytes:
        (job,) = prepare(openai_chat.read(body), self._voice, "-").jobs
        return asking.encode(asking.body(job, job.prompt, self._context))
