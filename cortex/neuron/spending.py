"""Which API key used how many tokens on which day.

Gateways name the key with each request (`x-cortex-key-name`); here is the only place that
counts, so that gateways can be added and restarted freely, and sum what their neurons
report. Days are UTC's. The book is written to the state folder now and then: a neuron
that is killed forgets the last KEEP_S seconds. It has an id, so that who sums up can tell
a book that is begun anew from one that lacks its last lines.
"""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec
import trio

from cortex.events import Usage
from cortex.neuron.state import State
from cortex.wire import neuron as wire

FILE: Final = "tokens.json"
KEEP_S: Final = 5.0
# A month can be looked up; nothing asks for more.
DAYS: Final = 31
# A gateway has a handful. Whoever may name keys at will must not fill the memory.
NAMES_A_DAY: Final = 10_000
OTHERS: Final = "other"
# As cortex.toml has them.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Kept(msgspec.Struct, frozen=True):
    """The file. Days are ISO dates; a book that says no id gets one."""

    book: str = ""
    days: dict[str, dict[str, wire.Tokens]] = {}


class Spending:
    """Tokens per key name and day. `today` is the date in UTC."""

    def __init__(self, state: State, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._state, self._today = state, today
        self._days: dict[str, dict[str, wire.Tokens]] = {}
        self._book, self._unkept = secrets.token_hex(8), False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the book until cancelled. `started` comes with what was kept before."""
        kept = await self._state.recall(FILE, _Kept)
        self._days = {} if kept is None else {day: dict(keys) for day, keys in kept.days.items()}
        if kept is not None:
            self._book, self._unkept = kept.book or self._book, not kept.book
        task_status.started()
        while True:
            await trio.sleep(KEEP_S)
            await self.keep()

    async def keep(self) -> None:
        """What was counted so far is on disk."""
        if self._unkept:
            self._unkept = False
            self._forget()
            await self._state.keep(FILE, _Kept(self._book, self._days))

    def count(self, key: str | None, usage: Usage) -> None:
        """Enter what a request used; nothing for one that names no key."""
        if key is None or not (usage.prompt or usage.completion):
            return
        keys = self._days.setdefault(self._today().isoformat(), {})
        known = key in keys or (len(keys) < NAMES_A_DAY and _NAME.fullmatch(key) is not None)
        name = key if known else OTHERS
        so_far = keys.get(name, wire.Tokens())
        keys[name] = wire.Tokens(
            prompt=so_far.prompt + usage.prompt,
            cached=so_far.cached + usage.cached,
            completion=so_far.completion + usage.completion,
        )
        self._unkept = True

    def report(self) -> wire.KeyTokens:
        """Today's tokens."""
        day = self._today().isoformat()
        return wire.KeyTokens(day=day, book=self._book, keys=dict(self._days.get(day, {})))

    def _forget(self) -> None:
        first = (self._today() - timedelta(days=DAYS - 1)).isoformat()
        self._days = {day: keys for day, keys in self._days.items() if day >= first}
