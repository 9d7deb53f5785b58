"""What an engine raises is judged by its name and its words (faults.md rows 68, 69, 76, 78)."""

import pytest

from cortex.errors import BadAsk, DeviceLost, EngineFailed, OutOfMemory
from cortex.harness.severity import BORNE_S, Strikes, severity


class OutOfMemoryError(RuntimeError):
    """Called as torch's is, which is not installed here."""


class AcceleratorError(RuntimeError):
    """Called as torch's is."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemory("no room for the batch"),
        OutOfMemoryError("Tried to allocate 2.00 GiB"),
        AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Insufficient VRAM for model and cache"),
        AssertionError("Insufficient space in device allocation"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_running_out_of_memory_is_no_loss_of_the_device(error: Exception) -> None:
    """Rows 68 and 69."""
    assert severity(error) == "memory"


@pytest.mark.parametrize(
    "error",
    [
        DeviceLost("gone"),
        AcceleratorError("whatever it says"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: misaligned address"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("GPU has fallen off the bus"),
        OSError("CUDA-capable device(s) is/are busy or cudaErrorDevicesUnavailable"),
        ValueError("device-side assert triggered"),
    ],
)
def test_a_lost_context_is_sticky_whatever_class_says_it(error: Exception) -> None:
    """Rows 76 and 78."""
    assert severity(error) == "sticky"


@pytest.mark.parametrize(
    "error",
    [
        BadAsk("no"),
        EngineFailed("the engine knows"),
        ValueError("n must be positive"),
        TypeError(),
        KeyError("x"),
        IndexError(),
        AssertionError(),
        NotImplementedError(),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("expected scalar type Half but found Float"),
        AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("CUDA error: invalid configuration argument"),
    ],
)
def test_an_argument_that_does_not_fit_is_the_jobs_own(error: Exception) -> None:
    assert severity(error) == "job"


@pytest.mark.parametrize("error", [RuntimeError("oops"), ZeroDivisionError(), OSError(5, "I/O"), Exception()])
def test_what_nobody_knows_is_unknown(error: Exception) -> None:
    assert severity(error) == "unknown"


def test_the_cause_counts_and_the_sticky_one_most() -> None:
    outer = RuntimeError("a call thread failed")
    outer.__cause__ = MemoryError()
    assert severity(outer) == "memory"
    outer = ValueError("bad")
    outer.__cause__ = RuntimeError("CUDA error: launch failure")
    assert severity(outer) == "sticky"
    outer.__cause__.__cause__ = outer  # a ring, as frameworks make them
    assert severity(outer) == "sticky"


def test_the_third_unknown_error_in_ten_minutes_is_one_too_many() -> None:
    strikes = Strikes()
    assert [strikes.strike(at) for at in (0.0, 1.0, 2.0, 3.0)] == [False, False, True, True]
    later = Strikes()
    assert [later.strike(at) for at in (0.0, 1.0, BORNE_S, BORNE_S + 1)] == [False, False, False, False]
    assert later.strike(BORNE_S + 2)
