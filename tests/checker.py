"""Zero lost, zero duplicated: three ledgers joined by request id, and what does not fit between them.

Pure, and for any run: the client says what it was told, the gateway's `request.done` lines what it
booked, the ledgers of `examples/fake-fleet` what was computed, token by token. Tokens are the numbers
0, 1, 2, ..., so a gap or a repetition shows. Times are of one clock, `time.monotonic()`. What is
lost, duplicated or a ghost is defined in section 4.2 of the fault notes, and written at each rule.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal, TypeAlias

from tests.calls import Answered, events

End: TypeAlias = Literal["complete", "refused", "error_event", "left", "cut"]
Kind: TypeAlias = Literal["lost", "duplicated", "ghost"]

# Of section 4.2: a terminal may be so late, two executions may overlap so long, a device may go on
# so long after the terminal, and a killed gateway may cut its clients for so long.
LATE_S = 5.0
OVERLAP_S = 1.0
AFTERLIFE_S = 1.0
KILL_S = 1.0


@dataclass(frozen=True)
class Asked:
    """An admitted request, its body sent whole at `sent`, as its client lived it. `end` None: it is
    still waiting. `marked`: the answer had its end mark. `left` is the client's own doing."""

    id: str
    sent: float
    ended: float | None = None
    end: End | None = None
    marked: bool = False
    tokens: tuple[int, ...] = ()
    deadline_s: float = 120.0


@dataclass(frozen=True)
class Booked:
    """One entry of a gateway's books."""

    id: str
    neuron: str = "none"
    outcome: str = "ok"
    completion: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Ran:
    """One execution on a device. `last` is when it last computed, `end` None when it died with its
    process: complete, left, broken or failed."""

    id: str
    neuron: str
    boot: str
    began: float
    last: float
    tokens: int = 0
    end: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something that must never be."""

    kind: Kind
    id: str
    why: str


@dataclass(frozen=True)
class Ledgers:
    """One run. `until` is when it was looked at; `kills` are times at which a gateway was killed, and
    `thaws` when a neuron that was frozen went on, which can notice nothing before."""

    asked: Sequence[Asked]
    booked: Sequence[Booked] = ()
    ran: Sequence[Ran] = ()
    until: float = 0.0
    kills: Sequence[float] = ()
    thaws: Mapping[str, float] = field(default_factory=dict)
    _books: dict[str, list[Booked]] = field(default_factory=lambda: defaultdict(list))
    _runs: dict[str, list[Ran]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for entry in self.booked:
            self._books[entry.id].append(entry)
        for run in self.ran:
            self._runs[run.id].append(run)
        if len({each.id for each in self.asked}) < len(self.asked):
            raise ValueError("a request id was used twice: nothing can be joined by it")

    def findings(self) -> list[Finding]:
        """All of them, in the order of the requests."""
        found = [finding for asked in self.asked for finding in self._about(asked)]
        known = {asked.id for asked in self.asked}
        strangers = sorted({run.id for run in self.ran} - known)
        return found + [Finding("ghost", id, "it was computed and never asked") for id in strangers]

    def _about(self, asked: Asked) -> Iterator[Finding]:
        runs, books = self._runs[asked.id], self._books[asked.id]
        for rule in (
            self._unended,
            self._unmarked,
            self._tokens,
            self._overlap,
            self._usage,
            self._afterlife,
        ):
            for kind, why in rule(asked, runs, books):
                yield Finding(kind, asked.id, why)

    def _unended(self, asked: Asked, runs: list[Ran], books: list[Booked]) -> "Whys":
        """No terminal in time, or the transport was cut while the gateway lived."""
        took = (self.until if asked.ended is None else asked.ended) - asked.sent
        if took > asked.deadline_s + LATE_S:
            yield (
                "lost",
                f"no end within {asked.deadline_s:g} s: {'' if asked.end else 'none after '}{took:.1f} s",
            )
        if asked.end == "cut" and not self._killed(asked):
            yield "lost", "the connection was cut without an error event, and the gateway lived"

    def _unmarked(self, asked: Asked, runs: list[Ran], books: list[Booked]) -> "Whys":
        """Success was reported without the end mark of whoever computed it."""
        if asked.end != "complete":
            return
        if not asked.marked:
            yield "lost", "it looks complete, and has no end mark"
        if self.ran and not any(run.end == "complete" for run in runs):
            yield "lost", "it looks complete, and no neuron completed it"

    def _tokens(self, asked: Asked, runs: list[Ran], books: list[Booked]) -> "Whys":
        """Each token once and in order; of a complete answer all of them."""
        tokens = asked.tokens
        if len(set(tokens)) < len(tokens) or sorted(tokens) != list(tokens):
            yield "duplicated", f"tokens came twice or out of order: {_some(tokens)}"
        missing = sorted(set(range(max(tokens, default=-1) + 1)) - set(tokens))
        if missing:
            yield "lost", f"tokens {_some(missing)} are missing"
        whole = [run.tokens for run in runs if run.end == "complete"]
        if asked.end == "complete" and whole and len(tokens) < max(whole):
            yield "lost", f"{max(whole)} tokens were computed, and {len(tokens)} came"

    def _overlap(self, asked: Asked, runs: list[Ran], books: list[Booked]) -> "Whys":
        """Two executions of one request at the same time."""
        for one, other in combinations(runs, 2):
            both = min(one.last, other.last) - max(one.began, other.began)
            if both > OVERLAP_S:
                yield "duplicated", f"{one.neuron} and {other.neuron} computed it together for {both:.1f} s"

    def _usage(self, asked: Asked, runs: list[Ran], books: list[Booked]) -> "Whys":
        """It is in the books exactly once, with what was computed."""
        if not self.booked or self._killed(asked):
            return
        unseen = asked.end is None or (asked.end == "left" and not runs)
        if len(books) > 1:
            yield "duplicated", f"its usage was counted {len(books)} times"
        if not books and not unseen:
            yield "lost", "its usage was never counted"
        for entry in books[:1]:
            computed = {run.tokens for run in runs if run.end == "complete"}
            if (
                asked.end == "complete"
                and computed
                and not entry.estimated
                and entry.completion not in computed
            ):
                kind: Kind = "duplicated" if entry.completion > max(computed) else "lost"
                yield kind, f"{entry.completion} tokens were booked, {max(computed)} computed"

    def _afterlife(self, asked: Asked, runs: list[Ran], books: list[Booked]) -> "Whys":
        """A device goes on for a request that has its end."""
        for run in runs:
            thawed = self.thaws.get(run.neuron, 0.0)
            if asked.ended is not None and run.last - max(asked.ended, thawed) > AFTERLIFE_S:
                yield "ghost", f"{run.neuron} went on for {run.last - asked.ended:.1f} s after its end"

    def _killed(self, asked: Asked) -> bool:
        """Whether a killed gateway explains that it has no proper end."""
        at = asked.ended
        return at is not None and asked.end == "cut" and any(0 <= at - kill <= KILL_S for kill in self.kills)


Whys: TypeAlias = Iterator[tuple[Kind, str]]


def asked_of(id: str, answer: Answered, *, sent: float, ended: float, left: bool = False) -> Asked:
    """What a client of `tests.calls` lived through. `left`: it hung up by itself."""
    end: End
    streamed = answer.headers.get("content-type", "").startswith("text/event")
    # Whoever leaves may have half an event.
    data = events(answer.body[: answer.body.rfind(b"\n\n") + 2]) if streamed else []
    marked = data[-1:] == ["[DONE]"] if streamed else answer.complete
    if left:
        end = "left"
    elif not answer.complete:
        end = "cut"
    elif answer.status != 200:
        end = "refused"
    else:
        end = "error_event" if data and data[-1].startswith('{"error"') else "complete"
    whole = [answer.body.decode()] if answer.complete and not streamed and answer.status == 200 else []
    return Asked(id, sent, ended, end, marked, tuple(_numbers(data or whole)))


def ran_of(lines: Iterable[str | bytes]) -> list[Ran]:
    """The executions in ledgers of the fake neuron, whose lines may be mixed."""
    runs: dict[tuple[str, str, int], Ran] = {}
    turn: dict[tuple[str, str], int] = defaultdict(int)
    for entry in map(_entry, lines):
        key = entry["boot"], entry["id"]
        turn[key] += entry.get("token") == -1
        run = runs.setdefault(
            (*key, turn[key]), Ran(entry["id"], entry["neuron"], entry["boot"], entry["at"], entry["at"])
        )
        tokens = max(run.tokens, entry.get("token", -1) + 1)
        runs[(*key, turn[key])] = replace(run, last=entry["at"], tokens=tokens, end=entry.get("end"))
    return list(runs.values())


def booked_of(lines: Iterable[str]) -> list[Booked]:
    """The entries among the lines of a gateway's log at level debug, in either format."""
    return [_booking(said, id) for said, id in map(_said, lines) if said.startswith("request.done ")]


def _booking(said: str, id: str) -> Booked:
    told = dict(re.findall(r"(\w+)=(\S*)", said))
    return Booked(id, told["neuron"], told["outcome"], int(told["completion"]), told["estimated"] == "true")


def _said(line: str) -> tuple[str, str]:
    """Message and request id of a line."""
    if line.startswith("{"):
        record = json.loads(line)
        return record["message"], record.get("request_id", "-")
    found = re.search(r"(request\.done .*?) request=(\S+)", line)
    return (found[1], found[2]) if found else ("", "")


def _entry(line: str | bytes) -> Mapping[str, Any]:
    return json.loads(line)


def _numbers(bodies: list[str]) -> Iterator[int]:
    """The tokens of an answer, or of its events: numbers, with spaces between them."""
    for body in bodies:
        with_choices = json.loads(body).get("choices", []) if body.startswith("{") else []
        for choice in with_choices:
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            yield from map(int, (said.get("content") or "").split())


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown}, ..." if len(numbers) > 10 else shown
