"""Whether llama.cpp can run here, whether a file is for it, and bringing a model in.

The constructor of the engine holds Python's lock from its first to its last byte. So the
file is read through before, without the lock and with progress, and is in the page cache
when the engine maps it. A load that fails leaves nothing: no folder, no thread, no memory.
"""

import importlib.util
import os
import platform
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from cortex.errors import LoadFailed, Unfit
from cortex.harness.base import Apart, EngineFacts, LoadOrder, Memory, Preflight, Progress, Unavailable
from cortex.harness.llamacpp import asking, embedding
from cortex.harness.llamacpp.allocator import settle, trim
from cortex.harness.llamacpp.embedding import LlamaCppEmbedder
from cortex.harness.llamacpp.engine import Complete, LlamaCppEngine
from cortex.harness.llamacpp.listener import Listener
from cortex.harness.llamacpp.vocabulary import LlamaCppVocabulary
from cortex.weights import ENCODERS, GgufHeader, footprint, read_gguf, templates_of

CONTEXT_STEP: Final = 256  # the engine rounds a sequence's context up to this
READ_BYTES: Final = 8 * 2**20  # some milliseconds between two reports of progress
PROMPT_CACHE_LIMIT: Final = 512 * 2**20  # the engine's own default is 8 GiB
# The constructor holds Python's lock for about a second a GiB: up to here nobody notices.
APART_BYTES: Final = 64 * 2**20
DEFAULT_BATCH: Final = 256  # a batch in flight cannot be cancelled: bigger is later, not faster
_OPTIONS: Final = frozenset({"batch", "mmap", "pooling", "threads"})
_GGML_CACHE: Final = (("fp16", "F16"), ("q8", "Q8_0"), ("q4", "Q4_0"))
_NEEDED_FLAGS: Final = frozenset({"avx2", "fma", "f16c"})


class LlamaCppHarness:
    """GGUF on the CPU. `alone` says that one model is all that this process will ever load: what
    the process grows by is then the model's, at any time."""

    def __init__(
        self, cpu_flags: Callable[[], frozenset[str] | None] | None = None, *, alone: bool = False
    ) -> None:
        self.name = "llamacpp"
        self.apart: Apart | None = Apart("cortex.harness.llamacpp:in_child", APART_BYTES)
        self._alone = alone
        self._cpu_flags = cpu_flags or _cpu_flags

    @property
    def version(self) -> str | None:
        """The binding's version; None when it is not installed."""
        try:
            return metadata.version("xllamacpp")
        except metadata.PackageNotFoundError:
            return None

    @property
    def vocabulary(self) -> LlamaCppVocabulary:
        return LlamaCppVocabulary(self)

    def release(self) -> None:
        """Each unload does so, too; this is for what came free since."""
        trim()

    def unavailable(self) -> Unavailable | None:
        # The binding is compiled for these instructions: without them it dies at its first one.
        flags = self._cpu_flags()
        if flags is not None and (missing := _NEEDED_FLAGS - flags):
            what = f"the CPU lacks {', '.join(sorted(missing))}, which the llama.cpp binding is compiled for"
            return Unavailable("unsupported_cpu", what)
        if importlib.util.find_spec("xllamacpp") is None:
            what = "the package xllamacpp is not installed"
            return Unavailable("not_installed", what, "pip install xllamacpp")
        try:
            import xllamacpp  # noqa: F401, PLC0415
        except ImportError as error:
            remedy = "install libgomp1 (Debian) or libgomp (Fedora)" if "libgomp" in str(error) else ""
            return Unavailable("import_failed", f"xllamacpp cannot be imported: {error}", remedy)
        return None

    def preflight(self, order: LoadOrder) -> Preflight:
        header = read_gguf(order.path)
        _check(order, header)
        context, batch = _granted(order.context, header), int(order.options.get("batch", DEFAULT_BATCH))
        pooling = embedding.pooling_of(order, header)
        if pooling is not None:
            context = embedding.context_of(context, pooling, header)
            batch = embedding.batch_of(context, batch, pooling, header)
        weights, cache, overhead = footprint(header, context, order.slots, order.cache, batch)
        promised = Preflight(
            weights_bytes=weights,
            cache_bytes=cache,
            overhead_bytes=overhead + _prompt_cache_mib(cache) * 2**20,
            context=context,
            trained_context=header.context_length,
            architecture=header.architecture,
            template=None,
            bos=header.bos,
            eos=header.eos,
            adds_bos=header.adds_bos,
            embeds=pooling is not None,
        )
        return promised if promised.embeds else _with_templates(promised, header)

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> LlamaCppEngine:
        promised, header = self.preflight(order), read_gguf(order.path)
        _read_through(order, header, progress)
        settle()
        listener = Listener()
        try:
            before = _resident_bytes()
            server = _construct(order, promised, header, listener)
            complete: Complete = server.handle_completions
            wide = 0
            if promised.embeds:
                complete = embedding.completes(server)
                wide = embedding.width(order, complete)
            else:
                _warm_up(order, server)
            memory = _memory(promised, _resident_bytes() - before)
            if not listener.tokenise("z"):
                raise LoadFailed(f"{order.model}: the vocabulary of {order.path} has no tokens for letters")
            if progress(header.file_bytes, header.file_bytes):
                raise LoadFailed(f"{order.model}: the load was given up")
            facts = EngineFacts(memory, promised.context, order.slots, writes=not wide)
            facts = replace(facts, embeds=promised.embeds, width=wide)
            if header.architecture in ENCODERS:
                facts = replace(facts, kv_tokens=0)  # they keep nothing of what they read
            made = LlamaCppEmbedder if promised.embeds else LlamaCppEngine
            return made(
                complete,
                listener,
                header,
                facts,
                ring=ring,
                measure=lambda: _memory(promised, _resident_bytes() - before) if self._alone else memory,
            )
        except BaseException as error:
            # The error must not keep the engine's memory alive through its frames.
            server = complete = None  # type: ignore[assignment]
            traceback.clear_frames(error.__traceback__)
            listener.close()
            trim()
            raise


def in_child() -> LlamaCppHarness:
    """The one of a process that loads one model."""
    return LlamaCppHarness(alone=True)


def vocabulary_in_child() -> LlamaCppVocabulary:
    """The one of a process that tokenises for one model."""
    return LlamaCppHarness(alone=True).vocabulary


def _with_templates(promised: Preflight, header: GgufHeader) -> Preflight:
    beside = templates_of(header.path)
    return replace(
        promised,
        template=beside.plain if beside.found else header.chat_template,
        tool_template=beside.tool_use if beside.found else header.tool_template,
    )


def _memory(promised: Preflight, grown: int) -> Memory:
    """Resident memory is what is touched so far; the header's figures are what will be."""
    told = promised.weights_bytes + promised.cache_bytes
    overhead = max(promised.overhead_bytes, grown - told)
    return Memory(promised.weights_bytes, promised.cache_bytes, overhead)


def _check(order: LoadOrder, header: GgufHeader) -> None:
    unknown = set(order.options) - _OPTIONS
    if unknown:
        raise Unfit(f"{order.model}: llamacpp knows no option {', '.join(sorted(unknown))}")
    if order.context < 1 or order.slots < 1:
        raise Unfit(f"{order.model}: context = {order.context} and slots = {order.slots} must be positive")
    if order.cache not in dict(_GGML_CACHE):
        raise Unfit(f"{order.model}: cache = '{order.cache}' is not for llama.cpp; choose fp16, q8 or q4")
    caches = header.architecture not in ENCODERS
    if caches and order.cache != "fp16" and (header.key_length % 32 or header.value_length % 32):
        raise Unfit(
            f"{order.model}: heads of {header.key_length} cannot be cached as {order.cache}; choose fp16"
        )


def _granted(context: int, header: GgufHeader) -> int:
    """Rounded up as the engine does, and no more than the model was trained for."""
    return min(-(-context // CONTEXT_STEP) * CONTEXT_STEP, header.context_length)


def _prompt_cache_mib(cache_bytes: int) -> int:
    """Memory for the prompts of idle slots: as much as the slots have, within a limit."""
    return max(1, min(cache_bytes, PROMPT_CACHE_LIMIT) // 2**20)


def _read_through(order: LoadOrder, header: GgufHeader, progress: Progress) -> None:
    buffer, done, total = bytearray(READ_BYTES), 0, header.file_bytes
    try:
        for path in header.files:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    done += count
                    if progress(min(done, total), total):
                        raise LoadFailed(f"{order.model}: the load was given up")
    except OSError as error:
        raise LoadFailed(f"{order.path}: cannot be read: {error}") from error


def parameters(order: LoadOrder, promised: Preflight, listener: Listener) -> Any:  # noqa: ANN401 - the binding is untyped
    """The binding's own parameters, every one that matters set."""
    import xllamacpp  # noqa: PLC0415

    threads = int(order.options.get("threads") or default_threads())
    batch = int(order.options.get("batch", DEFAULT_BATCH))
    cache_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{dict(_GGML_CACHE)[order.cache]}")
    load_mode = "MMAP" if order.options.get("mmap", True) else "NONE"
    wanted: dict[str, object] = {
        "n_parallel": order.slots,
        # A total: each slot has its fixed share, so that no job can take another's room.
        "n_ctx": order.slots * -(-promised.context // CONTEXT_STEP) * CONTEXT_STEP,
        "kv_unified": False,
        "ctx_shift": False,
        "n_batch": batch,
        "n_ubatch": batch,
        "cache_type_k": cache_type,
        "cache_type_v": cache_type,
        "cache_ram_mib": _prompt_cache_mib(promised.cache_bytes),
        "load_mode": getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{load_mode}"),
        "n_gpu_layers": 0,
        "fit_params": False,
        "warmup": False,
        "verbosity": 0,
        # A broken template in the file would fail the load, though it is never used here.
        "chat_template": "{{ messages[0].content }}",
        "hostnames": [listener.socket],
        "api_keys": [listener.key],
        "n_threads_http": 1,
        "endpoint_slots": False,
        "ui": False,
    }
    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(order.path)
    chosen.cpuparams.n_threads = threads
    chosen.cpuparams_batch.n_threads = threads
    for name, value in wanted.items():
        setattr(chosen, name, value)
    return chosen


def _construct(order: LoadOrder, promised: Preflight, header: GgufHeader, listener: Listener) -> Any:  # noqa: ANN401
    import xllamacpp  # noqa: PLC0415

    try:
        chosen = parameters(order, promised, listener)
        if promised.embeds:
            embedding.choose(chosen, order, promised, header, CONTEXT_STEP)
        return xllamacpp.Server(chosen)
    except RuntimeError as error:
        what = f"architecture {header.architecture}, {header.quant}, vocabulary {header.tokeniser}"
        raise LoadFailed(
            f"{order.model}: llama.cpp {metadata.version('xllamacpp')} refuses {order.path} ({what}) and "
            "does not say why. Its header is sound: compare its checksum, or look for a newer cortex"
        ) from error


def _warm_up(order: LoadOrder, server: Any) -> None:  # noqa: ANN401
    """One token, to touch the weights and to see that the engine answers.

    It is also what makes an engine safe to free: one that is freed before its loop has
    run waits for that loop for ever, with Python's lock held.
    """
    chunks: list[bytes] = []
    server.handle_completions(asking.encode(asking.trial()), chunks.append)
    fault = next((chunk.error for chunk in map(asking.read, chunks) if chunk.error is not None), None)
    if fault is not None:
        raise LoadFailed(f"{order.model}: llama.cpp loaded {order.path} and cannot run it: {fault.message}")


def default_threads() -> int:
    """All cores that we may use but one, which the loop and the call threads need."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def _cpu_flags() -> frozenset[str] | None:
    """What the CPU can do; None where that is not known (not Linux, not x86)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith("flags")), None)
    return None if flags is None else frozenset(flags.split(":", 1)[1].split())


def _resident_bytes() -> int:
    """Physical memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
