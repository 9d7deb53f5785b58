"""The dialects, as both roles answer in them: a route each, with what it takes and tells.

The shapes are those that the translators read and write. What becomes of each field is told in
docs/api.md.
"""

from typing import Final

from cortex.demo import MODEL_ID
from cortex.errors import (
    BadAsk,
    Busy,
    CortexError,
    DoesNotFit,
    EngineFailed,
    Loading,
    NeverFits,
    NoRoom,
    TooSlow,
    Unfit,
    UnknownModel,
)
from cortex.openapi.operation import EVENTS, Asked, Operation, Parameter, Told
from cortex.openapi.shapes import Schema
from cortex.translator.dialects import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, TEXT
from cortex.wire import neuron
from cortex.wire.anthropic_answers import CountBody
from cortex.wire.anthropic_answers import MessageBody as MessageAnswer
from cortex.wire.anthropic_bodies import MessagesBody
from cortex.wire.embeddings import EmbeddingsAnswer, EmbeddingsBody
from cortex.wire.openai_answers import ChatCompletion, TextCompletion
from cortex.wire.openai_bodies import ChatBody, TextBody
from cortex.wire.responses_answers import ResponseBody
from cortex.wire.responses_bodies import ResponsesBody

TAG: Final = "Inference"
COUNT: Final = "/v1/messages/count_tokens"
# What becomes of a request that needs a model.
SERVED: Final[tuple[type[CortexError], ...]] = (
    BadAsk,
    UnknownModel,
    Busy,
    Unfit,
    EngineFailed,
    Loading,
    NeverFits,
    NoRoom,
    TooSlow,
    DoesNotFit,
)
_SKIPPED: Final = "Fields that are not listed are skipped; docs/api.md tells what becomes of those that are."
_STREAM: Final = (
    "With `stream`: server-sent events, which end with the error as their last event if one comes late."
)
_SAID: Final[Schema] = {"role": "user", "content": "Say hello."}
_ASKED: Final[Schema] = {"model": MODEL_ID, "max_tokens": 16}
_CHAT: Final[Schema] = {**_ASKED, "messages": [_SAID]}


def _both(example: Schema) -> dict[str, Schema]:
    return {"whole": example, "stream": {**example, "stream": True}}


INFERENCE: Final = (
    Operation(
        "POST",
        CHAT.path,
        TAG,
        "Answer a chat, as OpenAI's chat completions",
        (Told("The answer.", ChatCompletion), Told(_STREAM, media=EVENTS)),
        detail=_SKIPPED,
        asked=Asked(ChatBody, _both(_CHAT)),
        parameters=(
            Parameter(
                neuron.PROGRESS,
                "header",
                "`reasoning`: a stream shows as thoughts what it waits for.",
                {"enum": ["reasoning"]},
            ),
        ),
        raises=SERVED,
        seated=True,
    ),
    Operation(
        "POST",
        TEXT.path,
        TAG,
        "Go on with a text, as OpenAI's completions",
        (Told("The answer.", TextCompletion), Told(_STREAM, media=EVENTS)),
        detail=_SKIPPED,
        asked=Asked(TextBody, _both({**_ASKED, "prompt": "Once upon a time"})),
        raises=SERVED,
        seated=True,
    ),
    Operation(
        "POST",
        RESPONSES.path,
        TAG,
        "Answer items, as OpenAI's Responses",
        (Told("The response.", ResponseBody), Told(_STREAM, media=EVENTS)),
        detail=_SKIPPED,
        asked=Asked(
            ResponsesBody, _both({"model": MODEL_ID, "max_output_tokens": 16, "input": "Say hello."})
        ),
        raises=SERVED,
        seated=True,
    ),
    Operation(
        "POST",
        EMBEDDINGS.path,
        TAG,
        "Make vectors of texts, as OpenAI's embeddings",
        (Told("A vector for each input, in their order.", EmbeddingsAnswer),),
        detail=f"Of models whose capabilities name `embeddings`. {_SKIPPED}",
        asked=Asked(EmbeddingsBody, {"two texts": {"model": MODEL_ID, "input": ["Say hello.", "Go away."]}}),
        raises=SERVED,
        seated=True,
    ),
    Operation(
        "POST",
        MESSAGES.path,
        TAG,
        "Answer a chat, as Anthropic's messages",
        (Told("The message.", MessageAnswer), Told(_STREAM, media=EVENTS)),
        detail=_SKIPPED,
        asked=Asked(MessagesBody, _both(_CHAT)),
        raises=SERVED,
        family="anthropic",
        seated=True,
    ),
    Operation(
        "POST",
        COUNT,
        TAG,
        "Count the tokens of a chat's prompt, as Anthropic's count_tokens",
        (Told("What the same body would be charged for its prompt.", CountBody),),
        detail=_SKIPPED,
        asked=Asked(MessagesBody, {"chat": {"model": MODEL_ID, "messages": [_SAID]}}),
        raises=SERVED,
        family="anthropic",
        seated=True,
    ),
)
