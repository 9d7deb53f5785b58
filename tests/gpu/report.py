"""The report of a run on a card, in Markdown: what ran, and the tables of what it came to.

A pure view of rows and outcomes, but for the name of the card.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.gpu.record import Rows

Row = Mapping[str, Any]
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a part ended, and what it said last."""

    name: str
    state: Literal["passed", "failed", "cut"]
    took_s: float
    what: str


def written(
    rows: Rows, outcomes: Sequence[Outcome], versions: Mapping[str, str], *, card: bool, seconds: float
) -> str:
    """The whole report."""
    came = all(each.state == "passed" for each in outcomes)
    verdict = "Everything ran, and passed." if came else _shortfall(outcomes)
    verdict += "" if card else " No figure here says anything of a card."
    head = f"# {card_name()}, {time.strftime('%Y-%m-%d')}" if card else "# A rehearsal without a card"
    lines = [
        head,
        "",
        verdict,
        "",
        _list(versions | (_driver() if card else {})),
        "",
        "## What ran",
        "",
        *_table(
            ("part", "outcome", "s", "said"),
            ((each.name, f"**{each.state}**", f"{each.took_s:.0f}", each.what) for each in outcomes),
        ),
        f"\n{seconds:.0f} s were given. What minds no company runs while the extension is compiled.",
    ]
    for title, name, view in _TABLES:
        if rows.get(name):
            lines += ["", f"## {title}", "", *view(rows[name])]
    if rows.get("cut"):
        lines += ["", "## Left out", "", *(f"- {each['what']}: {each['why']}" for each in rows["cut"])]
    return "\n".join(lines) + "\n"


def card_name() -> str:
    """As the driver tells."""
    return _asked(lambda nvml: nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))) or "no card"


def card_of(*, card: bool) -> str:
    """For a file's name."""
    name = card_name() if card else "rehearsal"
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")


def _driver() -> dict[str, str]:
    driver = _asked(lambda nvml: nvml.nvmlSystemGetDriverVersion())
    cuda = _asked(lambda nvml: str(nvml.nvmlSystemGetCudaDriverVersion_v2() / 1000))
    held = _asked(
        lambda nvml: (
            f"{nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(0)).total / 2**30:.0f} GiB"
        )
    )
    return {"driver": driver or "unknown", "its CUDA": cuda or "unknown", "memory": held or "unknown"}


def _asked(question: Callable[[Any], object]) -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(question(pynvml))
    except Exception:  # noqa: BLE001 - a report is written all the same
        return None


def _shortfall(outcomes: Sequence[Outcome]) -> str:
    told = {
        state: [each.name for each in outcomes if each.state == state]
        for state in ("passed", "failed", "cut")
    }
    words = (f"{state.capitalize()}: {'; '.join(names) or 'none'}." for state, names in told.items())
    return f"**Not everything ran and passed.** {' '.join(words)}"


def _list(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in cells]


def _parity(rows: Sequence[Row]) -> list[str]:
    def what(row: Row) -> str:
        more = [row[key] for key in ("speculation", "cache") if key in row]
        return f"{row['model']}{', ' if more else ''}{', '.join(more)}"

    total = [sum(row[key] for row in rows) for key in ("answers", "tokens", "parted")]
    lines = _table(
        ("model", "attention", "chunk", "answers", "tokens", "parted", "worst gap", "worst score", "wrong"),
        (
            (
                what(row), row["attention"], row["chunk"], row["answers"], row["tokens"], row["parted"],
                f"{row['gap']:.4f}", f"{row['score']:.4f}", "; ".join(row["wrong"]) or "nothing",
            )
            for row in sorted(rows, key=lambda row: (what(row), row["attention"], row["chunk"]))
        ),
    )  # fmt: skip
    told = (
        f"\n{total[0]} answers, {total[1]} tokens, of which {total[2]} are not the reference's "
        "(transformers, fp32). Gap: by how much likelier, in logits, the reference holds its own token; "
        "score: by how much a log-probability is off."
    )
    return [*lines, told]


def _faults(rows: Sequence[Row]) -> list[str]:
    def detail(row: Row) -> str:
        if "gap" in row:
            return f"{row['amiss']} findings, worst gap {row['gap']:.2f}"
        calls = f"; calls of CUDA afterwards: {', '.join(row['calls']) or 'none'}" if "calls" in row else ""
        return f"{row['kind']}{': ' + row['message'] if 'message' in row else ''}{calls}"

    return _table(
        ("fault", "seen", "how"),
        ((row["fault"], "yes" if row["seen"] else "**no**", detail(row)) for row in rows),
    )


def _speed(rows: Sequence[Row]) -> list[str]:
    lines = _table(
        (
            "model", "model's host", "attention", "streams", "bare tok/s", "through tok/s", "through/bare",
            "spread", "first word, bare ms", "first word ms", "neuron CPU ms/tok", "gateway CPU ms/tok",
        ),
        (
            (
                row["model"], row["host"], row["attention"], row["streams"], f"{row['bare']:.1f}",
                f"{row['through']:.1f}", f"**{row['ratio']:.3f}**",
                f"{row['least']:.2f} to {row['most']:.2f}",
                f"{row['bare_first_ms']:.1f}", f"{row['first_ms']:.1f}", f"{row['neuron_cpu_ms']:.2f}",
                f"{row['gateway_cpu_ms']:.2f}",
            )
            for row in rows
        ),
    )  # fmt: skip
    return [*lines, "\nThrough: gateway and neuron. Bare: exllamav2's own loop, same configuration."]


def _first(rows: Sequence[Row]) -> list[str]:
    return _table(
        ("model", "model's host", "bare ms", "through ms", "added ms"),
        (
            (row["model"], row["host"], *(f"{row[key]:.1f}" for key in ("bare_ms", "through_ms", "added_ms")))
            for row in rows
        ),
    )


def _reuse(rows: Sequence[Row]) -> list[str]:
    return _table(
        ("model", "tokens read at first", "read again", "first word ms", "again ms", "times as fast"),
        (
            (
                row["model"], f"{row['tokens']:.0f}", f"{row['left']:.0f}", f"{row['cold_ms']:.1f}",
                f"{row['warm_ms']:.1f}", f"{row['times']:.1f}",
            )
            for row in rows
        ),
    )  # fmt: skip


def _memory(rows: Sequence[Row]) -> list[str]:
    lines = _table(
        (
            "model", "promised MiB", "measured MiB", "promise is off", "weights", "cache",
            "overhead promised", "overhead", "driver's view", "load s", "unload s", "returned MiB",
            "left", "kept",
        ),
        (
            (
                row["model"], _mib(row["promised"]), _mib(row["measured"]), f"**{row['off']:+.1%}**",
                _mib(row["weights"]), _mib(row["cache"]), _mib(row["promised_overhead"]),
                _mib(row["overhead"]), _mib(row["driver"]), f"{row['load_s']:.2f}", f"{row['unload_s']:.2f}",
                _mib(row["returned"]), _mib(row["left"]), _mib(row["kept"]),
            )
            for row in rows
        ),
    )  # fmt: skip
    told = (
        "\nThe first load of a process also makes what the process keeps. Left and kept: what torch has "
        "given out, and holds, after the unload beyond before the load."
    )
    return [*lines, told]


def _cancel(rows: Sequence[Row]) -> list[str]:
    keys = ("writing_ms", "writing_most_ms", "reading_ms", "reading_most_ms")
    return _table(
        ("model", "while it writes, ms", "at most", "while it reads a prompt, ms", "at most"),
        ((row["model"], *(f"{row[key]:.1f}" for key in keys)) for row in rows),
    )


def _unloads(rows: Sequence[Row]) -> list[str]:
    heads = ("given out", "held", "driver's view")
    return _table(
        ("cycle", *(f"loaded, {each}" for each in heads), *(f"unloaded, {each}" for each in heads)),
        ((row["cycle"], *map(_mib, row["loaded"]), *map(_mib, row["free"])) for row in rows),
    )


def _attention(rows: Sequence[Row]) -> list[str]:
    ways = sorted({row["way"] for row in rows})
    worst = ((way, [row["off"] for row in rows if row["way"] == way]) for way in ways)
    return _table(
        ("way", "cases", "furthest from plain arithmetic"),
        ((way, len(offs), f"{max(offs):.2e}") for way, offs in worst),
    )


def _plain(rows: Sequence[Row]) -> list[str]:
    """As the rows are."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    return _table(heads, ([row.get(key, "") for key in heads] for row in rows))


def _mib(count: float) -> str:
    return f"{count / MIB:.1f}"


_TABLES: Final[tuple[tuple[str, str, Callable[[Sequence[Row]], list[str]]], ...]] = (
    ("Parity", "parity", _parity),
    ("Faults", "faults", _faults),
    ("Speed", "speed", _speed),
    ("First word after an idle moment", "first", _first),
    ("A prompt that was read before", "reuse", _reuse),
    ("Memory, load and unload", "memory", _memory),
    ("Loads and unloads, one after another", "unloads", _unloads),
    ("Time to cancel", "cancel", _cancel),
    ("Attention", "attention", _attention),
    ("Attention, timed", "attention_times", _plain),
)
