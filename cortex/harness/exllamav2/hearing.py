"""What a generator's results come to, job by job: tokens as bytes, counts, and how each ended.

Bookkeeping only; nothing here touches the device. A job's prompt, tokens and slot are one `Call`.
The token that ends an answer counts and has no text, as with other engines.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cortex.errors import EngineFailed
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
from cortex.harness.base import Job
from cortex.harness.exllamav2.sampling import Chooser
from cortex.harness.exllamav2.vocabulary import Vocabulary

# How the library says that a job ended, as far as it is asked to end one.
_REASONS: Final[Mapping[str, StopReason]] = {
    "stop_token": "stop",
    "end_filter": "stop",
    "max_new_tokens": "length",
}


@dataclass(slots=True, eq=False)
class Call:
    """One live job. `prompt` is empty until it is read into tokens; `job` is the library's, from
    then on. `hidden` are the tokens that have no text in this answer."""

    asked: Job
    hidden: frozenset[int] = frozenset()
    prompt: tuple[int, ...] = ()
    job: Any = None
    chooser: Chooser | None = None
    in_generator: bool = False
    started: bool = False
    reading: bool = True  # its prompt
    cached: int = 0
    said: int = 0
    scores: list[TokenLogprob] = field(default_factory=list)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prompt), self.cached, self.said)


@dataclass(slots=True)
class Turn:
    """What was said in one turn: tokens of a job that come one after another are one event."""

    vocabulary: Vocabulary
    said: list[tuple[int, EngineEvent]] = field(default_factory=list)
    _words: dict[int, Tokens] = field(default_factory=dict)

    def hear(self, call: Call, result: Mapping[str, Any], page: int) -> bool:
        """Whether the job ended with this result, in the library or only for us; `page` is how many
        tokens a page of the cache has."""
        match result["stage"]:
            case "started":
                self._start(call)
            case "streaming":
                self._read(call, page)
                fault = call.chooser.fault if call.chooser is not None else None
                if fault is not None:
                    self._fail(call, fault)
                    return True
                self._say(call, result)
                if result["eos"]:
                    self._end(call, result["eos_reason"])
                    return True
        return False

    def finish(self) -> list[tuple[int, EngineEvent]]:
        """All of it, in order."""
        for job_id in tuple(self._words):
            self._flush(job_id)
        return self.said

    def _start(self, call: Call) -> None:
        if not call.started:
            call.started = True
            self.said.append((call.asked.id, Started()))

    def _read(self, call: Call, page: int) -> None:
        """The first token says that the prompt was read; what it had to compute of it is known."""
        if call.reading:
            self._start(call)
            call.reading = False
            call.cached = min(call.job.cached_pages * page + call.job.cached_tokens, len(call.prompt))
            self.said.append((call.asked.id, Prefilled(len(call.prompt), call.cached)))

    def _say(self, call: Call, result: Mapping[str, Any]) -> None:
        ids = [*_ids(result), *_ids(result.get("held", {}))]
        last = result.get("eos_triggering_token_id")
        data = b"".join(
            self.vocabulary.piece(token) for token in ids if token != last and token not in call.hidden
        )
        if ids:
            scores = tuple(self._scored(call, ids, last))
            before = self._words.get(call.asked.id, Tokens(b"", 0))
            self._words[call.asked.id] = Tokens(
                before.data + data, before.count + len(ids), before.logprobs + scores
            )
            call.said += len(ids)

    def _scored(self, call: Call, ids: list[int], last: int | None) -> Iterator[TokenLogprob]:
        """The scores of those that have text."""
        if call.asked.logprobs is None:
            return
        scores, call.scores[: len(ids)] = call.scores[: len(ids)], []
        for token, score in zip(ids, scores, strict=True):
            if token != last and token not in call.hidden:
                yield score

    def _end(self, call: Call, why: str) -> None:
        reason = _REASONS.get(why)
        if reason is None:
            self._fail(call, f"exllamav2 ended the answer for a reason of its own: {why}")
            return
        self._flush(call.asked.id)
        self.said.append((call.asked.id, Stopped(reason, call.usage)))

    def _fail(self, call: Call, why: str) -> None:
        self._flush(call.asked.id)
        self.said.append((call.asked.id, Failed(EngineFailed(why))))

    def _flush(self, job_id: int) -> None:
        words = self._words.pop(job_id, None)
        if words is not None:
            self.said.append((job_id, words))


def _ids(result: Mapping[str, Any]) -> list[int]:
    tokens = result.get("token_ids")
    return [] if tokens is None else [int(token) for token in tokens.flatten().tolist()]
