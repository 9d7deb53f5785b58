"""Control calls to one neuron: what it has, what it does, and what it shall load.

Goes by connections of its own for each neuron, so that a look at one costs the same in a fleet of
thousands, and outlives the requests to a neuron that has left. What comes out is a value of
`wire.neuron` or a `CortexError` that names the neuron. Inference bytes do not pass here.
"""

from collections.abc import Mapping
from math import inf
from typing import Final, TypeVar

import msgspec

from cortex.causes import bottom
from cortex.config.gateway import NeuronRef
from cortex.errors import CortexError, TooSlow, Unreachable, UpstreamFailed
from cortex.web.answer import Answer
from cortex.web.pool import Pool
from cortex.web.relay import Destination, request_head
from cortex.wire import keeping, reading, refusals
from cortex.wire import neuron as wire

T = TypeVar("T")

# A neuron's whole report is a few KiB; a reply beyond this is no neuron.
LARGEST_REPORT_BYTES: Final = 8 * 2**20


class Remote:
    """One neuron's control API, at the addresses that `pool` has for its host. Deadlines are the
    caller's."""

    def __init__(self, ref: NeuronRef, pool: Pool) -> None:
        self._ref, self._pool = ref, pool.beside()
        self._to = Destination(pool.authority, ref.token)

    def retire(self) -> None:
        """No further call begins. Those under way end in peace."""
        self._pool.retire()

    def close(self) -> None:
        """Those under way are cut off, too."""
        self._pool.close()

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
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer, whatever it says."""
        content = b"" if body is None else msgspec.json.encode(body)
        own = {} if body is None else {"content-type": "application/json"}
        head = request_head(method, path, b"", len(content), to=self._to, own=own)
        try:
            async with self._pool.exchange(head + content, first_byte_s=inf) as answer:
                status, headers, said = answer.status, answer.headers, await _whole(answer)
        except (Unreachable, UpstreamFailed) as error:
            raise self._problem(error, path) from error
        if len(said) > LARGEST_REPORT_BYTES:
            raise UpstreamFailed(
                f"Neuron '{self._ref.name}' answered {path} with over {LARGEST_REPORT_BYTES} bytes"
            )
        return status, headers, said

    def _problem(self, error: CortexError, path: str) -> CortexError:
        """What a connection's error comes to. Unreachable only when nobody took the connection, or there
        is nobody to take it."""
        name = self._ref.name
        if error.reason == "connect":
            late = TooSlow(f"Neuron '{name}' did not take the connection for {path} in time")
            late.not_started = True
            return late
        if error.reason == "refused":
            return Unreachable(f"Neuron '{name}' at {self._ref.endpoint} cannot be reached: {bottom(error)}")
        if isinstance(error, Unreachable) and error.__cause__ is None:
            return error
        why = bottom(error) if error.__cause__ else error.message.partition(". ")[0]
        return UpstreamFailed(f"Neuron '{name}' broke off at {path} ({why}); see its log")

    def _refusal(self, status: int, headers: Mapping[str, str], said: bytes, path: str) -> CortexError:
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


async def _whole(answer: Answer) -> bytes:
    """The bytes as they came, or more than there may be: one that is encoded, unasked, is nonsense like
    any other."""
    said = bytearray()
    while len(said) <= LARGEST_REPORT_BYTES and (piece := await answer.receive()):
        said += piece
    return bytes(said)
