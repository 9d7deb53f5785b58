"""What a gateway answers, for `/openapi.json`: its own routes, and those that both roles have.

A test holds it against the routes that there are.
"""

from typing import Final

from cortex.demo import MODEL_ID
from cortex.errors import BadAsk, NotResident, Overloaded, UnknownModel
from cortex.openapi import Asked, Operation, Parameter, Told
from cortex.openapi.everywhere import EVERYWHERE, PROBES
from cortex.openapi.inference import INFERENCE, SERVED
from cortex.openapi.operation import EVENTS
from cortex.wire.briefs import FleetUnloaded, GatewayHealth, Version
from cortex.wire.fleet import FleetReport, ModelOrder, PinOrder, PinReport
from cortex.wire.happenings import Happening
from cortex.wire.openai_answers import ModelEntry
from cortex.wire.plan import PlanReport

FLEET: Final = "Fleet"
_ORDER: Final = {"demo model": {"model": MODEL_ID}}
_NAMED: Final = (BadAsk, UnknownModel)
ABOUT: Final = "A fleet of neurons as one service. docs/api.md has it in words."

OPERATIONS: Final = (
    *INFERENCE,
    *EVERYWHERE,
    Operation("GET", "/version", PROBES, "What this is", (Told("The version.", Version),)),
    Operation("GET", "/health", PROBES, "How the fleet is", (Told("The sum of it.", GatewayHealth),)),
    Operation("GET", "/fleet", FLEET, "Neurons, models, loads", (Told("The whole state.", FleetReport),)),
    Operation(
        "GET",
        "/fleet/events",
        FLEET,
        "What happens in the fleet, while it happens",
        (Told("Server-sent events without an end.", Happening, media=EVENTS),),
        detail="The first event is a `snapshot` with what `GET /fleet` answers.",
        parameters=(Parameter("last-event-id", "header", "Go on behind this event, if it is not long ago."),),
        raises=(BadAsk, Overloaded),
    ),
    Operation(
        "GET",
        "/fleet/plan",
        FLEET,
        "What would be done with a request for a model",
        (Told("The verdict, and how each neuron stands. Nothing is changed.", PlanReport),),
        parameters=(
            Parameter(
                "model", "query", "An id or alias.", {"type": "string", "minLength": 1}, True, MODEL_ID
            ),
        ),
        raises=_NAMED,
    ),
    Operation(
        "POST",
        "/fleet/models/load",
        FLEET,
        "Load a model where it is best placed",
        (Told("The model, loaded.", ModelEntry),),
        asked=Asked(ModelOrder, _ORDER),
        raises=SERVED,
    ),
    Operation(
        "POST",
        "/fleet/models/unload",
        FLEET,
        "Unload a model wherever it is",
        (Told("It is nowhere any more.", FleetUnloaded),),
        detail="`force` cuts what is seated there.",
        asked=Asked(ModelOrder, _ORDER),
        raises=(*SERVED, NotResident),
    ),
    Operation(
        "POST",
        "/fleet/models/pin",
        FLEET,
        "Let a model stay where it is",
        (Told("Which neurons obeyed.", PinReport),),
        asked=Asked(PinOrder, _ORDER),
        raises=(*SERVED, NotResident),
    ),
    Operation(
        "POST",
        "/fleet/models/unpin",
        FLEET,
        "Let a model be evicted again",
        (Told("Which neurons obeyed.", PinReport),),
        asked=Asked(PinOrder, _ORDER),
        raises=(*SERVED, NotResident),
    ),
)
