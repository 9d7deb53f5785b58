"""What a neuron answers, for `/openapi.json`: its own routes, and those that both roles have.

A test holds it against the routes that there are.
"""

from typing import Final

from cortex.demo import MODEL_ID
from cortex.errors import BadAsk, Busy, NotResident, UnknownJob, UnknownModel
from cortex.openapi import Asked, Operation, Parameter, Told
from cortex.openapi.everywhere import EVERYWHERE, MODELS, PROBES
from cortex.openapi.inference import INFERENCE, SERVED, TAG
from cortex.openapi.operation import EVENTS
from cortex.wire import keeping
from cortex.wire import neuron as wire
from cortex.wire.briefs import Capabilities, Endpoint, NeuronVersion, Unloaded

LOADS: Final = "Loads and pins"
ABOUT: Final = "The models of one host. docs/api.md has it in words."
_HELD: Final = {"demo model": {"id": MODEL_ID}}
_MODEL: Final = Parameter("id", "path", "An id or alias; slashes may stand as they are.", example=MODEL_ID)
_JOB: Final = Parameter("job_id", "path", "As the order or the list of jobs told it.")

_LOADS: Final = (
    Operation(
        "POST",
        "/models/load",
        LOADS,
        "Load a model",
        (
            Told("The model, loaded.", wire.LoadAnswer),
            Told("The load's job, with `wait=false`.", keeping.LoadJob, 202),
        ),
        asked=Asked(wire.LoadRequest, {"demo model": {"spec": {"id": MODEL_ID}}}),
        parameters=(Parameter("wait", "query", "Whether to answer when it is loaded.", {"type": "boolean"}),),
        raises=SERVED,
    ),
    Operation(
        "POST",
        "/models/unload",
        LOADS,
        "Unload a model",
        (Told("It is gone.", Unloaded),),
        asked=Asked(wire.UnloadRequest, _HELD),
        raises=(*SERVED, NotResident),
    ),
    Operation(
        "POST",
        "/models/pin",
        LOADS,
        "Let a model stay once it is here",
        (Told("The pin.", keeping.PinAnswer),),
        asked=Asked(keeping.PinRequest, _HELD),
        raises=(BadAsk, UnknownModel, Busy),
    ),
    Operation(
        "POST",
        "/models/unpin",
        LOADS,
        "Let a model be evicted again",
        (Told("The pin.", keeping.PinAnswer),),
        asked=Asked(keeping.PinRequest, _HELD),
        raises=(BadAsk, UnknownModel, Busy),
    ),
    Operation(
        "POST",
        "/models/keep",
        LOADS,
        "Say how a loaded model is kept",
        (Told("What holds from here on.", keeping.KeepAnswer),),
        asked=Asked(keeping.KeepRequest, {"demo model": {"id": MODEL_ID, "keep": {"priority": 200}}}),
        raises=(BadAsk, NotResident),
    ),
    Operation(
        "GET",
        "/models/jobs",
        LOADS,
        "List the loads",
        (Told("Those under way, then the finished ones.", keeping.LoadJobs),),
    ),
    Operation(
        "GET",
        "/models/jobs/{job_id}",
        LOADS,
        "Tell of one load",
        (
            Told("The load.", keeping.LoadJob),
            Told(
                "Where `accept` asks for it: an event for each change, to its end.",
                keeping.LoadJob,
                media=EVENTS,
            ),
        ),
        parameters=(_JOB,),
        raises=(UnknownJob,),
    ),
    Operation(
        "DELETE",
        "/models/jobs/{job_id}",
        LOADS,
        "Call a load off",
        (Told("The load as it ended.", keeping.LoadJob),),
        parameters=(_JOB,),
        raises=(UnknownJob, Busy),
    ),
)

_TOKENS: Final = (
    Operation(
        "POST",
        "/tokenize",
        TAG,
        "Turn a text or a chat into tokens",
        (Told("The tokens.", wire.Tokenized),),
        detail="With `messages` the body may have all that a chat may have.",
        asked=Asked(wire.Tokenize, {"text": {"model": MODEL_ID, "prompt": "Once upon a time"}}),
        raises=SERVED,
    ),
    Operation(
        "POST",
        "/detokenize",
        TAG,
        "Turn tokens into text",
        (Told("The text.", wire.Detokenized),),
        asked=Asked(wire.Detokenize, {"tokens": {"model": MODEL_ID, "tokens": [1]}}),
        raises=SERVED,
    ),
)

OPERATIONS: Final = (
    *INFERENCE,
    *_TOKENS,
    *EVERYWHERE,
    Operation("GET", "/version", PROBES, "What this is", (Told("The version.", NeuronVersion),)),
    Operation("GET", "/health", PROBES, "How the neuron is", (Told("From memory alone.", wire.Health),)),
    Operation(
        "GET", "/discovery", PROBES, "What the host has", (Told("Devices and engines.", wire.Discovery),)
    ),
    Operation("GET", "/models", MODELS, "List what is loaded", (Told("The residents.", wire.Residents),)),
    Operation(
        "GET",
        "/models/{id}/endpoint",
        MODELS,
        "Where to ask a loaded model",
        (Told("The base address of the dialects.", Endpoint),),
        parameters=(_MODEL,),
        raises=(NotResident,),
    ),
    Operation(
        "GET",
        "/models/{id}/capabilities",
        MODELS,
        "What a model can do",
        (Told("Known of models that are not loaded, too.", Capabilities),),
        parameters=(_MODEL,),
        raises=(UnknownModel,),
    ),
    *_LOADS,
)
