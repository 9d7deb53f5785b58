"""The control routes of a neuron.

Management bodies are typed; every answer and every error is JSON in the OpenAI shape.
Inference does not pass here: its routes belong to the door.
"""

from typing import Final

from quart import Response, request
from quart_trio import QuartTrio

from cortex.ask import Json
from cortex.catalogue import unknown
from cortex.errors import Unsupported
from cortex.neuron.orders import Orders
from cortex.neuron.view import View
from cortex.web.application import answer, as_site_app, bare, body_as, new_application
from cortex.web.guard import Scope
from cortex.web.site import App
from cortex.wire import neuron as wire

# Every control route and its methods: what asks for less than admin is said here alone.
CONTROL: Final = {
    "/livez": ("GET",),
    "/readyz": ("GET",),
    "/health": ("GET",),
    "/version": ("GET",),
    "/discovery": ("GET",),
    "/models": ("GET",),
    "/models/load": ("POST",),
    "/models/unload": ("POST",),
    "/v1/models": ("GET",),
    "/v1/models/some-model": ("GET",),
}


def scope_of(method: str, path: str) -> Scope:
    """What a request demands of its caller; an unknown route demands most."""
    if path in ("/livez", "/readyz"):
        return "open"
    if path.startswith("/v1/"):
        return "inference"
    return "read" if method in ("GET", "HEAD") and path in CONTROL else "admin"


def build_app(view: View, orders: Orders) -> App:
    """The application of one neuron, as a site takes it."""
    return as_site_app(routes(view, orders))


def routes(view: View, orders: Orders) -> QuartTrio:
    """The application with every route of `CONTROL`, and no other."""
    app = new_application("cortex.neuron")
    _probes(app, view)

    @app.get("/discovery")
    async def discovery() -> Response:
        return answer(view.discovery())

    _models(app, view, orders)
    return app


def _models(app: QuartTrio, view: View, orders: Orders) -> None:
    @app.get("/models")
    async def models() -> Response:
        return answer(view.models())

    @app.post("/models/load")
    async def load() -> Response:
        if "wait" in request.args:
            raise Unsupported(
                "'wait' is not supported here: a load is answered when it is done", param="wait"
            )
        return answer(await orders.load(await body_as(wire.LoadRequest)))

    @app.post("/models/unload")
    async def unload() -> Response:
        order = await body_as(wire.UnloadRequest)
        await orders.unload(order)
        return answer({"id": order.id, "unloaded": True})

    @app.get("/v1/models")
    async def catalogue() -> Response:
        data: list[Json] = [*view.entries()]
        return answer({"object": "list", "data": data})

    @app.get("/v1/models/<path:name>")
    async def entry(name: str) -> Response:
        model = view.residents.meant(name)
        if model not in view.ids():
            raise unknown(name, view.ids())
        return answer(view.entry(model))


def _probes(app: QuartTrio, view: View) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return bare(200)

    @app.get("/readyz")
    async def readyz() -> Response:
        return bare(200 if view.activation.state == "ready" else 503)

    @app.get("/health")
    async def health() -> Response:
        return answer(view.health())

    @app.get("/version")
    async def version() -> Response:
        return answer(view.version())
