"""Our own kernels, run by Triton's interpreter on CPU tensors, and compiled for the GPUs they serve."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exllamav2.attention_cases import NEAR, SEVERAL, SINGLE, Case, off
from tests.exllamav2.emulation import opt_in

opt_in()
if importlib.util.find_spec("triton") is None:
    pytest.skip("not installed: triton", allow_module_level=True)

import torch  # noqa: E402

INTERPRET = "TRITON_INTERPRET"
if torch.cuda.is_available() and os.environ.get(INTERPRET) != "1":
    # The kernels of a process are interpreted or compiled, all of them.
    pytest.skip(f"tests/gpu runs the kernels here; {INTERPRET}=1 interprets them", allow_module_level=True)

# Read when kernels are made, so before anybody imports them in this process, and when they are run.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv(INTERPRET, "1")
    from cortex.harness.exllamav2 import agreement, kernels
    from cortex.harness.exllamav2.tiled import MOST_SPLITS, Tile, Tiled, splits

COMPILED = Path(__file__).parent / "compiled_kernels.py"
# The least that a block may have of shared memory on capabilities 8.0 to 12.0.
SHARED_BYTES = 99 * 1024

# With many processors keys are split as far as they go, with one they are not.
MANY, ONE = 64, 1


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERPRET, "1")
    assert type(kernels.attend).__name__ == "InterpretedFunction", "kernels were imported before"


@pytest.mark.parametrize("processors", [MANY, ONE])
@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_single_queries_see_their_keys(case: Case, processors: int) -> None:
    assert off(Tiled(processors), case) < NEAR


@pytest.mark.parametrize("case", SEVERAL, ids=str)
def test_prompts_and_guesses_see_no_key_too_many(case: Case) -> None:
    assert off(Tiled(ONE), case) < NEAR
    if case.steps < 10:
        assert off(Tiled(MANY), case) < NEAR


def test_keys_that_do_not_part_evenly_are_all_seen() -> None:
    """16 blocks among 3 programs."""
    assert splits(programs=2, blocks=16, processors=3) == 3
    assert off(Tiled(3), Case((1020,))) < NEAR


def test_the_trials_before_a_load_pass() -> None:
    assert agreement.disagreement(Tiled(4), torch.device("cpu")) is None


def test_keys_are_split_as_far_as_the_device_has_room_and_no_split_is_idle() -> None:
    assert splits(programs=8, blocks=128, processors=132) == 32
    assert splits(programs=10_000, blocks=128, processors=132) == 1
    assert splits(programs=1, blocks=4, processors=132) == 4
    assert splits(programs=1, blocks=100_000, processors=132) <= MOST_SPLITS
    for programs in (1, 8, 33, 256):
        for blocks in (1, 4, 7, 31, 129, 2048):
            count = splits(programs, blocks, 132)
            each = -(-blocks // count)
            assert 1 <= count <= blocks
            assert (count - 1) * each < blocks <= count * each


def test_a_tile_holds_as_many_queries_as_there_are_up_to_its_bound() -> None:
    assert Tile.of(4, 128).queries == 16
    assert Tile.of(36, 128).queries == 64
    assert Tile.of(4096, 64).queries == 64
    assert Tile.of(4096, 256).queries == 32
    assert all(256 % Tile.of(1, width).keys == 0 for width in (64, 96, 128, 256)), "a block is of one page"


@pytest.mark.slow
def test_they_compile_for_the_gpus_they_are_made_for_and_fit_their_shared_memory(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", COMPILED, "8.0", "9.0", "12.0"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(tmp_path),
            "PYTHONPATH": os.fspath(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    shared = json.loads(told.stdout)
    assert len(shared) == 3 * 18
    assert max(shared.values()) <= SHARED_BYTES, shared
