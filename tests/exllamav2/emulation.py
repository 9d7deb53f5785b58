"""The real exllamav2, its Python whole, on CPU tensors: what it computes on a card is done by torch.

For half-precision weights only. Replaced are the device, the reading of tensors, both norms and
the rotary embedding; the loader, the dynamic generator, its page table and the sampler are the
library's own. The compiled extension is used where it is importable, else a stub stands in.
"""

import contextlib
import functools
import importlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STUB = Path(__file__).parent / "stub"
SWITCH = "CORTEX_TEST_TORCH"


def why_not() -> str | None:
    """Why nothing can be emulated here."""
    if os.environ.get(SWITCH) != "1":
        return f"opt-in: set {SWITCH}=1 where torch, exllamav2 and tokenizers are installed"
    missing = [
        name for name in ("torch", "exllamav2", "tokenizers") if importlib.util.find_spec(name) is None
    ]
    return f"not installed: {', '.join(missing)}" if missing else None


def opt_in() -> None:
    """For the head of a test module: skips it as a whole, with the reason."""
    if (reason := why_not()) is not None:
        pytest.skip(reason, allow_module_level=True)
    _interpret_kernels()


@functools.cache
def _interpret_kernels() -> None:
    """Triton's own functions are made at its first import, for an interpreter or a GPU; and whoever
    imports transformers first would settle it for the whole process."""
    if importlib.util.find_spec("triton") is not None and not Path("/proc/driver/nvidia").exists():
        with pytest.MonkeyPatch.context() as patch, _quiet():
            patch.setenv("TRITON_INTERPRET", "1")
            importlib.import_module("triton.language")


@functools.cache
def emulated() -> Any:
    """The library as `runtime.Library` has it."""
    from cortex.harness.exllamav2.runtime import Library

    if importlib.util.find_spec("exllamav2_ext") is None:
        sys.path.insert(0, str(STUB))
    with _quiet():
        import exllamav2
        import exllamav2.generator as generator
        import torch
    _on_cpu(torch)
    return Library(torch, exllamav2, generator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of foreign imports are none of ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _on_cpu(torch: Any) -> None:
    import exllamav2.attn as attn
    import exllamav2.attn_params as attn_params
    import exllamav2.compat as compat
    import exllamav2.device as device
    import exllamav2.embedding as embedding
    import exllamav2.generator.dynamic as dynamic
    import exllamav2.headnorm as headnorm
    import exllamav2.linear as linear
    import exllamav2.lora as lora
    import exllamav2.model as model
    import exllamav2.module as module
    import exllamav2.rmsnorm as rmsnorm
    import exllamav2.stloader as stloader

    for each in (module, model, device, lora):
        if hasattr(each, "_torch_device"):
            each._torch_device = lambda index: "cpu"
    for each in (compat, module, model, attn, attn_params, linear, rmsnorm, embedding, lora):
        if hasattr(each, "safe_move_tensor"):
            each.safe_move_tensor = lambda tensor, device, non_blocking=False: tensor
    dynamic.cuda_sync_active = lambda: None
    model.ExLlamaV2DeviceContext = _context(torch, device)
    stloader.STFile.get_tensor = _get_tensor
    ext = _Extension(attn.ext_c, torch)
    for each in (rmsnorm, headnorm, attn, dynamic):
        each.ext_c = ext


def _context(torch: Any, device: Any) -> type:
    class Context:
        """A device context without a stream."""

        def __init__(self, model: Any, device_idx: int, scratch_bytes: int, archparams: Any = None) -> None:
            self.model, self.device_idx, self.ready = model, device_idx, False
            self.scratch = None
            self.archparams = archparams or model.config.arch.lm

        def prepare(self, scratch: bool) -> None:
            device.ExLlamaV2DeviceContext.prepare_sincos(self)
            self.ready = True

        def drop(self) -> None:
            self.sin = self.cos = None
            self.ready = False

        free = drop

        def begin_scratch_alloc(self) -> None:
            pass

        def get_scratch_slice(self, size_bytes: int) -> Any:
            return torch.empty((size_bytes // 2,), dtype=torch.half)

    return Context


def _get_tensor(self: Any, key: str, device: Any, out_dtype: Any = None) -> Any:
    from safetensors import safe_open

    with safe_open(self.filename, "pt") as file:
        tensor = file.get_tensor(key)
    return tensor.to(out_dtype) if out_dtype else tensor


class _Extension:
    """The extension with its device functions done by torch."""

    def __init__(self, ext: Any, torch: Any) -> None:
        self._ext, self._torch = ext, torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ext, name)

    def rms_norm(self, x: Any, weight: Any, out: Any, epsilon: float) -> None:
        out.copy_(self._rms(x.float(), epsilon) * weight.float())

    def head_norm(self, x: Any, weight: Any, bias: Any, out: Any, epsilon: float, rms: bool) -> None:
        wide = x.float()
        if not rms:
            wide = wide - wide.mean(-1, keepdim=True)
        normed = self._rms(wide, epsilon) * weight.float()
        out.copy_(normed if bias.is_meta else normed + bias.float())

    def rope_(self, x, sin, cos, past, heads, length, offsets, neox) -> None:
        assert neox, "only rotation by halves is emulated"
        torch, batch = self._torch, x.shape[0]
        steps = x.numel() // (batch * heads * length)
        seen = x.view(batch, steps, heads, length)
        base = torch.zeros(batch, dtype=torch.long) if offsets.is_meta else offsets.long()
        base = base if past == -1 else base + past
        at = base[:, None] + torch.arange(steps)[None]
        sines, cosines = (table[0, 0][at][:, :, None, :].float() for table in (sin, cos))
        half, wide = length // 2, seen.float()
        turned = torch.cat((-wide[..., half:], wide[..., :half]), -1)
        seen.copy_((wide * cosines + turned * sines).half())

    def cache_rotate(self, cache: Any, order: Any, temp: Any) -> None:
        """Pages change places along `order`, the first one by way of `temp`."""
        places, held = order.tolist(), temp.view(-1)
        held.copy_(cache[places[0]])
        for one, next_ in itertools.pairwise(places):
            cache[one].copy_(cache[next_])
        cache[places[-1]].copy_(held)

    def _rms(self, wide: Any, epsilon: float) -> Any:
        return wide * self._torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)


@functools.cache
def emulated_runtime() -> Any:
    """The library behind a runtime whose devices are this process's own memory."""
    from cortex.harness.exllamav2.runtime import Runtime

    class OnCpu(Runtime):
        def library(self) -> Any:
            return emulated()

        def hold(self, index: int) -> None:
            pass

        def capability(self, index: int) -> tuple[int, int] | None:
            return None

        def held_bytes(self, indexes: Any) -> int:
            return _tensor_bytes(emulated().torch)

        def finish(self, indexes: Any) -> None:
            pass

        def give_back(self) -> None:
            import gc

            gc.collect()

    return OnCpu()


def _tensor_bytes(torch: Any) -> int:
    """Bytes behind all tensors that are alive."""
    import gc

    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter) and not each.is_meta
    }
    return sum(storages.values())
