"""On a card, every way to paged attention is attention, waits for nothing and takes what it may.

The cases of tests/exllamav2/test_attention.py and large ones, held against the same plain
arithmetic. Neither exllamav2 nor its extension is needed, only torch, and triton for its kernels.
"""

import gc
import importlib.util
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exllamav2.attention_cases import LARGE, NEAR, SEVERAL, SINGLE, Case, off, plain, posed
from tests.gpu.bench_attention import why_not
from tests.gpu.record import record

reason = why_not()
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(reason is not None, reason=str(reason))]

NAMES = ("tables", "pages", "gathered", "triton", "masked")
MIB = 2**20


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Any:
    from tests.gpu.bench_attention import ways

    found = ways()
    if request.param not in found:
        pytest.skip(f"{request.param}: not on this card with this torch; there are {', '.join(found)}")
    return found[request.param]


@pytest.fixture
def watched() -> Iterator[Callable[[], None]]:
    """Once called, whatever makes the host wait for the device is an error."""
    import torch

    def watch() -> None:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    yield watch
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", [*SINGLE, *SEVERAL, *LARGE], ids=str)
@pytest.mark.parametrize("way", NAMES, indirect=True)
def test_every_way_computes_attention(way: Any, case: Case) -> None:
    worst = off(way, case, "cuda")
    record("attention", way=way.name, case=str(case), off=worst)
    assert worst < NEAR


@pytest.mark.parametrize("way", NAMES, indirect=True)
def test_no_way_makes_the_host_wait(way: Any, watched: Callable[[], None]) -> None:
    from cortex.harness.exllamav2.paged import Paged

    calls = [posed(case, "cuda")[0] for case in (SINGLE[1], SINGLE[8], SEVERAL[0])]
    paged = Paged(lambda device: way)
    for given in calls:
        paged.with_kvcache(**given)  # what is compiled is compiled at the first
    watched()
    for given in calls:
        paged.with_kvcache(**given | {"cache_seqlens": given["cache_seqlens"].clone()})


@pytest.mark.parametrize("way", [name for name in NAMES if name != "masked"], indirect=True)
@pytest.mark.parametrize("steps", [1, 5])
def test_what_is_taken_for_a_moment_is_bounded(way: Any, steps: int) -> None:
    """32 rows of 8k tokens of an 8B model: their copies would be 1 GiB."""
    import torch

    from cortex.harness.exllamav2.attention import TRANSIENT_BYTES
    from cortex.harness.exllamav2.paged import Paged
    from tests.gpu.bench_attention import Shape, step

    call = step(Shape("8B", 32, 8, 128), rows=32, context=8192, steps=steps, layers=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    Paged(lambda device: way).with_kvcache(**call[0])
    torch.cuda.synchronize()
    # The output, its parts until they are joined, and indexes.
    assert torch.cuda.max_memory_allocated() - before < TRANSIENT_BYTES + 128 * MIB


@pytest.mark.parametrize("way", ["pages", "gathered", "tables"], indirect=True)
def test_layers_of_a_turn_share_what_follows_from_its_lengths(way: Any) -> None:
    from cortex.harness.exllamav2.paged import Paged

    given, answer, _ = posed(SINGLE[1], "cuda")
    paged = Paged(lambda device: way)
    for _ in range(2):
        assert (paged.with_kvcache(**given).cpu().float() - answer).abs().max() < NEAR
    assert len(paged._indexes) == 1
    del given
    gc.collect()
    assert len(paged._indexes) == 0, "kept beyond the turn"


@pytest.mark.parametrize("choice", ["auto", "paged", "triton", "unpaged"])
def test_a_choice_is_proved_on_the_card_before_a_model_is_read(choice: str) -> None:
    import torch

    from cortex.harness.exllamav2 import attention

    capability = torch.cuda.get_device_capability()
    if choice == "triton" and (capability < (8, 0) or importlib.util.find_spec("triton") is None):
        pytest.skip("no triton for this card")
    attn, model = types.ModuleType("attn"), types.ModuleType("model")
    library: Any = types.SimpleNamespace(exllamav2=types.SimpleNamespace(attn=attn, model=model), torch=torch)
    chosen = attention.install(library, choice, capability)
    assert chosen.paged == (choice != "unpaged")
    if chosen.paged:
        given, answer, _ = posed(SEVERAL[0], "cuda")
        assert (attn.flash_attn_with_kvcache(**given).cpu().float() - answer).abs().max() < NEAR  # type: ignore[attr-defined]
        q, k, v = (torch.randn(1, 300, 4, 64, device="cuda").half() for _ in range(3))
        dense = attn.flash_attn_func(q, k, v, causal=True, softmax_scale=0.1)[0].cpu().float()  # type: ignore[attr-defined]
        case = Case((300,), steps=300, kv_heads=4, scale=0.1)
        assert (dense - plain(q[0], k[0], v[0], case)).abs().max() < NEAR
