"""Room in a KV cache that jobs share, asked for before a job has a slot.

Where every slot has a context of its own the slot is the room, and nothing is counted
here. Where slots share a cache, a job is promised what its prompt and its longest answer
may come to, so that no job that runs is ever short of it. A prompt that cannot fit is
refused with both numbers, before the device does anything for it; none is ever cut. One
that is beyond all measure is not even counted: an engine that counts for half a minute
looks like one that hangs, and would be ended for it.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

from cortex.errors import BadAsk, PromptTooLong
from cortex.harness.base import EngineFacts, Job

# The longest tokens in use, runs of blanks, have half as many characters.
LONGEST_TOKEN: Final = 256
# Half a second a million on a slow core; four times that are within what a turn may take.
MOST_CHARACTERS: Final = 8 * 2**20


def ensure_bearable(prompt: str, context: int) -> None:
    """Raises PromptTooLong for a text that is too long whatever its tokens are; `context` 0 is unknown."""
    if context and len(prompt) > context * LONGEST_TOKEN:
        raise PromptTooLong.of(-(-len(prompt) // LONGEST_TOKEN), context, at_least=True)


def ensure_countable(text: str, field: str) -> None:
    """Raises BadAsk for a text in `field` that would keep the thread from its turns for too long."""
    if len(text) > MOST_CHARACTERS:
        raise BadAsk(
            f"'{field}': {len(text)} characters are too many to be cut into tokens; the most are "
            f"{MOST_CHARACTERS}, so send them in pieces",
            param=field,
        )


async def budgeted(
    jobs: Iterable[Job], facts: EngineFacts, bos: str, tokenise: Callable[[str], Awaitable[tuple[int, ...]]]
) -> tuple[Job, ...]:
    """`jobs` with what each may come to occupy. `bos` is what the engine puts before a text by itself."""
    jobs = tuple(jobs)
    prompts = dict.fromkeys(job.prompt for job in jobs)
    for prompt in prompts:
        if isinstance(prompt, str):
            ensure_bearable(prompt, facts.context)
    if facts.kv_tokens is None:
        return jobs
    # A prompt that fills the context leaves no room for a word of the answer.
    most = min(facts.context, facts.kv_tokens)
    counts: dict[str | tuple[int, ...], int] = {}
    for prompt in prompts:
        if isinstance(prompt, str):
            ensure_countable(prompt, "messages")
        counts[prompt] = len(await tokenise(bos + prompt) if isinstance(prompt, str) else prompt)
        if counts[prompt] >= most:
            raise PromptTooLong.of(counts[prompt], most)
    return tuple(
        replace(
            job,
            kv_tokens=most if job.max_tokens is None else min(counts[job.prompt] + job.max_tokens, most),
        )
        for job in jobs
    )
