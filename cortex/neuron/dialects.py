"""The dialects that a neuron answers in, each with what its routes need of the shared translator.

Owns no decision: how a dialect is read and spoken is the translator's business.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Final

from cortex.ask import Ask
from cortex.events import Event
from cortex.metrics import Dialect as DialectName
from cortex.translator import anthropic_messages, openai_chat, openai_text
from cortex.wire.faults import Dialect as WireDialect
from cortex.wire.openai import Reply
from cortex.wire.sse import Frame


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of them at its `path`; ids of answers begin with `prefix`, and `wire` is the family that
    errors and keep-alives are in."""

    name: DialectName
    path: str
    wire: WireDialect
    prefix: str
    read: Callable[[bytes], Ask]
    speak: Callable[[Reply], Generator[list[Frame], Event, None]]
    whole: Callable[[Reply, Iterable[Event]], bytes]


CHAT: Final = Dialect(
    "openai_chat",
    "/v1/chat/completions",
    "openai",
    "chatcmpl-",
    openai_chat.read,
    openai_chat.speak,
    openai_chat.whole,
)
TEXT: Final = Dialect(
    "openai_text",
    "/v1/completions",
    "openai",
    "cmpl-",
    openai_text.read,
    openai_text.speak,
    openai_text.whole,
)
MESSAGES: Final = Dialect(
    "anthropic_messages",
    "/v1/messages",
    "anthropic",
    "msg_",
    anthropic_messages.read,
    anthropic_messages.speak,
    anthropic_messages.whole,
)
DIALECTS: Final = (CHAT, TEXT, MESSAGES)
