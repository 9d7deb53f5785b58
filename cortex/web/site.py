"""What a listener serves: the inference routes, the application behind, and who may call.

Values that a role makes once. `inventory` names every route with what it demands, so
that a test can hold that none of them lets a stranger in.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from cortex.errors import CortexError
from cortex.web.connection import Reply, Request
from cortex.web.guard import Policy, Scope
from cortex.wire.faults import Dialect

if TYPE_CHECKING:
    from cortex.web.duties import Errand
    from cortex.web.guest import Guest
    from cortex.web.known import Known

Handler: TypeAlias = Callable[[Request, Reply], Awaitable[None]]
# ASGI's own shapes: dictionaries with keys by message type.
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]


class Quick(Protocol):
    """Answers by callbacks, or leaves the request as it stands to the handler."""

    def __call__(self, guest: "Guest", known: "Known", body: bytes) -> "Errand | None": ...


@dataclass(frozen=True, slots=True)
class Route:
    """An inference route: POST to exactly `path`; `dialect` shapes its errors. What is plain may be
    answered `quick`, without a task."""

    path: str
    handler: Handler
    dialect: Dialect = "openai"
    quick: Quick | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """`routes` are by path. Every other request goes to `app`, an ASGI application.

    `scope_of(method, path)` says what a request demands; its path is percent-decoded, as the
    application sees it. It must demand most of what it does not know.
    """

    routes: Mapping[str, Route]
    app: App
    policy: Policy
    scope_of: Callable[[str, str], Scope]


class Books(Protocol):
    """Who counts what the door sees, as `Metrics` does."""

    def rejected(self, error: CortexError) -> None: ...
    def client_left(self, phase: Literal["body"]) -> None: ...
    def connection_crashed(self) -> None: ...


class Unbooked:
    """Nobody counts."""

    def rejected(self, error: CortexError) -> None:
        """Nothing comes of it."""

    def client_left(self, phase: Literal["body"]) -> None:
        """Nothing comes of it."""

    def connection_crashed(self) -> None:
        """Nothing comes of it."""


UNBOOKED: Final = Unbooked()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the inventory."""

    method: str
    path: str
    scope: Scope


def inventory(site: Site, control: Mapping[str, tuple[str, ...]]) -> list[Entry]:
    """Every route of `site` and what it demands; `control` has the application's own, path to methods."""
    listed = [Entry("POST", path, site.scope_of("POST", path)) for path in sorted(site.routes)]
    for path, methods in sorted(control.items()):
        listed += [Entry(method, path, site.scope_of(method, path)) for method in methods]
    return listed
