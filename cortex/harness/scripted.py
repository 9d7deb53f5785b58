"""An engine with no weights, which does what it is told: for tests, examples, benchmarks.

It keeps the contract of `base` to the letter, on the device's thread, without sleeping
and without chance. A token is at most seven bytes of UTF-8, cut after spaces and not at
code points, and its id is those bytes as a number; so ids, text and counts agree. A
`Script` sets the answer and the faults. The fault switches break the contract on purpose,
each in the one way that its name says.
"""

import ctypes
import itertools
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cortex.ask import Sampling
from cortex.errors import BadAsk, CortexError, EngineFailed, LoadFailed, PromptTooLong, Unfit, Unsupported
from cortex.events import EngineEvent, Failed, Prefilled, Started, Stopped, TokenLogprob, Tokens, Usage
from cortex.harness.base import (
    EVERYTHING,
    Apart,
    EngineFacts,
    Feature,
    Job,
    LoadOrder,
    Memory,
    Preflight,
    Progress,
    Said,
)

_PIECE: Final = re.compile(rb" ?[^ ]{1,6}| ")
# What an order may say of a script, as plain data.
_OPTIONS: Final = frozenset(
    {"bytes", "crash_after", "endless", "fail_after", "reply", "split", "tokens_per_turn"}
)
_MARK: Final = b"\x01"  # before a token's bytes, so that leading zero bytes count too
SCRIPT_TEMPLATE: Final = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def tokens_of(text: str | bytes) -> tuple[int, ...]:
    """The ids of `text`."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return tuple(int.from_bytes(_MARK + piece, "big") for piece in _PIECE.findall(data))


def bytes_of(token: int) -> bytes:
    """The bytes of a token; empty for a number that is no token."""
    return token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big")[1:]


def _known_bytes_of(token: int) -> bytes:
    if not (token > 0 and token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big").startswith(_MARK)):
        raise BadAsk(f"{token} is no token of this model", param="tokens")
    return bytes_of(token)


def numbered(count: int | None = None) -> Iterator[bytes]:
    """Tokens that show gaps and repeats: "0 1 2 ..."; without end when `count` is None."""
    numbers = itertools.count() if count is None else range(count)
    return (b" %d" % number if number else b"0" for number in numbers)


class Gate:
    """Holds turns back until a test lets some through; from any thread."""

    def __init__(self, turns: int = 0) -> None:
        self._lock = threading.Lock()
        self._turns: float = turns
        self._bells: list[Callable[[], None]] = []

    def let(self, turns: int) -> None:
        """`turns` more turns may be taken."""
        with self._lock:
            self._turns += turns
        self._ring()

    def open(self) -> None:
        """Every turn from here on may be taken."""
        with self._lock:
            self._turns = float("inf")
        self._ring()

    def listen(self, bell: Callable[[], None]) -> None:
        self._bells.append(bell)

    def ready(self) -> bool:
        return self._turns > 0

    def use(self) -> None:
        with self._lock:
            self._turns -= 1

    def _ring(self) -> None:
        for bell in self._bells:
            bell()


def hang(*_: object) -> None:
    """Never returns, and keeps nobody else from running."""
    while True:
        threading.Event().wait()


def hold_interpreter(*_: object) -> None:
    """Never returns, and nothing else in Python runs any more."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


@dataclass(frozen=True, slots=True)
class Script:
    """What an engine answers, and what goes wrong.

    `reply` is the answer's text, or makes its text or tokens from the job; without one
    the words of the prompt come back. `hold` steps the turns; `stall` keeps a turn from
    returning until it is set; `slow_load` keeps a load from ending until it is set, while
    it reports progress. `crash_after` turns, a turn raises. `fail_after` tokens, a job fails.
    `on_load`, `on_submit` and `on_turn` (with the turn's number) are done on the device's
    thread at that moment, and may raise, `hang`, `hold_interpreter` or abort; `resets` says
    whether the engine goes on after it.
    """

    reply: str | Callable[[Job], str | Iterable[bytes]] | None = None
    tokens_per_turn: int = 1
    split: bool = False  # tokens of one byte: every other one ends inside a code point
    endless: bool = False  # numbers, without end, until max_tokens, the context or a cancel
    fail_after: int | None = None
    crash_after: int | None = None
    stall: threading.Event | None = None
    hold: Gate | None = None
    unfit: str | None = None
    load_error: CortexError | None = None
    slow_load: threading.Event | None = None
    bytes: int = 2**20
    trained_context: int = 8192
    template: str | None = SCRIPT_TEMPLATE
    can: frozenset[Feature] = EVERYTHING
    kv_tokens: int | None = None  # of a cache that jobs share
    on_load: Callable[[], object] | None = None
    on_submit: Callable[[Job], object] | None = None
    on_turn: Callable[[int], object] | None = None
    resets: bool = True


@dataclass(slots=True)
class _Speaker:
    """One live job."""

    job: Job
    prompt: tuple[int, ...]
    pieces: Iterator[bytes]
    room: int
    said: int = 0
    begun: bool = False
    cancelled: bool = False

    @property
    def usage(self) -> Usage:
        return Usage(prompt=len(self.prompt), completion=self.said)


class ScriptedEngine:
    """One model that plays a script."""

    def __init__(self, order: LoadOrder, script: Script) -> None:
        kv_tokens = script.kv_tokens
        self._facts = EngineFacts(
            Memory(script.bytes), order.context, order.slots, script.can, kv_tokens=kv_tokens
        )
        self.script = script
        self.unloaded = False
        self.turns = 0
        self.most_live = 0
        self.jobs: list[Job] = []  # every job ever taken in
        self._live: dict[int, _Speaker] = {}
        self._refused: deque[Said] = deque()

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    def submit(self, job: Job) -> None:
        if self.unloaded:
            raise RuntimeError("a job for an engine that is unloaded")
        if len(self._live) >= self._facts.slots:
            raise RuntimeError(f"more than {self._facts.slots} jobs at once")
        if self.script.on_submit is not None:
            self.script.on_submit(job)
        self.jobs.append(job)
        try:
            self._live[job.id] = self._seat(job)
        except CortexError as error:
            self._refused.append((job.id, Failed(error)))
        self.most_live = max(self.most_live, len(self._live))

    def cancel(self, job_id: int) -> None:
        if (speaker := self._live.get(job_id)) is not None:
            speaker.cancelled = True

    def restless(self) -> bool:
        if self._refused or any(speaker.cancelled for speaker in self._live.values()):
            return True
        return bool(self._live) and (self.script.hold is None or self.script.hold.ready())

    def turn(self) -> Sequence[Said]:
        said: list[Said] = list(self._refused)
        self._refused.clear()
        held = self.script.hold is not None and not self.script.hold.ready()
        if not held:
            self._compute()
        for speaker in tuple(self._live.values()):
            if speaker.cancelled:
                events: list[EngineEvent] = [Stopped("stop", speaker.usage)]
            else:
                events = [] if held else self._step(speaker)
            said.extend((speaker.job.id, event) for event in events)
            if events and isinstance(events[-1], Stopped | Failed):
                del self._live[speaker.job.id]
        return said

    def tokenise(self, text: str) -> tuple[int, ...]:
        return tokens_of(text)

    def detokenise(self, ids: Sequence[int]) -> str:
        return b"".join(map(_known_bytes_of, ids)).decode("utf-8", "replace")

    def memory(self) -> Memory:
        return self._facts.memory

    def reset(self) -> None:
        if not self.script.resets:
            raise RuntimeError("scripted: what is broken stays broken")
        self._live.clear()
        self._refused.clear()

    def unload(self) -> None:
        self._live.clear()
        self._refused.clear()
        self.unloaded = True

    def _compute(self) -> None:
        """The step of compute that a real engine would make, with what befalls it."""
        self.turns += 1
        if self.script.hold is not None:
            self.script.hold.use()
        if self.script.stall is not None:
            self.script.stall.wait()
        if self.script.on_turn is not None:
            self.script.on_turn(self.turns)
        if self.script.crash_after is not None and self.turns > self.script.crash_after:
            raise RuntimeError(f"scripted crash in turn {self.turns}")

    def _seat(self, job: Job) -> _Speaker:
        prompt = tokens_of(job.prompt) if isinstance(job.prompt, str) else job.prompt
        if len(prompt) >= self._facts.context:
            raise PromptTooLong.of(len(prompt), self._facts.context)
        if not prompt:
            raise BadAsk("The prompt is empty; send at least one token", param="prompt")
        if job.shape is not None and self.script.reply is None:
            raise Unsupported("The scripted engine knows no shapes; give it a reply", param="response_format")
        room = self._facts.context - len(prompt)
        if job.max_tokens is not None:
            room = min(room, job.max_tokens)
        return _Speaker(job, prompt, _biased(self._pieces(job, prompt), job.sampling), room)

    def _pieces(self, job: Job, prompt: tuple[int, ...]) -> Iterator[bytes]:
        if self.script.endless:
            return numbered()
        reply = self.script.reply
        answer = (
            b"".join(map(bytes_of, prompt)) if reply is None else reply(job) if callable(reply) else reply
        )
        if isinstance(answer, str):
            answer = answer.encode()
        if not isinstance(answer, bytes):
            return iter(answer)
        cut = re.compile(rb".", re.DOTALL) if self.script.split else _PIECE
        return iter(cut.findall(answer))

    def _step(self, speaker: _Speaker) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        if not speaker.begun:
            speaker.begun = True
            events += [Started(), Prefilled(len(speaker.prompt))]
        pieces: list[bytes] = []
        ending: EngineEvent | None = None
        while ending is None and len(pieces) < self.script.tokens_per_turn:
            ending = self._next(speaker, pieces)
        if pieces:
            events.append(_tokens(pieces, speaker.job.logprobs))
        if ending is not None:
            events.append(ending)
        return events

    def _next(self, speaker: _Speaker, pieces: list[bytes]) -> EngineEvent | None:
        """One more piece, or how the job ends."""
        if self.script.fail_after is not None and speaker.said >= self.script.fail_after:
            return Failed(EngineFailed(f"scripted failure after {speaker.said} tokens"))
        if speaker.said >= speaker.room:
            return Stopped("length", speaker.usage)
        piece = next(speaker.pieces, None)
        if piece is None:
            return Stopped("stop", speaker.usage)
        speaker.said += 1
        pieces.append(piece)
        return None


class ScriptedHarness:
    """Plays `script`, or the one that `scripts` has for a model, with what an order's options
    say of it. `engines` is for looking at. A child makes its own harness by `factory`, which
    knows nothing of the scripts here."""

    def __init__(
        self,
        script: Script | None = None,
        scripts: Mapping[str, Script] | None = None,
        *,
        factory: str = "cortex.harness.scripted:ScriptedHarness",
    ) -> None:
        self.name = "scripted"
        self.apart: Apart | None = Apart(factory)
        self.engines: dict[str, ScriptedEngine] = {}
        self.releases = 0
        self._script, self._scripts = script or Script(), dict(scripts or {})

    def release(self) -> None:
        self.releases += 1

    def unavailable(self) -> str | None:
        return None

    def preflight(self, order: LoadOrder) -> Preflight:
        script = self._of(order)
        if script.unfit is not None:
            raise Unfit(f"{order.path}: {script.unfit}")
        return Preflight(
            weights_bytes=script.bytes,
            cache_bytes=0,
            overhead_bytes=0,
            context=min(order.context, script.trained_context),
            trained_context=script.trained_context,
            architecture="scripted",
            template=script.template,
        )

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> ScriptedEngine:
        script = self._of(order)
        if progress(0, script.bytes):
            raise LoadFailed(f"{order.model}: the load was given up")
        while script.slow_load is not None and not script.slow_load.wait(0.005):
            if progress(script.bytes // 2, script.bytes):
                raise LoadFailed(f"{order.model}: the load was given up")
        if script.on_load is not None:
            script.on_load()
        if script.load_error is not None:
            raise script.load_error
        if progress(script.bytes, script.bytes):
            raise LoadFailed(f"{order.model}: the load was given up")
        if script.hold is not None:
            script.hold.listen(ring)
        engine = self.engines[order.model] = ScriptedEngine(order, script)
        return engine

    def _of(self, order: LoadOrder) -> Script:
        script = self._scripts.get(order.model, self._script)
        said: dict[str, Any] = {name: value for name, value in order.options.items() if name in _OPTIONS}
        return replace(script, **said) if said else script


def scripted_order(model: str = "scripted", context: int = 8192, slots: int = 4) -> LoadOrder:
    """An order that every script can carry out: there is no file to name."""
    return LoadOrder(model=model, path=Path(model), device="cpu", context=context, slots=slots)


def _biased(pieces: Iterator[bytes], sampling: Sampling) -> Iterator[bytes]:
    """A bias of 100 forces a token, one of -100 bans it; what is between changes nothing."""
    bias = sampling.logit_bias or {}
    forced = next((bytes_of(token) for token, amount in bias.items() if amount >= 100), None)
    banned = {bytes_of(token) for token, amount in bias.items() if amount <= -100}
    return (forced if forced is not None else piece for piece in pieces if piece not in banned)


def _tokens(pieces: list[bytes], logprobs: int | None) -> Tokens:
    scored = () if logprobs is None else tuple(_scored(piece, logprobs) for piece in pieces)
    return Tokens(b"".join(pieces), len(pieces), scored)


def _scored(piece: bytes, alternatives: int) -> TokenLogprob:
    text = piece.decode("utf-8", "replace")
    others = ((f"{text}{rank}", -1.0 - rank) for rank in range(1, alternatives))
    top = tuple(itertools.islice(itertools.chain([(text, -0.5)], others), alternatives))
    return TokenLogprob(text, -0.5, top)
