"""What the rounds of a benchmark come to: medians with their spread, ratios, goals met or missed.

Ratios are taken within a round, where both stood beside the same noise, and told as medians over the
rounds. A goal that nobody measured is neither met nor missed. What was kept of an earlier run is a gate:
a ratio may not fall far below what it was there.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tests.bench.rivals import OURS, TWO
from tests.bench.stage import Run

NGINX, DIRECT = "nginx", "direct"
ROUTERS: Final = ("sglang-router", "vllm-router")
# Of a ratio that was kept.
LEAST_KEPT: Final = 0.8


class Measured(msgspec.Struct):
    """One gateway in one round. `runs` have names: `plain32` are 32 clients without streams. `held` is
    None where nobody looked; `failed` says why there is nothing."""

    runs: dict[str, Run] = {}
    idle_mb: float | None = None
    after_mb: float | None = None
    held: int | None = None
    failed: str = ""


Round = Mapping[str, Measured]


class Kept(msgspec.Struct):
    """A whole run, as it is put into a file."""

    about: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    rounds: list[dict[str, Measured]]


# -- figures of one gateway

Figure = Callable[[Measured], float | None]


def of(run: str, field: str, scale: float = 1.0) -> Figure:
    """A field of one of the runs."""
    return lambda found: getattr(found.runs[run], field) * scale if run in found.runs else None


def each(run: str, what: str) -> Figure:
    """Processor microseconds of the gateway for each of what it did."""

    def figure(found: Measured) -> float | None:
        done = getattr(found.runs[run], what) if run in found.runs else 0
        return found.runs[run].cpu_s * 1e6 / done if done else None

    return figure


def _rss(found: Measured) -> float | None:
    return found.runs["crowd500"].rss_mb if "crowd500" in found.runs else None


def _errors(found: Measured) -> float | None:
    return float(sum(run.errors + run.bad_events for run in found.runs.values())) if found.runs else None


def _others(found: Measured) -> float | None:
    return max((run.others for run in found.runs.values()), default=None)


ROWS: Final[Mapping[str, tuple[Figure, str]]] = {
    "requests/s, c=1": (of("plain1", "rps"), "{:.0f}"),
    "requests/s, c=32": (of("plain32", "rps"), "{:.0f}"),
    "CPU us a request, c=32": (each("plain32", "requests"), "{:.1f}"),
    "p50 us, c=1": (of("plain1", "lat_p50"), "{:.0f}"),
    "p99 us, c=1": (of("plain1", "lat_p99"), "{:.0f}"),
    "events/s, c=32": (of("stream32", "eps"), "{:.0f}"),
    "CPU us an event, burst": (each("stream32", "events"), "{:.2f}"),
    "64 paced streams: CPU us an event": (each("paced64", "events"), "{:.1f}"),
    "paced streams held": (lambda found: found.held, "{:.0f}"),
    "first event when idle, p50 us": (of("first1", "ttft_p50"), "{:.0f}"),
    "first event of 64 paced, p99 us": (of("paced64", "ttft_p99"), "{:.0f}"),
    "Messages told in chat, events/s, c=32": (of("messages32", "eps"), "{:.0f}"),
    "CPU us an event of Messages": (each("messages32", "events"), "{:.2f}"),
    "RSS MiB, idle": (lambda found: found.idle_mb, "{:.0f}"),
    "RSS MiB, 500 streams": (_rss, "{:.0f}"),
    "RSS MiB, after": (lambda found: found.after_mb, "{:.0f}"),
    "errors": (_errors, "{:.0f}"),
    "cores that others had, at most": (_others, "{:.1f}"),
}
NO_RATIO: Final = ("errors", "cores that others had, at most")


# -- goals

OfRound = Callable[[Round], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a round's figure should be: at least the bound, or `most`. `gate`: it may not fall far below
    what an earlier run kept. `check`: whoever misses it has broken something."""

    title: str
    bound: float
    figure: OfRound
    most: bool = False
    form: str = "{:.2f}"
    gate: bool = False
    check: bool = False

    def met(self, figure: float) -> bool:
        return figure <= self.bound if self.most else figure >= self.bound

    @property
    def wanted(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.bound:g}"


def ratio(one: str, figure: Figure, other: str, beside: Figure | None = None) -> OfRound:
    """What the one has, to what the other has (of `beside`, where that is something else)."""

    def found(measured: Round) -> float | None:
        above = figure(measured[one]) if one in measured else None
        below = (beside or figure)(measured[other]) if other in measured else None
        return None if above is None or not below else above / below

    return found


def better(one: str, figure: Figure, others: Sequence[str]) -> OfRound:
    """The ratio to the greatest of the others'; unknown unless all of them are known."""
    ratios = [ratio(one, figure, other) for other in others]

    def found(measured: Round) -> float | None:
        known = [each for each in (each(measured) for each in ratios) if each is not None]
        return min(known) if len(known) == len(ratios) else None

    return found


def added(figure: Figure) -> OfRound:
    """By how much it is more through cortex than straight to the mock."""

    def found(measured: Round) -> float | None:
        through = figure(measured[OURS]) if OURS in measured else None
        direct = figure(measured[DIRECT]) if DIRECT in measured else None
        return None if through is None or direct is None else through - direct

    return found


def own(figure: Figure) -> OfRound:
    return lambda measured: figure(measured[OURS]) if OURS in measured else None


def _retold(measured: Round) -> float | None:
    messages, chat = (own(each(run, "events"))(measured) for run in ("messages32", "stream32"))
    return None if messages is None or chat is None else messages - chat


_RPS: Final = of("plain32", "rps")
_EPS: Final = of("stream32", "eps")
GOALS: Final = (
    Goal("requests/s, c=32, beside nginx", 0.3, ratio(OURS, _RPS, NGINX), gate=True),
    Goal("the same, as it is aimed at", 0.6, ratio(OURS, _RPS, NGINX)),
    Goal("requests/s of two workers, beside nginx with one", 0.5, ratio(TWO, _RPS, NGINX), gate=True),
    Goal("requests/s, beside the better of SGLang's and vLLM's routers", 1.7, better(OURS, _RPS, ROUTERS)),
    Goal("requests/s, beside LiteLLM", 100, ratio(OURS, _RPS, "litellm"), form="{:.0f}"),
    Goal("events/s, c=32, beside nginx", 1.0, ratio(OURS, _EPS, NGINX), gate=True),
    Goal(
        "CPU an event, burst, beside nginx",
        1.2,
        ratio(OURS, each("stream32", "events"), NGINX),
        most=True,
        gate=True,
    ),
    Goal("paced streams held, beside nginx", 0.65, ratio(OURS, lambda found: found.held, NGINX), gate=True),
    Goal("latency added, c=1, p50 ms", 0.25, added(of("plain1", "lat_p50", 1e-3)), most=True),
    Goal("latency added, c=1, p99 ms", 1.5, added(of("plain1", "lat_p99", 1e-3)), most=True),
    Goal(
        "events/s of Messages told in chat, beside nginx's",
        0.4,
        ratio(OURS, of("messages32", "eps"), NGINX, _EPS),
        gate=True,
    ),
    Goal("CPU us an event of Messages, over chat's", 3, _retold, most=True),
    Goal("RSS MiB, idle", 80, own(lambda found: found.idle_mb), most=True, form="{:.0f}"),
    Goal("RSS MiB, 500 streams", 120, own(_rss), most=True, form="{:.0f}"),
    Goal("first event added when idle, ms", 1, added(of("first1", "ttft_p50", 1e-3)), most=True, check=True),
    Goal(
        "p99 gap of 200 paced streams, scraped, ms",
        25,
        own(of("scraped200", "gap_p99", 1e-3)),
        most=True,
        form="{:.1f}",
        check=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and its figure in each round that has one."""

    goal: Goal
    figures: tuple[float, ...]

    @property
    def median(self) -> float | None:
        return statistics.median(self.figures) if self.figures else None

    @property
    def met(self) -> bool | None:
        return None if self.median is None else self.goal.met(self.median)

    def row(self) -> str:
        word = {None: "not measured", True: "met", False: "**missed**"}[self.met]
        return f"| {self.goal.title} | {self.goal.wanted} | {spread(self.figures, self.goal.form)} | {word} |"


def judge(rounds: Sequence[Round]) -> list[Verdict]:
    """Every goal, over the rounds."""
    return [
        Verdict(goal, tuple(figure for each in rounds if (figure := goal.figure(each)) is not None))
        for goal in GOALS
    ]


def regressions(verdicts: Sequence[Verdict], kept: Sequence[Verdict] | None) -> list[str]:
    """Why this is worse than it may be, each in a line: a check that is missed, a ratio that fell."""
    found = [
        f"{verdict.goal.title}: {verdict.median:.3g}, but {verdict.goal.wanted} is due"
        for verdict in verdicts
        if verdict.goal.check and verdict.met is False
    ]
    then = {verdict.goal.title: verdict.median for verdict in kept or ()}
    for verdict in verdicts:
        was, now = then.get(verdict.goal.title), verdict.median
        if not verdict.goal.gate or not was or not now:
            continue
        part = was / now if verdict.goal.most else now / was
        if part < LEAST_KEPT:
            found.append(f"{verdict.goal.title}: {now:.3g} after {was:.3g}, {part:.0%} of what it was")
    return found


# -- tables


def spread(figures: Sequence[float], form: str) -> str:
    """The median, and where there are more, the least and the greatest."""
    if not figures:
        return "-"
    middle = form.format(statistics.median(figures))
    if len(figures) == 1:
        return middle
    return f"{middle} [{form.format(min(figures))} to {form.format(max(figures))}]"


def goals_table(verdicts: Sequence[Verdict]) -> str:
    head = ["| | goal | median [least to greatest] | |", "|---|---|---|---|"]
    return "\n".join(head + [verdict.row() for verdict in verdicts])


def figures_table(rounds: Sequence[Round]) -> str:
    """Medians over the rounds with the farthest from them, and in brackets the median of the ratios to
    nginx within each."""
    names = list(dict.fromkeys(name for measured in rounds for name in measured))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title in ROWS:
        cells = [_cell(rounds, title, name) for name in names]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rounds: Sequence[Round], title: str, name: str) -> str:
    figure, form = ROWS[title]
    known = [
        value for measured in rounds if name in measured and (value := figure(measured[name])) is not None
    ]
    if not known:
        return "-"
    middle = statistics.median(known)
    text = form.format(middle)
    if title in NO_RATIO:
        return text
    if len(known) > 1 and middle:
        text += f" ±{max(abs(value - middle) for value in known) / middle:.0%}"
    beside = [found for each in rounds if (found := ratio(name, figure, NGINX)(each)) is not None]
    return f"{text} ({statistics.median(beside):.3g})" if beside and name != NGINX else text
