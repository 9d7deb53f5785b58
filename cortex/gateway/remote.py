"""Control calls to one neuron: what it has, what it does, and what it shall load.

The one place of the gateway that knows httpx. Library errors end here: what comes out
is a value of `wire.neuron` or a `CortexError`. Inference bytes do not pass here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import msgspec

from cortex.config.gateway import NeuronRef
from cortex.errors import CortexError, TooSlow, Unreachable, UpstreamFailed, named
from cortex.wire import neuron as wire

T = TypeVar("T")

# A neuron's whole report is a few KiB; a reply beyond this is no neuron.
LARGEST_REPORT_BYTES = 8 * 2**20
CONNECT_S = 1.0


class _Fault(msgspec.Struct):
    message: str = ""
    code: str = ""


class _FaultBody(msgspec.Struct):
    error: _Fault


@asynccontextmanager
async def open_client() -> AsyncIterator[httpx.AsyncClient]:
    """The client for all neurons. Its pool never queues: a cancelled wait in it leaks a slot."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30)
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    async with httpx.AsyncClient(
        limits=limits, timeout=timeout, follow_redirects=False, trust_env=False
    ) as client:
        yield client


class Remote:
    """One neuron's control API. Deadlines are the caller's."""

    def __init__(self, ref: NeuronRef, client: httpx.AsyncClient) -> None:
        self._ref, self._client = ref, client
        self._headers = {"accept-encoding": "identity"}
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

    async def _call(self, method: str, path: str, kind: type[T], body: msgspec.Struct | None = None) -> T:
        name = self._ref.name
        content = None if body is None else msgspec.json.encode(body)
        headers = self._headers if content is None else {**self._headers, "content-type": "application/json"}
        try:
            answer = await self._client.request(
                method, self._ref.endpoint + path, content=content, headers=headers
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(
                f"Neuron '{name}' at {self._ref.endpoint} cannot be reached: {error}"
            ) from error
        except httpx.TimeoutException as error:
            raise TooSlow(f"Neuron '{name}' did not answer {path} in time") from error
        except httpx.HTTPError as error:
            raise UpstreamFailed(f"Neuron '{name}' broke off at {path}: {error}") from error
        if answer.status_code != 200:
            raise self._refusal(answer, path)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UpstreamFailed(f"Neuron '{name}' spoke nonsense at {path}: {error}") from error

    def _refusal(self, answer: httpx.Response, path: str) -> CortexError:
        name = self._ref.name
        try:
            fault = msgspec.json.decode(answer.content, type=_FaultBody).error
        except (msgspec.DecodeError, RecursionError):
            return UpstreamFailed(f"Neuron '{name}' answered {path} with status {answer.status_code}")
        if answer.status_code in (401, 403):
            return UpstreamFailed(
                f"Neuron '{name}' refuses this gateway ({fault.message}); check [[neurons]] token_file"
            )
        again = answer.headers.get("retry-after", "")
        error = named(
            fault.code,
            answer.status_code,
            f"{fault.message} (neuron '{name}')",
            retry_after_s=float(again) if again.isdigit() else None,
        )
        error.not_started = error.not_started or answer.headers.get(wire.NOT_STARTED) == "1"
        return error
