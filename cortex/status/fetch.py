"""A running cortex is asked and told over HTTP: reports for `status`, orders for `models`.

A gateway answers for its fleet; a neuron alone is asked for its parts, and they are
put together in the same form, with a gateway that has no boot id. Nothing is decided
and nothing printed here. Deadlines are the caller's; cancelling leaves nothing behind,
save that a load once ordered goes on at the other side.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from cortex.ask import Json
from cortex.catalogue import unknown
from cortex.causes import bottom
from cortex.errors import BadAsk, CortexError, Denied, Unauthorised, Unreachable, UpstreamFailed, named
from cortex.wire import fleet, keeping, neuron, reading
from cortex.wire.openai_answers import ModelList
from cortex.wire.plan import PlanReport

log = logging.getLogger(__name__)

# Of a body that is no cortex's, enough to recognise whose it is.
_EXCERPT: Final = 120

T = TypeVar("T")


class Asker:
    """Speaks to the gateway or neuron at one address."""

    def __init__(self, http: httpx.AsyncClient, endpoint: str) -> None:
        self._http, self.endpoint = http, endpoint

    async def report(self) -> fleet.FleetReport:
        """The fleet, or the one neuron as a fleet of one."""
        answer = await self._send("GET", "/fleet")
        if answer.status_code != 404:
            return self._read(answer, fleet.FleetReport)
        health = await self.health()
        residents = self._read(await self._send("GET", "/models"), neuron.Residents)
        return _alone(self.endpoint, health, residents)

    async def plan(self, model: str) -> PlanReport:
        """What a gateway would do with a request for `model`. BadAsk when it is a neuron's address."""
        answer = await self._send("GET", f"/fleet/plan?model={quote(model, safe='')}")
        if answer.status_code == 404 and not await self._is_gateway():
            raise BadAsk(
                f"{self.endpoint} is a neuron's, which has no fleet to plan for: name a gateway with "
                "--endpoint, such as http://host:31313",
                param="endpoint",
            )
        return self._read(answer, PlanReport)

    async def health(self) -> neuron.Health:
        """The health of a neuron."""
        return self._read(await self._send("GET", "/health"), neuron.Health)

    async def models(self) -> ModelList:
        """What may be asked for, as clients see it."""
        return self._read(await self._send("GET", "/v1/models"), ModelList)

    async def exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer to a POST, whatever they are."""
        answer = await self._send("POST", path, body, headers)
        return answer.status_code, answer.content

    async def load(self, model: str) -> list[str]:
        """The model is resident; answers at which neurons of a gateway."""
        if not await self._is_gateway():
            await self._order("/models/load", {"spec": {"id": model}})
            return []
        answer = await self._order("/fleet/models/load", {"model": model})
        return [at.neuron for at in self._read(answer, _Loaded).locations if at.state == "loaded"]

    async def unload(self, model: str, *, force: bool) -> None:
        """The model is resident nowhere."""
        if await self._is_gateway():
            await self._order("/fleet/models/unload", {"model": model, "force": force})
        else:
            await self._order("/models/unload", {"id": model, "force": force})

    async def pin(self, model: str, *, pinned: bool, neuron: str | None = None) -> fleet.PinReport:
        """The model is pinned, or is not: at that neuron of the gateway or wherever it is loaded; or at
        the neuron that is asked."""
        word = "pin" if pinned else "unpin"
        if await self._is_gateway():
            where: dict[str, Json] = {} if neuron is None else {"neuron": neuron}
            answer = await self._order(f"/fleet/models/{word}", {"model": model, **where})
            return self._read(answer, fleet.PinReport)
        if neuron is not None:
            raise BadAsk(
                f"{self.endpoint} is a neuron's own address: leave --neuron out, or name a gateway with "
                "--endpoint",
                param="neuron",
            )
        answer = await self._order(f"/models/{word}", {"id": model})
        awaited = [] if self._read(answer, keeping.PinAnswer).resident else [self.endpoint]
        return fleet.PinReport(model=model, pinned=pinned, neurons=[self.endpoint], awaited=awaited)

    async def _is_gateway(self) -> bool:
        answer = await self._send("GET", "/fleet")
        if answer.status_code not in {200, 404}:
            raise _refusal(answer, self.endpoint)
        return answer.status_code == 200

    async def _order(self, path: str, body: dict[str, Json]) -> httpx.Response:
        answer = await self._send("POST", path, msgspec.json.encode(body))
        if answer.status_code >= 300:
            raise _refusal(answer, self.endpoint)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> httpx.Response:
        headers = dict(more) if body is None else {"content-type": "application/json", **more}
        try:
            answer = await self._http.request(method, path, content=body, headers=headers)
            log.debug("fleet.asked method=%s url=%s status=%d", method, answer.url, answer.status_code)
            return answer
        except httpx.TransportError as error:
            raise Unreachable(
                f"no cortex answers at {self.endpoint} ({bottom(error)}); start one with 'cortex up', "
                "or name another address with --endpoint"
            ) from error

    def _read(self, answer: httpx.Response, kind: type[T]) -> T:
        if answer.status_code != 200:
            raise _refusal(answer, self.endpoint)
        try:
            return reading.of_peer(answer.content, kind)
        except ValueError as error:
            what = reading.in_json_words(error)
            raise UpstreamFailed(
                f"{answer.url} answers, but not as a cortex does ({what}); check --endpoint"
            ) from error


@asynccontextmanager
async def asker(endpoint: str, token: str | None) -> AsyncIterator[Asker]:
    """An `Asker` with its connections. Its environment's proxies are not used: they must
    not see the token, and do not lead to loopback."""
    try:
        base = httpx.URL(endpoint)
    except httpx.InvalidURL as error:
        raise BadAsk(f"--endpoint {endpoint!r} is no URL: {error}", param="endpoint") from error
    good_port = base.port is None or 0 < base.port < 2**16
    if base.scheme not in {"http", "https"} or not base.host or not good_port:
        raise BadAsk(
            f"--endpoint {endpoint!r} is no URL; it looks like http://127.0.0.1:31313", param="endpoint"
        )
    if base.path.rstrip("/").endswith("/v1"):
        raise BadAsk(
            f"--endpoint {endpoint!r} is the base address of a dialect; leave /v1 out", param="endpoint"
        )
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # The system's authorities, or those that SSL_CERT_FILE names: without the environment httpx has its own.
    verify = ssl.create_default_context() if base.scheme == "https" else True
    client = httpx.AsyncClient(base_url=base, headers=headers, timeout=None, trust_env=False, verify=verify)  # noqa: S113
    async with client as http:
        yield Asker(http, endpoint.rstrip("/"))


def named_in(report: fleet.FleetReport, name: str) -> fleet.CatalogueModel:
    """The model with this id or alias. UnknownModel names near ones."""
    for model in report.models:
        if name == model.id or name in model.aliases:
            return model
    raise unknown(name, [each for model in report.models for each in (model.id, *model.aliases)])


class _Loaded(msgspec.Struct):
    locations: list[fleet.Location] = []


class _Fault(msgspec.Struct):
    message: str = ""
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: _Fault


def _refusal(answer: httpx.Response, endpoint: str) -> CortexError:
    """The error that the other side named; or what it said instead."""
    if answer.status_code in {401, 403}:
        return _not_let_in(answer, endpoint)
    try:
        fault = reading.of_peer(answer.content, _Refusal).error
    except ValueError:
        said = answer.text[:_EXCERPT].strip() or "nothing"
        return UpstreamFailed(f"{endpoint} answers {answer.status_code} and says {said!r}; is it a cortex?")
    return named(fault.code or "", answer.status_code, fault.message)


def _not_let_in(answer: httpx.Response, endpoint: str) -> CortexError:
    try:
        said = reading.of_peer(answer.content, _Refusal).error.message
    except ValueError:
        said = answer.text[:_EXCERPT].strip()
    kind = Unauthorised if answer.status_code == 401 else Denied
    return kind(
        f"{endpoint} answers {answer.status_code}: {said or 'no reason given'} "
        "(--token-file names a file with the key of the gateway, or the token of the neuron; the variable "
        "CORTEX_API_KEY may hold it instead)"
    )


def _alone(endpoint: str, health: neuron.Health, residents: neuron.Residents) -> fleet.FleetReport:
    busy = {each.id: each for each in health.models}
    name = health.name or "neuron"
    activation = health.activation
    failed = [f"default model {model} is not loaded: {cause}" for model, cause in activation.failed.items()]
    here = fleet.FleetNeuron(
        name=name,
        endpoint=endpoint,
        state="stopping" if activation.state == "stopping" else "ok",
        report_age_s=0.0,
        devices=health.devices,
        models=[_model(each, busy.get(each.id, neuron.ModelLoad(id=each.id))) for each in residents.models],
        warnings=[*health.warnings, *failed],
    )
    return fleet.FleetReport(
        status=health.status,
        neurons=[here],
        models=_catalogue(name, residents),
        waiting=sum(each.queue for each in health.models),
        loads=list(_loads(name, activation.in_progress, residents)),
    )


def _loads(name: str, default: str | None, residents: neuron.Residents) -> Iterator[fleet.FleetLoad]:
    """What is coming in, and the default model whose turn it is although no byte of it is read."""
    coming = [each for each in residents.models if each.state == "loading"]
    for each in coming:
        yield fleet.FleetLoad(
            model=each.id,
            neuron=name,
            running_s=each.age_s,
            done_bytes=each.done_bytes,
            total_bytes=each.total_bytes,
        )
    if default is not None and all(each.id != default for each in coming):
        yield fleet.FleetLoad(model=default, neuron=name)


def _model(resident: neuron.ResidentReport, load: neuron.ModelLoad) -> fleet.FleetModel:
    return fleet.FleetModel(
        id=resident.id,
        state=resident.state if resident.servable.ok else "recovering",
        devices=resident.devices,
        bytes=resident.bytes,
        in_flight=load.in_flight,
        queue=load.queue,
        slots=load.slots or resident.slots,
        tok_s=load.tok_s_decode,
        tok_s_prefill=load.tok_s_prefill,
        pinned=resident.pinned,
        idle_s=resident.idle_s,
    )


def _catalogue(name: str, residents: neuron.Residents) -> list[fleet.CatalogueModel]:
    here = {each.id: each for each in residents.models}
    return [
        fleet.CatalogueModel(
            id=model,
            state=_state(here[model]) if model in here else "unloaded",
            locations=[_location(name, here[model])] if model in here else [],
            feasible_on=[name],
        )
        for model in sorted({*here, *residents.known})
    ]


def _location(name: str, resident: neuron.ResidentReport) -> fleet.Location:
    return fleet.Location(
        neuron=name, devices=resident.devices, state=resident.state, bytes=sum(resident.bytes.values())
    )


def _state(resident: neuron.ResidentReport) -> fleet.ModelState:
    if not resident.servable.ok or resident.state == "recovering":
        return "recovering"
    return "loading" if resident.state == "loading" else "loaded"
