"""How often something is asked for again that was cut short, and after which pauses."""

import logging
from collections.abc import Sequence
from typing import Final

import trio

from cortex.errors import LoadFailed
from cortex.hub.refusals import Cut
from cortex.units import span

log = logging.getLogger(__name__)

# Before the second, third and fourth try.
PAUSES_S: Final = (1.0, 2.0, 4.0)
# A try that brought this much was not in vain: a long download over a bad line may break often.
PROGRESS_BYTES: Final = 16 * 2**20
# A hub that wants to be left alone for longer is told of instead.
PATIENCE_S: Final = 60.0


class Tries:
    """Those for one thing. `remedy` ends the error when there are no more."""

    def __init__(self, what: str, remedy: str, pauses_s: Sequence[float]) -> None:
        self._what, self._remedy, self._pauses_s = what, remedy, pauses_s
        self._in_vain = 0

    async def again(self, cut: Cut, gained_bytes: int = 0) -> None:
        """The time of the next try has come. LoadFailed when there is none."""
        self._in_vain = 1 if gained_bytes >= PROGRESS_BYTES else self._in_vain + 1
        later = cut.wait_s is not None and cut.wait_s > PATIENCE_S
        if later or self._in_vain > len(self._pauses_s):
            wish = f", and wants to be asked again in {span(cut.wait_s)}" if cut.wait_s is not None else ""
            raise LoadFailed(
                f"{self._what} could not be had: {cut} (try {self._in_vain}){wish}; {self._remedy}",
                retry_after_s=cut.wait_s,
            ) from cut
        pause_s = self._pauses_s[self._in_vain - 1] if cut.wait_s is None else cut.wait_s
        log.warning("hub.cut what=%s cause=%s again_in=%.1fs", self._what, cut, pause_s)
        await trio.sleep(pause_s)
