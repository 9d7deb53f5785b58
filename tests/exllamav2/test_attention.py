"""Attention over pages is attention, whichever way it is computed, and exllamav2 is told of one of them."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cortex.errors import EngineFailed, LoadFailed
from tests.exllamav2 import models, parity
from tests.exllamav2.attention_cases import NEAR, PAGE, SEVERAL, SINGLE, Case, off, plain, posed
from tests.exllamav2.emulation import emulated, emulated_runtime, opt_in

opt_in()

import torch  # noqa: E402

from cortex.harness.exllamav2 import agreement, attention, flash, paged  # noqa: E402
from tests.exllamav2.fake_flash import flash_attention  # noqa: E402

AMPERE = (8, 0)


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's flash attention, which has no CPU branch for pages."""
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash_attention)


def way_named(name: str) -> Any:
    return {"masked": flash.Masked, "gathered": flash.Gathered, "pages": flash.Pages, "tables": flash.Tables}[
        name
    ]()


WAYS = ("masked", "gathered", "pages", "tables")


@pytest.mark.parametrize("case", [*SINGLE, *SEVERAL, Case((1100,), steps=1024, writes=False)], ids=str)
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.usefixtures("op")
def test_every_way_computes_attention(name: str, case: Case) -> None:
    assert off(way_named(name), case) < NEAR


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.usefixtures("op")
def test_what_is_taken_for_a_moment_is_bounded_and_portions_do_not_show(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "TRANSIENT_BYTES", 1)  # a row at a time
    monkeypatch.setattr("cortex.harness.exllamav2.masked.SCORES", 1)  # a query at a time
    for case in (Case((257, 20, 600)), Case((600, 20, 257), window=100), Case((300, 8, 257), steps=3)):
        assert off(way_named(name), case) < NEAR


def test_no_launch_has_more_sequences_than_a_grid_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counted(*given: Any, **more: Any) -> Any:
        counts.append(len(more["seqused_k"]))
        return flash_attention(*given, **more)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", counted)
    monkeypatch.setattr(flash, "SEQUENCES", 7)
    assert off(flash.Pages(), Case((257, 600, 20, 513))) < NEAR
    assert counts == [6, 6]


def shifted(**by: int) -> Any:
    """A way that is wrong by one: in the length, the page or the window."""

    class Wrong(flash.Masked):
        name = "wrong"

        def attend(self, call: Any, index: Any) -> Any:
            if "length" in by:
                index.lengths = index.lengths + by["length"]
            if "page" in by:
                call = replace(call, block_table=call.block_table.roll(by["page"], 1))
            if "window" in by and call.window is not None:
                call = replace(call, window_size=(call.window + by["window"],) * 2)
            if "mask" in by:
                call = replace(call, q=call.q.roll(by["mask"], 1))
            return super().attend(call, index)

    return Wrong()


@pytest.mark.parametrize(
    "by", [{"length": -1}, {"page": 1}, {"window": 1}, {"window": -1}, {"mask": 1}], ids=str
)
def test_a_way_that_is_wrong_by_one_is_never_used(by: dict[str, int]) -> None:
    """Neither the cases here nor the trials before a load let it pass."""
    wrong = shifted(**by)
    assert any(not off(wrong, case) < NEAR for case in (*SINGLE, *SEVERAL))
    assert agreement.disagreement(flash.Masked(), torch.device("cpu")) is None
    assert "is off by" in str(agreement.disagreement(wrong, torch.device("cpu")))
    with pytest.raises(LoadFailed, match=r"wrong.*is off by"):
        agreement.first([wrong], torch.device("cpu"))
    assert agreement.first([wrong, flash.Masked()], torch.device("cpu")).name == "masked"


def test_a_way_that_raises_is_not_used_and_an_error_of_the_device_is_its_own() -> None:
    class Raising(flash.Masked):
        name = "raising"
        error: Exception

        def attend(self, call: Any, index: Any) -> Any:
            raise self.error

    way = Raising()
    way.error = RuntimeError("head_size should be a multiple of 7")
    assert "multiple of 7" in str(agreement.disagreement(way, torch.device("cpu")))
    way.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        agreement.disagreement(way, torch.device("cpu"))
    way.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        agreement.disagreement(way, torch.device("cpu"))


def test_which_ways_are_tried_goes_by_the_device_and_by_what_the_op_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def known(*arguments: str) -> None:
        monkeypatch.setattr(flash, "takes", lambda argument: argument in arguments)

    def names(capability: tuple[int, int] | None) -> list[str]:
        return [way.name for way in flash.ways(capability)]

    assert flash.takes("seqused_k")
    assert not flash.takes("no_such_argument")
    known("seqused_k", "block_table")
    assert names((9, 0)) == ["tables", "pages", "gathered"]
    assert names((7, 5)) == names(None) == ["masked"]
    known("seqused_k")
    assert names(AMPERE) == ["pages", "gathered"]
    known()
    assert names((7, 5)) == ["masked"]
    with pytest.raises(LoadFailed, match="seqused_k"):
        names(AMPERE)


@pytest.mark.parametrize("steps", [1, 5, 40])
@pytest.mark.parametrize("window", [None, 7])
def test_keys_without_pages_are_seen_as_far_as_causality_and_window_go(
    steps: int, window: int | None
) -> None:
    chance = torch.Generator().manual_seed(steps)
    q = torch.randn(2, steps, 4, 64, generator=chance).half()
    k, v = (torch.randn(2, 40, 2, 64, generator=chance).half() for _ in range(2))
    more = {} if window is None else {"window_size": (window, window)}
    got = paged.dense(q, k, v, causal=True, softmax_scale=0.2, **more).float()
    case = Case((40,), steps=steps, window=window, scale=0.2)
    wanted = torch.stack([plain(q[row], k[row], v[row], case) for row in range(2)])
    assert (got - wanted).abs().max() < NEAR
    everything = paged.dense(q, k, v).float()
    whole = plain(q[0, -1:], k[0], v[0], Case((40,), steps=1))
    assert (everything[0, -1:] - whole).abs().max() < NEAR


def test_what_is_not_computed_is_refused_by_name() -> None:
    given, _, _ = posed(Case((300,)))
    masked = paged.Paged(lambda device: flash.Masked())
    with pytest.raises(EngineFailed, match="softcap"):
        masked.with_kvcache(**given, softcap=30.0)
    with pytest.raises(EngineFailed, match="causal"):
        masked.with_kvcache(**given | {"causal": False})
    with pytest.raises(TypeError, match="alibi_slopes"):
        masked.with_kvcache(**given, alibi_slopes=None)
    flat = given["q"], given["q"], given["q"]
    with pytest.raises(EngineFailed, match="softcap"):
        paged.dense(*flat, causal=True, softcap=30.0)
    with pytest.raises(EngineFailed, match="window"):
        paged.dense(*flat, window_size=(3, 3))


def test_lengths_that_are_counted_on_in_place_are_read_anew() -> None:
    """As the library does while a draft model guesses ahead, where lengths stay on the CPU."""
    given, _, _ = posed(Case((257, 300)))
    table, masked = given["block_table"], paged.Paged(lambda device: flash.Masked())
    for more in (0, 1):
        given["cache_seqlens"] += more
        for cache in (given["k_cache"], given["v_cache"]):
            cache.fill_(0)
        given["k"].fill_(7)
        masked.with_kvcache(**given)
        written = (given["k_cache"][..., 0, 0] == 7).nonzero().tolist()
        assert sorted(written) == sorted([[int(table[0, 1]), more], [int(table[1, 1]), 299 - PAGE + more]])


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.usefixtures("op")
def test_models_of_other_heads_may_share_what_follows_from_lengths(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft and its model read a prompt by the same table, and their rows go in other portions."""
    lengths, way = (300, 600, 20, 257), way_named(name)
    narrow, wide = (Case(lengths, steps, heads, heads) for heads in (1, 16))
    (first, answer, _), (second, other, _) = posed(narrow), posed(wide)
    monkeypatch.setattr(flash, "TRANSIENT_BYTES", 2**20)
    index = paged.Index(paged.Call(**first))
    same = {name: first[name] for name in ("block_table", "cache_seqlens")}
    for given, wanted in ((first, answer), (second | same, other), (first, answer)):
        call = paged.Call(**given)
        way.append(call, index)
        assert (way.attend(call, index).float() - wanted).abs().max() < NEAR


@pytest.mark.parametrize("writes", [True, False])
def test_layers_of_a_turn_share_what_follows_from_its_lengths(writes: bool) -> None:
    """On a device, where nobody counts on in place; with the turn's lengths it goes."""
    given, _, _ = posed(Case((257, 300), writes=writes))
    given = {name: each.to("meta") if torch.is_tensor(each) else each for name, each in given.items()}
    shared = paged.Paged(lambda device: flash.Masked())

    def index(**other: Any) -> Any:
        return shared._index(paged.Call(**given | other))

    known = index()
    assert index() is known
    assert index(block_table=given["block_table"].clone()) is not known
    known = index()
    assert index(q=given["q"].expand(-1, 2, -1, -1)) is not known
    assert len(shared._indexes) == 1
    del known
    given.clear()
    assert len(shared._indexes) == 0


# What exllamav2 is told.


def bare() -> Any:
    """The modules that are told, with nothing of flash-attn in them."""
    attn, model = types.ModuleType("attn"), types.ModuleType("model")
    attn.has_flash_attn = attn.has_flash_attn_with_paged = attn.has_flash_attn_with_window = False
    attn.has_flash_attn_with_softcap, attn.has_lower_right_sdpa = False, True
    model.has_flash_attn = False
    return types.SimpleNamespace(exllamav2=types.SimpleNamespace(attn=attn, model=model), torch=torch)


def test_the_library_calls_what_was_chosen_and_its_wrong_branch_is_closed() -> None:
    library = bare()
    chosen = attention.install(library, "paged", None)
    attn = library.exllamav2.attn
    assert (chosen.name, chosen.paged) == ("paged", True)
    assert attn.has_flash_attn and attn.has_flash_attn_with_paged and attn.has_flash_attn_with_window
    # A softcap is handed over, and refused there: left out, the answers would be wrong.
    assert attn.has_flash_attn_with_softcap
    assert library.exllamav2.model.has_flash_attn
    assert not attn.has_lower_right_sdpa
    given, answer, _ = posed(Case((257, 20)))
    assert (attn.flash_attn_with_kvcache(**given).float() - answer).abs().max() < NEAR
    function = attn.flash_attn_with_kvcache
    again = attention.install(library, "auto", None)
    assert again.name == "paged"
    assert attn.flash_attn_with_kvcache == function


def test_unpaged_attention_lives_beside_any_other() -> None:
    library = bare()
    alone = attention.install(library, "unpaged", None)
    assert (alone.name, alone.paged) == ("unpaged", False)
    assert not library.exllamav2.attn.has_flash_attn
    assert not library.exllamav2.attn.has_lower_right_sdpa
    paged_one = attention.install(library, "paged", None)
    assert not attention.install(library, "unpaged", None).paged
    assert library.exllamav2.attn.has_flash_attn_with_paged
    assert paged_one.paged


def real(monkeypatch: pytest.MonkeyPatch, version: str) -> Any:
    """A flash_attn package of that version."""
    package = types.ModuleType("flash_attn")
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    package.__version__ = version

    def flash_attn_func(q: Any, k: Any, v: Any, softcap: float = 0.0) -> None: ...

    package.flash_attn_func, package.flash_attn_with_kvcache = flash_attn_func, lambda **given: None
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn_2_cuda", types.ModuleType("flash_attn_2_cuda"))
    return package


def test_the_real_one_goes_first_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    package, library = real(monkeypatch, "2.8.3.post2"), bare()
    held = attention.install(library, "auto", (9, 0))
    assert held.name == "flash-attn"
    assert library.exllamav2.attn.flash_attn_func is package.flash_attn_func
    assert library.exllamav2.attn.has_flash_attn_with_softcap
    with pytest.raises(LoadFailed, match=r"compute capability 8\.0"):
        attention.install(bare(), "flash-attn", (7, 5))
    assert attention.install(bare(), "auto", None).name == "paged"


def test_one_that_is_too_old_is_told_of_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real(monkeypatch, "2.5.6")
    with pytest.raises(LoadFailed, match=r"2\.5\.6 reads no pages: install 2\.5\.7"):
        attention.install(bare(), "flash-attn", (9, 0))
    assert attention._best((9, 0)) == "paged"
    assert "2.5.6 reads no pages" in caplog.text


def test_a_process_computes_one_way_as_long_as_a_model_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real(monkeypatch, "2.8.3")
    library = bare()
    first = attention.install(library, "flash-attn", (9, 0))
    second = attention.install(library, "auto", (9, 0))
    assert second.name == "flash-attn"
    for _ in range(2):
        with pytest.raises(LoadFailed, match=r"'paged' cannot be had while another model .* 'flash-attn'"):
            attention.install(library, "paged", None)
        first = None  # the second model still needs it
    assert library.exllamav2.attn.flash_attn_func.__name__ == "flash_attn_func"
    del second
    assert first is None
    third = attention.install(library, "paged", None)
    assert third.name == "paged"
    assert library.exllamav2.attn.flash_attn_func is paged.dense


def test_a_choice_that_cannot_be_had_is_refused_with_the_one_that_can() -> None:
    library = bare()
    for choice, why in (
        ("triton", r"compute capability 8\.0"),
        ("flash-attn", r"compute capability 8\.0"),
        ("sdpa", "none of auto, flash-attn, paged, triton, unpaged"),
    ):
        with pytest.raises(LoadFailed, match=why):
            attention.install(library, choice, None)
    with pytest.raises(LoadFailed, match="cannot be imported"):
        attention.install(library, "flash-attn", AMPERE)
    assert not library.exllamav2.attn.has_flash_attn, "a refused choice changes nothing"


# The real generator over quantised caches.


class Quantising:
    """What the extension does for quantised caches, without loss: as the library calls it, tokens go
    between a layer's own store and the workspace that all layers share, through the block table.
    Between two layers there is nothing in the workspace but NaNs."""

    def __init__(self, ext: Any) -> None:
        self._ext: Any = ext
        self._kept: dict[int, Any] = {}
        self.shapes: set[tuple[int, ...]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ext, name)

    def q_to_fp16_kv(self, *given: Any) -> None:
        k_store, k, _, v_store, v, _, batch, _, _, page, lengths, table, _ = given
        for store, work in ((k_store, k), (v_store, v)):
            for row in range(batch):
                at = self._cells(table[row], 0, int(lengths[row]), page)
                work[0, at] = self._of(store, work)[at]

    def fp16_to_q_kv(self, *given: Any) -> None:
        k, k_store, _, v, v_store, _, batch, _, width, page, lengths, table, _ = given
        for store, work in ((k_store, k), (v_store, v)):
            for row in range(batch):
                begin = int(lengths[row])
                at = self._cells(table[row], begin, begin + width, page)
                self._of(store, work)[at] = work[0, at]
        for work in (k, v):
            self.shapes.add(tuple(work.shape))
            work.fill_(torch.nan)

    def _of(self, store: Any, work: Any) -> Any:
        return self._kept.setdefault(store.data_ptr(), torch.zeros_like(work[0]))

    @staticmethod
    def _cells(table: Any, begin: int, end: int, page: int) -> Any:
        at = torch.arange(begin, end)
        return table.long()[at // page] * page + at % page


@pytest.mark.parametrize("cache", ["q4", "q6", "q8"])
def test_quantised_caches_go_through_the_same_pages(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a quantiser that loses nothing they answer as whole ones do."""
    from cortex.harness.exllamav2.loading import ExLlamaV2Harness

    emulated()
    import exllamav2.cache as library_cache

    folder, answers = models.make(tmp_path / "llama", "llama"), {}
    quantising = Quantising(library_cache.ext_c)
    for kind in ("fp16", cache):
        monkeypatch.setattr(library_cache, "ext_c", quantising)
        harness = ExLlamaV2Harness(runtime=emulated_runtime())
        with parity.driven(harness, folder, context=1024, slots=4, cache=kind) as known:
            prompts = [known.prompt(length, length) for length in (5, 256, 300, 600)]
            answers[kind] = [answer.ids for answer in known.answers(*prompts)]
    assert quantising.shapes, "the quantised cache was not used"
    assert answers[cache] == answers["fp16"]
