"""Look-up by id and alias, classes, and the error for a name that nothing answers to."""

import pytest

from cortex.catalogue import Catalogue, ModelSpec, unknown, valid_id
from cortex.errors import BadAsk, UnknownModel

BIG = ModelSpec("org/big-7b", aliases=("big",))
SMALL = ModelSpec("small")
CATALOGUE = Catalogue(
    {BIG.id: BIG, SMALL.id: SMALL},
    {"big": BIG.id, "large": BIG.id, "elsewhere": "only-on-a-neuron", "twice": "big"},
)


@pytest.mark.parametrize("text", ["a", "7b", "org/name", "hf:org/name-1.5_b", "a..b", "a" * 128])
def test_ids_of_the_alphabet_are_valid(text):
    assert valid_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-a",
        "/abs",
        ".hidden",
        "a b",
        "a\n",
        "a\nb",
        "é",
        "../up",
        "a/../b",
        "a/..",
        "a" * 129,
        "a?b",
        "a\\b",
    ],
)
def test_other_ids_are_not(text):
    assert not valid_id(text)


def test_a_spec_is_found_by_id_and_by_alias():
    assert CATALOGUE.find("org/big-7b") is BIG
    assert CATALOGUE.find("large") is BIG
    assert CATALOGUE.find("none") is None
    assert list(CATALOGUE) == [BIG, SMALL]


def test_an_alias_is_looked_up_once_and_never_chained():
    assert CATALOGUE.resolve("twice") == "big"
    assert CATALOGUE.find("twice") is None


def test_a_name_that_is_no_alias_resolves_to_itself():
    assert CATALOGUE.resolve("small") == "small"
    assert CATALOGUE.resolve("none") == "none"
    assert CATALOGUE.resolve("elsewhere") == "only-on-a-neuron"


def test_an_id_goes_before_an_alias_of_the_same_name():
    assert Catalogue({"small": SMALL}, {"small": "org/big-7b"}).find("small") is SMALL


def test_the_names_of_a_spec_are_its_aliases_sorted():
    assert CATALOGUE.names(BIG) == ("big", "large")
    assert CATALOGUE.names(SMALL) == ()


@pytest.mark.parametrize(
    ("spec", "priority"),
    [
        (ModelSpec("m"), 100),
        (ModelSpec("m", pinned_on=("n",)), 1000),
        (ModelSpec("m", pinned_on=("n",), residency_priority=5), 5),
        (ModelSpec("m", residency_priority=0), 0),
    ],
)
def test_the_class_is_as_said_else_by_pin(spec, priority):
    assert spec.priority == priority


def test_an_unknown_model_names_its_near_ones():
    error = unknown("smal", ["small", "org/big-7b"])
    assert isinstance(error, UnknownModel)
    assert (error.status, error.param) == (404, "model")
    assert "'smal'" in error.message and "small" in error.message and "big" not in error.message


def test_an_unknown_model_far_from_all_is_sent_to_the_list():
    assert "GET /v1/models" in unknown("zzzz", ["small"]).message


def test_a_name_outside_the_alphabet_is_not_echoed():
    error = unknown("<script>\n", ["small"])
    assert isinstance(error, BadAsk) and error.status == 400
    assert "script" not in error.message


def test_near_names_are_the_nearest_three_and_none_where_nothing_is_near():
    known = [f"org/model-{number}" for number in range(2000)] + ["llama-large", "llama-small", "llama-tiny"]
    message = unknown("lama-large", known).message
    assert "Did you mean llama-large" in message
    assert "org/" not in message
    assert "llama" not in unknown("x" * 120, known).message


@pytest.mark.parametrize(
    ("spec", "harness"),
    [
        (ModelSpec("m", source="path:/srv/m.gguf"), "llamacpp"),
        (ModelSpec("m", source="path:/srv/M.GGUF"), "llamacpp"),
        (ModelSpec("m", source="path:/srv/gguf/m"), "exllamav2"),
        (ModelSpec("m", source="path:/srv/m.gguf/m"), "exllamav2"),
        (ModelSpec("m", source="path:/srv/m.safetensors"), "exllamav2"),
        (ModelSpec("m", source="hf:org/name"), "exllamav2"),
        (ModelSpec("m", source="hf:org/name@4.0bpw"), "exllamav2"),
        (ModelSpec("m", source="hf:org/name", revision="gguf"), "exllamav2"),
        (ModelSpec("m", source="hf:org/Name-GGUF"), "llamacpp"),
        (ModelSpec("m", source="hf:gguf-org/name@v1"), "llamacpp"),
        (ModelSpec("m", source="hf:org/name:Q4_K_M"), "llamacpp"),
        (ModelSpec("m", source="hf:org/name@v1:sub/m.gguf"), "llamacpp"),
        (ModelSpec("m", source="hf:org/name", quant="Q4_K_M"), "llamacpp"),
        (ModelSpec("m", source="upstream:http://h/v1#org/name-GGUF"), "upstream"),
        (ModelSpec("org/name"), "exllamav2"),
        (ModelSpec("hf:org/name"), "exllamav2"),
        (ModelSpec("org/name-gguf"), "llamacpp"),
        (ModelSpec("org/name:Q4_K_M"), "llamacpp"),
        (ModelSpec("org/name", quant="Q4_K_M"), "llamacpp"),
        # Nothing tells, or only what is said.
        (ModelSpec("m"), None),
        (ModelSpec("a/b/c"), None),
        (ModelSpec("org/name", source="/srv/m.gguf"), None),
        (ModelSpec("m", harness="exllamav2"), "exllamav2"),
        (ModelSpec("m", source="path:/srv/m.gguf", harness="exllamav2"), "exllamav2"),
        (ModelSpec("org/name", source="hf:org/name", harness="llamacpp"), "llamacpp"),
    ],
)
def test_the_harness_is_as_said_else_by_the_format(spec, harness):
    assert spec.harness_name == harness
    at_home = {"llamacpp": {"cpu"}, "exllamav2": {"cuda:0"}, "upstream": {"upstream"}}
    places = {"cpu", "cuda:0", "upstream"}
    assert {place for place in places if spec.runs_on(place)} == at_home.get(harness, places)


@pytest.mark.parametrize(
    ("spec", "origin"),
    [
        (ModelSpec("m", source="path:/srv/m"), "path:/srv/m"),
        (ModelSpec("org/name"), "hf:org/name"),
        (ModelSpec("org/name", revision="v1"), "hf:org/name@v1"),
        (ModelSpec("m", source="hf:org/name", revision="v1", quant="Q8_0"), "hf:org/name@v1:Q8_0"),
        (ModelSpec("m"), None),
    ],
)
def test_the_origin_of_a_spec_is_one_source(spec, origin):
    assert spec.origin == origin


@pytest.mark.parametrize(
    ("more", "sees"),
    [
        ({"harness": "llamacpp"}, False),
        ({"source": "path:/m/folder"}, False),
        ({"source": "upstream:http://h/v1"}, True),
        ({}, True),
    ],
)
def test_an_entry_cannot_make_a_model_see_where_no_engine_does(more: dict, sees: bool) -> None:
    """What nobody can tell the harness of is believed."""
    able = ModelSpec("m", capabilities=("chat", "vision"), **more).able
    assert able == (("chat", "vision") if sees else ("chat",))


def test_an_entry_with_a_pooling_is_of_a_model_that_makes_vectors() -> None:
    assert ModelSpec("m", pooling="cls").able == ("embeddings",)
    assert ModelSpec("m", pooling="cls", capabilities=("embeddings", "german")).able == (
        "embeddings",
        "german",
    )
