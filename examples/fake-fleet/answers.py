"""What the fake neuron says to a request: the numbers 0, 1, 2, ..., each of them a token.

Both forms of an answer, in the shape of OpenAI's chats and completions. Between two tokens of a
stream a switch may strike. Every token is noted before it is said.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import trio
from lines import Gone, Line
from switches import Script, spoil

from cortex.ask import Json
from cortex.errors import CortexError
from cortex.events import Usage
from cortex.web.faults import last_frames
from cortex.wire import neuron as wire
from cortex.wire import sse

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STREAM = {"content-type": "text/event-stream; charset=utf-8", "trailer": wire.USAGE}
PROMPT_TOKENS = 7  # nobody reads the prompt


class Wanted(msgspec.Struct, kw_only=True):
    """What of a request's body matters here."""

    model: str
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


@dataclass(frozen=True)
class Question:
    """A request that was read."""

    id: str
    path: str
    wanted: Wanted

    @property
    def chat(self) -> bool:
        return self.path == CHAT


@dataclass(frozen=True)
class Pace:
    """So many tokens where the request sets no limit, and so long for each."""

    tokens: int
    token_s: float


class Note(Protocol):
    """A line in the ledger."""

    def __call__(self, id: str, model: str, **what: Json) -> None: ...


class Answer:
    """One answer, and what becomes of it. `whole` once its connection can be used again."""

    def __init__(self, line: Line, question: Question, pace: Pace, *, script: Script, note: Note) -> None:
        self._line, self._question, self._pace = line, question, pace
        self._script, self._note_down, self.whole = script, note, False
        limit = question.wanted.max_completion_tokens or question.wanted.max_tokens
        self._count = pace.tokens if limit is None else limit
        self._reason = "stop" if limit is None else "length"
        self._usage = Usage(PROMPT_TOKENS, 0, self._count)

    async def watch(self, scope: trio.CancelScope) -> None:
        """A client that hangs up ends its answer."""
        try:
            while True:
                await self._line.more()
        except Gone:
            scope.cancel()

    async def speak(self, headers: Mapping[str, str]) -> None:
        """All of it was said, or why not, or the client is gone."""
        self._note(token=-1)
        end = "left"
        try:
            await (self._stream(headers) if self._question.wanted.stream else self._at_once(headers))
            end, self.whole = "complete", True
        except CortexError as error:
            await self._line.chunk(last_frames(error, "openai", self._question.id))
            await self._line.end()
            end, self.whole = "failed", True
        except Gone:
            end = "broken"
        finally:
            self._note(end=end)

    async def _at_once(self, headers: Mapping[str, str]) -> None:
        for number in range(self._count):
            await self._compute(number)
        said = self._choice("".join(f"{number} " for number in range(self._count)), self._reason, part=False)
        usage = {"prompt_tokens": self._usage.prompt, "completion_tokens": self._usage.completion}
        await self._line.answer(200, msgspec.json.encode({**self._frame(said), "usage": usage}), headers)

    async def _stream(self, headers: Mapping[str, str]) -> None:
        await self._line.open({**STREAM, **headers})
        if self._question.chat:
            await self._event({"index": 0, "delta": {"role": "assistant"}, "finish_reason": None})
        for number in range(self._count):
            await self._mishap(number)
            await self._compute(number)
            await self._event(self._choice(f"{number} "))
        await self._mishap(self._count)
        await self._event(self._choice("", self._reason))
        await self._line.chunk(sse.render(sse.DONE))
        await self._line.end({wire.USAGE: wire.render_usage(self._usage)})

    async def _mishap(self, said: int) -> None:
        model = self._question.wanted.model
        await spoil(self._script.take("request", "tokens", model=model, said=said), self._line)

    async def _compute(self, number: int) -> None:
        await trio.sleep(self._pace.token_s)
        self._note(token=number)

    async def _event(self, choice: Json) -> None:
        await self._line.chunk(sse.render(sse.Frame(msgspec.json.encode(self._frame(choice)), "")))

    def _choice(self, text: str, finish: str | None = None, *, part: bool = True) -> dict[str, Json]:
        form: dict[str, Json] = {"text": text}
        if self._question.chat:
            form = (
                {"delta": {"content": text}} if part else {"message": {"role": "assistant", "content": text}}
            )
        return {"index": 0, **form, "finish_reason": finish}

    def _frame(self, choice: Json) -> dict[str, Json]:
        question = self._question
        kind = "text_completion"
        if question.chat:
            kind = "chat.completion.chunk" if question.wanted.stream else "chat.completion"
        return {
            "id": ("chatcmpl-" if question.chat else "cmpl-") + question.id,
            "object": kind,
            "created": int(time.time()),
            "model": question.wanted.model,
            "choices": [choice],
        }

    def _note(self, **what: Json) -> None:
        self._note_down(self._question.id, self._question.wanted.model, **what)
