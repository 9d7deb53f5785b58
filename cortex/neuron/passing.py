"""From an ask to what an engine with a template of its own is handed, and how it is read.

Nothing is rendered, parsed or filled in here: what nobody said stays unsaid, so that the
engine's own defaults hold under those of models.toml. Each choice is a job of its own, as
with every engine, and a chat's events pass as they come.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from cortex.ask import Ask, Sampling
from cortex.errors import EngineFailed, Unsupported
from cortex.events import EngineEvent, Event, Failed, Stopped, Tokens
from cortex.harness.base import Job
from cortex.neuron import vectors
from cortex.neuron.generation import Errand
from cortex.text.projection import Projection
from cortex.translator import media


def check(ask: Ask, able: Collection[str]) -> None:
    """Refuse what a model with these capabilities could not obey. None are those of one that is not
    loaded, of which its upstream has yet to tell."""
    vectors.check(ask, able)
    if ask.images and able and "vision" not in able:
        raise media.unseen(ask.images, ask.model, upstream=True)


def prepare(ask: Ask, defaults: Sampling, request_id: str) -> Errand:
    """One job a choice. With a seed, each has its own that follows from it."""
    if ask.suffix:
        raise Unsupported(
            "'suffix' is not passed on to another engine, since many ignore it in silence; leave it out, or "
            "use a model that this neuron runs itself",
            param="suffix",
        )
    said = ask.sampling.over(defaults)
    jobs: list[Job] = []
    choices = [prompt for prompt in ask.prompts or (None,) for _ in range(ask.n)]
    for choice, prompt in enumerate(choices):
        seed = None if said.seed is None else (said.seed + choice % ask.n) % 2**31
        one = replace(ask, sampling=replace(said, seed=seed), n=1, echo=False, stream=True)
        if prompt is None:
            jobs.append(Job(choice, "", one.sampling, request_id=request_id, chat=one))
        else:
            jobs.append(
                Job(
                    choice,
                    prompt,
                    one.sampling,
                    max_tokens=ask.max_tokens,
                    shape=ask.shape,
                    logprobs=ask.logprobs,
                    request_id=request_id,
                )
            )
    readers = (
        AsSaid(choice) if prompt is None else Matched(choice, prompt, ask.stop)
        for choice, prompt in enumerate(choices)
    )
    return Errand(tuple(jobs), tuple(readers))


class Matched(Projection):
    """One choice of a plain completion. A stop string is matched here, and often before the engine has
    told its counts: then they are estimates."""

    def __init__(self, choice: int, prompt: str | tuple[int, ...], stops: Sequence[str]) -> None:
        super().__init__(choice=choice, stops=stops)
        self._tokens = (
            -(-len(prompt.encode("utf-8", "replace")) // 4) if isinstance(prompt, str) else len(prompt)
        )

    def feed(self, event: EngineEvent) -> list[Event]:
        """As any projection's."""
        return [self._counted(said) if isinstance(said, Stopped) else said for said in super().feed(event)]

    def _counted(self, end: Stopped) -> Stopped:
        if end.usage.prompt:
            return end
        return replace(end, usage=structs.replace(end.usage, prompt=self._tokens, estimated=True))


@dataclass(slots=True)
class AsSaid:
    """One choice whose events need no reading but their number."""

    choice: int
    finished: bool = False

    def feed(self, event: EngineEvent) -> list[Event]:
        """`event` as it was said; nothing once finished."""
        if self.finished:
            return []
        if isinstance(event, Tokens):
            raise EngineFailed("The engine answered a chat with bare tokens")
        self.finished = isinstance(event, Stopped | Failed)
        return [replace(event, choice=self.choice)]
