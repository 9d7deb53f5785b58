"""A neuron made of scripts: its reports are state that a test sets, its faults are switches.

Built on `fake_upstream`: real sockets, raw bytes. Control routes answer from the state unless
`on` has a script for their path; every inference request takes the next script, or `otherwise`.
`requests` are the inference requests that came, `orders` the control ones that are not polls.
"""

import secrets
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig, NeuronRef, Poll
from cortex.gateway import service
from cortex.ledger import Ledger
from cortex.wire import neuron as wire
from tests.fake_upstream import (
    STREAM_HEAD,
    FakeUpstream,
    Received,
    Script,
    Step,
    _head,
    _rest,
    chunks,
    last_chunk,
    script,
    whole,
)
from tests.fake_web import Client
from tests.roles import ANY, MIB

ANSWER = (
    b'{"id": "1", "object":"chat.completion",  "choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"hi \xc3\xa9"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
)
OPENING = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
WORDS = tuple(
    b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % word
    for word in (b"one", b" tw\xc3\xb6", b" three")
)
CLOSING = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = OPENING + b"".join(WORDS) + CLOSING + DONE
USAGE = "x-cortex-usage: prompt=7,cached=2,completion=3"
CHUNKED = chunks(STREAM) + last_chunk(USAGE)


def refusal(status: int, code: str, *headers: str, message: str = "no") -> bytes:
    """A neuron's refusal in the OpenAI shape."""
    body = msgspec.json.encode({"error": {"message": message, "type": "t", "code": code, "param": None}})
    return whole(status, body, *headers)


NOT_STARTED = "x-cortex-not-started: 1"
FULL = refusal(503, "overloaded", NOT_STARTED, "retry-after: 7", message="the neuron is full")
NOT_HERE = refusal(409, "not_here_now", NOT_STARTED)
STOPPING = refusal(503, "shutting_down", NOT_STARTED, "retry-after: 5")
WHOLE = whole(200, ANSWER, "x-cortex-neuron: inside", "set-cookie: a=b")
STREAMED = STREAM_HEAD + CHUNKED


@dataclass
class FakeNeuron(FakeUpstream):
    """`residents` by model; `known` are the models of its own catalogue."""

    residents: dict[str, wire.ResidentReport] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    loads: dict[str, wire.ModelLoad] = field(default_factory=dict)
    boot_id: str = field(default_factory=lambda: f"boot-{secrets.token_hex(4)}")
    state: str = "ready"
    dialects: tuple[str, ...] = (
        "openai_chat",
        "openai_text",
        "openai_responses",
        "openai_embeddings",
        "anthropic_messages",
    )
    memory: int = 1024 * MIB
    poisoned: bool = False
    warnings: list[str] = field(default_factory=list)
    spent: dict[str, int] = field(default_factory=dict)  # today's prompt tokens by key
    silent: bool = False  # accepts and reads, and never answers again
    polls: int = 0
    poll: Received | None = None  # the last one
    orders: list[Received] = field(default_factory=list)
    on: dict[str, deque[Script]] = field(default_factory=lambda: defaultdict(deque))
    loading: trio.Event | None = None  # holds every load until it is set
    answer: Callable[[bytes], bytes] | None = None  # what a request gets, rather than a script
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _nursery: trio.Nursery | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def has(self, model: str, **facts: Any) -> None:
        """`model` is resident."""
        report = wire.ResidentReport(
            id=model, devices=["cpu"], bytes={"cpu": MIB}, slots=4, queue=16, age_s=100, idle_s=100
        )
        self.residents[model] = msgspec.structs.replace(report, **facts)

    @staticmethod
    def plan(*steps: Step | bytes) -> Script:
        """For `on`."""
        return script(*steps)

    def ordered(self, path: str) -> int:
        """How often a control route was called."""
        return sum(order.head[0].split()[1] == path for order in self.orders)

    async def told_to_load(self) -> None:
        """An order to load has come."""
        await self.told_to("/models/load")

    async def told_to(self, path: str) -> None:
        """A control route was called."""
        while not self.ordered(path):
            await self._change.wait()

    async def seen(self, count: int) -> None:
        """So many inference requests have come."""
        while len(self.requests) < count:
            await self._change.wait()

    async def polled(self, times: int = 2) -> None:
        """So many polls, begun after this call at the latest but one, have been answered."""
        goal = self.polls + times
        while self.polls < goal:
            await self._change.wait()

    # -- coming and going

    async def listen(self) -> None:
        assert self._nursery is not None
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, listeners)

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        with self._scope:
            await trio.serve_listeners(self.serve, listeners)

    async def die(self) -> None:
        """The process is gone: connections break, the port is closed."""
        self._scope.cancel()
        while self.open:
            await self._change.wait()
        await trio.testing.wait_all_tasks_blocked()

    async def restart(self) -> None:
        """Another process at the same port, with nothing resident."""
        await self.die()
        self.boot_id += "'"
        self.residents.clear()
        await self.listen()

    # -- what it says

    async def _one(self, stream: trio.SocketStream, number: int) -> bool:
        raw = await _head(stream)
        if raw is None:
            return False
        path = raw.split(b" ", 2)[1].decode()
        inference = path.startswith("/v1/")
        scripts = self.scripts if inference else self.on[path]
        plan = scripts.popleft() if scripts else self.otherwise if inference else None
        if plan is None or plan.read == "all":
            raw = await _rest(stream, raw)
        self._record(Received(raw, number), path, inference)
        if self.silent:
            await trio.sleep_forever()
        if inference and self.answer is not None:
            await stream.send_all(self.answer(raw))
            return True
        if plan is None:
            assert not inference, "a request came for which there is no script"
            await stream.send_all(await self._control(path, raw))
            return True
        for step in plan.steps:
            if not await self._step(stream, step):
                return False
        return True

    def _record(self, received: Received, path: str, inference: bool) -> None:
        if inference:
            self.requests.append(received)
        elif path in ("/health", "/models", "/discovery"):
            self.poll = received
        else:
            self.orders.append(received)
        self._count("polls", path == "/models")

    async def _control(self, path: str, raw: bytes) -> bytes:
        if path == "/models/load":
            return await self._load(msgspec.json.decode(raw.partition(b"\r\n\r\n")[2]))
        if path == "/models/unload":
            self.residents.pop(msgspec.json.decode(raw.partition(b"\r\n\r\n")[2])["id"], None)
        return self.report(path)

    def report(self, path: str) -> bytes:
        """What a control route answers as things are."""
        body = {
            "/health": self._health,
            "/models": lambda: wire.Residents(
                boot_id=self.boot_id, models=list(self.residents.values()), known=list(self.known)
            ),
            "/discovery": lambda: wire.Discovery(boot_id=self.boot_id, dialects=list(self.dialects)),
        }.get(path, dict)()
        return whole(200, msgspec.json.encode(body))

    async def _load(self, order: dict[str, Any]) -> bytes:
        if self.loading is not None:
            await self.loading.wait()
        model = order["spec"]["id"]
        self.has(model, age_s=0)
        evicted = [victim for victim in order["victims"] if self.residents.pop(victim, None)]
        return whole(
            200, msgspec.json.encode(wire.LoadAnswer(resident=self.residents[model], evicted=evicted))
        )

    def _health(self) -> wire.Health:
        used = sum(report.bytes["cpu"] for report in self.residents.values())
        device = wire.DeviceHealth(
            name="cpu",
            memory_total=self.memory,
            memory_used=used,
            memory_free=self.memory - used,
            poisoned=self.poisoned,
        )
        return wire.Health(
            boot_id=self.boot_id,
            devices=[device],
            activation=wire.Activation(state=self.state),  # type: ignore[arg-type]
            models=list(self.loads.values()),
            warnings=self.warnings,
            key_tokens=wire.KeyTokens(
                day=datetime.now(UTC).date().isoformat(),
                keys={key: wire.Tokens(prompt=tokens) for key, tokens in self.spent.items()},
            ),
        )


@asynccontextmanager
async def fake_neuron(
    *models: str, known: Iterable[str] = (), otherwise: Step | bytes = WHOLE
) -> AsyncIterator[FakeNeuron]:
    """A neuron on loopback where `models` are resident."""
    neuron = FakeNeuron(deque(), script(otherwise), known=tuple(known))
    for model in models:
        neuron.has(model)
    # A hang guard: a fixture's would not reach the test.
    with trio.fail_after(30):
        async with trio.open_nursery() as neuron._nursery:
            await neuron.listen()
            yield neuron
            neuron._nursery.cancel_scope.cancel()


@dataclass
class Open:
    """A gateway at work; `http` speaks to it, `dial` connects to it."""

    gateway: service.Gateway
    http: httpx.AsyncClient
    clients: list[Client] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.gateway.ledger

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.ports.api[1]}"

    async def page(self) -> str:
        """The metrics, rendered afresh: a page is kept for a second."""
        host, port = self.gateway.ports.metrics
        answer = await self.http.get(f"http://{host}:{port}/metrics")
        return answer.text

    async def dial(self) -> Client:
        self.clients.append(Client(await trio.open_tcp_stream(*self.gateway.ports.api)))
        return self.clients[-1]

    async def ask(self, model: str = "a", **more: object) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json={"model": model, "messages": [], **more})

    async def knows(self, holds: Any) -> None:
        """The ledger has become so."""
        while not holds(self.ledger):  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.002)


# A busy machine is no neuron that is away: who wants one that hangs found out soon is `IMPATIENT`.
QUICK = Poll(interval_s=0.05, timeout_s=5.0, failures=3)
# For neurons that hang: found out within a test, though a busy machine may cause a miss.
IMPATIENT = Poll(interval_s=0.05, timeout_s=0.3, failures=3)


@asynccontextmanager
async def open_gateway(
    *neurons: FakeNeuron,
    catalogue: Catalogue | Iterable[str] = (),
    config: GatewayConfig = GatewayConfig(),
    poll: Poll = QUICK,
    token: str | None = None,
    dialects: tuple[str, ...] = (),
) -> AsyncIterator[Open]:
    """A gateway in front of `neurons`, which are called n1, n2, ... A catalogue of names has
    models of a MiB each."""
    refs = tuple(
        NeuronRef(f"n{number}", neuron.url, token, dialects) for number, neuron in enumerate(neurons, 1)
    )
    if not isinstance(catalogue, Catalogue):
        catalogue = Catalogue({name: ModelSpec(name, footprint=MIB) for name in catalogue})
    config = replace(config, listen=ANY, metrics_listen=ANY, neurons=refs, poll=poll)
    async with service.opened(config, catalogue) as gateway:
        url = f"http://127.0.0.1:{gateway.ports.api[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as http:
            site = Open(gateway, http)
            try:
                yield site
            finally:
                for client in site.clients:
                    await trio.aclose_forcefully(client.stream)


def body(model: str = "a", **more: object) -> bytes:
    """A chat request's body."""
    return msgspec.json.encode({"model": model, "messages": [], **more})
