"""The dialects that cortex answers in: where each is asked, how it is read and spoken.

Both roles make their routes of these. A name is what discovery and metrics call the dialect.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from cortex.ask import Ask
from cortex.events import Event
from cortex.translator import (
    anthropic_messages,
    openai_chat,
    openai_embeddings,
    openai_responses,
    openai_text,
    responses_speech,
)
from cortex.translator.speeches import Speech
from cortex.wire.faults import Dialect as WireDialect
from cortex.wire.openai import Reply

Name: TypeAlias = Literal[
    "openai_chat", "openai_text", "openai_responses", "openai_embeddings", "anthropic_messages"
]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of them at its `path`; ids of answers begin with `prefix`, and `wire` is the family that
    errors and keep-alives are in. `speech` is there for those that have streams."""

    name: Name
    path: str
    wire: WireDialect
    prefix: str
    read: Callable[[bytes], Ask]
    whole: Callable[[Reply, Iterable[Event]], bytes]
    speech: Callable[[Reply], Speech] | None = None


CHAT: Final = Dialect(
    "openai_chat",
    "/v1/chat/completions",
    "openai",
    "chatcmpl-",
    openai_chat.read,
    openai_chat.whole,
    openai_chat.Speech,
)
TEXT: Final = Dialect(
    "openai_text",
    "/v1/completions",
    "openai",
    "cmpl-",
    openai_text.read,
    openai_text.whole,
    openai_text.Speech,
)
RESPONSES: Final = Dialect(
    "openai_responses",
    "/v1/responses",
    "responses",
    "resp_",
    openai_responses.read,
    responses_speech.whole,
    responses_speech.Speech,
)
MESSAGES: Final = Dialect(
    "anthropic_messages",
    "/v1/messages",
    "anthropic",
    "msg_",
    anthropic_messages.read,
    anthropic_messages.whole,
    anthropic_messages.Speech,
)
EMBEDDINGS: Final = Dialect(
    "openai_embeddings",
    "/v1/embeddings",
    "openai",
    "embd-",
    openai_embeddings.read,
    openai_embeddings.whole,
)
DIALECTS: Final = (CHAT, TEXT, RESPONSES, EMBEDDINGS, MESSAGES)
