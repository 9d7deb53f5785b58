"""A loaded llama.cpp model: calls in, events out.

The engine computes in its own threads. Each live job has a call thread inside the engine's
blocking call; it appends every chunk, as bytes, and rings. A turn of the device's thread
turns chunks into events. A job ends when its call has returned: only then is its slot free.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeAlias

from cortex.ask import Json
from cortex.errors import BadAsk, CortexError, EngineFailed, Unsupported
from cortex.events import (
    EngineEvent,
    Failed,
    Prefilled,
    Started,
    Stopped,
    StopReason,
    TokenLogprob,
    Tokens,
    Usage,
)
from cortex.harness.base import EngineFacts, Job, Memory, Said
from cortex.harness.llamacpp import asking
from cortex.harness.llamacpp.allocator import trim
from cortex.harness.llamacpp.asking import Chunk
from cortex.harness.llamacpp.listener import Listener
from cortex.harness.llamacpp.steps import Steps
from cortex.weights import GgufHeader

# Chunks that one turn looks at: some milliseconds of the device's thread.
CHUNKS_A_TURN: Final = 256
SCHEMAS_KEPT: Final = 256
# The engine cuts a prompt into tokens without a word: 0.4 s a million characters where nobody else
# computes, and five times that is granted.
COUNTING_S: Final = 2e-6

Complete: TypeAlias = Callable[[bytes, Callable[[bytes], bool]], object]


@dataclass(slots=True)
class Call:
    """One live job, and what is known of it. `ended` is set by the device's thread. Until
    `counted_by` it may be at work that says nothing: its prompt is cut into tokens, or it is an
    input, of which `vector` is what it came to."""

    job: Job
    cancelled: bool = False
    prefilled: Prefilled | None = None
    started: bool = False
    predicted: int = 0
    reason: StopReason | None = None
    error: CortexError | None = None
    vector: bytes | None = None
    heard_at: float = field(default_factory=time.monotonic)  # set by its call thread
    counted_by: float = 0.0

    @property
    def lived_at(self) -> float:
        """When it last gave a sign of life, or need not have given one."""
        return max(self.heard_at, min(time.monotonic(), self.counted_by))

    @property
    def usage(self) -> Usage:
        prompt = self.prefilled or Prefilled(0)
        return Usage(prompt.prompt_tokens, prompt.cached_tokens, self.predicted)


@dataclass(slots=True)
class _Words:
    """Tokens of one job that one turn has gathered: they become one event."""

    data: list[str] = field(default_factory=list)
    count: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def flush(self) -> Iterator[Tokens]:
        if self.count or self.data:
            yield Tokens("".join(self.data).encode(), self.count, tuple(self.logprobs))
        self.data, self.count, self.logprobs = [], 0, []


@dataclass(frozen=True, slots=True)
class Ended:
    """The call has returned; `bug` is what it raised, if that was not the engine's."""

    bug: BaseException | None = None


class LlamaCppEngine:
    """One model. Made by `loading`, which hands over the binding's one call."""

    computing = True

    def __init__(
        self,
        complete: Complete,
        listener: Listener,
        header: GgufHeader,
        facts: EngineFacts,
        *,
        ring: Callable[[], None],
        measure: Callable[[], Memory],
    ) -> None:
        self._complete: Complete | None = complete
        self._listener, self._header, self._facts = listener, header, facts
        self._measure = measure
        self._live: dict[int, Call] = {}
        self._steps: Steps[tuple[Call, bytes | Ended]] = Steps(ring)
        self._schemas: dict[bytes, bool] = {}  # whether the engine enforces it
        self._stray = listener.tokenise("z")[-1]  # no JSON and no call begins with it
        plain, added = listener.tokenise("z"), listener.tokenise("z", as_prompt=True)
        # Where engine and header disagree about the begin token, the header's word is kept.
        self._adds_as_told = added[-len(plain) :] == plain and len(added) - len(plain) == header.adds_bos
        device = threading.current_thread().name
        numbers = itertools.count()
        self._threads = ThreadPoolExecutor(
            facts.slots, initializer=lambda: _name_thread(f"{device}-slot-{next(numbers)}")
        )

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    def submit(self, job: Job) -> None:
        if len(self._live) >= self._facts.slots:
            raise RuntimeError(f"more than {self._facts.slots} jobs at once")
        call = self._live[job.id] = Call(job)
        if isinstance(job.prompt, str):
            call.counted_by = call.heard_at + len(job.prompt) * COUNTING_S
        self._threads.submit(self._hold_call, call)

    def cancel(self, job_id: int) -> None:
        if (call := self._live.get(job_id)) is not None:
            call.cancelled = True

    def restless(self) -> bool:
        return self._steps.ready

    def due(self) -> float | None:
        return self._steps.due

    def silent_since(self) -> float:
        # A prompt may wait for another one to be read, so in prefill any of them counts. Every
        # pass has a token for each call that writes, and a chunk for the prompt that it reads.
        calls = tuple(self._live.values())
        newest = max((call.lived_at for call in calls), default=time.monotonic())
        return min((call.lived_at for call in calls if call.prefilled is not None), default=newest)

    def turn(self) -> Sequence[Said]:
        said: list[Said] = []
        words: dict[int, _Words] = {}
        for call, chunk in self._steps.take(CHUNKS_A_TURN):
            gathered = words.setdefault(call.job.id, _Words())
            events = self._end(call, chunk) if isinstance(chunk, Ended) else _read(call, chunk, gathered)
            for event in events:
                said.extend((call.job.id, tokens) for tokens in gathered.flush())
                said.append((call.job.id, event))
        for job_id, gathered in words.items():
            said.extend((job_id, tokens) for tokens in gathered.flush())
        self._steps.writing = sum(call.prefilled is not None for call in self._live.values())
        return said

    def tokenise(self, text: str) -> tuple[int, ...]:
        return self._listener.tokenise(text)

    def detokenise(self, ids: Sequence[int]) -> str:
        # The engine itself would read beyond its vocabulary.
        for token in ids:
            if not 0 <= token < self._header.vocabulary:
                raise BadAsk(
                    f"{token} is no token; this model has tokens 0 to {self._header.vocabulary - 1}",
                    param="tokens",
                )
        return self._listener.detokenise(ids)

    def memory(self) -> Memory:
        return self._measure()

    def unload(self) -> None:
        for call in self._live.values():
            call.cancelled = True
        # A call holds the engine's memory: each has to return before it can be freed.
        self._threads.shutdown(wait=True)
        self._complete = None
        self._listener.close()
        trim()

    def _end(self, call: Call, ended: Ended) -> list[EngineEvent]:
        """The slot is free: how the job ended. What the call raised by a bug is raised here."""
        del self._live[call.job.id]
        if ended.bug is not None:
            raise RuntimeError("a call thread of llama.cpp failed") from ended.bug
        if call.cancelled:
            return [Stopped("stop", call.usage)]
        if call.error is not None:
            return [Failed(call.error)]
        if call.reason is None:
            return [Failed(EngineFailed("llama.cpp ended the answer without saying how"))]
        return [Stopped(call.reason, call.usage)]

    # What follows runs on a call thread.

    def _hold_call(self, call: Call) -> None:
        bug: BaseException | None = None
        try:
            self._make_call(call)
        except CortexError as error:
            call.error = error
        except RuntimeError as error:
            # The second form in which the engine refuses; the first is a chunk.
            call.error = EngineFailed(f"llama.cpp: {error}")
        except BaseException as error:  # noqa: BLE001 - raised again by the turn that reads it
            bug = error
        self._steps.add((call, Ended(bug)), urgent=True)

    def _make_call(self, call: Call) -> None:
        job = call.job
        asking.check(job, self._header)
        said = asking.body(job, self._prompt(job), self._facts.context)
        if job.shape is not None:
            form = asking.form(job.shape, self._single)
            said |= form
            if not self._enforces(form, job.shape.param, call, said):
                return
        self._listen(call, asking.encode(said), lambda chunk: self._hear(call, chunk))

    def _hear(self, call: Call, chunk: bytes) -> None:
        # Until its first word was heard: that its prompt is read is told a moment before that.
        self._steps.add((call, chunk), urgent=not call.predicted)

    def _listen(self, call: Call, body: bytes, hear: Callable[[bytes], None]) -> None:
        """Make the engine's call; a bug of ours in its callback is raised here."""
        bugs: list[BaseException] = []

        def chunk(data: bytes) -> bool:
            call.heard_at = time.monotonic()
            try:
                hear(data)
            except BaseException as error:  # noqa: BLE001 - the binding would swallow it
                bugs.append(error)
                return True
            return call.cancelled

        if call.cancelled or self._complete is None:
            return
        self._complete(body, chunk)
        if bugs:
            raise bugs[0]

    def _prompt(self, job: Job) -> str | tuple[int, ...]:
        if isinstance(job.prompt, tuple) or self._adds_as_told:
            return job.prompt
        begin = self._header.bos if self._header.adds_bos else None
        return self._listener.tokenise((begin or "") + job.prompt)

    def _single(self, text: str) -> int | None:
        tokens = self._listener.tokenise(text)
        return tokens[0] if len(tokens) == 1 else None

    def _enforces(self, form: Mapping[str, Json], param: str, call: Call, said: dict[str, Json]) -> bool:
        """Whether the call may go on; False when it has ended meanwhile."""
        key = blake2b(asking.encode(form)).digest()  # of what may be a megabyte
        enforced = self._schemas.get(key)
        if enforced is None:
            enforced = self._try(call, said)
            if enforced is None:
                return False
            if len(self._schemas) >= SCHEMAS_KEPT:
                # Calls have a thread each: the oldest may be another one's to forget at this moment.
                oldest, *_ = tuple(self._schemas)
                self._schemas.pop(oldest, None)
            self._schemas[key] = enforced
        if not enforced:
            raise Unsupported(
                f"'{param}': llama.cpp cannot enforce this JSON schema; leave out what it does not know",
                param=param,
            )
        return True

    def _try(self, call: Call, said: dict[str, Json]) -> bool | None:
        """Whether the engine obeys the schema: a letter that no JSON and no call begins with gets
        every advantage, and must not come. The prompt is read for this, and cached for the answer.
        None when the call ended."""
        trial = said | {"max_tokens": 1, "temperature": 0.0, "logit_bias": [[self._stray, 1e6]]}
        trial.pop("logprobs", None)
        heard: list[bytes] = []
        self._listen(call, asking.encode(trial), heard.append)
        chunks = [asking.read(data) for data in heard]
        ended = call.cancelled or any(chunk.error is not None for chunk in chunks)
        enforced = "".join(chunk.choice.text for chunk in chunks).strip() != "z"
        if ended or enforced:
            for data, chunk in zip(heard, chunks, strict=True):
                if chunk.error is not None or chunk.prompt_progress is not None:
                    self._hear(call, data)
        return None if ended else enforced


def _read(call: Call, data: bytes, words: _Words) -> Iterator[EngineEvent]:
    """What a chunk says beyond words, which are gathered."""
    chunk = asking.read(data)
    if chunk.error is not None:
        call.error = asking.error_of(chunk.error, call.job.shape)
        return
    if not call.started:
        call.started = True
        yield Started()
    yield from _read_prompt(call, chunk)
    if chunk.prompt_progress is None:
        _read_words(call, chunk, words)


def _read_prompt(call: Call, chunk: Chunk) -> Iterator[Prefilled]:
    """Said once: when the prompt is read, or at the latest before the first word."""
    if call.prefilled is not None:
        return
    progress = chunk.prompt_progress
    if progress is None:
        call.prefilled = Prefilled(chunk.verbose.tokens_evaluated)
    elif progress.processed >= progress.total:
        call.prefilled = Prefilled(progress.total, progress.cache)
    if call.prefilled is not None:
        yield call.prefilled


def _read_words(call: Call, chunk: Chunk, words: _Words) -> None:
    choice = chunk.choice
    if choice.finish_reason is not None:
        call.reason = "stop" if choice.finish_reason == "stop" else "length"
    if call.job.max_tokens == 0:
        call.reason = "length" if call.reason else None
        return
    if choice.text:
        words.data.append(choice.text)
    words.count += chunk.verbose.tokens_predicted - call.predicted
    call.predicted = chunk.verbose.tokens_predicted
    words.logprobs.extend(asking.logprobs(choice.logprobs, call.job.logprobs))


def _name_thread(name: str) -> None:
    threading.current_thread().name = name
