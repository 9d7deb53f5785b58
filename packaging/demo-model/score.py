"""The score report: the exam through llama.cpp itself, on the text that it says.

Greedy, four sequences at a time. Owns the engine's settings and the report's form; what is
asked is `exam`'s.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import exam
import xllamacpp

_SLOTS = 4
_CONTEXT = 2048
_SHOWN = 5  # wrong answers quoted for each row


def score(gguf: Path) -> str:
    """A table of every section, then some of what was wrong."""
    engine = Engine(gguf)
    rows, wrong = ["| asked | right | of |", "|---|---|---|"], []
    for title, cases in exam.sections().items():
        answers = engine.answers(list(cases()))
        missed = [(case, said) for case, said in answers if said != case.wanted]
        rows.append(f"| {title} | {len(answers) - len(missed)} | {len(answers)} |")
        wrong += [f"- {title}: {_last(case.prompt)!r} got {said!r}" for case, said in missed[:_SHOWN]]
    return "\n".join([*rows, "", *wrong]) + "\n"


def _last(prompt: str) -> str:
    """What was asked last, for the reader of the report."""
    return prompt.rsplit("<|im_start|>user\n", 1)[1].split("<|im_end|>", 1)[0]


class Engine:
    """llama.cpp with the model, asked over and over."""

    def __init__(self, gguf: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_parallel = _SLOTS
        params.n_ctx = _SLOTS * _CONTEXT
        params.n_batch = params.n_ubatch = 256
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_ram_mib = 0
        params.verbosity = 0
        params.warmup = False
        params.n_threads_http = 1
        self._server = xllamacpp.Server(params)

    def answers(self, cases: Iterable[exam.Case]) -> list[tuple[exam.Case, str]]:
        """Each case with what the model said."""
        with ThreadPoolExecutor(_SLOTS) as threads:
            return list(threads.map(lambda case: (case, self._answer(case)), cases))

    def _answer(self, case: exam.Case) -> str:
        chunks: list[dict[str, Any]] = []
        asked = {"prompt": case.prompt, "temperature": 0, "max_tokens": 400, "repeat_penalty": 1.0}
        self._server.handle_completions({**asked, "stop": [], "stream": False}, chunks.append)
        choice = chunks[-1]["choices"][0]
        return choice["text"] + ("" if choice["finish_reason"] == "stop" else " [cut]")
