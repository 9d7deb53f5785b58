"""One model that plays a script, on the device's thread, without sleeping and without chance."""

import itertools
import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from cortex.ask import Sampling
from cortex.errors import BadAsk, CortexError, EngineFailed, PromptTooLong, Unsupported
from cortex.events import (
    Embedded,
    EngineEvent,
    Failed,
    Prefilled,
    Started,
    Stopped,
    TokenLogprob,
    Tokens,
    Usage,
)
from cortex.harness.base import EngineFacts, Job, LoadOrder, Memory, Said
from cortex.harness.scripted.script import Script
from cortex.harness.scripted.tokens import PIECE, bytes_of, known_bytes_of, numbered, tokens_of


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
        memory = Memory(script.bytes)
        kv = order.kv_tokens if script.kv_tokens is None else script.kv_tokens
        self._facts = EngineFacts(
            memory,
            order.context,
            order.slots,
            script.can,
            kv_tokens=kv,
            embeds=bool(script.embeds),
            writes=not script.embeds,
            width=script.embeds,
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
        return b"".join(map(known_bytes_of, ids)).decode("utf-8", "replace")

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
            raise Unsupported("The scripted engine knows no shapes; give it a reply", param=job.shape.param)
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
        cut = re.compile(rb".", re.DOTALL) if self.script.split else PIECE
        return iter(cut.findall(answer))

    def _step(self, speaker: _Speaker) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        if not speaker.begun:
            speaker.begun = True
            events += [Started(), Prefilled(len(speaker.prompt))]
        if self.script.embeds:
            numbers = islice(cycle(speaker.prompt), self.script.embeds)
            vector = struct.pack(f"<{self.script.embeds}f", *numbers)
            return [*events, Embedded(vector), Stopped("stop", speaker.usage)]
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
