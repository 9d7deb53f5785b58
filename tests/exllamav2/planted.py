"""Faults that give wrong answers in silence, planted one at a time: parity has to see each of them.

Most are the library's own, with the cure left out; the others are slips that paging invites. Each
is a block: what is loaded and asked within is faulty.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest


@dataclass(frozen=True, slots=True)
class Fault:
    """`family` is the model on which it shows; `options` are those of the load."""

    plant: Callable[[pytest.MonkeyPatch], None]
    family: str = "llama"
    options: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fault.plant(patch)
        yield


def configured(change: Callable[[Any], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """The library's configuration, changed after it was cured."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        from cortex.harness.exllamav2 import loaded

        whole = loaded.configured

        def faulty(*said: Any) -> Any:
            config = whole(*said)
            change(config)
            return config

        patch.setattr(loaded, "configured", faulty)

    return plant


def _attending(change: Callable[[dict[str, Any]], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Paged attention is told something else than what was asked."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        from cortex.harness.exllamav2 import loading

        installed = loading.attention.install

        def install(library: Any, *said: Any) -> Any:
            chosen = installed(library, *said)
            attend = library.exllamav2.attn.flash_attn_with_kvcache

            def faulty(**asked: Any) -> Any:
                change(asked)
                return attend(**asked)

            patch.setattr(library.exllamav2.attn, "flash_attn_with_kvcache", faulty)
            return chosen

        patch.setattr(loading.attention, "install", install)

    return plant


def _mean_is_subtracted(config: Any) -> None:
    config.arch.lm.headnorm = "layernorm"


def _theta_is_the_default(config: Any) -> None:
    config.rotary_embedding_base = 10000.0


def _next_page(asked: dict[str, Any]) -> None:
    """Rows of several pages begin with the second."""
    asked["block_table"] = asked["block_table"].roll(1, 1)


def _one_short(asked: dict[str, Any]) -> None:
    """The last key is not seen, and every query stands one too early."""
    asked["cache_seqlens"] = (asked["cache_seqlens"] - 1).clamp(min=1)


def _as_many_as_the_longest(asked: dict[str, Any]) -> None:
    """Rows of a batch are read as far as the longest of them."""
    asked["cache_seqlens"] = asked["cache_seqlens"].max().expand_as(asked["cache_seqlens"]).contiguous()


def _not_causal(patch: pytest.MonkeyPatch) -> None:
    """The library's own branch for torch's attention, which it takes without flash-attn."""

    def change(config: Any) -> None:
        import exllamav2.attn as attn
        import exllamav2.model as model

        config.no_sdpa = False
        patch.setattr(attn, "has_flash_attn", False)
        patch.setattr(model, "has_flash_attn", False)
        patch.setattr(attn, "has_lower_right_sdpa", True)

    configured(change)(patch)


def _pages_are_all_alike(patch: pytest.MonkeyPatch) -> None:
    """A page is known by what came before it, and not by its tokens."""
    from exllamav2.generator import dynamic

    own = dynamic._tensor_hash_checksum
    patch.setattr(dynamic, "_tensor_hash_checksum", lambda ids, before: own(ids * 0, before))


FAULTS: Final[Mapping[str, Fault]] = {
    "head norms subtract the mean": Fault(configured(_mean_is_subtracted), "qwen3"),
    "positions turn by the default theta": Fault(configured(_theta_is_the_default), "mistral"),
    "prefill is not causal": Fault(_not_causal, "qwen2", {"attention": "unpaged"}),
    "a row begins with its second page": Fault(_attending(_next_page)),
    "the last key is left out": Fault(_attending(_one_short)),
    "short rows read what lies behind them": Fault(_attending(_as_many_as_the_longest)),
    "other prompts' pages are reused": Fault(_pages_are_all_alike),
}
