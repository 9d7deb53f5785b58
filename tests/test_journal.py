"""What a device's thread was at outlives the process (faults.md row 74)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cortex.harness import journal as journal_module
from cortex.harness.journal import MOST_REQUESTS, Blamed, Journal, read

A = Blamed("a", "1234", ("r-1", "r-2"))

DIES = """
import os, sys
from pathlib import Path
from cortex.harness.journal import Blamed, Journal
journal = Journal(Path(sys.argv[1]), "cpu", "boot-1")
journal.write("idle", [])
journal.write(sys.argv[2], [Blamed("a", "1234", ("r-1", "r-2"))])
if sys.argv[3] == "leave":
    journal.leave()
    journal.write("turn", [Blamed("a", "1234", ("r-9",))])
os.kill(os.getpid(), 9) if sys.argv[3] != "abort" else os.abort()
"""


def die(path: Path, phase: str, how: str) -> int:
    return subprocess.run([sys.executable, "-c", DIES, path, phase, how], check=False, timeout=30).returncode


@pytest.mark.parametrize(("how", "number"), [("abort", signal.SIGABRT), ("kill", signal.SIGKILL)])
def test_who_was_served_when_the_process_died_is_known_afterwards(
    tmp_path: Path, how: str, number: int
) -> None:
    path = tmp_path / "cpu.crash"
    assert die(path, "turn", how) == -number
    entry = read(path)
    assert entry is not None
    assert (entry.boot_id, entry.device, entry.phase, entry.blamed) == ("boot-1", "cpu", "turn", (A,))
    assert entry.crashed
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_idle_process_and_one_that_was_told_to_end_did_not_crash(tmp_path: Path) -> None:
    path = tmp_path / "cpu.crash"
    die(path, "idle", "kill")
    assert (read(path) or pytest.fail()).crashed is False
    die(path, "load", "leave")
    entry = read(path)
    assert entry is not None
    assert (entry.phase, entry.leaving, entry.crashed) == ("turn", True, False)


def test_what_another_boot_of_the_host_left_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in the midst of a turn says nothing about the model."""
    path = tmp_path / "cpu.crash"
    Journal(path, "cpu", "b").write("turn", [A])
    assert (read(path) or pytest.fail()).crashed
    monkeypatch.setattr(journal_module, "kernel", lambda: "another")
    assert not (read(path) or pytest.fail()).crashed


def test_an_entry_that_was_being_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "cpu.crash"
    journal = Journal(path, "cpu", "b")
    journal.write("load", [A])
    journal.write("turn", [A])
    data = bytearray(path.read_bytes())
    for start in (0, len(data) // 2):  # whichever half is the newer: the other one stands
        torn = bytearray(data)
        torn[start + 20] ^= 0xFF
        path.write_bytes(torn)
        entry = read(path)
        assert entry is not None
        assert entry.phase in ("load", "turn")
    path.write_bytes(b"\xff" * len(data))
    assert read(path) is None
    path.write_bytes(b"short")
    assert read(path) is None
    assert read(tmp_path / "absent") is None


def test_a_journal_goes_on_after_what_it_finds(tmp_path: Path) -> None:
    """The newest entry is the one that counts, whoever wrote the others."""
    path = tmp_path / "cpu.crash"
    for boot in ("one", "two", "three"):
        journal = Journal(path, "cpu", boot)
        assert (read(path) or pytest.fail()).boot_id == boot
        journal.write("turn", [A])
        assert (read(path) or pytest.fail()).phase == "turn"


def test_more_requests_than_fit_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "cpu.crash"
    many = tuple(f"{number:0128d}" for number in range(MOST_REQUESTS + 36))
    Journal(path, "cpu", "b").write("turn", [A, Blamed("b", "5", many)])
    entry = read(path)
    assert entry is not None
    assert entry.more == 38
    assert sum(len(each.requests) for each in entry.blamed) == MOST_REQUESTS
    assert entry.blamed[0] == A


def test_what_is_said_again_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "cpu.crash"
    journal = Journal(path, "cpu", "b")
    journal.write("turn", [A])
    before = path.read_bytes()
    journal.write("turn", [Blamed("a", "1234", ("r-1", "r-2"))])
    assert path.read_bytes() == before
    assert os.path.getsize(path) == len(before)
