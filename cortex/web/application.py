"""The quart-trio application behind the door, as both roles need it.

Typed bodies in, JSON out, and every error rendered as the door itself would render it.
Quart's own deadlines are off: the door has them, and quart's would cut an answer silently.
"""

from typing import Any, TypeVar, cast

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from cortex.ask import Json
from cortex.errors import BadAsk, BadMethod, CortexError, UnknownRoute
from cortex.openapi import Access, Page
from cortex.web import faults
from cortex.web.guard import Policy
from cortex.web.site import App, Receive, Send
from cortex.wire.reading import decode

T = TypeVar("T")


def new_application(name: str) -> QuartTrio:
    """An application without routes."""
    app = QuartTrio(name, static_folder=None)
    app.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)
    # An odd path is nothing here, not a redirect to an address made from the client's Host.
    app.url_map.merge_slashes = False
    app.before_request(_check_path)
    app.register_error_handler(Exception, _told)
    return app


def as_site_app(app: QuartTrio) -> App:
    """`app` as a site takes it: quart spells the same ASGI messages in types of its own."""

    async def serve(scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401 - ASGI's own
        await app(scope, cast("Any", receive), cast("Any", send))

    return serve


def answer(body: msgspec.Struct | dict[str, Json], status: int = 200) -> Response:
    """`body` as JSON."""
    return Response(msgspec.json.encode(body), status, content_type="application/json")


def bare(status: int) -> Response:
    """A status and the word for it, for probes."""
    return Response(
        "ok\n" if status == 200 else "not ready\n", status, content_type="text/plain; charset=utf-8"
    )


def kept(page: Page) -> Response:
    """A document that changes seldom: whoever has it as it is gets no body."""
    if request.if_none_match.contains_weak(page.tag):
        answered = Response(b"", 304)
        del answered.headers["content-type"]
    else:
        answered = Response(page.body, content_type="application/json")
    answered.set_etag(page.tag)
    answered.headers["cache-control"] = "no-cache"
    return answered


def access(policy: Policy) -> Access:
    """As what keys `policy` asks for are described."""
    return Access(keyed=bool(policy.credentials), anonymous=policy.anonymous)


async def body_as(kind: type[T]) -> T:
    """The request's body, decoded as `kind`. BadAsk names what is wrong with it."""
    data = await request.get_data(as_text=False)
    return decode(data, msgspec.json.Decoder(kind))


def _check_path() -> None:
    """Werkzeug takes the slashes off that a path begins with, and a proxy's rule for a path does not."""
    path: str = request.scope["path"]
    if path.startswith("//"):
        raise _unknown_route(path)


def _unknown_route(path: str) -> UnknownRoute:
    return UnknownRoute(f"There is nothing at {path}; GET /openapi.json lists the routes")


async def _told(error: Exception) -> Response:
    request_id = request.headers.get("x-request-id", "-")
    if isinstance(error, HTTPException):
        error = _http(error)
    fault = faults.cause(error)
    rendered = faults.response(fault, _dialect(), request_id)
    return Response(rendered.body, rendered.status, dict(rendered.headers), content_type="application/json")


def _http(error: HTTPException) -> CortexError:
    if error.code == 405:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return BadMethod(
            f"{request.method} is not allowed at {request.path}; use {allowed}", facts={"allow": allowed}
        )
    if error.code == 404:
        return _unknown_route(request.path)
    return BadAsk(error.description or f"The request was refused with status {error.code}")


def _dialect() -> faults.Dialect:
    return "anthropic" if "anthropic-version" in request.headers else "openai"
