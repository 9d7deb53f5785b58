"""A folder of safetensors is a model or `Unfit`, whatever its bytes say. Fault row 73."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.errors import Unfit
from cortex.weights import CudaUse, cuda_footprint, digest, read_folder, read_settings, read_shard
from cortex.weights.footprint import CUDA_SLACK
from tests.fake_safetensors import CONFIG, TENSORS, folder, framed, header_of, shard

EMBEDDING, NORM = 1000 * 64 * 2, 64 * 4


def refused(path: Path) -> str:
    with pytest.raises(Unfit) as caught:
        read_folder(path)
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    found = read_folder(folder(tmp_path / "m"))
    known = found.settings
    assert (known.architecture, known.layers, known.hidden, known.intermediate) == (
        "Qwen3ForCausalLM",
        3,
        64,
        192,
    )
    assert (known.heads, known.kv_heads, known.head_length, known.vocabulary) == (4, 2, 32, 1000)
    assert (known.context, known.tied, known.quant_method, known.bits) == (4096, True, None, None)
    assert {tensor.name: (tensor.type, tensor.shape) for tensor in found.tensors} == TENSORS
    assert found.file_bytes == len(shard())


@pytest.mark.parametrize(
    ("told", "facts"),
    [
        (
            {"quantization_config": {"quant_method": "exl2", "bits": 4.25}},
            {"quant_method": "exl2", "bits": 4.25},
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"quant_method": "gptq", "bits": 4.0}),
        ({"num_key_value_heads": None}, {"kv_heads": 4}),
        ({"head_dim": None}, {"head_length": 16}),
        ({"tie_word_embeddings": None}, {"tied": False}),
        ({"sliding_window": 512}, {"sliding_window": 512}),
        ({"sliding_window": None}, {"sliding_window": None}),
        ({"quantization_config": {"bits": 10**400}}, {"bits": None}),
        ({"text_config": {"num_hidden_layers": 7}, "vision_config": {"hidden_size": 1}}, {"layers": 7}),
        ({"architectures": None}, {"architecture": "unknown"}),
    ],
)
def test_settings_mean_what_they_say(
    tmp_path: Path, told: dict[str, object], facts: dict[str, object]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, **told}))
    found = read_settings(path)
    assert {name: getattr(found, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is not JSON"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "comes twice"),
        (json.dumps({**CONFIG, "hidden_size": 0}).encode(), "hidden_size is 0"),
        (json.dumps({**CONFIG, "hidden_size": True}).encode(), "hidden_size is True"),
        (json.dumps({**CONFIG, "num_hidden_layers": 10**9}).encode(), "num_hidden_layers is 1000000000"),
        (json.dumps({**CONFIG, "vocab_size": None}).encode(), "vocab_size is missing"),
        (json.dumps({**CONFIG, "num_attention_heads": "8"}).encode(), "num_attention_heads is '8'"),
        (b" " * (4 * 2**20 + 1), "larger than 4MiB"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, data: bytes, fault: str) -> None:
    (folder(tmp_path / "m") / "config.json").write_bytes(data)
    assert fault in refused(tmp_path / "m")


def header(**changed: object) -> bytes:
    told, length = header_of(TENSORS)
    return framed({**told, **changed}) + b"\1" * length


ROW = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "truncated: 0 bytes"),
        (b"\5\0\0", "truncated: 3 bytes"),
        (shard()[:100], "truncated: 100 bytes"),
        (shard()[:-1], "truncated: tensor"),
        (shard() + b"\0", "its header tells of"),
        (b"\xff" * 8 + b"{}", "truncated"),
        (b"GGUF\3\0\0\0" + b"\0" * 100, "truncated"),
        (framed(b"[]"), "no JSON object"),
        (framed(b"{" * 1000), "is not JSON"),
        (framed(b'{"a": 1, "a": 2}'), "comes twice"),
        (header(x=1), "is not described"),
        (header(x={**ROW, "data_offsets": [0]}), "is not described"),
        (header(x={**ROW, "data_offsets": [4, 0]}), "lies from 4 to 0"),
        (header(x={**ROW, "data_offsets": [-4, 0]}), "lies from -4 to 0"),
        (header(x={**ROW, "shape": [3]}), "of F16 [3] has 4 bytes"),
        (header(x={**ROW, "shape": [-2, -1]}), "impossible shape"),
        (header(x={**ROW, "shape": [2**62, 2**62]}), "has 4 bytes"),
        (header(x={**ROW, "data_offsets": [0, 2**62]}), "truncated"),
        (header(x={**ROW, "shape": [1] * 9}), "shape of 9 dimensions"),
        (header(x={**ROW, "shape": [2**63]}), "impossible shape"),
        (header(**{"x" * 1025: ROW}), "a name of 1025 characters"),
    ],
)
def test_a_damaged_shard_is_named_for_what_it_is(tmp_path: Path, data: bytes, fault: str) -> None:
    path = folder(tmp_path / "m", model=data)
    assert fault in refused(path)
    assert "model.safetensors" in refused(path)


def test_every_length_of_a_cut_shard_is_refused(tmp_path: Path) -> None:
    whole = shard({"a": ("F16", (4,)), "b": ("U8", (3, 3))})
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Unfit):
            read_shard(path)
    path.write_bytes(whole)
    assert len(read_shard(path)) == 2


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 250), replacement=st.binary(min_size=1, max_size=8))
def test_no_mutation_does_anything_but_give_tensors_or_unfit(
    tmp_path: Path, at: int, replacement: bytes
) -> None:
    data = bytearray(shard())
    data[at : at + len(replacement)] = replacement
    path = tmp_path / "mutant.safetensors"
    path.write_bytes(data)
    try:
        tensors = read_shard(path)
    except Unfit as error:
        assert "mutant.safetensors" in error.message
    else:
        assert all(0 <= tensor.bytes <= len(data) for tensor in tensors)


ONE, TWO = {"a": ("F16", (4,))}, {"b": ("F16", (4,))}


def indexed(path: Path, places: object) -> Path:
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return path


def test_an_index_says_which_files_count(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", one=shard(ONE), two=shard(TWO), extra=shard(ONE))
    indexed(path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert [tensor.name for tensor in read_folder(path).tensors] == ["a", "b"]


@pytest.mark.parametrize(
    ("places", "fault"),
    [
        ({"a": "one.safetensors", "b": "gone.safetensors"}, "gone.safetensors: is missing"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "lacks tensor 'z'"),
        ({"a": "../one.safetensors"}, "no file of this folder"),
        ({"a": "/etc/passwd"}, "no file of this folder"),
        ({"a": 1}, "no file of this folder"),
        ({}, "has no weight_map"),
        (["a"], "has no weight_map"),
    ],
)
def test_an_index_that_does_not_hold_is_refused(tmp_path: Path, places: object, fault: str) -> None:
    assert fault in refused(indexed(folder(tmp_path / "m", one=shard(ONE)), places))


def test_an_index_of_other_weights_is_passed_over(tmp_path: Path) -> None:
    """Quants lie beside the index of the weights that they were made of: of its files none is here."""
    gone = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    path = indexed(folder(tmp_path / "m", output=shard({**ONE, **TWO})), gone)
    assert [(tensor.name, tensor.file) for tensor in read_folder(path).tensors] == [
        ("a", "output.safetensors"), ("b", "output.safetensors")
    ]  # fmt: skip
    (path / "output.safetensors").unlink()
    assert "model-00001-of-00002.safetensors: is missing" in refused(path)


def test_a_header_costs_no_more_time_than_its_length_is_worth(tmp_path: Path) -> None:
    """The product of so many huge numbers would take the processor for hours."""
    shape = ",".join(["9" * 4000] * 4000)
    data = framed(f'{{"a": {{"dtype": "F16", "shape": [{shape}], "data_offsets": [0, 0]}}}}'.encode())
    message = refused(folder(tmp_path / "m", model=data))
    assert "shape of 4000 dimensions" in message
    assert len(message) < 1000


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "m",
        **{"model-00001-of-00003": shard(ONE), "model-00003-of-00003": shard(TWO)},
    )
    assert "model-00002-of-00003.safetensors: is missing" in refused(path)


def test_weights_that_come_twice_under_other_names_count_once(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", model=shard(ONE), consolidated=shard(ONE))
    assert len(read_folder(path).tensors) == 1
    path = folder(tmp_path / "n", first=shard(ONE), second=shard(ONE))
    assert "comes in two files" in refused(path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json: is missing" in refused(tmp_path / "empty")
    path = folder(tmp_path / "m")
    (path / "model.safetensors").unlink()
    assert "no .safetensors file" in refused(path)
    assert "is no folder" in refused(path / "config.json")


def need(path: Path, **use: object) -> tuple[int, int, int]:
    how = {"tokens": 2048, "context": 1024, "chunk": 256, **use}
    return cuda_footprint(read_folder(path), CudaUse(**how))  # type: ignore[arg-type]


def test_what_exllamav2_needs_follows_from_headers(tmp_path: Path) -> None:
    weights, cache, overhead = need(folder(tmp_path / "m"))
    up = 192 * 64 * 2
    # No embedding, which stays with the host; a head of 1024 rows, since it is tied; F32 halved.
    assert weights == up + NORM // 2 + 1024 * 64 * 2
    assert cache == 4 * 3 * 2 * 32 * 2048  # bytes, layers, heads, length, tokens
    assert CUDA_SLACK < overhead < CUDA_SLACK + 2**20
    assert need(folder(tmp_path / "n", {**CONFIG, "tie_word_embeddings": False}))[0] == up + NORM // 2


def test_a_tied_model_with_a_head_of_its_own_has_no_copy(tmp_path: Path) -> None:
    tensors = {**TENSORS, "lm_head.weight": ("F16", (1000, 64))}
    assert need(folder(tmp_path / "m", model=shard(tensors)))[0] == 192 * 64 * 2 + NORM // 2 + 1000 * 64 * 2


@pytest.mark.parametrize(("cache", "bytes_"), [("fp16", 131072), ("q8", 69632), ("q6", 53248), ("q4", 36864)])
def test_the_cache_of_a_known_model_has_the_known_size(tmp_path: Path, cache: str, bytes_: int) -> None:
    path = folder(
        tmp_path / "m", {**CONFIG, "num_hidden_layers": 32, "num_key_value_heads": 8, "head_dim": 128}
    )
    assert need(path, tokens=256, cache=cache)[1] == 256 * bytes_
    # Quantised, one layer is kept at full length beside it.
    plain, quantised = need(path, tokens=2560)[2], need(path, tokens=2560, cache=cache)[2]
    assert quantised - plain == (0 if cache == "fp16" else 4 * 8 * 128 * 2560)


def test_exl2_has_its_permutations_and_a_matrix_to_unfold(tmp_path: Path) -> None:
    tensors = {"l.q_weight": ("I32", (8, 192)), "l.q_invperm": ("I16", (64,))}
    path = folder(tmp_path / "m", {**CONFIG, "tie_word_embeddings": False}, output=shard(tensors))
    weights, _, overhead = need(path)
    assert weights == 8 * 192 * 4 + 64 * 2 + 8 * 64
    plain = folder(
        tmp_path / "n", {**CONFIG, "tie_word_embeddings": False}, output=shard({"l": ("I32", (1,))})
    )
    # Room for a chunk of the widest layer is more than what the head of 1024 x 64 needs.
    assert overhead - need(plain)[2] == 2 * 256 * (64 + 2 * 192) + 2 * 64 * 192


def test_what_lies_on_several_devices_has_its_tables_on_each(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    assert need(path, devices=3)[2] == 3 * need(path)[2]
    assert need(path, context=2048)[2] - need(path)[2] == 4 * 32 * 1024
    assert need(path, copied=12345)[2] - need(path)[2] == 12345


def test_a_digest_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"a" * 200_000)
    os.utime(path, ns=(0, 10**18))
    first = digest(path)
    assert first == digest(path) and len(first) == 32
    for change in (b"a" * 200_001, b"b" + b"a" * 199_999, b"a" * 199_999 + b"b"):
        path.write_bytes(change)
        os.utime(path, ns=(0, 10**18))
        assert digest(path) != first
    path.write_bytes(b"a" * 200_000)
    os.utime(path, ns=(0, 10**18 + 1))
    assert digest(path) != first  # written anew, as a repaired download is
    with pytest.raises(Unfit, match="cannot be read"):
        digest(tmp_path / "gone")


def test_the_digest_of_a_folder_is_that_of_all_its_files(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    before = digest(path)
    (path / "more.json").touch()
    assert digest(path) != before
