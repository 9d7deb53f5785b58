"""Which files of a repo are a model: tables of cases, without any hub."""

import pytest

from cortex.catalogue import ModelSpec
from cortex.errors import Unfit
from cortex.hub import Source
from cortex.hub.choice import choose

GGUF = ("gguf",)
BOTH = ("gguf", "safetensors")


def chosen(names: list[str], pick: str | None = None, formats=GGUF) -> tuple[str, tuple[str, ...]]:
    choice = choose("org/m", dict.fromkeys(names, 10), pick, formats)
    return choice.main, choice.weights


def refusal(names: list[str], pick: str | None = None, formats=GGUF) -> str:
    with pytest.raises(Unfit) as caught:
        chosen(names, pick, formats)
    assert caught.value.message.startswith("org/m")
    return caught.value.message


QUANTS = [
    "m-Q4_K_M.gguf",
    "m.Q8_0.gguf",
    "m-IQ2_XXS.gguf",
    "m-UD-Q4_K_XL.gguf",
    "m-BF16.gguf",
    "m_f16.gguf",
    "m-MXFP4_MOE.gguf",
    "q4_0.gguf",
]


@pytest.mark.parametrize(
    ("pick", "name"),
    [
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q8_0", "m.Q8_0.gguf"),
        ("IQ2_XXS", "m-IQ2_XXS.gguf"),
        ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("bf16", "m-BF16.gguf"),
        ("F16", "m_f16.gguf"),
        ("MXFP4_MOE", "m-MXFP4_MOE.gguf"),
        ("Q4_0", "q4_0.gguf"),
        ("m-BF16.gguf", "m-BF16.gguf"),
    ],
)
def test_a_quant_or_a_file_picks_one(pick: str, name: str) -> None:
    assert chosen(QUANTS, pick) == (name, (name,))


def test_the_only_model_needs_no_name() -> None:
    assert chosen(["x.gguf", "mmproj-x-f16.gguf", "imatrix.gguf", "ggml-vocab-x.gguf"])[0] == "x.gguf"


def test_a_file_is_found_in_its_folder_and_by_any_part() -> None:
    parts = [f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    names = [*parts, "Q4_0/m-Q4_0.gguf"]
    for pick in ("Q8_0", "m-Q8_0-00001-of-00002.gguf", parts[1], "Q8_0/m-Q8_0.gguf"):
        assert chosen(names, pick) == (parts[0], tuple(parts))
    assert chosen(names, "m-Q4_0.gguf")[0] == "Q4_0/m-Q4_0.gguf"


def test_two_splits_of_one_name_are_two_models() -> None:
    names = [f"m-0000{n}-of-0000{of}.gguf" for of in (2, 3) for n in range(1, of + 1)]
    assert len(chosen(names, "m-00001-of-00003.gguf")[1]) == 3
    assert "several" in refusal(names)


def test_what_is_not_clear_is_told_with_all_choices_and_their_sizes() -> None:
    said = refusal(QUANTS)
    for quant in ("Q4_K_M (10B)", "Q8_0 (10B)", "F16 (10B)", "hf:org/m:QUANT"):
        assert quant in said
    said = refusal(QUANTS, "Q4_K_S")
    assert "holds no 'Q4_K_S'. Did you mean Q4_K_M?" in said
    said = refusal(["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0")
    assert "more than once" in said and "a-Q4_0.gguf (10B), b-Q4_0.gguf (10B)" in said


def test_a_wall_of_choices_is_cut_and_says_so() -> None:
    assert "and 70 more" in refusal([f"m{n}.gguf" for n in range(100)])


def test_missing_parts_are_told_before_anything_is_fetched() -> None:
    assert "parts of m.gguf are missing" in refusal(["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"])
    said = refusal(["model-00001-of-00002.safetensors", "config.json"], None, ("safetensors",))
    assert "parts of its weights are missing" in said


def test_the_first_format_that_is_there_is_taken() -> None:
    names = ["m.gguf", "model.safetensors", "config.json"]
    assert chosen(names, None, BOTH)[0] == "m.gguf"
    assert chosen(names, None, ("safetensors", "gguf"))[1] == ("model.safetensors",)
    assert chosen(names[1:], None, BOTH)[1] == ("model.safetensors",)


def test_what_lies_beside_comes_along_and_nothing_else() -> None:
    names = ["Q8_0/m.gguf", "Q8_0/a.json", "b.jinja", "other/c.json", "d.md", "e.py", "f.txt", "g.model"]
    choice = choose("org/m", dict.fromkeys(names, 1), None, GGUF)
    assert choice.beside == ("Q8_0/a.json", "b.jinja", "f.txt", "g.model")


@pytest.mark.parametrize(
    ("names", "pick", "formats", "words"),
    [
        (["model.safetensors"], None, GGUF, "holds safetensors, and GGUF is what can be loaded here"),
        (["m.gguf"], None, ("safetensors",), "holds gguf, and safetensors is what can be loaded here"),
        (["pytorch_model.bin"], None, BOTH, "never loaded"),
        (["model.safetensors"], "Q4_0", ("safetensors",), "quants are picked of GGUF"),
        (["model.safetensors"], "model.safetensors", BOTH, "its whole folder"),
        (["README.md"], None, BOTH, "holds no weights"),
        ([], None, GGUF, "often named m-GGUF"),
        (["mmproj.gguf"], None, GGUF, "holds no weights"),
    ],
)
def test_a_repo_without_a_model_for_us_says_what_it_holds(names, pick, formats, words: str) -> None:
    assert words in refusal(names, pick, formats)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/m", Source("org/m")),
        ("org/m", Source("org/m")),
        ("hf:org/m:Q4_K_M", Source("org/m", pick="Q4_K_M")),
        ("hf:org/m@v1.0:sub/x.gguf", Source("org/m", "v1.0", "sub/x.gguf")),
        ("hf:org/m@refs/pr/1", Source("org/m", "refs/pr/1")),
        ("hf:m", None),
        ("hf:org/m/x", None),
        ("hf:../m", None),
        ("hf:org/..", None),
        ("hf:org/m@../x", None),
        ("hf:org/m:../x.gguf", None),
        ("hf:org/m:", None),
        ("hf:org/m@", None),
        ("path:/x", None),
        ("", None),
    ],
)
def test_a_source_is_read_or_is_none(text: str, source: Source | None) -> None:
    assert Source.parse(text) == source
    if source is not None:
        assert Source.parse(str(source)) == source


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        (ModelSpec("org/m"), Source("org/m")),
        (ModelSpec("org/m", quant="Q4_0", revision="v1"), Source("org/m", "v1", "Q4_0")),
        (ModelSpec("x", source="hf:org/m:Q8_0", revision="v1"), Source("org/m", "v1", "Q8_0")),
        (ModelSpec("x"), None),
        (ModelSpec("org/m", source="path:/x.gguf"), None),
        (ModelSpec("org/m", source="upstream:http://h/v1"), None),
    ],
)
def test_the_entry_of_a_model_says_where_it_is(spec: ModelSpec, source: Source | None) -> None:
    assert Source.of(spec) == source
