"""The control routes of a gateway: catalogue, fleet, health, and orders to it.

Inference does not pass here: its routes belong to the door.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio
from quart import Response, request
from quart_trio import QuartTrio

from cortex import __version__
from cortex.ask import Json
from cortex.dispatch import Dispatch
from cortex.errors import BadAsk, Busy, CortexError, NotResident, TooSlow
from cortex.gateway.description import ABOUT, OPERATIONS
from cortex.gateway.listing import Listing
from cortex.gateway.pins import Pins
from cortex.gateway.planning import plan_of
from cortex.gateway.report import Report
from cortex.gateway.views import Views
from cortex.gateway.wants import want_of
from cortex.gateway.watch import Watch
from cortex.openapi import Description
from cortex.openapi.everywhere import OPENAPI
from cortex.web.application import access, answer, as_site_app, bare, body_as, kept, new_application
from cortex.web.framing import EVENT_STREAM
from cortex.web.guard import Policy, Scope
from cortex.web.site import App
from cortex.wire import neuron as wire
from cortex.wire.anthropic_answers import VERSION, ModelEntry, ModelPage
from cortex.wire.briefs import FleetUnloaded, Version
from cortex.wire.fleet import FleetReport, ModelOrder, PinOrder

# A neuron drains by force for seconds; one that takes longer than this hangs.
LONGEST_UNLOAD_S: Final = 60.0

# Every control route and its methods, for the test that walks them without a key.
CONTROL: Final = {
    "/livez": ("GET",),
    "/readyz": ("GET",),
    "/health": ("GET",),
    "/version": ("GET",),
    OPENAPI: ("GET",),
    "/fleet": ("GET",),
    "/fleet/events": ("GET",),
    "/fleet/plan": ("GET",),
    "/fleet/models/load": ("POST",),
    "/fleet/models/pin": ("POST",),
    "/fleet/models/unpin": ("POST",),
    "/fleet/models/unload": ("POST",),
    "/v1/models": ("GET",),
    "/v1/models/some-model": ("GET",),
}

log = logging.getLogger(__name__)


def scope_of(method: str, path: str) -> Scope:
    """What a request demands of its caller; an unknown route demands most."""
    if path in ("/livez", "/readyz"):
        return "open"
    if path.startswith("/v1/"):
        return "inference"
    if path == "/fleet/plan":
        return "admin"  # it tells who would be sent away, and why
    return "read" if method in ("GET", "HEAD") and "GET" in CONTROL.get(path, ()) else "admin"


def build_app(
    report: Report,
    views: Views,
    dispatch: Dispatch,
    pins: Pins,
    watch: Watch,
    *,
    policy: Callable[[], Policy],
) -> App:
    """The application of one gateway. `policy` is what its door goes by at present."""
    return as_site_app(application(report, views, dispatch, pins, watch, policy=policy))


def application(
    report: Report,
    views: Views,
    dispatch: Dispatch,
    pins: Pins,
    watch: Watch,
    *,
    policy: Callable[[], Policy] = Policy,
) -> QuartTrio:
    """The same with its routes to be looked at."""
    app = new_application("cortex.gateway")
    _described(app, policy)
    _probes(app, report, views)
    _orders(app, views, dispatch, watch)
    _events(app, report, views, watch)
    _pins(app, views, pins)

    @app.get("/fleet")
    async def fleet() -> Response:
        return answer(_seen(report, views, _caller()))

    @app.get("/v1/models")
    async def models() -> Response:
        if VERSION in request.headers:
            return answer(ModelPage.of(views.ids(_caller())))
        data: list[Json] = [views.entry(_caller(), name) for name in views.ids(_caller())]
        return answer({"object": "list", "data": data})

    @app.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        if VERSION in request.headers:
            return answer(ModelEntry.of(views.shown(_caller(), name)))
        return answer(views.entry(_caller(), name))

    return app


def _probes(app: QuartTrio, report: Report, views: Views) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return bare(200)

    @app.get("/readyz")
    async def readyz() -> Response:
        return bare(200 if report.ready() else 503)

    @app.get("/health")
    async def health() -> Response:
        caller = _caller()
        governs = views.accounts.governs(caller)
        return answer(report.health(governs=governs, named=lambda models: views.names(caller, models)))

    @app.get("/version")
    async def version() -> Response:
        return answer(Version(version=__version__))


def _described(app: QuartTrio, policy: Callable[[], Policy]) -> None:
    description = Description("gateway", ABOUT, OPERATIONS, scope_of)

    @app.get(OPENAPI)
    async def openapi() -> Response:
        return kept(await trio.to_thread.run_sync(description.page, access(policy())))


def _events(app: QuartTrio, report: Report, views: Views, watch: Watch) -> None:
    @app.get("/fleet/events")
    async def events() -> Response:
        caller = _caller()
        if request.args:
            raise BadAsk(f"'{next(iter(request.args))}' is no parameter here; there is none")
        told = watch.happenings.stream(
            request.headers.get("last-event-id", ""),
            lambda: _seen(report, views, caller),
            lambda event: views.happening(caller, event),
        )
        # A reader that asks for the head alone gets it, and no stream that never ends.
        body = told if request.method == "GET" else b""
        return Response(body, content_type=EVENT_STREAM, headers={"cache-control": "no-cache"})


def _orders(app: QuartTrio, views: Views, dispatch: Dispatch, watch: Watch) -> None:
    listing = views.listing

    @app.get("/fleet/plan")
    async def plan() -> Response:
        return answer(plan_of(views, views.known(_caller(), _model_asked()), _caller()))

    @app.post("/fleet/models/load")
    async def load() -> Response:
        model = views.known(_caller(), (await body_as(ModelOrder)).model)
        await dispatch.bring(replace(want_of(views, model, _caller()), weight=0))
        for place, _ in dispatch.ledger.holders(model):
            await listing.fleet.told_all(place.name)
        return answer(listing.entry(model))

    @app.post("/fleet/models/unload")
    async def unload() -> Response:
        order = await body_as(ModelOrder)
        model = views.known(_caller(), order.model)
        holders = dispatch.ledger.holders(model)
        if not holders:
            raise NotResident(f"Model '{model}' is loaded nowhere; see `cortex status`", param="model")
        for place, resident in holders:
            if resident.phase == "loading":
                raise Busy(f"Model '{model}' is loading on '{place.name}'; unload it when it is there")
            with watch.ordered_off(place.name, model):
                await _unload(listing, place.name, wire.UnloadRequest(id=model, force=order.force))
            # A late answer is not about who has come in meanwhile.
            if place.residents.get(model) is resident:
                dispatch.ledger.gone(place.name, model)
            log.info("unload.done model=%s neuron=%s", model, place.name)
            dispatch.wake()
            await listing.fleet.told_all(place.name)
        return answer(FleetUnloaded(model=model))


def _pins(app: QuartTrio, views: Views, pins: Pins) -> None:
    async def put(*, pinned: bool) -> Response:
        order = await body_as(PinOrder)
        return answer(await pins.put(views.known(_caller(), order.model), order.neuron, pinned=pinned))

    @app.post("/fleet/models/pin")
    async def pin() -> Response:
        return await put(pinned=True)

    @app.post("/fleet/models/unpin")
    async def unpin() -> Response:
        return await put(pinned=False)


def _seen(report: Report, views: Views, caller: str) -> FleetReport:
    return views.fleet(caller, report.fleet_report(governs=views.accounts.governs(caller)))


def _caller() -> str:
    """The name of the caller's key, as the door has it; a client's own header of that name is dropped."""
    return request.headers.get(wire.KEY_NAME, "")


def _model_asked() -> str:
    """The only parameter of the query."""
    others = sorted(set(request.args) - {"model"})
    if others:
        raise BadAsk(f"'{others[0]}' is no parameter here; the query is ?model=NAME", param=others[0])
    if not (name := request.args.get("model", "")):
        raise BadAsk("'model' is missing: ask as /fleet/plan?model=NAME", param="model")
    return name


async def _unload(listing: Listing, name: str, order: wire.UnloadRequest) -> None:
    """The model is not at the neuron any more, or was not there. Cancelled, it may go all the same."""
    fleet = listing.fleet
    try:
        with trio.fail_after(LONGEST_UNLOAD_S):
            await fleet[name].remote.unload(order)
    except NotResident:
        return
    except trio.TooSlowError as error:
        raise TooSlow(f"Neuron '{name}' took over {LONGEST_UNLOAD_S:.0f} s to unload '{order.id}'") from error
    except CortexError as error:
        fleet.suspect(name, error)
        raise
