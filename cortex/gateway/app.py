"""The control routes of a gateway: catalogue, fleet, health, and orders to it.

Inference does not pass here: its routes belong to the door.
"""

from dataclasses import replace
from typing import Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from cortex import __version__
from cortex.ask import Json
from cortex.catalogue import unknown
from cortex.dispatch import Dispatch
from cortex.errors import Busy, NotResident
from cortex.gateway.listing import Listing
from cortex.gateway.report import Report
from cortex.gateway.wants import want_of
from cortex.web.application import answer, as_site_app, bare, body_as, new_application
from cortex.web.guard import Scope
from cortex.web.site import App
from cortex.wire import neuron as wire

CONTROL: Final = {
    "/livez": ("GET",),
    "/readyz": ("GET",),
    "/health": ("GET",),
    "/version": ("GET",),
    "/fleet": ("GET",),
    "/fleet/models/load": ("POST",),
    "/fleet/models/unload": ("POST",),
    "/v1/models": ("GET",),
    "/v1/models/some-model": ("GET",),
}


class ModelOrder(msgspec.Struct, frozen=True):
    """POST /fleet/models/{load,unload}. `force` cuts what is seated."""

    model: str
    force: bool = False


def scope_of(method: str, path: str) -> Scope:
    """What a request demands of its caller; an unknown route demands most."""
    if path in ("/livez", "/readyz"):
        return "open"
    if path.startswith("/v1/"):
        return "inference"
    return "read" if method in ("GET", "HEAD") and path in CONTROL else "admin"


def build_app(report: Report, listing: Listing, dispatch: Dispatch) -> App:
    """The application of one gateway."""
    app = new_application("cortex.gateway")
    _probes(app, report)
    _orders(app, listing, dispatch)

    @app.get("/fleet")
    async def fleet() -> Response:
        return answer(report.fleet_report())

    @app.get("/v1/models")
    async def models() -> Response:
        if "anthropic-version" in request.headers:
            return answer(_anthropic_page(listing))
        data: list[Json] = [listing.entry(model) for model in listing.ids()]
        return answer({"object": "list", "data": data})

    @app.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        found = listing.catalogue.resolve(name)
        if found not in listing.ids():
            raise unknown(name, listing.names())
        if "anthropic-version" in request.headers:
            return answer(_anthropic_model(found))
        return answer(listing.entry(found))

    return as_site_app(app)


def _probes(app: QuartTrio, report: Report) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return bare(200)

    @app.get("/readyz")
    async def readyz() -> Response:
        return bare(200 if report.ready() else 503)

    @app.get("/health")
    async def health() -> Response:
        return answer(report.health())

    @app.get("/version")
    async def version() -> Response:
        return answer({"version": __version__, "role": "gateway"})


def _orders(app: QuartTrio, listing: Listing, dispatch: Dispatch) -> None:
    @app.post("/fleet/models/load")
    async def load() -> Response:
        order = await body_as(ModelOrder)
        model = listing.catalogue.resolve(order.model)
        if model not in listing.ids():
            raise unknown(order.model, listing.names())
        await dispatch.bring(replace(want_of(listing, model), weight=0))
        return answer(listing.entry(model))

    @app.post("/fleet/models/unload")
    async def unload() -> Response:
        order = await body_as(ModelOrder)
        model = listing.catalogue.resolve(order.model)
        holders = dispatch.ledger.holders(model)
        if not holders:
            raise NotResident(f"Model '{model}' is loaded nowhere; see GET /fleet", param="model")
        for place, resident in holders:
            if resident.phase == "loading":
                raise Busy(f"Model '{model}' is loading on '{place.name}'; unload it when it is there")
            await listing.fleet[place.name].remote.unload(wire.UnloadRequest(id=model, force=order.force))
            dispatch.ledger.gone(place.name, model)
        dispatch.wake()
        return answer({"model": model, "unloaded": True})


def _anthropic_page(listing: Listing) -> dict[str, Json]:
    data: list[Json] = [_anthropic_model(model) for model in listing.ids()]
    ids = listing.ids()
    return {
        "data": data,
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def _anthropic_model(model: str) -> dict[str, Json]:
    # The dialect wants a date; when a model was made is nobody's knowledge here.
    return {"type": "model", "id": model, "display_name": model, "created_at": "1970-01-01T00:00:00Z"}
