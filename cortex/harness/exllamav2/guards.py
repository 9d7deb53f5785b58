"""What is looked at before the library sees a file, and what the load will take.

Nothing here imports torch. A folder that passes is one that the library loads to its end and
computes right: the silent wrong answers and the hangs that it is known for are refused here, by
name, or cured in `configure`. The figures follow from headers.
"""

import importlib.util
from dataclasses import replace
from typing import Final

from cortex.catalogue import PAGE, paged
from cortex.errors import Unfit
from cortex.harness.base import LoadOrder, Preflight
from cortex.harness.exllamav2.adapters import adapter_bytes
from cortex.harness.exllamav2.attention import CHOICES, TRANSIENT_BYTES
from cortex.harness.exllamav2.checkpoint import Checkpoint, read_checkpoint
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.weights import EXL2_CACHE_BYTES, CudaUse, cuda_footprint, defaults_of, templates_of

DRAFTED: Final = 4  # tokens that are guessed ahead; the model looks at one more in a step
DEFAULT_CHUNK: Final = 1024
MOST_CHUNK: Final = 65536
_OPTIONS: Final = frozenset({"attention", "chunk", "speculation"})


def preflight(order: LoadOrder) -> Preflight:
    """What the folder promises. Raises Unfit, naming the file, the fault and the remedy."""
    _check_order(order)
    checkpoint, defaults = read_checkpoint(order.path), defaults_of(order.path)
    vocabulary = Vocabulary.read(order.path)
    context = granted(order, checkpoint)
    checkpoint.rope(context)
    _check_cache(order, checkpoint)
    weights, cache, overhead = cuda_footprint(checkpoint.folder, _use(order, checkpoint, context))
    if order.draft is not None:
        ahead = _draft(order, checkpoint, vocabulary, context)
        weights, cache, overhead = weights + ahead[0], cache + ahead[1], overhead + ahead[2]
    weights += sum(adapter_bytes(path, checkpoint) for path in order.lora)
    beside = templates_of(order.path)
    return Preflight(
        weights_bytes=weights,
        cache_bytes=cache,
        overhead_bytes=overhead,
        context=context,
        trained_context=checkpoint.context,
        architecture=checkpoint.settings.architecture,
        template=beside.plain,
        tool_template=beside.tool_use,
        bos=beside.bos,
        eos=beside.eos,
        adds_bos=vocabulary.adds_bos,
        defaults=defaults,
    )


def granted(order: LoadOrder, checkpoint: Checkpoint) -> int:
    """The context in whole pages, and no more than the model can have."""
    return min(paged(order.context), checkpoint.context)


def cache_tokens(order: LoadOrder) -> int:
    """How many tokens the KV cache has room for: what the slots hold, and a page more for each, for
    what is guessed ahead and for its last tokens."""
    held = order.slots * paged(order.context) if order.kv_tokens is None else paged(order.kv_tokens)
    return held + order.slots * PAGE


def chunk_of(order: LoadOrder) -> int:
    """How many tokens of a prompt are read at once."""
    return int(order.options.get("chunk", DEFAULT_CHUNK))


def draft_order(order: LoadOrder) -> LoadOrder:
    """The load of the order's draft model, of the same context and with a cache as large."""
    if order.draft is None:
        raise ValueError("the order names no draft")
    options = {name: value for name, value in order.options.items() if name != "speculation"}
    return replace(order, path=order.draft, draft=None, lora=(), options=options)


def _speculates(order: LoadOrder) -> bool:
    return order.draft is not None or "speculation" in order.options


def _check_order(order: LoadOrder) -> None:
    model, options = order.model, order.options
    if unknown := set(options) - _OPTIONS:
        raise Unfit(
            f"{model}: exllamav2 knows no option {', '.join(sorted(unknown))}; "
            f"it has {', '.join(sorted(_OPTIONS))}"
        )
    if order.context < 1 or order.slots < 1:
        raise Unfit(f"{model}: context = {order.context} and slots = {order.slots} must be positive")
    if order.cache not in EXL2_CACHE_BYTES:
        raise Unfit(
            f"{model}: cache = '{order.cache}' is not for exllamav2; choose {', '.join(EXL2_CACHE_BYTES)}"
        )
    if order.kv_tokens is not None and order.kv_tokens < order.context:
        raise Unfit(
            f"{model}: cache_tokens = {order.kv_tokens} holds no sequence of context = {order.context}; "
            "raise the one or lower the other"
        )
    if (attention := options.get("attention", "auto")) not in CHOICES:
        raise Unfit(f"{model}: attention = {attention!r} is not known; choose {', '.join(CHOICES)}")
    _check_speculation(order)
    _check_chunk(order)


def _check_speculation(order: LoadOrder) -> None:
    said = order.options.get("speculation", "ngram")
    if said != "ngram":
        raise Unfit(f"{order.model}: speculation = {said!r} is not known; choose 'ngram', or leave it out")
    if order.draft is not None and "speculation" in order.options:
        raise Unfit(f"{order.model}: has a draft and speculation = 'ngram'; choose one of them")
    if _speculates(order) and order.options.get("attention") == "unpaged":
        raise Unfit(
            f"{order.model}: attention = 'unpaged' computes a token at a time; leave out draft or speculation"
        )


def _check_chunk(order: LoadOrder) -> None:
    chunk = order.options.get("chunk", DEFAULT_CHUNK)
    whole = isinstance(chunk, int) and not isinstance(chunk, bool)
    if not whole or not PAGE <= int(chunk) <= MOST_CHUNK or int(chunk) % PAGE:
        raise Unfit(f"{order.model}: chunk = {chunk!r} is no multiple of {PAGE} from {PAGE} to {MOST_CHUNK}")
    if (rows := _rows(order)) > int(chunk):
        raise Unfit(
            f"{order.model}: {order.slots} slots look at {rows} tokens in a step, and buffers are made for "
            f"chunk = {chunk}; raise chunk or lower slots"
        )


def _rows(order: LoadOrder) -> int:
    """Tokens whose logits are computed in one step."""
    return order.slots * (DRAFTED + 1 if _speculates(order) else 1)


def _check_cache(order: LoadOrder, checkpoint: Checkpoint) -> None:
    length = checkpoint.settings.head_length
    if order.cache != "fp16" and length % 32:
        raise Unfit(
            f"{order.path}: heads of {length} cannot be cached as {order.cache}, which goes by blocks of 32; "
            "choose cache = 'fp16'"
        )


def _draft(order: LoadOrder, base: Checkpoint, vocabulary: Vocabulary, context: int) -> tuple[int, int, int]:
    """What the draft model takes. Raises Unfit when it cannot speak for the order's model."""
    ahead = draft_order(order)
    draft, path = read_checkpoint(ahead.path), ahead.path
    draft.rope(context)
    _check_cache(ahead, draft)
    other = Vocabulary.read(path)
    if (other.pieces, other.specials) != (vocabulary.pieces, vocabulary.specials):
        raise Unfit(f"{path}: has another vocabulary than {order.path}; choose a draft of the same family")
    if draft.settings.vocabulary > base.settings.vocabulary:
        raise Unfit(
            f"{path}: may guess {draft.settings.vocabulary} tokens where {order.path} knows "
            f"{base.settings.vocabulary}; choose another draft"
        )
    if draft.context < context:
        raise Unfit(
            f"{path}: was trained for {draft.context} tokens, and {order.model} is to have {context}; "
            "lower its context, or choose another draft"
        )
    return cuda_footprint(draft.folder, _use(ahead, draft, context))


def _use(order: LoadOrder, checkpoint: Checkpoint, context: int) -> CudaUse:
    return CudaUse(
        tokens=cache_tokens(order),
        context=paged(context) + PAGE,
        chunk=chunk_of(order),
        rows=_rows(order),
        cache=order.cache,
        copied=_copied(order, checkpoint, paged(context)),
        devices=max(1, len(order.shares)),
    )


def _copied(order: LoadOrder, checkpoint: Checkpoint, context: int) -> int:
    """Bytes that attention takes for one layer, for a moment."""
    settings, how = checkpoint.settings, order.options.get("attention", "auto")
    if how == "unpaged":
        scores = 3 * settings.heads * chunk_of(order) * context
        return 2 * scores + 4 * settings.heads * settings.head_length * context
    if how in ("flash-attn", "triton") or (how == "auto" and importlib.util.find_spec("flash_attn")):
        return 0
    one = 4 * settings.kv_heads * settings.head_length * context
    return min(order.slots * one, max(one, TRANSIENT_BYTES))
