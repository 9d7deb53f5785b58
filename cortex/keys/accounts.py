"""What each key may use, has under way, and has left.

Holds the limits of `[[keys]]` in one process: models, requests at once, requests within
any minute, tokens of a day (which `tally` sums over the fleet). A request is let in or
refused at its start; what is under way is never cut, and counts by what it may come to, until
it ends and what it used is known. So a burst goes past a day's limit by what one request is
guessed wrong, and not by the length of the burst. Callers without a key have no account:
nothing here limits them.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from typing import Final

from cortex.config.keys import Key
from cortex.errors import SpentUp, TooMuch, Unauthorised
from cortex.events import Usage
from cortex.keys.tally import Tally
from cortex.units import counted
from cortex.wire.neuron import KeyTokens

MINUTE_S: Final = 60.0
# A prompt is guessed by the length of its body: some four bytes of plain text are a token.
BYTES_A_TOKEN: Final = 4
# What an answer that names no limit comes to, until some of the key's have ended.
USUAL_ANSWER: Final = 1000
# How much of that each answer changes: the last eight or so count.
_NEWS: Final = 1 / 8
_NOBODY: Final = Key("", "")


@dataclass(slots=True, eq=False)
class _Account:
    """`limited`: there is a bound on its requests. `begun` are the times of those within the last minute,
    where they are bounded. `reserved` is what those under way may come to, in tokens, and `usual` what an
    answer has had of late."""

    key: Key
    limited: bool = False
    # What the names of the models match that it may use; None for all.
    models: re.Pattern[str] | None = None
    in_flight: int = 0
    begun: deque[float] = field(default_factory=deque)
    reserved: int = 0
    usual: float = USUAL_ANSWER


class Claim:
    """What one request under way may come to, in tokens. It counts from here on, with what is known of its
    answer."""

    __slots__ = ("_account", "_answer", "_prompt")

    def __init__(self, account: _Account, prompt: int, answer: int | None) -> None:
        if answer is None:
            answer = int(account.usual)
        self._account, self._prompt, self._answer = account, prompt, answer
        account.in_flight += 1
        account.reserved += prompt + answer

    def expect(self, answer: int | None) -> None:
        """The answer has so many tokens at most; None when nobody says."""
        self._account.reserved -= self._answer
        self._answer = int(self._account.usual) if answer is None else answer
        self._account.reserved += self._answer

    def withdraw(self) -> None:
        """It never began."""
        self.end()
        if self._account.key.requests_per_minute is not None:
            self._account.begun.pop()

    def end(self) -> None:
        """It counts no longer."""
        self._account.in_flight -= 1
        self._account.reserved -= self._prompt + self._answer


def _pattern(globs: tuple[str, ...]) -> re.Pattern[str] | None:
    """One pattern for all of them, since a list of models asks for each name."""
    return re.compile("|".join(map(translate, globs))) if globs else None


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Accounts:
    """The accounts of `keys`. `clock` counts seconds and never jumps; `now` is the time in UTC. Of several
    `workers` that serve the same keys, each holds its share of the limits, but for that of the day."""

    def __init__(
        self,
        keys: Iterable[Key],
        clock: Callable[[], float],
        now: Callable[[], datetime] = _utc_now,
        *,
        workers: int = 1,
    ) -> None:
        self._accounts: dict[str, _Account] = {}
        # Keys that are gone, for as long as what they began counts: they may come back.
        self._former: dict[str, _Account] = {}
        # Of callers without a key, whom nothing limits.
        self._nobody = _Account(_NOBODY)
        self._clock, self._now, self._workers = clock, now, workers
        self._tally = Tally(lambda: now().date())
        self.renew(keys)

    def renew(self, keys: Iterable[Key]) -> None:
        """Other keys and limits, for requests to come. What a key that stays, or that comes back, has
        under way, has begun and has used goes on to count."""
        before, self._accounts = {**self._former, **self._accounts}, {}
        for key in keys:
            known = before.pop(key.name, None)
            account = self._accounts[key.name] = known or _Account(key)
            account.key, account.models = key, _pattern(key.models)
            account.limited = (key.tokens_per_day, key.requests_per_minute, key.max_in_flight) != (None,) * 3
        self._former = {name: account for name, account in before.items() if self._counts(account)}

    def names(self) -> frozenset[str]:
        """Of every key that there is."""
        return frozenset(self._accounts)

    def days(self) -> dict[str, tuple[int, int]]:
        """Tokens of today and the most there may be, by key, of those that have a limit."""
        limits = ((name, account.key.tokens_per_day) for name, account in self._accounts.items())
        return {name: (self._tally.used(name), most) for name, most in limits if most is not None}

    def share(self, caller: str) -> float:
        """How many turns `caller` has for each of a key with 1."""
        account = self._accounts.get(caller)
        return 1.0 if account is None else account.key.share

    def narrow(self, caller: str) -> bool:
        """Whether there are models that `caller` may not use."""
        account = self._accounts.get(caller)
        return self._gone(caller) or (account is not None and bool(account.key.models))

    def governs(self, caller: str) -> bool:
        """Whether `caller` may see what is the operator's: with the scope admin, or where there are no
        keys and the door alone decides."""
        account = self._accounts.get(caller)
        return not self._gone(caller) if account is None else "admin" in account.key.scopes

    def allows(self, caller: str, *names: str) -> bool:
        """Whether `caller` may use a model that has these names: any of them will do."""
        account = self._accounts.get(caller)
        if account is None or account.models is None:
            return not self._gone(caller)
        return any(map(account.models.match, names))

    def let_in(self, caller: str, body_bytes: int, answer: int | None = None) -> Claim:
        """A request of `caller` is under way until the claim's `end`, whatever its body says; of its
        `answer` maybe how many tokens it has at most. Raises
        TooMuch when it is one too many, and Unauthorised when the key went while the body was on its
        way."""
        account = self._accounts.get(caller)
        if account is None:
            if caller:
                raise Unauthorised(f"The API key {caller!r} was revoked. Ask the operator for another one.")
            return Claim(self._nobody, 0, 0)
        if account.limited:
            self._let_in(account)
        return Claim(account, body_bytes // BYTES_A_TOKEN, answer)

    @contextmanager
    def held(self, caller: str, body_bytes: int) -> Iterator[Claim]:
        """The same, under way in the block."""
        claim = self.let_in(caller, body_bytes)
        try:
            yield claim
        finally:
            claim.end()

    def spent(self, caller: str, neuron: str, usage: Usage) -> None:
        """A request of `caller` ended at `neuron`, which counts it as well and will report it."""
        account = self._accounts.get(caller)
        if account is not None and usage.completion:
            account.usual += (usage.completion - account.usual) * _NEWS
        self._spend(account, neuron, usage.prompt + usage.completion)

    def left(self, caller: str, neuron: str, usage: Usage, body_bytes: int) -> None:
        """The client of a request left while `neuron` was at it. Nobody has told what its prompt was,
        and its length stands in until the neuron does."""
        tokens = usage.completion + max(usage.prompt, body_bytes // BYTES_A_TOKEN)
        self._spend(self._accounts.get(caller), neuron, tokens)

    def reported(self, neuron: str, told: KeyTokens, asked_at: float) -> None:
        """What `neuron` counted by the time, on this clock, at which it was asked."""
        self._tally.report(neuron, told, asked_at)

    def _spend(self, account: _Account | None, neuron: str, tokens: int) -> None:
        if account is not None and account.key.tokens_per_day is not None and tokens:
            self._tally.spend(neuron, account.key.name, tokens, self._clock())

    def _gone(self, caller: str) -> bool:
        """Whether it had a key, and has none any more: it must not pass for one without limits."""
        return caller != "" and caller not in self._accounts

    def _counts(self, account: _Account) -> bool:
        _forget(account.begun, self._clock())
        return bool(account.in_flight or account.begun)

    @property
    def _shared(self) -> str:
        return f" at one of {self._workers} workers, which share it" if self._workers > 1 else ""

    def _let_in(self, account: _Account) -> None:
        """The request counts, or is refused by the limit that holds it up longest."""
        key = account.key
        if key.tokens_per_day is not None:
            self._check_day(account, key.tokens_per_day)
        if key.requests_per_minute is not None:
            now = self._clock()
            self._check_minute(account, key.requests_per_minute, now)
            self._check_in_flight(account)
            account.begun.append(now)
        elif key.max_in_flight is not None:
            self._check_in_flight(account)

    def _check_day(self, account: _Account, limit: int) -> None:
        key = account.key
        used = self._tally.used(key.name)
        if used >= limit:
            raise self._spent_up(key, used)
        # The others may have as much under way, of which nobody tells before it has ended.
        if used + account.reserved * self._workers >= limit:
            raise TooMuch(
                f"The key {key.name!r} has used {used} tokens of the {limit} (tokens_per_day) that it has "
                "for today in UTC, and what it has under way may use up the others. Send the next request "
                "when one of them has ended.",
                facts={"limit": "tokens_per_day"},
            )

    def _spent_up(self, key: Key, used: int) -> SpentUp:
        now = self._now()
        midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
        return SpentUp(
            f"The key {key.name!r} has used {used} tokens of the {key.tokens_per_day} (tokens_per_day) that "
            f"it has for {now.date()} in UTC. Try again after midnight UTC, or ask the operator for more.",
            retry_after_s=(midnight - now).total_seconds(),
            facts={"limit": "tokens_per_day"},
        )

    def _check_minute(self, account: _Account, limit: int, now: float) -> None:
        key, begun = account.key, account.begun
        _forget(begun, now)
        if len(begun) >= limit:
            wait_s = begun[0] + MINUTE_S - now
            raise TooMuch(
                f"The key {key.name!r} has begun {counted(len(begun), 'request')} within a minute, which is "
                f"its requests_per_minute{self._shared}. Try again in {wait_s:.1f} s.",
                retry_after_s=wait_s,
                facts={"limit": "requests_per_minute"},
            )

    def _check_in_flight(self, account: _Account) -> None:
        key = account.key
        if key.max_in_flight is not None and account.in_flight >= key.max_in_flight:
            raise TooMuch(
                f"The key {key.name!r} has {counted(account.in_flight, 'request')} under way, waiting ones "
                f"included, which is its max_in_flight{self._shared}. Send the next one when one of them has "
                "ended.",
                facts={"limit": "max_in_flight"},
            )


def _forget(begun: deque[float], now: float) -> None:
    while begun and begun[0] <= now - MINUTE_S:
        begun.popleft()
