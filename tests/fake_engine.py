"""An OpenAI-compatible engine made of scripts: its list of models is state, its faults are switches.

Built on `fake_upstream`: real sockets, raw bytes. GET /v1/models answers from the state unless
`listing` has a script; every other request takes the next script, or `otherwise`.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio
import trio.testing

from tests.fake_upstream import FakeUpstream, Received, Script, Step, _head, _rest, events, script, whole


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    """One event of a chat's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % msgspec.json.encode({"choices": [choice]})


def used(prompt: int, completion: int, **more: Any) -> bytes:
    """The event that tells the usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return b"data: %b\n\n" % msgspec.json.encode({"choices": [], "usage": usage})


DONE = b"data: [DONE]\n\n"
HELLO = (chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"))
ANSWER = (*HELLO, chunk("stop"), used(9, 4, prompt_tokens_details={"cached_tokens": 8}), DONE)
WHOLE = events(*ANSWER)


def refusal(status: int, message: str = "no", *headers: str, **more: Any) -> bytes:
    """A refusal in the vendor's shape."""
    return whole(status, msgspec.json.encode({"error": {"message": message, **more}}), *headers)


@dataclass
class FakeEngine(FakeUpstream):
    """`models` are its entries by id; `looks` counts how often it was asked for them."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    listing: deque[Script] = field(default_factory=deque)
    looks: int = 0
    look: Received | None = None
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _nursery: trio.Nursery | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def body(self) -> dict[str, Any]:
        """What the last request said."""
        return msgspec.json.decode(self.requests[-1].body)

    async def seen(self, count: int) -> None:
        """So many requests other than looks have come."""
        while len(self.requests) < count:
            await self._change.wait()

    async def listen(self) -> None:
        """It is there, at the same port as before."""
        assert self._nursery is not None
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, listeners)

    async def die(self) -> None:
        """The process is gone: connections break, the port is closed."""
        self._scope.cancel()
        while self.open:
            await self._change.wait()
        await trio.testing.wait_all_tasks_blocked()

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        with self._scope:
            await trio.serve_listeners(self.serve, listeners)

    async def _one(self, stream: trio.SocketStream, number: int) -> bool:
        raw = await _head(stream)
        if raw is None:
            return False
        looked = raw.startswith(b"GET /v1/models ")
        scripts = self.listing if looked else self.scripts
        plan = scripts.popleft() if scripts else None if looked else self.otherwise
        if not looked and (plan is None or plan.read == "all"):
            raw = await _rest(stream, raw)
        if looked:
            self.look = Received(raw, number)
        else:
            self.requests.append(Received(raw, number))
        self._count("looks", looked)
        if plan is None:
            assert looked, "a request came for which there is no script"
            plan = script(self._list())
        for step in plan.steps:
            if not await self._step(stream, step):
                return False
        return True

    def _list(self) -> bytes:
        data = [{"id": name, "object": "model", **facts} for name, facts in self.models.items()]
        return whole(200, msgspec.json.encode({"object": "list", "data": data}))


@asynccontextmanager
async def fake_engine(
    *models: str, otherwise: Step | bytes | None = WHOLE, **facts: Any
) -> AsyncIterator[FakeEngine]:
    """An engine on loopback that has `models`, each with `facts`."""
    entries = {model: {"owned_by": "vllm", "max_model_len": 4096, **facts} for model in models}
    engine = FakeEngine(deque(), None if otherwise is None else script(otherwise), models=entries)
    async with trio.open_nursery() as engine._nursery:
        await engine.listen()
        yield engine
        engine._nursery.cancel_scope.cancel()
