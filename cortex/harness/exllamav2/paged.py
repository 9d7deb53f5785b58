"""Attention over a paged KV cache, called as exllamav2 calls flash-attn.

`Paged.with_kvcache` and `dense` take the keywords of flash-attn's functions of these names and
hold their contract: new keys and values are written in place through the block table, a sequence's
last query sees all of its keys, a window of w means the key itself and w before it. Lengths and
tables stay on the device: nothing here waits for it. How it is computed is a `Way`'s matter.

Imports torch at its top: only the thread of a device imports this module, when it loads a model.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from cortex.errors import EngineFailed
from cortex.harness.exllamav2.masked import Rule, masked

T = TypeVar("T")

NO_WINDOW: Final = (-1, -1)
NO_SOFTCAP: Final = (
    "this attention computes no softcap of its scores (attn_logit_softcapping), which the model asks for: "
    "only flash-attn 2.6 or newer does"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One layer's call. `q` is (rows, steps, heads, width); `k` and `v` are None when the cache holds
    the new tokens already, and `cache_seqlens` counts them then; the caches are (pages, tokens of a
    page, KV heads, width); rows of `block_table` are padded with zeros."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    cache_seqlens: torch.Tensor
    block_table: torch.Tensor
    k: torch.Tensor | None = None
    v: torch.Tensor | None = None
    causal: bool = False
    softmax_scale: float | None = None
    window_size: tuple[int, int] = NO_WINDOW
    softcap: float = 0.0

    def __post_init__(self) -> None:
        if self.softcap:
            raise EngineFailed(NO_SOFTCAP)
        if not self.causal:
            raise EngineFailed("paged attention is causal, and something else was asked of it")

    @property
    def scale(self) -> float:
        width: int = self.q.shape[-1]
        return width**-0.5 if self.softmax_scale is None else self.softmax_scale

    @property
    def window(self) -> int | None:
        """How many keys before its own a query sees; None: all."""
        return self.window_size[0] if self.window_size[0] >= 0 else None

    @property
    def new(self) -> tuple[torch.Tensor, ...]:
        """Keys and values to write, or nothing."""
        return tuple(each for each in (self.k, self.v) if each is not None)

    @property
    def page(self) -> int:
        """Tokens of a page."""
        tokens: int = self.k_cache.shape[1]
        return tokens

    @property
    def group(self) -> int:
        """Query heads of one KV head."""
        heads: int = self.q.shape[2] // self.k_cache.shape[2]
        return heads

    def flat(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both caches as (tokens, KV heads, width)."""
        return self.k_cache.flatten(0, 1), self.v_cache.flatten(0, 1)


class Index:
    """What follows from lengths and table alone, and so is the same in every layer of a turn.

    `lengths` counts the new tokens in. `once` keeps what a way derives from them.
    """

    def __init__(self, call: Call) -> None:
        self.table, self.steps, self.writes = call.block_table, call.q.shape[1], call.k is not None
        # A copy where nothing is added: an index that held the lengths themselves would never go.
        self.lengths = call.cache_seqlens + self.steps if self.writes else call.cache_seqlens.clone()
        self._kept: dict[Hashable, Any] = {}

    def fits(self, call: Call) -> bool:
        same = self.table is call.block_table and self.steps == call.q.shape[1]
        return same and self.writes == (call.k is not None)

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        if what not in self._kept:
            self._kept[what] = make()
        kept: T = self._kept[what]
        return kept

    def slots(self, page: int) -> torch.Tensor:
        """Where in the flat cache the new tokens go: (rows x steps)."""

        def make() -> torch.Tensor:
            steps = torch.arange(-self.steps, 0, device=self.table.device)
            at = self.lengths.long()[:, None] + steps
            return (self.table.long().gather(1, at // page) * page + at % page).flatten()

        return self.once("slots", make)


class Way(Protocol):
    """One manner of computing it."""

    name: str

    def append(self, call: Call, index: Index) -> None:
        """What is `new` in the call lies in the caches."""

    def attend(self, call: Call, index: Index) -> torch.Tensor:
        """The output, shaped like `q`; the caches hold all keys and values."""


class Appending:
    """Writes new keys and values with torch's own copy."""

    def append(self, call: Call, index: Index) -> None:
        slots = index.slots(call.page)
        for cache, new in zip(call.flat(), call.new, strict=True):
            cache.index_copy_(0, slots, new.flatten(0, 1))


class Paged:
    """Attention of one process. `choose` says the way of a device, once."""

    def __init__(self, choose: Callable[[torch.device], Way]) -> None:
        self._choose = choose
        self._ways: dict[torch.device, Way] = {}
        # By the lengths' tensor, which lives as long as the pass through the layers.
        self._indexes = WeakTensorKeyDictionary()

    def way(self, device: torch.device) -> Way:
        """The device's way; raises LoadFailed where it has none."""
        if device not in self._ways:
            self._ways[device] = self._choose(device)
        return self._ways[device]

    def with_kvcache(self, **given: Any) -> torch.Tensor:  # noqa: ANN401 - a foreign signature
        """Stands in for flash_attn_with_kvcache."""
        call = Call(**given)
        way, index = self.way(call.q.device), self._index(call)
        if call.new:
            way.append(call, index)
        return way.attend(call, index).contiguous()  # the library views it in another shape

    def _index(self, call: Call) -> Index:
        # The library counts on in the lengths that it keeps on the CPU; on a device it has copies of them.
        if call.cache_seqlens.device.type == "cpu":
            return Index(call)
        known: Index | None = self._indexes.get(call.cache_seqlens)
        if known is None or not known.fits(call):
            known = self._indexes[call.cache_seqlens] = Index(call)
        return known


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **rest: Any) -> torch.Tensor:  # noqa: ANN401
    """Stands in for flash_attn_func: keys and values without pages, one length for all rows."""
    rule = _rule(q, **rest)
    if q.is_cuda and torch.cuda.get_device_capability(q.device) >= (8, 0):
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, rule.causal, False,
            scale=rule.scale, window_size_left=rule.window,
        )[0]  # fmt: skip
        return out
    lengths = torch.full((q.shape[0],), k.shape[1], dtype=torch.int32, device=q.device)
    return masked(q, k, v, lengths, rule)


def _rule(
    q: torch.Tensor,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
) -> Rule:
    if softcap:
        raise EngineFailed(NO_SOFTCAP)
    if not causal and window_size != NO_WINDOW:
        raise EngineFailed("a window without causal attention is not computed")
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    return Rule(scale, window_size[0] if window_size[0] >= 0 else None, causal)
