"""Everything that a card can show, part by part, within a time that is given; one report at the end.

    python -m tests.gpu.whole --work FOLDER [--seconds 560] [--only PART ...]

A part that fails stops no other. Each has a limit of its own, and what there is no time for is cut;
the report says so. Ends with 0 when every part ran and passed. `run.sh` brings what this needs.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Final

from tests.exllamav2 import place
from tests.gpu import report
from tests.gpu.record import VARIABLE, read
from tests.gpu.report import Outcome

ROOT: Final = Path(__file__).resolve().parents[2]
REPORTS: Final = Path(__file__).with_name("reports")
EXTENSION: Final = "extension.tar.xz"
LEAST_S: Final = 10.0
# For the report, and for a pool of torch's that wants to end.
RESERVE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """One command of Python's. `beside`: it minds no company and needs no extension, which may be compiled
    meanwhile. `workers`: of pytest, where xdist is installed. Without a card `rehearsed` is run instead;
    where that is empty, nothing."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    beside: bool = False
    workers: int = 0
    rehearsed: tuple[str, ...] = ()

    def command(self, *, card: bool) -> list[str]:
        arguments = self.arguments if card else self.rehearsed
        if arguments[0] == "pytest":
            many = ["-n", str(self.workers)] if card and self.workers and util.find_spec("xdist") else []
            # Warnings of the machine's own packages are no faults of ours.
            arguments = (*arguments, "-q", "-W", "default", *many)
        return [sys.executable, "-m", *arguments]


def parts(models: Path) -> tuple[Part, ...]:
    """In the order of what matters most."""
    shapes, speed, lives = "tests.gpu.shapes", "tests.gpu.bench_speed", "tests.gpu.bench_lifetimes"
    small, large, tiny = ((str(models), "--shapes", name) for name in ("0.6B", "8B", "tiny"))
    quick = (*tiny, "--streams", "1", "2", "--tokens", "6", "--rounds", "1", "--prompt", "300")
    attention, parity, device = (
        ("pytest", f"tests/gpu/test_{name}_gpu.py") for name in ("attention", "parity", "device")
    )
    contract = ("pytest", "tests/contract/test_harness.py", "tests/contract/test_hosts.py", "-k")
    some = "llama-unpaged-256 or stranger or key"
    return (
        Part("attention", attention, 120, beside=True),
        Part("models", (shapes, str(models), "0.6B", "8B"), 120, True, 0, (shapes, str(models), "tiny")),
        Part("parity", parity, 200, False, 6, (*parity, "-k", some)),
        Part("device", device, 120, rehearsed=device),
        Part("contract", (*contract, "exllamav2"), 150, False, 6, (*contract, "exllamav2-thread and counts")),
        Part("speed, 0.6B", (speed, *small), 90, rehearsed=(speed, *quick)),
        Part("lives, 0.6B", (lives, *small), 60, rehearsed=(lives, *tiny)),
        Part("attention, timed", ("tests.gpu.bench_attention",), 60),
        Part("speed, 8B", (speed, *large, "--rounds", "3"), 120),
        Part("lives, 8B", (lives, *large, "--caches", "fp16", "q4"), 110),
        Part("speed, 0.6B, apart", (speed, *small, "--rounds", "3", "--isolation", "process"), 90,
             rehearsed=(speed, *quick, "--isolation", "process")),
    )  # fmt: skip


@dataclass(slots=True)
class Run:
    """One run of all parts. `log` has what they printed; `save` is called after each of them, since
    nobody knows who ends the whole."""

    work: Path
    ends: float
    card: bool
    log: Path
    save: Callable[[list[Outcome]], None]
    least_s: float = LEAST_S  # of time left, to begin a part
    outcomes: list[Outcome] = field(default_factory=list)
    compiled: bool = False  # the extension, by this run
    _build: "subprocess.Popen[bytes] | None" = None
    _built_s: float = 0.0

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    def go(self, chosen: Sequence[Part]) -> None:
        """All of them, the extension first; what does not need it comes while it is compiled."""
        self._begin_build()
        for part in (each for each in chosen if each.beside):
            self._go(part)
        self._end_build()
        for part in (each for each in chosen if not each.beside):
            self._go(part)

    def _go(self, part: Part) -> None:
        limit = min(part.limit_s, self.left_s)
        if not (self.card or part.rehearsed):
            self._tell(Outcome(part.name, "cut", 0.0, "a rehearsal: this needs a card"))
            return
        if limit < self.least_s:
            self._tell(Outcome(part.name, "cut", 0.0, "no time was left"))
            return
        began = time.monotonic()
        code, said = self._run(part.command(card=self.card), limit)
        took = time.monotonic() - began
        if code is None:
            short = "its own limit" if limit == part.limit_s else "the time of the whole"
            self._tell(Outcome(part.name, "cut", took, f"ended after {limit:.0f} s, {short}"))
        else:
            self._tell(Outcome(part.name, "failed" if code else "passed", took, _told(said)))

    def _run(self, command: Sequence[str], limit_s: float) -> tuple[int | None, str]:
        """Its exit code, None where it was ended; and what it printed."""
        with self.log.open("ab") as log:
            log.write(f"\n\n$ {' '.join(command)}\n".encode())
            log.flush()
            began = log.tell()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=self._environment(), start_new_session=True
            )
            try:
                code: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(process.pid, 9)
                process.wait()
        return code, self.log.read_bytes()[began:].decode(errors="replace")

    def _environment(self) -> dict[str, str]:
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
        return {
            **os.environ,
            "PYTHONPATH": ":".join(dict.fromkeys(paths)),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            VARIABLE: str(self.work / "rows.jsonl"),
        }

    def _begin_build(self) -> None:
        if not self.card:
            self._tell(Outcome("build", "cut", 0.0, "a rehearsal: a stub stands in for the extension"))
            return
        # All cores: what a fresh machine says of its free memory is too little.
        command = [sys.executable, "-m", "cortex", "engines", "build", "exllamav2"]
        command += ["--jobs", str(os.cpu_count() or 1)]
        with self.log.open("ab") as log:
            log.write(f"\n\n$ {' '.join(command)}\n".encode())
            log.flush()
            self._built_s = time.monotonic()
            self._build = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=self._environment())

    def _end_build(self) -> None:
        if self._build is None:
            return
        try:
            code = self._build.wait(max(LEAST_S, self.left_s))
        except subprocess.TimeoutExpired:
            self._build.terminate()  # it ends its compilers, and keeps nothing
            self._tell(Outcome("build", "cut", time.monotonic() - self._built_s, "ended: no time was left"))
            return
        took = time.monotonic() - self._built_s
        self.compiled = not code and took > LEAST_S
        what = f"compiled, {os.cpu_count()} at a time" if self.compiled else "found in the cache"
        self._tell(Outcome("build", "failed" if code else "passed", took, "see the log" if code else what))

    def _tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        print(f"{outcome.name}: {outcome.state}, {outcome.took_s:.0f} s; {outcome.what}", flush=True)
        self.save(self.outcomes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="models and the extension's cache; large")
    parser.add_argument("--out", type=Path, help="where report, log and extension go; else $OUT, else work")
    parser.add_argument("--seconds", type=float, default=560.0, help="for everything")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts")
    parser.add_argument("--keep", action="store_true", help="put the report into tests/gpu/reports, too")
    said = parser.parse_args(arguments)
    ends = time.monotonic() + said.seconds - RESERVE_S
    out = said.out or Path(os.environ.get("OUT") or said.work)
    out.mkdir(parents=True, exist_ok=True)
    (said.work / "rows.jsonl").unlink(missing_ok=True)
    if (reason := place.needs_card()) is not None and not _will_build(reason):
        print(f"nothing can be shown here: {reason}")
        return 2
    card, found = not place.rehearsing(), versions()

    def save(outcomes: list[Outcome]) -> None:
        rows = read(said.work / "rows.jsonl")
        text = report.written(rows, outcomes, found, card=card, seconds=said.seconds)
        (out / "report.md").write_text(text, encoding="utf-8")

    run = Run(said.work, ends, card, out / "log.txt", save)
    run.go([each for each in parts(said.work / "models") if said.only is None or each.name in said.only])
    name = f"{report.card_of(card=card)}-{time.strftime('%Y-%m-%d')}.md"
    if said.keep:
        shutil.copy(out / "report.md", REPORTS / name)
    if run.compiled:
        _pack(out)
    print(f"\n{out / 'report.md'} (as tests/gpu/reports/{name})")
    return int(any(each.state == "failed" or (run.card and each.state == "cut") for each in run.outcomes))


def versions() -> Mapping[str, str]:
    """Of what the figures depend on."""
    names = ("torch", "triton", "exllamav2", "transformers", "tokenizers", "llguidance", "flash-attn", "trio")
    found = {"cortex": _commit(), "Python": platform.python_version(), "cores": str(os.cpu_count())}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _will_build(reason: str) -> bool:
    """The extension is all that is missing, and it is what comes first."""
    return "extension" in reason


def _commit() -> str:
    try:
        told = subprocess.run(
            ["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def _told(said: str) -> str:
    """The last line that says how it went."""
    lines = [line.strip("= ") for line in said.splitlines() if line.strip()]
    counted = [line for line in lines if re.search(r"\d+ (passed|failed|skipped|error)", line)]
    missed = [line for line in lines if line.startswith("missed: ")]
    return "; ".join(missed) or (counted or lines or ["nothing was said"])[-1][:300]


def _pack(out: Path) -> None:
    """The compiled extension, for the next machine: put it into tests/gpu/.carried."""
    cache = Path(os.environ.get("CACHE_DIRECTORY", ""))
    if os.environ.get("CACHE_DIRECTORY") and cache.is_dir() and any(cache.iterdir()):
        with tarfile.open(out / EXTENSION, "w:xz", preset=2) as tar:
            tar.add(cache, ".")


if __name__ == "__main__":
    sys.exit(main())
