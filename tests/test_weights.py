"""A GGUF is a header or `Unfit`, whatever its bytes say. Fault row 73."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.demo import GGUF
from cortex.errors import Unfit
from cortex.weights import footprint, read_gguf
from tests.fake_gguf import PAIRS, TENSORS, Raw, Tensor, gguf, text, without

HEADER_END = gguf(tail=b"").__len__()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(Unfit) as caught:
        read_gguf(path)
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_header_is_read_whole(write: Callable[[bytes], Path]) -> None:
    data = gguf()
    header = read_gguf(write(data))
    assert (header.architecture, header.name, header.quant) == ("qwen3", "made-to-order", "F32")
    assert (header.context_length, header.embedding_length, header.feed_forward_length) == (2048, 128, 384)
    assert (header.kv_heads, header.key_length, header.value_length) == ((2, 2, 2), 64, 32)
    assert (header.file_bytes, header.weights_bytes) == (len(data), 4 * (32 * 4 + 128))
    assert (header.vocabulary, header.bos, header.eos) == (4, "λ", "<end>")
    assert header.chat_template == "{{ messages }}"
    assert header.sliding_window is None


def test_the_demo_model_is_read() -> None:
    header = read_gguf(GGUF)
    assert (header.architecture, header.quant, header.context_length) == ("qwen3", "F16", 2048)
    assert (header.vocabulary, header.eos, header.adds_bos) == (1024, "<|im_end|>", False)
    assert header.file_bytes == GGUF.stat().st_size


def test_version_two_is_read_too(write: Callable[[bytes], Path]) -> None:
    assert read_gguf(write(gguf(version=2))).architecture == "qwen3"


@pytest.mark.parametrize(
    ("pairs", "facts"),
    [
        ({"qwen3.attention.head_count_kv": [2, 0, 4]}, {"kv_heads": (2, 0, 4)}),
        (without("qwen3.attention.head_count_kv"), {"kv_heads": (4, 4, 4)}),
        (without("qwen3.attention.key_length"), {"key_length": 32}),
        ({"qwen3.feed_forward_length": [1, 9, 3]}, {"feed_forward_length": 9}),
        ({"qwen3.attention.sliding_window": 512}, {"sliding_window": 512}),
        ({"general.file_type": 15}, {"quant": "Q4_K_M"}),
        (without("general.file_type"), {"quant": "F32"}),
        ({"tokenizer.ggml.add_bos_token": True}, {"adds_bos": True}),
        ({"tokenizer.ggml.model": "llama"}, {"adds_bos": True}),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False}, {"adds_bos": False}),
        ({"tokenizer.ggml.pre": "llama-bpe"}, {"adds_bos": True}),
        (without("tokenizer.ggml.bos_token_id"), {"bos": None}),
        (without("tokenizer.chat_template"), {"chat_template": None}),
        ({"general.alignment": 64}, {"architecture": "qwen3"}),
        ({"some.vocabulary": [0.5] * 5000, "some.long": list(range(5000))}, {"vocabulary": 4}),
    ],
)
def test_metadata_means_what_llama_cpp_takes_it_for(
    write: Callable[[bytes], Path], pairs: dict[str, object], facts: dict[str, object]
) -> None:
    tensors = (Tensor("a"), Tensor("b", offset=512)) if "general.alignment" in pairs else TENSORS
    said = pairs if len(pairs) > 5 else {**PAIRS, **pairs}
    header = read_gguf(write(gguf(said, tensors) + b"\0" * 64))
    assert {name: getattr(header, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is empty"),
        (b"GG", "nothing known"),
        (b"\x07\x13\x99" * 2000, "is not GGUF"),
        (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
        (b"\x80\x02}q\0", "pickle"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ((200).to_bytes(8, "little") + b'{"a":1}' + b" " * 200, "safetensors"),
        (b"\0" * 4096, "zeros"),
        (b"tjgg" + b"\1" * 100, "GGML"),
        (gguf(version=1), "version 1"),
        (gguf(version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 2, 2), "big-endian"),
        (gguf()[:20], "truncated at 20"),
        (gguf()[: HEADER_END // 2], "truncated at"),
        (gguf()[: HEADER_END - 40], "truncated at"),
        (gguf()[: HEADER_END + 10], "truncated:"),
        (gguf()[:-100], f"truncated: {len(gguf()) - 100} of {len(gguf())} bytes"),
        (gguf(counts=(2**63, 4)), "claims 9223372036854775808 tensors"),
        (gguf(counts=(2, 2**64 - 1)), "18446744073709551615 keys"),
        (gguf(counts=(90_000, len(PAIRS))), "tensor"),
        (gguf(counts=(2, 90_000)), "model.gguf"),
        (gguf(tensors=()), "no tensors"),
        (gguf()[:24] + b"\0" * (HEADER_END - 24) + gguf()[HEADER_END:], "comes twice"),
    ],
)
def test_a_damaged_or_foreign_file_is_named_for_what_it_is(
    write: Callable[[bytes], Path], data: bytes, fault: str
) -> None:
    assert fault in refused(write(data))


@pytest.mark.parametrize(
    ("pairs", "fault"),
    [
        (without("general.architecture"), "'general.architecture' is missing"),
        (without("qwen3.context_length"), "'qwen3.context_length' is missing"),
        (without("qwen3.block_count"), "'qwen3.block_count' is missing"),
        ({"general.architecture": 7}, "is not text"),
        ({"qwen3.block_count": "three"}, "is not a number"),
        ({"qwen3.block_count": True}, "is not a number"),
        ({"qwen3.block_count": 10**6}, "is not a number from 0 to 512"),
        ({"qwen3.context_length": Raw(5, struct.pack("<i", -1))}, "is not a number"),
        ({"qwen3.context_length": Raw(10, struct.pack("<Q", 2**64 - 1))}, "is not a number"),
        ({"qwen3.attention.head_count_kv": [1, 2]}, "one number for each of 3 layers"),
        ({"general.alignment": 3}, "power of two"),
        ({"general.alignment": 0}, "power of two"),
        ({"split.count": 3, "split.no": 1}, "part 2 of 3 of a split GGUF"),
        ({"general.architecture": "clip"}, "vision projector"),
        ({"general.type": "adapter"}, "holds a adapter"),
        ({"tokenizer.ggml.eos_token_id": 4}, "there are 4 tokens"),
        ({"x": Raw(13, b"")}, "unknown type 13"),
        ({"x": Raw(9, struct.pack("<IQ", 9, 1))}, "element type 9"),
        ({"x": Raw(9, struct.pack("<IQ", 8, 2**60))}, "more than the file has room for"),
        ({"x": Raw(9, struct.pack("<IQ", 10, 2**61))}, "truncated"),
        ({"x": Raw(8, struct.pack("<Q", 2**62))}, "claims"),
        ({"x": Raw(8, struct.pack("<Q", 2**20) + b"abc")}, "truncated"),
    ],
)
def test_metadata_that_cannot_be_true_is_refused(
    write: Callable[[bytes], Path], pairs: dict[str, object], fault: str
) -> None:
    assert fault in refused(write(gguf(pairs if len(pairs) > 5 else {**PAIRS, **pairs})))


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (Tensor("t", (2**32, 2**32)), "impossible shape"),
        (Tensor("t", (0, 4)), "impossible shape"),
        (Tensor("t", (33, 4), kind=8), "impossible shape"),
        (Tensor("t", (1, 1, 1, 1, 1)), "5 dimensions"),
        (Tensor("t", ()), "0 dimensions"),
        (Tensor("t", kind=4), "unknown type 4"),
        (Tensor("t", kind=999), "unknown type 999"),
        (Tensor("t", offset=8), "not aligned"),
        (Tensor("t", offset=2**40), "truncated"),
        (Tensor("t", (2**20, 2**10), bytes=32), "truncated"),
        (Tensor("output_norm.weight"), "comes twice"),
        (Tensor("t" * 65), "claims 65 bytes"),
    ],
)
def test_a_tensor_that_cannot_be_there_is_refused(
    write: Callable[[bytes], Path], tensor: Tensor, fault: str
) -> None:
    tail = b"\1" * 4096
    assert fault in refused(write(gguf(tensors=(*TENSORS, tensor), tail=tail)))


def test_a_header_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(gguf({**PAIRS, "x": Raw(9, struct.pack("<IQ", 0, 40 * 2**20))}, tail=b""))
        file.truncate(100 * 2**20)  # sparse
    assert "longer than 32MiB" in refused(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.gguf")
    assert "is a directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in refused(tmp_path / "pipe.gguf")
    with pytest.raises(Unfit, match="cannot be read"):
        read_gguf(Path("a\0b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(write: Callable[[bytes], Path]) -> None:
    path = write(gguf())
    path.chmod(0)
    assert "Permission denied" in refused(path)


def test_every_length_of_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole, path = gguf(), tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole)
    read_gguf(path)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.integers(4, HEADER_END - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
    )
)
def test_no_mutation_does_anything_but_give_a_header_or_unfit(
    tmp_path: Path, edits: list[tuple[int, bytes]]
) -> None:
    """Row 73: header fuzz. Lengths, counts, types and offsets are hit alike."""
    data = bytearray(gguf())
    for at, replacement in edits:
        data[at : at + len(replacement)] = replacement
    path = tmp_path / "mutant.gguf"
    path.write_bytes(data)
    try:
        header = read_gguf(path)
    except Unfit as error:
        assert "mutant.gguf" in error.message
    else:
        assert header.weights_bytes <= header.file_bytes
        weights, cache, overhead = footprint(header, 2048, 4, "fp16")
        assert weights >= 0 and cache >= 0 and overhead > 0


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=600))
def test_no_bytes_after_the_magic_do_anything_but_be_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + data)
    with pytest.raises(Unfit):
        read_gguf(path)


def test_the_cache_follows_from_layers_heads_and_lengths(write: Callable[[bytes], Path]) -> None:
    header = read_gguf(write(gguf()))
    weights, cache, _ = footprint(header, 1000, 3, "fp16")
    assert weights == header.weights_bytes
    assert cache == 3 * 2 * (64 + 32) * 2 * 1000 * 3  # layers, heads, K and V, bytes, tokens, slots
    assert footprint(header, 1000, 3, "q8")[1] == cache * 34 // 64
    assert footprint(header, 1000, 3, "q4")[1] == cache * 18 // 64
    assert footprint(header, 1000, 3, "fp16", 512)[2] > footprint(header, 1000, 3, "fp16", 256)[2]


LAYER = 2 * (64 + 32) * 2  # bytes a token: heads, K and V, fp16


@pytest.mark.parametrize(
    ("pairs", "whole", "windowed"),
    [
        ({"qwen3.attention.sliding_window": 512}, 3, 0),  # which layers it means nobody says
        ({"qwen3.attention.sliding_window_pattern": [1, 0, 1]}, 3, 0),  # no window
        (
            {
                "qwen3.attention.sliding_window": 512,
                "qwen3.attention.sliding_window_pattern": Raw(
                    9, struct.pack("<IQ3?", 7, 3, True, False, True)
                ),
            },
            1,
            2,
        ),
        ({"qwen3.attention.sliding_window": 512, "qwen3.attention.sliding_window_pattern": 3}, 1, 2),
        ({"qwen3.attention.sliding_window": 512, "qwen3.attention.sliding_window_pattern": 4}, 0, 3),
        ({"qwen3.attention.head_count_kv": [2, 0, 2]}, 2, 0),
        ({"qwen3.full_attention_interval": 3}, 1, 0),
    ],
)
def test_a_layer_that_looks_at_less_keeps_less(
    write: Callable[[bytes], Path], pairs: dict[str, object], whole: int, windowed: int
) -> None:
    header = read_gguf(write(gguf({**PAIRS, **pairs})))
    # A window of 512 and a batch of 256, in whole pages of 256.
    assert footprint(header, 2048, 3, "fp16", 256)[1] == 3 * LAYER * (whole * 2048 + windowed * 768)
    assert footprint(header, 512, 3, "fp16", 256)[1] == 3 * LAYER * (whole + windowed) * 512


@pytest.mark.parametrize(("architecture", "period"), [("gemma2", 2), ("gemma3", 6), ("cohere2", 4), ("x", 1)])
def test_a_window_that_the_architecture_implies_is_known(
    write: Callable[[bytes], Path], architecture: str, period: int
) -> None:
    pairs = {key.replace("qwen3", architecture): item for key, item in PAIRS.items()} | {
        "general.architecture": architecture,
        f"{architecture}.block_count": 12,
        f"{architecture}.attention.sliding_window": 64,
    }
    header = read_gguf(write(gguf(pairs)))
    assert header.windowed.count(False) == 12 // period
    assert period == 1 or not header.windowed[period - 1]


def test_recurrent_layers_keep_a_state_a_sequence_however_long(write: Callable[[bytes], Path]) -> None:
    recurrent = {"conv_kernel": 4, "inner_size": 256, "state_size": 16, "group_count": 2}
    pairs = {
        **PAIRS,
        "qwen3.full_attention_interval": 3,
        **{f"qwen3.ssm.{key}": item for key, item in recurrent.items()},
    }
    header = read_gguf(write(gguf(pairs)))
    assert header.state_bytes == 2 * 4 * (3 * (256 + 2 * 2 * 16) + 16 * 256)
    one, two = footprint(header, 1024, 3, "fp16")[1], footprint(header, 2048, 3, "fp16")[1]
    assert two - one == 3 * LAYER * 1024
    assert one == 3 * (LAYER * 1024 + header.state_bytes)


def test_a_cut_copy_of_the_demo_model_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(GGUF, path)
    os.truncate(path, 300_000)
    assert "truncated: 300000 of" in refused(path)


def test_text_is_read_by_its_length_not_by_its_bytes(write: Callable[[bytes], Path]) -> None:
    broken = struct.pack("<Q", 3) + b"\xff\xfe\xfd"
    header = read_gguf(write(gguf({**PAIRS, "general.name": Raw(8, broken)})))
    assert header.name == "\ufffd" * 3
    assert text("λ") == b"\x02" + b"\0" * 7 + "λ".encode()
