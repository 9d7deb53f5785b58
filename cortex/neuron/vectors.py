"""The vectors of one request: which models make them, and how a resident is asked for many.

An engine gets a handful of inputs at a time, and so others have their turn between two handfuls,
however many one request has; within one they are computed together. An upstream gets the whole
request at once. A model writes or makes vectors: what it cannot do is refused before it is loaded.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import structs

from cortex.ask import Ask, Embed, Sampling
from cortex.errors import BadAsk, CortexError, PromptTooLong, Unsupported
from cortex.events import Embedded, EngineEvent, Event, Failed, Stopped, Usage
from cortex.harness.base import EngineFacts, Job
from cortex.harness.worker import DeviceWorker
from cortex.neuron.budget import LONGEST_TOKEN
from cortex.neuron.generation import Hearer
from cortex.wire.embeddings import answer_bytes

EMBEDS: Final = "embeddings"
_WRITES: Final = ("completion", "chat")
# Handfuls have so many inputs a slot: one that is done early leaves its slot to the next.
ROUNDS: Final = 2
# What a gateway passes on has 64 MiB at most, as it comes.
MOST_ANSWER_BYTES: Final = 48 * 2**20


def check(ask: Ask, able: Collection[str]) -> None:
    """Refuse what a model with these capabilities could not do. None are those of one of which nobody
    knows yet."""
    if ask.embed is not None and able and EMBEDS not in able:
        raise Unsupported(
            f"Model '{ask.model}' makes no embeddings: ask a model whose capabilities in GET /v1/models name "
            "them. Of an upstream's model, models.toml may say so with capabilities = "
            f'["{EMBEDS}"]; of a GGUF, with pooling',
            param="model",
        )
    if ask.embed is None and EMBEDS in able and not any(word in able for word in _WRITES):
        raise Unsupported(
            f"Model '{ask.model}' makes embeddings, and writes no text: ask it at /v1/embeddings, or ask "
            "another model",
            param="model",
        )


@dataclass(slots=True)
class Vectors:
    """The inputs of `ask`, which a resident with these `facts` gets. As a `Generation` is read."""

    worker: DeviceWorker
    facts: EngineFacts
    ask: Ask
    request_id: str
    usage: Usage = Usage()
    _embed: Embed = field(init=False)
    _jobs: list[Job] = field(init=False)
    _at: int = 0

    def __post_init__(self) -> None:
        self._embed = _wanted(self.ask, self.facts)
        self._jobs = _jobs(self._embed, self.ask, self.facts, self.request_id)

    @property
    def finished(self) -> bool:
        """Whether every input was answered."""
        return self._at == len(self._jobs)

    async def flow(self, hear: Hearer) -> None:
        """`hear` is told what each handful came to, until it answers False or all are answered. The failure
        of one is raised. Cancelled, its slots are free."""
        while not self.finished:
            if not hear(await self._take()):
                return

    async def _take(self) -> list[Event]:
        jobs = self._jobs[self._at : self._at + ROUNDS * self.facts.slots]
        said: list[Event] = []
        ended = 0
        async with self.worker.generate(self.ask.model, jobs) as mailbox:
            while ended < len(jobs):
                for index, heard in await mailbox.take():
                    said += self._hear(self._at + index, heard)
                    ended += isinstance(heard, Stopped)
        self._at += len(jobs)
        return said

    def _hear(self, number: int, heard: EngineEvent) -> list[Event]:
        match heard:
            case Embedded(data) if self.facts.chats:  # which numbers its inputs by itself
                _ensure_bearable(self._embed, len(data) // 4)
                return [heard]
            case Embedded():
                return [replace(heard, choice=number)]
            case Stopped(usage=usage):
                prompt, estimated = self.usage.prompt + usage.prompt, self.usage.estimated or usage.estimated
                self.usage = structs.replace(self.usage, prompt=prompt, estimated=estimated)
                return [replace(heard, choice=number)]
            case Failed(error):
                raise error if self.facts.chats else _placed(error, number, len(self._jobs))
        return []


def _wanted(ask: Ask, facts: EngineFacts) -> Embed:
    """What is asked for. Raises for what these vectors are not."""
    embed = ask.embed
    if embed is None:
        raise TypeError("no vectors are asked for")
    if facts.chats:
        return embed
    if embed.dimensions not in (None, facts.width):
        raise Unsupported(
            f"'dimensions' is {embed.dimensions}, and vectors of '{ask.model}' have {facts.width} numbers: "
            "leave it out. Only vectors that a model's makers made for it may be cut, by the caller",
            param="dimensions",
        )
    _ensure_bearable(embed, facts.width)
    return embed


def _ensure_bearable(embed: Embed, width: int) -> None:
    """Raises BadAsk when vectors of so many numbers would make too long an answer."""
    if answer_bytes(len(embed.inputs), width, base64=embed.base64) > MOST_ANSWER_BYTES:
        most = MOST_ANSWER_BYTES // answer_bytes(1, width, base64=embed.base64)
        raise BadAsk(
            f"'input' has {len(embed.inputs)} entries, whose vectors of {width} numbers make too long "
            f"an answer: send at most {most} at once, in this encoding_format",
            param="input",
        )


def _jobs(embed: Embed, ask: Ask, facts: EngineFacts, request_id: str) -> list[Job]:
    if facts.chats:
        return [Job(0, "", Sampling(), request_id=request_id, chat=ask)]
    for number, entry in enumerate(embed.inputs):
        if isinstance(entry, str) and len(entry) > facts.context * LONGEST_TOKEN:
            beyond = PromptTooLong.of(-(-len(entry) // LONGEST_TOKEN), facts.context)
            raise _placed(beyond, number, len(embed.inputs), at_least=True)
    return [
        Job(number, entry, Sampling(), request_id=request_id) for number, entry in enumerate(embed.inputs)
    ]


def _placed(error: CortexError, number: int, inputs: int, *, at_least: bool = False) -> CortexError:
    """`error` with the place of the input that is to blame, of so many."""
    if not isinstance(error, BadAsk):
        return error
    place = "input" if inputs == 1 else f"input[{number}]"
    if isinstance(error, PromptTooLong):
        tokens, context = error.facts["prompt_tokens"], error.facts["context_length"]
        message = (
            f"This model's maximum context length is {context} tokens. However, '{place}' has {tokens} tokens"
            f"{' or more' if at_least else ''}. Please shorten it: the prompt is too long."
        )
        return PromptTooLong(message, param=place, facts=error.facts)
    return type(error)(f"'{place}': {error.message}", param=place)
