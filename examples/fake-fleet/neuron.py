"""A neuron without weights: it speaks a neuron's HTTP, counts instead of computing, and fails on demand.

    python examples/fake-fleet/neuron.py --name n1 --port 13141 --device cuda:0=24GiB --model small=4GiB

The shapes are those of `cortex.wire`, so that a gateway cannot tell it from a neuron. Its answers
are the numbers 0, 1, 2, ..., a token each, so that a client sees one that is missing or comes
twice. What shall go wrong is set by `POST /faults` (README.md). A ledger file has a line for each
token, which no SIGKILL can take back. Nothing here is secured: it listens on this host alone.
"""

import argparse
import itertools
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import unquote

import msgspec
import trio
from answers import CHAT, TEXT, Answer, Pace, Question, Wanted
from lines import Gone, Line
from residents import Job, Model, Residents
from switches import Fault, Script, instead, read_weights, strike

from cortex import __version__, errors
from cortex.ask import Json
from cortex.errors import CortexError
from cortex.units import parse_size, parse_span
from cortex.web.faults import response
from cortex.wire import keeping
from cortex.wire import neuron as wire


class Spec(msgspec.Struct, kw_only=True):
    """What of a models.toml entry matters here."""

    id: str
    footprint: int | None = None


class Neuron:
    """The fake as a whole; `options` are the command line's."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.name, self.boot_id = options.name, options.boot_id or secrets.token_hex(8)
        self.known: dict[str, int] = {**dict(options.model), **dict(options.hold)}
        self.residents = Residents(dict(options.device), load_s=options.load, slots=options.slots)
        for id, bytes_ in options.hold:
            self.residents.put(id, bytes_)
        self.script: Script = options.faults
        self.url, self.stopping = "", False
        self.in_flight = 0
        self._stale: dict[str, bytes] = {}
        self._reports = itertools.count(1)
        self._began = time.monotonic()
        self._ledger = os.open(options.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def run(self) -> None:
        """Until SIGTERM, after which what runs may finish."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as self._nursery:
                listeners = await trio.open_tcp_listeners(self.options.port, host="127.0.0.1")
                self._nursery.start_soon(trio.serve_listeners, self.serve, listeners)
                host, port = listeners[0].socket.getsockname()
                self.url = f"http://{host}:{port}"
                print(f"{self.name} is at {self.url}", flush=True)
                await anext(signals)
                self.stopping = True
                while self.in_flight:  # noqa: ASYNC110 - nobody else waits for it
                    await trio.sleep(0.05)
                self._nursery.cancel_scope.cancel()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, request after request."""
        line = Line(stream)
        async with stream:
            try:
                while True:
                    await self._one(line)
            except Gone:
                pass

    async def _one(self, line: Line) -> None:
        method, target, headers = await line.head()
        length, id = (
            int(headers.get("content-length", "0")),
            headers.get(wire.REQUEST_ID, secrets.token_hex(8)),
        )
        try:
            if target in (CHAT, TEXT):
                await strike(self.script.take("request", "head"), line)
                await self._infer(line, target, await line.body(length), headers, id)
            else:
                body = await line.body(length)
                status = 202 if target == "/models/load?wait=false" else 200
                await line.answer(status, await self._control(method, target, body))
        except (msgspec.DecodeError, ValueError) as error:
            await self._refuse(line, errors.BadAsk(str(error)), id)
        except CortexError as error:
            await self._refuse(line, error, id)

    async def _refuse(self, line: Line, error: CortexError, id: str) -> None:
        status, headers, body = response(error, "openai", id)
        await line.answer(status, body, {**dict(headers), wire.REQUEST_ID: id})

    # -- inference

    async def _infer(self, line: Line, path: str, body: bytes, headers: Mapping[str, str], id: str) -> None:
        wanted = msgspec.json.decode(body, type=Wanted)
        if await instead(self.script.take("request", model=wanted.model), line):
            return
        model = await self._meant(wanted.model, routed=wire.ROUTE in headers)
        pace = Pace(self.options.tokens, 1 / self.options.pace)
        answer = Answer(line, Question(id, path, wanted), pace, script=self.script, note=self._note)
        async with self._seat(model), trio.open_nursery() as nursery:
            nursery.start_soon(answer.watch, nursery.cancel_scope)
            await answer.speak({wire.NEURON: self.name, wire.MODEL: wanted.model, wire.REQUEST_ID: id})
            nursery.cancel_scope.cancel()
        if not answer.whole:
            raise Gone

    async def _meant(self, id: str, *, routed: bool) -> Model:
        """The model to be asked; whoever comes without a gateway has it loaded."""
        if self.stopping:
            raise errors.Stopping(f"Neuron '{self.name}' is shutting down")
        if (model := self.residents.loaded(id)) is not None:
            return model
        if routed:
            raise errors.NotHereNow(f"Model '{id}' is not resident on neuron '{self.name}'")
        if id not in self.known:
            raise errors.UnknownModel(f"Neuron '{self.name}' knows no model '{id}'", param="model")
        await self._load(wire.LoadRequest(spec={"id": id}), wait=True)
        return self.residents.models[id]

    @asynccontextmanager
    async def _seat(self, model: Model) -> AsyncIterator[None]:
        if model.in_flight >= self.options.slots + self.options.queue:
            raise errors.Overloaded(f"The line for '{model.id}' is full", retry_after_s=1)
        model.in_flight += 1
        self.in_flight += 1
        try:
            async with model.seats:
                yield
        finally:
            self.in_flight -= 1
            model.in_flight -= 1
            model.used = time.monotonic()

    def _note(self, id: str, model: str, **what: Json) -> None:
        """A line in the ledger. Its time is of the system's monotonic clock, which processes share."""
        entry = {"id": id, "neuron": self.name, "boot": self.boot_id, "model": model, "at": time.monotonic()}
        os.write(self._ledger, msgspec.json.encode({**entry, **what}) + b"\n")

    # -- control

    async def _control(self, method: str, target: str, body: bytes) -> bytes:
        path, _, query = target.partition("?")
        if path == "/faults":
            return self._set_faults(body) if method == "POST" else msgspec.json.encode(self.script)
        if method == "POST":
            return msgspec.json.encode(await self._order(path, body, wait="wait=false" not in query))
        fault = self.script.take("report")
        if fault is not None and fault.do == "hang":
            await trio.sleep_forever()
        if fault is not None and fault.do == "stale" and path in self._stale:
            return self._stale[path]
        return self._report(method, path)

    def _set_faults(self, body: bytes) -> bytes:
        self.script = msgspec.json.decode(body, type=Script)
        for fault in [each for each in self.script.faults if each.do in ("restart", "claim")]:
            self.script.faults.remove(fault)
            self.name, self.boot_id = fault.name or self.name, fault.boot_id or self.boot_id
            if fault.do == "restart":
                self.boot_id = secrets.token_hex(8)
                self.residents.models.clear()
        self._stale = {path: self._report("GET", path) for path in ("/health", "/models", "/discovery")}
        return msgspec.json.encode(self.script)

    async def _order(self, path: str, body: bytes, *, wait: bool) -> object:
        match path:
            case "/models/load":
                return await self._load(msgspec.json.decode(body, type=wire.LoadRequest), wait=wait)
            case "/models/unload":
                order = msgspec.json.decode(body, type=wire.UnloadRequest)
                self.residents.unload(order)
                return {"id": order.id, "unloaded": True}
            case "/models/pin" | "/models/unpin":
                id = msgspec.json.decode(body, type=keeping.PinRequest).id
                pins = self.residents.pinned
                (pins.add if path == "/models/pin" else pins.discard)(id)
                return keeping.PinAnswer(id=id, pinned=id in pins, resident=id in self.residents.models)
            case "/models/keep":
                return self.residents.heed(msgspec.json.decode(body, type=keeping.KeepRequest))
        raise errors.UnknownRoute(f"There is no POST {path} here")

    async def _load(self, order: wire.LoadRequest, *, wait: bool) -> wire.LoadAnswer | keeping.LoadJob:
        """The model is here, or on its way. The load goes on without whoever asked for it."""
        spec, residents = msgspec.convert(order.spec, Spec, strict=False), self.residents
        if self.stopping:
            raise errors.Stopping(f"Neuron '{self.name}' is shutting down")
        if (there := residents.loaded(spec.id)) is not None:
            return wire.LoadAnswer(resident=residents.report(there, self.options.queue), joined=True)
        coming = residents.models.get(spec.id)
        job = None if coming is None else coming.job
        if job is None:
            job = await self._begin(order, spec)
            self._nursery.start_soon(self._bring, job, self.script.take("load", model=spec.id))
        if not wait:
            return residents.told(job)
        await job.over.wait()
        if job.error is not None:
            raise job.error
        report = residents.report(residents.models[spec.id], self.options.queue)
        return wire.LoadAnswer(resident=report, evicted=job.evicted, joined=coming is not None)

    async def _begin(self, order: wire.LoadRequest, spec: Spec) -> Job:
        """The load has its room; it stands in line until those who are seated in the way have left."""
        bytes_ = self.known.get(spec.id) or spec.footprint or self.options.model_bytes
        while True:
            try:
                return self.residents.begin(order, spec.id, bytes_)
            except errors.Busy:
                if order.evict == "never" or not self.in_flight:
                    raise
            await trio.sleep(0.02)

    async def _bring(self, job: Job, fault: Fault | None) -> None:
        async def read() -> None:
            await read_weights(fault, self.options.load)

        await self.residents.finish(job, read)

    def _report(self, method: str, path: str) -> bytes:
        if path.startswith("/models/"):
            return msgspec.json.encode(self._one_model(method, path))
        routes: dict[str, Callable[[], object]] = {
            "/health": self._health,
            "/models": self._models,
            "/discovery": self._discovery,
            "/version": lambda: {"version": __version__, "role": "neuron"},
            "/v1/models": lambda: {"object": "list", "data": [_entry(id) for id in sorted(self.known)]},
            "/livez": lambda: {},
            "/readyz": lambda: {},
        }
        if path not in routes:
            raise errors.UnknownRoute(f"There is no {method} {path} here")
        return msgspec.json.encode(routes[path]())

    def _one_model(self, method: str, path: str) -> object:
        if path == "/models/jobs":
            return keeping.LoadJobs(jobs=[self.residents.told(job) for job in self.residents.jobs.values()])
        if path.startswith("/models/jobs/"):
            job = self.residents.job(path.rpartition("/")[2])
            if method == "DELETE":
                job.scope.cancel()
            return self.residents.told(job)
        id, _, what = unquote(path.removeprefix("/models/")).rpartition("/")
        if what == "capabilities" and id in self.known:
            return {"capabilities": ["chat"]}
        if what == "endpoint" and self.residents.loaded(id):
            return {"url": f"{self.url}/v1"}
        raise errors.NotResident(f"Model '{id}' is not resident; see GET /models", param="id")

    def _health(self) -> wire.Health:
        devices = [
            wire.DeviceHealth(name=name, memory_total=total, memory_used=used, memory_free=total - used)
            for name, total in self.residents.devices.items()
            for used in [self.residents.used(name)]
        ]
        loads = [
            wire.ModelLoad(
                id=model.id,
                in_flight=min(model.in_flight, self.options.slots),
                queue=max(0, model.in_flight - self.options.slots),
                slots=self.options.slots,
            )
            for model in self.residents.models.values()
        ]
        return wire.Health(
            name=self.name,
            boot_id=self.boot_id,
            seq=next(self._reports),
            uptime_s=time.monotonic() - self._began,
            devices=devices,
            activation=wire.Activation(state="stopping" if self.stopping else "ready"),
            models=loads,
        )

    def _models(self) -> wire.Residents:
        return wire.Residents(
            boot_id=self.boot_id,
            seq=next(self._reports),
            models=[
                self.residents.report(each, self.options.queue) for each in self.residents.models.values()
            ],
            known=sorted(self.known),
            pinned=sorted(self.residents.pinned),
        )

    def _discovery(self) -> wire.Discovery:
        devices = [
            wire.Device(
                index=index, device=name, name="Fake", kind=name.partition(":")[0], memory_total=total
            )
            for index, (name, total) in enumerate(self.residents.devices.items())
        ]
        return wire.Discovery(
            name=self.name,
            hostname="localhost",
            devices=devices,
            harnesses=[wire.HarnessReport(name="fake", available=True, version="1")],
            dialects=["openai_chat", "openai_text"],
            boot_id=self.boot_id,
        )


def _entry(id: str) -> dict[str, Json]:
    return {"id": id, "object": "model", "created": 0, "owned_by": "cortex"}


def _sized(text: str) -> tuple[str, int]:
    name, _, bytes_ = text.partition("=")
    if not bytes_:
        raise argparse.ArgumentTypeError(f"'{text}' has no size; write {name}=4GiB")
    return name, parse_size(bytes_)


def _script(text: str) -> Script:
    return msgspec.json.decode(text, type=Script)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="A neuron without weights, for demos and for tests.")
    parser.add_argument("--name", default="fake")
    parser.add_argument("--port", type=int, default=13141, help="0 for a free one, which is printed")
    parser.add_argument("--device", type=_sized, action="append", help="NAME=SIZE; may be repeated")
    parser.add_argument(
        "--model", type=_sized, action="append", default=[], help="NAME=SIZE that it can load"
    )
    parser.add_argument("--hold", type=_sized, action="append", default=[], help="NAME=SIZE, loaded at start")
    parser.add_argument(
        "--model-bytes", type=parse_size, default="4GiB", help="of models without a footprint"
    )
    parser.add_argument("--load", type=parse_span, default="2s", help="how long a load takes")
    parser.add_argument("--pace", type=float, default=20.0, help="tokens a second of each answer")
    parser.add_argument("--tokens", type=int, default=20, help="in an answer to a request without a limit")
    parser.add_argument("--slots", type=int, default=4, help="requests that a model computes at once")
    parser.add_argument("--queue", type=int, default=16, help="requests that wait for a model beyond those")
    parser.add_argument("--faults", type=_script, default="{}", help="as POST /faults takes them")
    parser.add_argument("--ledger", default=os.devnull, help="a file for a line of JSON a token")
    parser.add_argument("--boot-id", default="", help="another one at each start, unless said")
    said = parser.parse_args()
    said.device = said.device or [("cuda:0", parse_size("8GiB"))]
    return said


if __name__ == "__main__":
    trio.run(Neuron(options()).run)
