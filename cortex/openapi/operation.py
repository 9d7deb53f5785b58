"""One route and method, as it is described.

Plain values: what it takes, what it tells, which errors of its own it has. What every route has
in common is added by `document`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from cortex.ask import Json
from cortex.errors import CortexError
from cortex.openapi.shapes import Schema

# In which shape errors are told; "either" by whether the request has the header `anthropic-version`.
Family: TypeAlias = Literal["openai", "anthropic", "either"]

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
PLAIN: Final = "text/plain"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One in the path is required, and others where it is said."""

    name: str
    within: Literal["path", "query", "header"]
    about: str
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    example: Json = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A body: `kind` is the struct that reads it, `examples` by a name for people."""

    kind: object
    examples: Mapping[str, Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class Told:
    """One form of an answer: `kind` is the struct or type that it is made of, None for plain text;
    of a stream it is each event's data. Without a `media` type it has no body."""

    about: str
    kind: object = None
    status: int = 200
    media: str = JSON


@dataclass(frozen=True, slots=True)
class Operation:
    """`raises` are the errors of its own; those of any request are known. `seated`: the answer names
    the model and the neuron that served."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    tag: str
    summary: str
    told: tuple[Told, ...]
    detail: str = ""
    asked: Asked | None = None
    parameters: tuple[Parameter, ...] = ()
    raises: tuple[type[CortexError], ...] = ()
    family: Family = "openai"
    seated: bool = False

    @property
    def id(self) -> str:
        """A name for programs."""
        words = self.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
        joined = "_".join(word.replace("-", "_") for word in words if word)
        return f"{self.method.lower()}_{joined}"
