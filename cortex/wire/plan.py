"""What a gateway would do with a request: the answer of GET /fleet/plan.

`cortex plan` reads it, the gateway writes it. Every field has a default, so that builds of
different age understand each other. Sizes are bytes; None means that nobody knows.
"""

from typing import Literal, TypeAlias

import msgspec

# "serve" at a replica, "load" a model, "join" a load under way, "wait" for a seat or for room, or "refuse".
Decided: TypeAlias = Literal["serve", "load", "join", "wait", "refuse"]


class Leaver(msgspec.Struct, kw_only=True, frozen=True):
    """A resident that would leave."""

    model: str
    bytes: int = 0


class Stayer(msgspec.Struct, kw_only=True, frozen=True):
    """A resident that does not make room, at least not at once."""

    model: str
    why: str = ""


class PlanPlace(msgspec.Struct, kw_only=True, frozen=True):
    """One neuron. `standing` is a word for programs, `why` the sentence for people. Where the model
    could come in, `need` are its bytes on each device, `free` what those have, `evicts` who would leave."""

    neuron: str
    chosen: bool = False
    standing: str = ""
    why: str = ""
    need: dict[str, int] = {}
    free: dict[str, int] = {}
    evicts: list[Leaver] = []
    stays: list[Stayer] = []


class PlanReport(msgspec.Struct, kw_only=True, frozen=True):
    """`model` is the id that the name stands for. `neuron` is None where none is chosen, `code` and
    `status` are those of a refusal. `places` begin with those that come into question."""

    model: str
    decision: Decided = "refuse"
    neuron: str | None = None
    why: str = ""
    code: str | None = None
    status: int | None = None
    need_bytes: int | None = None
    places: list[PlanPlace] = []
