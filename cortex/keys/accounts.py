"""What each key may use, has under way, and has left.

Holds the limits of `[[keys]]` in one process: models, requests at once, requests within
any minute, tokens of a day (which `tally` sums over the fleet). A request is let in or
refused at its start; what is under way is never cut. Callers without a key have no
account: nothing here limits them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Final

from cortex.config.keys import Key
from cortex.errors import TooMuch, Unauthorised
from cortex.events import Usage
from cortex.keys.tally import Tally
from cortex.wire.neuron import KeyTokens

MINUTE_S: Final = 60.0


@dataclass(slots=True)
class _Account:
    """`begun` are the times of the requests within the last minute, where they are limited."""

    key: Key
    in_flight: int = 0
    begun: deque[float] = field(default_factory=deque)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Accounts:
    """The accounts of `keys`. `clock` counts seconds and never jumps; `now` is the time in UTC."""

    def __init__(
        self, keys: Iterable[Key], clock: Callable[[], float], now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._accounts: dict[str, _Account] = {}
        self._clock, self._now = clock, now
        self._tally = Tally(lambda: now().date())
        self.renew(keys)

    def renew(self, keys: Iterable[Key]) -> None:
        """Other keys and limits, for requests to come. What a key that stays has under way, has
        begun and has used goes on to count."""
        before, self._accounts = self._accounts, {}
        for key in keys:
            account = self._accounts[key.name] = before.get(key.name) or _Account(key)
            account.key = key

    def narrow(self, caller: str) -> bool:
        """Whether there are models that `caller` may not use."""
        account = self._accounts.get(caller)
        return self._gone(caller) or (account is not None and bool(account.key.models))

    def allows(self, caller: str, *names: str) -> bool:
        """Whether `caller` may use a model that has these names: any of them will do."""
        account = self._accounts.get(caller)
        if account is None or not account.key.models:
            return not self._gone(caller)
        return any(fnmatchcase(name, glob) for glob in account.key.models for name in names)

    @contextmanager
    def held(self, caller: str) -> Iterator[None]:
        """A request of `caller` is under way in the block. Raises TooMuch when it is one too many, and
        Unauthorised when the key went while the request's body was on its way."""
        if self._gone(caller):
            raise Unauthorised(f"The API key {caller!r} was revoked. Ask the operator for another one.")
        account = self._accounts.get(caller)
        if account is None:
            yield
            return
        self._let_in(account)
        account.in_flight += 1
        try:
            yield
        finally:
            account.in_flight -= 1

    def spent(self, caller: str, neuron: str, usage: Usage) -> None:
        """A request of `caller` ended at `neuron`, which counts it as well and will report it."""
        account, tokens = self._accounts.get(caller), usage.prompt + usage.completion
        if account is not None and account.key.tokens_per_day is not None and tokens:
            self._tally.spend(neuron, caller, tokens, self._clock())

    def reported(self, neuron: str, told: KeyTokens, asked_at: float) -> None:
        """What `neuron` counted by the time, on this clock, at which it was asked."""
        self._tally.report(neuron, told, asked_at)

    def _gone(self, caller: str) -> bool:
        """Whether it had a key, and has none any more: it must not pass for one without limits."""
        return caller != "" and caller not in self._accounts

    def _let_in(self, account: _Account) -> None:
        """The request counts, or is refused by the limit that holds it up longest."""
        self._check_day(account.key)
        now = self._clock()
        self._check_minute(account, now)
        self._check_in_flight(account)
        if account.key.requests_per_minute is not None:
            account.begun.append(now)

    def _check_day(self, key: Key) -> None:
        limit = key.tokens_per_day
        if limit is None or (used := self._tally.used(key.name)) < limit:
            return
        now = self._now()
        midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
        error = TooMuch(
            f"The key {key.name!r} has used {used} tokens of the {limit} (tokens_per_day) that it has for "
            f"{now.date()} in UTC. Try again after midnight UTC, or ask the operator for more.",
            retry_after_s=(midnight - now).total_seconds(),
            facts={"limit": "tokens_per_day"},
        )
        error.final = True  # a client library that repeats by itself would hang until midnight
        raise error

    def _check_minute(self, account: _Account, now: float) -> None:
        key, begun = account.key, account.begun
        while begun and begun[0] <= now - MINUTE_S:
            begun.popleft()
        if key.requests_per_minute is not None and len(begun) >= key.requests_per_minute:
            wait_s = begun[0] + MINUTE_S - now
            raise TooMuch(
                f"The key {key.name!r} has begun {len(begun)} requests within a minute, which is its "
                f"requests_per_minute. Try again in {wait_s:.1f} s.",
                retry_after_s=wait_s,
                facts={"limit": "requests_per_minute"},
            )

    def _check_in_flight(self, account: _Account) -> None:
        key = account.key
        if key.max_in_flight is not None and account.in_flight >= key.max_in_flight:
            raise TooMuch(
                f"The key {key.name!r} has {account.in_flight} requests under way, waiting ones included, "
                "which is its max_in_flight. Send the next one when one of them has ended.",
                facts={"limit": "max_in_flight"},
            )
