"""Control calls to one neuron: what it has, what it does, and what it shall load.

The one place of the gateway that knows httpx. Library errors end here: what comes out
is a value of `wire.neuron` or a `CortexError`. Inference bytes do not pass here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeAlias, TypeVar

import httpx
import msgspec
import trio

from cortex.causes import bottom
from cortex.config.gateway import NeuronRef
from cortex.errors import CortexError, TooSlow, Unreachable, UpstreamFailed
from cortex.web.names import Address
from cortex.web.pool import Pool
from cortex.wire import keeping, reading, refusals
from cortex.wire import neuron as wire

T = TypeVar("T")
Client: TypeAlias = httpx.AsyncClient

# A neuron's whole report is a few KiB; a reply beyond this is no neuron.
LARGEST_REPORT_BYTES: Final = 8 * 2**20
CONNECT_S: Final = 1.0


@asynccontextmanager
async def open_client() -> AsyncIterator[Client]:
    """The client for all neurons. Its pool never queues: a cancelled wait in it leaks a slot."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30)
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    async with httpx.AsyncClient(
        limits=limits, timeout=timeout, follow_redirects=False, trust_env=False
    ) as client:
        yield client


class Remote:
    """One neuron's control API, at the addresses that `pool` has for its host. Deadlines are the
    caller's."""

    def __init__(self, ref: NeuronRef, client: Client, pool: Pool) -> None:
        self._ref, self._client, self._names = ref, client, pool.names
        # Said here, since URLs hold addresses: the library would look each name up by itself.
        self._headers = {"host": pool.authority, "accept-encoding": "identity"}
        if ref.token is not None:
            self._headers["authorization"] = f"Bearer {ref.token}"

    async def discovery(self) -> wire.Discovery:
        """GET /discovery."""
        return await self._call("GET", "/discovery", wire.Discovery)

    async def health(self) -> wire.Health:
        """GET /health."""
        return await self._call("GET", "/health", wire.Health)

    async def models(self) -> wire.Residents:
        """GET /models."""
        return await self._call("GET", "/models", wire.Residents)

    async def load(self, order: wire.LoadRequest) -> wire.LoadAnswer:
        """The model is resident. Cancelled, the neuron may finish the load by itself."""
        return await self._call("POST", "/models/load", wire.LoadAnswer, order)

    async def unload(self, order: wire.UnloadRequest) -> None:
        """The model is not resident any more."""
        await self._call("POST", "/models/unload", dict, order)

    async def pin(self, model: str, *, pinned: bool) -> keeping.PinAnswer:
        """The neuron keeps the pin, or lets go of it."""
        path = "/models/pin" if pinned else "/models/unpin"
        return await self._call("POST", path, keeping.PinAnswer, keeping.PinRequest(id=model))

    async def keep(self, order: keeping.KeepRequest) -> keeping.KeepAnswer:
        """The resident goes by this, unless the neuron's own catalogue has it."""
        return await self._call("POST", "/models/keep", keeping.KeepAnswer, order)

    async def _call(self, method: str, path: str, kind: type[T], body: msgspec.Struct | None = None) -> T:
        name = self._ref.name
        status, headers, said = await self._ask(method, path, body)
        if status != 200:
            raise self._refusal(status, headers, said, path)
        try:
            return reading.of_peer(said, kind)
        except ValueError as error:
            what = reading.in_json_words(error)
            raise UpstreamFailed(f"Neuron '{name}' spoke nonsense at {path}: {what}") from error

    async def _ask(
        self, method: str, path: str, body: msgspec.Struct | None
    ) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body of the answer, whatever it says."""
        problem: CortexError | None = None
        for address in await self._names.addresses():
            try:
                answer = await self._ask_at(address, method, path, body)
            except (Unreachable, TooSlow) as error:
                problem = error
            else:
                self._names.prefer(address)
                return answer
        self._names.doubt()
        assert problem is not None  # noqa: S101 - there is an address, or `addresses` has raised
        raise problem

    async def _ask_at(
        self, address: Address, method: str, path: str, body: msgspec.Struct | None
    ) -> tuple[int, httpx.Headers, bytes]:
        """The same of one address; Unreachable or TooSlow only when nobody took the connection there."""
        name = self._ref.name
        host, port = address.sockaddr[:2]
        url = httpx.URL(scheme="http", host=str(host), port=int(port), path=path)
        content = None if body is None else msgspec.json.encode(body)
        headers = self._headers if content is None else {**self._headers, "content-type": "application/json"}
        try:
            async with self._client.stream(method, url, content=content, headers=headers) as answer:
                return answer.status_code, answer.headers, await self._whole(answer, path)
        except httpx.ConnectError as error:
            raise Unreachable(
                f"Neuron '{name}' at {self._ref.endpoint} cannot be reached: {bottom(error)}"
            ) from error
        except httpx.TimeoutException as error:
            late = TooSlow(f"Neuron '{name}' did not take the connection for {path} in time")
            late.not_started = True  # the client has no other timeout than that for connecting
            raise late from error
        except httpx.HTTPError as error:
            why = bottom(error)
            raise UpstreamFailed(f"Neuron '{name}' broke off at {path} ({why}); see its log") from error

    async def _whole(self, answer: httpx.Response, path: str) -> bytes:
        """The bytes as they came: one that is encoded, unasked, is nonsense like any other."""
        said = bytearray()
        # Cancelled rather than left: that way the library's own generators are all unwound.
        with trio.CancelScope() as enough:
            async for piece in answer.aiter_raw():
                said += piece
                if len(said) > LARGEST_REPORT_BYTES:
                    enough.cancel()
        if enough.cancel_called:
            raise UpstreamFailed(
                f"Neuron '{self._ref.name}' answered {path} with over {LARGEST_REPORT_BYTES} bytes"
            )
        return bytes(said)

    def _refusal(self, status: int, headers: httpx.Headers, said: bytes, path: str) -> CortexError:
        name, refusal = self._ref.name, refusals.read(said)
        if refusal is None:
            return UpstreamFailed(f"Neuron '{name}' answered {path} with status {status}")
        if status in (401, 403):
            return UpstreamFailed(
                f"Neuron '{name}' refuses this gateway ({refusal.message}); check [[neurons]] token_file"
            )
        error = refusals.error_of(
            msgspec.structs.replace(refusal, message=f"{refusal.message} (neuron '{name}')"),
            refusal.code or "",
            status,
            retry_after=headers.get("retry-after", ""),
            should_retry=headers.get("x-should-retry", ""),
        )
        error.not_started = error.not_started or headers.get(wire.NOT_STARTED) == "1"
        return error
