"""Whether a resident can fill a gap, which its vocabulary alone tells, once it is loaded."""

from collections.abc import Awaitable, Callable

from cortex.ask import Ask
from cortex.errors import Unsupported
from cortex.text.infill import FAMILIES, Infill


async def infill_of(ask: Ask, tokenise: Callable[[str], Awaitable[tuple[int, ...]]]) -> Infill | None:
    """How the model is asked for what `ask` wants; None where there is no gap to fill. Raises
    Unsupported for a model that was not taught to."""
    if not ask.suffix:
        return None
    for family in FAMILIES:
        # One question each: the device is asked between two of its turns.
        if len(await tokenise("".join(family.markers))) == len(family.markers):
            return family
    raise Unsupported(
        f"'suffix' needs a model that fills gaps; the vocabulary of '{ask.model}' has none of the markers "
        f"that are known here ({', '.join(family.ahead for family in FAMILIES)}). Leave it out, or use "
        "another model",
        param="suffix",
    )
