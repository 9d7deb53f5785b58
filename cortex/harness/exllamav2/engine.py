"""A loaded exllamav2 model as its device's thread drives it: jobs in, events out.

Jobs are made ready on a thread of their own (text to tokens, a schema to a grammar), which
neither needs the device nor may hold it up. The generator gets newcomers in the order in which
they came, and only as many at once as one chunk of prompt has room for: those who write wait for
one chunk, however many come. Where it raised, what it knew is void: `reset` makes another one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from cortex.catalogue import PAGE
from cortex.errors import BadAsk, CortexError, EngineFailed, PromptTooLong
from cortex.events import EngineEvent, Failed, Prefilled, Started, Stopped
from cortex.harness.base import EngineFacts, Job, Memory, Said
from cortex.harness.exllamav2 import sampling
from cortex.harness.exllamav2.grammar import Grammars
from cortex.harness.exllamav2.guards import chunk_of
from cortex.harness.exllamav2.hearing import Call, Turn
from cortex.harness.exllamav2.loaded import Loaded
from cortex.harness.exllamav2.sampling import Chooser

log = logging.getLogger(__name__)

# A megabyte of text becomes tokens in less than a second; a big schema is a grammar in a few.
READY_S: Final = 10.0
READY_S_PER_CHARACTER: Final = 2e-6
# A generator that failed so often before any job came to its end will fail for ever.
RESETS: Final = 2


class ExLlamaV2Engine:
    """One model. Made by `loading`; `freed` is called when its memory is free."""

    def __init__(
        self,
        loaded: Loaded,
        generator: Any,  # noqa: ANN401 - the library is untyped
        facts: EngineFacts,
        *,
        ring: Callable[[], None],
        measure: Callable[[], Memory],
        freed: Callable[[], None],
    ) -> None:
        self._loaded, self._generator, self._facts = loaded, generator, facts
        self._ring, self._measure, self._freed = ring, measure, freed
        self._library, self._vocabulary = loaded.library, loaded.vocabulary
        self._grammars = Grammars(self._vocabulary)
        self._live: dict[int, Call] = {}
        self._waiting: deque[Call] = deque()  # ready, and not in the generator yet
        self._ready: deque[tuple[Call, Exception | None]] = deque()  # set by the other thread
        self._over: list[Said] = []
        self._resets = 0
        self._quiet_until = 0.0
        device = threading.current_thread().name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{device}-ready")

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    def submit(self, job: Job) -> None:
        if len(self._live) >= self._facts.slots:
            raise RuntimeError(f"more than {self._facts.slots} jobs at once")
        call = self._live[job.id] = Call(job, self._vocabulary.hidden(job.visible))
        size = len(job.prompt) if isinstance(job.prompt, str) else 0
        self._quiet_until = time.monotonic() + READY_S + READY_S_PER_CHARACTER * size
        self._thread.submit(self._make_ready, call)

    def cancel(self, job_id: int) -> None:
        call = self._live.pop(job_id, None)
        if call is None:
            return
        if call.in_generator:
            self._generator.cancel(call.job)
        elif call in self._waiting:
            self._waiting.remove(call)
        self._over.append((job_id, Stopped("stop", call.usage)))

    def restless(self) -> bool:
        # One that was called off before it was ready comes all the same, and changes nothing.
        ready = any(self._live.get(call.asked.id) is call for call, _ in tuple(self._ready))
        return bool(ready or self._over or self._waiting or self._generator.num_remaining_jobs())

    def silent_since(self) -> float:
        """Computes only in its turns; between them a job is made ready, which takes a while."""
        return min(time.monotonic(), self._quiet_until)

    def turn(self) -> Sequence[Said]:
        said, self._over = self._over, []
        for _ in range(len(self._ready)):
            said.extend(self._take_in(*self._ready.popleft()))
        self._let_in()
        if self._generator.num_remaining_jobs():
            said.extend(self._step())
        return said

    def tokenise(self, text: str) -> tuple[int, ...]:
        return self._vocabulary.encode(text)

    def detokenise(self, ids: Sequence[int]) -> str:
        return self._vocabulary.text(ids)

    def memory(self) -> Memory:
        return self._measure()

    def reset(self) -> None:
        """Its jobs are forgotten; weights and cache are what they were."""
        self._resets += 1
        if self._resets > RESETS:
            raise EngineFailed(f"failed {self._resets} times, and no job ended between")
        self._forget()
        self._generator = self._loaded.generator()

    def unload(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._forget()
        self._generator = None
        self._loaded.close()
        self._freed()

    def _forget(self) -> None:
        self._live.clear()
        self._waiting.clear()
        self._ready.clear()
        self._over.clear()
        close(self._generator)

    def _take_in(self, call: Call, error: Exception | None) -> list[Said]:
        """A job has been made ready, or could not be."""
        job_id = call.asked.id
        if self._live.get(job_id) is not call:
            return []  # called off meanwhile
        if error is None and call.asked.max_tokens != 0:
            self._waiting.append(call)
            return []
        del self._live[job_id]
        if error is not None:
            return [(job_id, Failed(_told(call, error)))]
        events: tuple[EngineEvent, ...] = (
            Started(),
            Prefilled(len(call.prompt)),
            Stopped("length", call.usage),
        )
        return [(job_id, event) for event in events]

    def _let_in(self) -> None:
        """Those who wait longest, while their prompts and those being read are one chunk together."""
        chunk = chunk_of(self._loaded.order)
        room = chunk - sum(
            min(len(call.prompt), chunk) for call in self._live.values() if call.in_generator and call.reading
        )
        while self._waiting and (room == chunk or len(self._waiting[0].prompt) <= room):
            call = self._waiting.popleft()
            self._generator.enqueue(call.job)
            call.in_generator = True
            room -= len(call.prompt)

    def _step(self) -> list[Said]:
        turn = Turn(self._vocabulary)
        for result in self._generator.iterate():
            call = self._live.get(result["identifier"])
            if call is not None and turn.hear(call, result, PAGE):
                del self._live[call.asked.id]
                self._resets = 0
                if not result["eos"]:
                    self._generator.cancel(call.job)
        return turn.finish()

    # What follows runs on the thread that makes jobs ready.

    def _make_ready(self, call: Call) -> None:
        error: Exception | None = None
        try:
            self._prepare(call)
        except Exception as raised:  # noqa: BLE001 - told by the turn that takes the job in
            error = raised
        self._ready.append((call, error))
        self._ring()

    def _prepare(self, call: Call) -> None:
        """Its prompt are tokens that fit, and the library has a job that says what was asked."""
        job, known, context = call.asked, self._vocabulary, self._facts.context
        call.prompt = self._prompt(job)
        if not call.prompt:
            raise BadAsk("The prompt is empty; send at least one token", param="prompt")
        if len(call.prompt) >= context:
            raise PromptTooLong.of(len(call.prompt), context)
        left = context - len(call.prompt)
        sampling.check(job, known)
        call.chooser = Chooser(
            self._library,
            known,
            job,
            call.prompt,
            grammar=None if job.shape is None else self._grammars.grammar(job.shape),
            scored=call.scores.append,
        )
        call.job = self._loaded.job(
            input_ids=self._library.torch.tensor([call.prompt], dtype=self._library.torch.long),
            # The library ends a job that many tokens early which it could have guessed ahead.
            max_new_tokens=min(left if job.max_tokens is None else job.max_tokens, left)
            + self._loaded.drafts,
            gen_settings=sampling.settings(self._library, job),
            seed=sampling.seed(job),
            stop_conditions=sorted(known.eos),
            filters=[call.chooser],
            identifier=job.id,
        )

    def _prompt(self, job: Job) -> tuple[int, ...]:
        known = self._vocabulary
        if isinstance(job.prompt, str):
            begin = (known.bos,) if known.adds_bos and known.bos is not None else ()
            return (*begin, *known.encode(job.prompt))
        for token in job.prompt:
            if not 0 <= token < known.size:
                raise BadAsk(
                    f"{token} is no token; this model has tokens 0 to {known.size - 1}", param="prompt"
                )
        return job.prompt


def close(generator: Any) -> None:  # noqa: ANN401 - as above
    """Its threads end, which hold what they sampled last. Nothing else would end them."""
    for name in ("sampling_pool", "filter_pool"):
        threads = getattr(generator, name, None)
        if threads is not None:
            threads.shutdown(wait=True)


def _told(call: Call, error: Exception) -> CortexError:
    """What is told of a job that could not be made ready: its neighbours go on, whatever it was."""
    if isinstance(error, CortexError):
        return error
    log.error("job.unready", exc_info=error, extra={"request_id": call.asked.request_id})
    return EngineFailed(f"the request could not be made ready: {type(error).__name__}: {error}")
