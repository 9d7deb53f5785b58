"""The control routes of a neuron.

Management bodies are typed; every answer and every error is JSON in the OpenAI shape.
Inference does not pass here: its routes belong to the door.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from cortex.ask import Json
from cortex.catalogue import unknown
from cortex.errors import BadAsk, NotResident
from cortex.neuron.description import ABOUT, OPERATIONS
from cortex.neuron.orders import Orders
from cortex.neuron.tokens import Tokeniser
from cortex.neuron.view import View
from cortex.openapi import Description
from cortex.openapi.everywhere import OPENAPI
from cortex.web.application import access, answer, as_site_app, bare, body_as, kept, new_application
from cortex.web.guard import Policy, Scope
from cortex.web.site import App
from cortex.wire import keeping, sse
from cortex.wire import neuron as wire
from cortex.wire.anthropic_answers import VERSION, ModelEntry, ModelPage
from cortex.wire.briefs import Capabilities, Endpoint, Unloaded

# As often as a stream of answers: what stands between shall not take the silence for an end.
KEEP_ALIVE_S: Final = 10.0

# Every control route and its methods: what asks for less than admin is said here alone.
CONTROL: Final = {
    "/livez": ("GET",),
    "/readyz": ("GET",),
    "/health": ("GET",),
    "/version": ("GET",),
    OPENAPI: ("GET",),
    "/discovery": ("GET",),
    "/models": ("GET",),
    "/models/load": ("POST",),
    "/models/unload": ("POST",),
    "/models/pin": ("POST",),
    "/models/unpin": ("POST",),
    "/models/keep": ("POST",),
    "/models/some-model/endpoint": ("GET",),
    "/models/some-model/capabilities": ("GET",),
    "/models/jobs": ("GET",),
    "/models/jobs/some-job": ("GET", "DELETE"),
    "/tokenize": ("POST",),
    "/detokenize": ("POST",),
    "/v1/models": ("GET",),
    "/v1/models/some-model": ("GET",),
}


# Ids may have slashes.
_OF_A_MODEL: Final = re.compile("/models/.+/(endpoint|capabilities)")


def scope_of(method: str, path: str) -> Scope:
    """What a request demands of its caller; an unknown route demands most."""
    if path in ("/livez", "/readyz"):
        return "open"
    if path.startswith("/v1/") or path in ("/tokenize", "/detokenize"):
        return "inference"
    known = path in CONTROL or path.startswith("/models/jobs/") or _OF_A_MODEL.fullmatch(path) is not None
    return "read" if method in ("GET", "HEAD") and known else "admin"


def build_app(view: View, orders: Orders, tokeniser: Tokeniser, policy: Policy) -> App:
    """The application of one neuron, as a site takes it. `policy` is what its door goes by."""
    return as_site_app(routes(view, orders, tokeniser, lambda: policy))


def routes(
    view: View, orders: Orders, tokeniser: Tokeniser, policy: Callable[[], Policy] = Policy
) -> QuartTrio:
    """The application with every route of `CONTROL`, and no other."""
    app = new_application("cortex.neuron")
    _probes(app, view)
    description = Description("neuron", ABOUT, OPERATIONS, scope_of)

    @app.get(OPENAPI)
    async def openapi() -> Response:
        return kept(await trio.to_thread.run_sync(description.page, access(policy())))

    @app.get("/discovery")
    async def discovery() -> Response:
        return answer(view.discovery())

    _models(app, view, orders)
    _one_model(app, view)
    _tokens(app, tokeniser)
    _pins(app, orders)
    _jobs(app, orders)
    return app


def _models(app: QuartTrio, view: View, orders: Orders) -> None:
    @app.get("/models")
    async def models() -> Response:
        return answer(view.models())

    @app.post("/models/load")
    async def load() -> Response:
        order = await body_as(wire.LoadRequest)
        if _waits(request.args.get("wait", "true")):
            return answer(await orders.load(order))
        return answer(await orders.load_soon(order), 202)

    @app.post("/models/unload")
    async def unload() -> Response:
        order = await body_as(wire.UnloadRequest)
        await orders.unload(order)
        return answer(Unloaded(id=order.id))

    @app.get("/v1/models")
    async def catalogue() -> Response:
        if VERSION in request.headers:
            return answer(ModelPage.of(view.ids()))
        data: list[Json] = [*view.entries()]
        return answer({"object": "list", "data": data})

    @app.get("/v1/models/<path:name>")
    async def entry(name: str) -> Response:
        model = view.residents.meant(name)
        if model not in view.ids():
            raise unknown(name, view.ids())
        return answer(ModelEntry.of(model) if VERSION in request.headers else view.entry(model))


def _pins(app: QuartTrio, orders: Orders) -> None:
    @app.post("/models/pin")
    async def pin() -> Response:
        return answer(await orders.pin((await body_as(keeping.PinRequest)).id, pinned=True))

    @app.post("/models/unpin")
    async def unpin() -> Response:
        return answer(await orders.pin((await body_as(keeping.PinRequest)).id, pinned=False))

    @app.post("/models/keep")
    async def keep() -> Response:
        return answer(orders.keep(await body_as(keeping.KeepRequest)))


def _jobs(app: QuartTrio, orders: Orders) -> None:
    @app.get("/models/jobs")
    async def jobs() -> Response:
        return answer(orders.jobs.report())

    @app.get("/models/jobs/<job_id>")
    async def job(job_id: str) -> Response:
        found = orders.jobs.find(job_id)
        if "text/event-stream" in request.headers.get("accept", ""):
            return Response(_frames(orders.jobs.follow(found)), content_type="text/event-stream")
        return answer(orders.jobs.told(found))

    @app.delete("/models/jobs/<job_id>")
    async def call_off(job_id: str) -> Response:
        return answer(await orders.call_off(job_id))


def _waits(said: str) -> bool:
    if said not in ("true", "false"):
        raise BadAsk(f"'wait' is true or false, not '{said[:20]}'", param="wait")
    return said == "true"


async def _frames(told: AsyncGenerator[keeping.LoadJob, None]) -> AsyncIterator[bytes]:
    """Each change as an event named by the job's state, and a comment where there is none for long:
    the last event says how it ended."""
    last, silent_since = keeping.LoadJob(id="", model=""), trio.current_time()
    async with aclosing(told):
        async for job in told:
            known = msgspec.structs.replace(job, running_s=last.running_s, eta_s=last.eta_s)
            if known != last:
                last, silent_since = job, trio.current_time()
                yield sse.render(sse.Frame(msgspec.json.encode(job), "job", event=job.state))
            elif trio.current_time() - silent_since >= KEEP_ALIVE_S:
                silent_since = trio.current_time()
                yield sse.COMMENT


def _one_model(app: QuartTrio, view: View) -> None:
    @app.get("/models/<path:name>/endpoint")
    async def endpoint(name: str) -> Response:
        model = view.residents.meant(name)
        if view.residents.living(model) is None:
            raise NotResident(f"Model '{name}' is not resident here; see `cortex status`", param="id")
        return answer(Endpoint(url=f"{view.at.url}/v1"))

    @app.get("/models/<path:name>/capabilities")
    async def capabilities(name: str) -> Response:
        can = await view.residents.capabilities(view.residents.meant(name))
        if can is None:
            raise unknown(name, view.ids())
        return answer(Capabilities(capabilities=list(can)))


def _tokens(app: QuartTrio, tokeniser: Tokeniser) -> None:
    @app.post("/tokenize")
    async def tokenize() -> Response:
        order = await body_as(wire.Tokenize)
        body: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]
        return answer(await tokeniser.tokenise(order, body))

    @app.post("/detokenize")
    async def detokenize() -> Response:
        return answer(await tokeniser.detokenise(await body_as(wire.Detokenize)))


def _probes(app: QuartTrio, view: View) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return bare(200)

    @app.get("/readyz")
    async def readyz() -> Response:
        return bare(200 if view.ready() else 503)

    @app.get("/health")
    async def health() -> Response:
        return answer(view.health())

    @app.get("/version")
    async def version() -> Response:
        return answer(view.version())
