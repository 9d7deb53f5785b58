"""One model of an upstream as a resident: jobs out over HTTP, events in.

Each live job has a call thread that holds its connection; it appends what the translator
makes of the stream and rings, and a turn of the place's thread hands it on. A cancelled job's
socket is shut at once, so that the upstream stops computing. A job ends when its thread has
let go of the connection: only then is its slot free.
"""

import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn

from msgspec import structs

from cortex.ask import Ask
from cortex.errors import BadAsk, CortexError, EngineFailed, Unsupported, UpstreamFailed
from cortex.events import EngineEvent, Event, Failed, Stopped, Text, Thought, Tokens, ToolCall, Usage
from cortex.harness.base import EngineFacts, Job, Memory, Said
from cortex.harness.upstream.exchange import Endpoint, Exchange, let_go
from cortex.translator import openai_embeddings, openai_errors
from cortex.translator.openai_hear import Hearing, hear
from cortex.translator.openai_manners import Manner
from cortex.translator.openai_write import write
from cortex.wire.sse_reading import EventReader

REFUSAL_BYTES: Final = 256 * 1024
# 2048 vectors of 4096 numbers in twenty digits each, with room to spare.
VECTORS_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds: for a connection, for the first word, and between two events after that."""

    connect_s: float
    first_token_s: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class There:
    """The model as the upstream has it. `model` is its name here."""

    endpoint: Endpoint
    name: str
    manner: Manner
    model: str


@dataclass(slots=True)
class _Call:
    """One live job. `end` is what the stream came to; `said` counts pieces of the answer."""

    job: Job
    cancelled: bool = False
    exchange: Exchange | None = None
    end: Stopped | Failed | None = None
    sent_bytes: int = 0
    said: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: Future[None] | None = None

    @property
    def used(self) -> Usage:
        """As far as it can be known of an answer that was cut."""
        return Usage(-(-self.sent_bytes // 4), 0, self.said, estimated=True)


@dataclass(frozen=True, slots=True)
class _Ended:
    """The connection is closed; `bug` is what the thread died of, if that was ours."""

    bug: BaseException | None = None


class UpstreamEngine:
    """Made by `loading`, which has seen that the model is there."""

    def __init__(self, there: There, waits: Waits, facts: EngineFacts, ring: Callable[[], None]) -> None:
        self._there, self._waits, self._facts, self._ring = there, waits, facts, ring
        self._live: dict[int, _Call] = {}
        self._heard: deque[tuple[_Call, EngineEvent | _Ended]] = deque()
        place, numbers = threading.current_thread().name, itertools.count()
        self._threads = ThreadPoolExecutor(
            facts.slots, initializer=lambda: _name_thread(f"{place}-slot-{next(numbers)}")
        )

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    def submit(self, job: Job) -> None:
        if len(self._live) >= self._facts.slots:
            raise RuntimeError(f"more than {self._facts.slots} jobs at once")
        call = self._live[job.id] = _Call(job)
        call.done = self._threads.submit(self._hold_call, call)

    def cancel(self, job_id: int) -> None:
        if (call := self._live.get(job_id)) is not None:
            with call.lock:
                call.cancelled = True
                if call.exchange is not None:
                    call.exchange.abort()

    def restless(self) -> bool:
        return bool(self._heard)

    def turn(self) -> Sequence[Said]:
        said: list[Said] = []
        for _ in range(len(self._heard)):
            call, heard = self._heard.popleft()
            events = self._end(call, heard) if isinstance(heard, _Ended) else (heard,)
            said.extend((call.job.id, event) for event in events)
        return said

    def tokenise(self, text: str) -> tuple[int, ...]:
        self._no_tokeniser()

    def detokenise(self, ids: Sequence[int]) -> str:
        self._no_tokeniser()

    def memory(self) -> Memory:
        return Memory(0)

    def unload(self) -> None:
        for job_id in tuple(self._live):
            self.cancel(job_id)
        let_go(self._threads, [call.done for call in self._live.values() if call.done is not None])

    def _no_tokeniser(self) -> NoReturn:
        raise Unsupported(
            f"Model '{self._there.model}' is served by an upstream, whose tokenizer is not here",
            param="model",
        )

    def _end(self, call: _Call, ended: _Ended) -> Iterator[EngineEvent]:
        """How the job ended. What its thread died of by a bug is raised here."""
        del self._live[call.job.id]
        if ended.bug is not None:
            raise RuntimeError("a call thread of an upstream failed") from ended.bug
        if call.cancelled:
            yield Stopped("stop", call.used)
        else:
            yield call.end or Failed(EngineFailed("The upstream's answer ended without an end"))

    # What follows runs on a call thread.

    def _hold_call(self, call: _Call) -> None:
        bug: BaseException | None = None
        try:
            self._make_call(call)
        except CortexError as error:
            chat = call.job.chat
            call.end = Failed(openai_errors.renamed(error, chat.shape if chat else call.job.shape))
        except BaseException as error:  # noqa: BLE001 - raised again by the turn that reads it
            bug = error
        self._say(call, _Ended(bug))

    def _say(self, call: _Call, *heard: EngineEvent | _Ended) -> None:
        self._heard.extend((call, each) for each in heard)
        self._ring()

    def _make_call(self, call: _Call) -> None:
        ask = _ask_of(call.job)
        try:
            self._exchange(call, ask)
        except BadAsk as error:
            spare = openai_errors.spare_tokens(error)
            if spare is None or call.said or (ask.max_tokens is not None and ask.max_tokens <= spare):
                raise
            # The prompt fits and the limit does not: what is left of the context is the limit.
            self._exchange(call, replace(ask, max_tokens=spare))

    def _exchange(self, call: _Call, ask: Ask) -> None:
        exchange = Exchange(self._there.endpoint, self._waits.connect_s)
        with call.lock:
            if call.cancelled:
                return
            call.exchange = exchange
        try:
            (self._answer if ask.embed is None else self._embed)(call, ask, exchange)
        finally:
            exchange.close()

    def _embed(self, call: _Call, ask: Ask, exchange: Exchange) -> None:
        """The answer comes whole, when all of it is computed."""
        until = time.monotonic() + self._waits.first_token_s
        body = openai_embeddings.write(ask, self._there.name)
        call.sent_bytes = len(body)
        said = {"accept": "application/json", "x-request-id": call.job.request_id}
        self._expect(exchange, exchange.ask("POST", "/embeddings", body, until, **said), until)
        data = exchange.whole(VECTORS_BYTES, time.monotonic() + self._waits.first_token_s)
        vectors, call.end = openai_embeddings.hear(data, ask, call.sent_bytes)
        call.said = len(vectors)
        self._say(call, *vectors)

    def _expect(self, exchange: Exchange, status: int, until: float) -> None:
        """Raises what a status other than success means."""
        if status != 200:
            raise openai_errors.refused(status, exchange.headers, exchange.whole(REFUSAL_BYTES, until))

    def _answer(self, call: _Call, ask: Ask, exchange: Exchange) -> None:
        there, until = self._there, time.monotonic() + self._waits.first_token_s
        body = write(ask, there.name, there.manner, self._facts.context)
        # A picture's bytes say nothing of the tokens that it becomes.
        call.sent_bytes = len(body) - sum(len(image.data) for image in ask.images)
        route = "/completions" if ask.prompt is not None else "/chat/completions"
        headers = {"accept": "text/event-stream", "x-request-id": call.job.request_id}
        self._expect(exchange, exchange.ask("POST", route, body, until, **headers), until)
        kind = exchange.headers.get("content-type", "")
        if not kind.lower().startswith("text/event-stream"):
            raise UpstreamFailed(f"The upstream answers with {kind[:60]!r}, where a stream was asked for")
        self._listen(call, ask, exchange, until)

    def _listen(self, call: _Call, ask: Ask, exchange: Exchange, until: float) -> None:
        """The stream, to its end. A comment is a sign of life, but no first word."""
        machine = hear(
            Hearing(
                logprobs=ask.logprobs,
                parallel=ask.parallel_tool_calls,
                prompt_bytes=call.sent_bytes,
                new_id=lambda: f"call_{secrets.token_hex(12)}",
            )
        )
        self._pass(call, next(machine))
        reader = EventReader()
        while True:
            data = exchange.read(until)
            for event in reader.feed(data) if data else (None,):
                if self._pass(call, machine.send(event)):
                    return
                if call.said:
                    until = time.monotonic() + self._waits.stall_s

    def _pass(self, call: _Call, events: Sequence[Event]) -> bool:
        """Whether the answer has come to its end."""
        told = [each for event in events for each in _in_kind(call, event)]
        if told:
            self._say(call, *told)
        return call.end is not None


def _in_kind(call: _Call, event: Event) -> Iterator[EngineEvent]:
    """The event as a job of its kind says it: a chat's as it is, of a plain completion tokens. The
    end is kept until the connection is closed."""
    plain = call.job.chat is None
    if plain and isinstance(event, Thought | ToolCall):
        raise UpstreamFailed("The upstream answers a plain completion as if it were a chat")
    mute = plain and call.job.max_tokens == 0
    match event:
        case Text(text, logprobs) if plain:
            if not mute:
                count = max(1, len(logprobs))
                call.said += count
                yield Tokens(text.encode("utf-8", "replace"), count, logprobs)
        case Text() | Thought() | ToolCall():
            call.said += 1
            yield event
        case Stopped(_, usage) if mute:
            call.end = Stopped("length", structs.replace(usage, completion=0, reasoning=0))
        case Stopped(_, usage):
            if plain and usage.completion > call.said:
                yield Tokens(b"", usage.completion - call.said)
            call.end = event
        case Failed():
            call.end = event
        case _:
            yield event


def _ask_of(job: Job) -> Ask:
    """What the upstream is asked for `job`."""
    if job.chat is not None:
        return job.chat
    if not job.prompt:
        raise BadAsk("The prompt is empty; send at least one token", param="prompt")
    return Ask(
        model="",
        prompt=job.prompt,
        sampling=job.sampling,
        # None is a token too few for engines; its text is left out.
        max_tokens=None if job.max_tokens is None else max(1, job.max_tokens),
        shape=job.shape,
        logprobs=job.logprobs,
        stream=True,
    )


def _name_thread(name: str) -> None:
    threading.current_thread().name = name
