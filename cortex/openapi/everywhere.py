"""The routes that both roles have beside inference: probes, the list of models, this document."""

from typing import Final

from cortex.demo import MODEL_ID
from cortex.errors import Recovering, UnknownModel
from cortex.openapi.operation import PLAIN, Operation, Parameter, Told
from cortex.wire.anthropic_answers import VERSION, ModelPage
from cortex.wire.anthropic_answers import ModelEntry as AnthropicEntry
from cortex.wire.openai_answers import ModelEntry, ModelList

PROBES: Final = "Probes"
MODELS: Final = "Models"
OPENAPI: Final = "/openapi.json"
_SHAPE: Final = Parameter(VERSION, "header", "Any version asks for Anthropic's shape.")
_ID: Final = Parameter(
    "id", "path", "An id or alias. Slashes may stand as they are, or as `%2F`.", example=MODEL_ID
)

EVERYWHERE: Final = (
    Operation("GET", "/livez", PROBES, "Whether the process answers", (Told("`ok`", media=PLAIN),)),
    Operation(
        "GET",
        "/readyz",
        PROBES,
        "Whether a request has a chance",
        (Told("`ok`", media=PLAIN), Told("`not ready`", status=503, media=PLAIN)),
    ),
    Operation(
        "GET",
        OPENAPI,
        PROBES,
        "This document",
        (
            Told("OpenAPI 3.1.", dict),
            Told("It is as `if-none-match` has it.", status=304, media=""),
        ),
        parameters=(Parameter("if-none-match", "header", "The `etag` of an earlier answer."),),
    ),
    Operation(
        "GET",
        "/v1/models",
        MODELS,
        "List what can be asked for",
        (Told("The models.", ModelList), Told("In Anthropic's shape.", ModelPage)),
        parameters=(_SHAPE,),
        raises=(Recovering,),
        family="either",
    ),
    Operation(
        "GET",
        "/v1/models/{id}",
        MODELS,
        "Tell of one model",
        (Told("The model.", ModelEntry), Told("In Anthropic's shape.", AnthropicEntry)),
        parameters=(_ID, _SHAPE),
        raises=(UnknownModel, Recovering),
        family="either",
    ),
)
