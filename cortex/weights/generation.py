"""How a model's maker would have its tokens chosen: generation_config.json.

What it says about sampling holds where neither the operator nor the request says anything. A
bounded read; a file that is there and makes no sense is `Unfit`, not skipped.
"""

from pathlib import Path
from typing import Final

from cortex.ask import Sampling
from cortex.weights.bounded import contents
from cortex.weights.settings import Facts, object_of

GENERATION: Final = "generation_config.json"
MOST_BYTES: Final = 2**20


def defaults_of(folder: Path) -> Sampling:
    """What the folder's generation_config.json says, if it has one. Raises Unfit."""
    facts = generation_facts(folder)
    if facts is None:
        return Sampling()
    facts.ids("eos_token_id")
    return Sampling(
        temperature=_real(facts, "temperature", 0.0, 2.0),
        top_p=_real(facts, "top_p", 1e-9, 1.0),
        top_k=facts.number("top_k", least=-1) if facts.has("top_k") else None,
        min_p=_real(facts, "min_p", 0.0, 1.0),
        repetition_penalty=_real(facts, "repetition_penalty", 1e-6, 100.0),
    )


def generation_facts(folder: Path) -> Facts | None:
    """What the file says, by name; None when there is none. Raises Unfit."""
    path = folder / GENERATION
    data = contents(path, MOST_BYTES)
    return None if data is None else Facts(path, object_of(data, path))


def _real(facts: Facts, name: str, least: float, most: float) -> float | None:
    return facts.real(name, least=least, most=most) if facts.has(name) else None
