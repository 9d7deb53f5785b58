"""models.toml, whole: every key, aliases, the predecessor's keys, and the way over the wire."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Sampling
from cortex.catalogue import Catalogue, Cost, ModelSpec
from cortex.config.models import (
    MOST_ALIAS_BIAS,
    merge_aliases,
    read_models,
    sampling_from_text,
    sampling_to_text,
    spec_from_plain,
    spec_to_plain,
)
from cortex.errors import BadAsk, ConfigError, Unsupported

GOLDEN = Path(__file__).parent / "golden" / "config"


@pytest.fixture
def read(tmp_path):
    """Read a text as models.toml; warnings without the folder."""

    def read(text):
        (tmp_path / "models.toml").write_text(text)
        catalogue, warnings = read_models(tmp_path / "models.toml")
        return catalogue, [warning.removeprefix(f"{tmp_path}/models.toml:") for warning in warnings]

    return read


@pytest.fixture
def faults(read, tmp_path):
    def faults(text):
        with pytest.raises(ConfigError) as caught:
            read(text)
        return [fault.removeprefix(f"{tmp_path}/models.toml:") for fault in caught.value.faults]

    return faults


def test_every_key_that_is_acted_on_reaches_the_spec(read):
    catalogue, warnings = read(
        """
        [[models]]
        id = "org/name"
        source = "path:/srv/name.gguf"
        harness = "llamacpp"
        context = 4096
        cache = "q8"
        footprint = "19GiB"
        min_devices = 2
        min_device_memory = "24GiB"
        pinned_on = ["beast"]
        residency_priority = 7
        idle_unload_s = 0
        slots = 3
        aliases = ["name"]
        capabilities = ["tools"]
        [models.cost]
        input = 1
        output = 2.5
        cache_read = 0
        cache_write = 0.5
        [models.sampling]
        temperature = 0.5
        top_p = 0.9
        top_k = 40
        min_p = 0.1
        seed = 1
        presence_penalty = 0.2
        frequency_penalty = -0.2
        repetition_penalty = 1.1
        logit_bias = { "15043" = -100 }
        """
    )
    assert warnings == []
    assert list(catalogue) == [
        ModelSpec(
            "org/name",
            source="path:/srv/name.gguf",
            harness="llamacpp",
            context=4096,
            cache="q8",
            footprint=19 * 2**30,
            min_devices=2,
            min_device_memory=24 * 2**30,
            pinned_on=("beast",),
            residency_priority=7,
            slots=3,
            aliases=("name",),
            capabilities=("tools",),
            cost=Cost(1.0, 2.5, 0.0, 0.5),
            sampling=Sampling(0.5, 0.9, 40, 0.1, 1, 0.2, -0.2, 1.1, {15043: -100.0}),
        )
    ]
    assert catalogue.find("name") is catalogue.specs["org/name"]


def test_an_entry_that_says_nothing_is_all_default(read):
    assert read('[[models]]\nid = "m"')[0] == Catalogue({"m": ModelSpec("m")})
    assert read("")[0] == Catalogue()


def test_the_predecessors_catalogue_loads_with_one_warning_a_key():
    catalogue, warnings = read_models(GOLDEN / "predecessor-models.toml")
    assert list(catalogue) == [
        ModelSpec(
            "Qwen/Qwen3-30B",
            quant="Q4_K_M",
            footprint=19000 * 2**20,
            min_device_memory=24000 * 2**20,
            pinned_on=("beast",),
            cost=Cost(0.1, 0.4),
            capabilities=("text",),
        )
    ]
    assert catalogue.resolve("qwen") == "Qwen/Qwen3-30B"
    assert [warning.split(": ")[1] for warning in warnings] == [
        "models[0].harness",
        "models[0].vram_mb",
        "models[0].min_device_vram_mb",
        "models[0].pinned_on",
        "models[0].limit",
    ]


@pytest.mark.parametrize("old", ['harness = "candle"', "vram_mb = 1", "limit = { context = 1 }"])
def test_what_the_predecessor_meant_by_a_key_is_told_where_the_entry_is_its(read, old):
    entry = '[[models]]\nid = "org/m"\npinned_on = ["n"]\nquant = "q6k"\n'
    warnings = read(f"{entry}{old}\n")[1]
    assert [warning.split(": ", 2)[1] for warning in warnings] == [
        "models[0].pinned_on",
        "models[0].quant",
        f"models[0].{old.split(' ')[0]}",
    ]
    assert "never evicted" in warnings[0]
    assert read(entry)[1] == []
    assert len(read(f'[[models]]\nid = "org/m"\nquant = "Q4_K_M"\npinned_on = []\n{old}\n')[1]) == 1


def test_a_key_without_effect_is_a_warning_and_leaves_no_trace_in_the_spec(read):
    catalogue, warnings = read('[[models]]\nid = "m"\nlimit = { context = 1 }\n')
    assert warnings == ["3: models[0].limit: has no effect in this version"]
    assert list(catalogue) == [ModelSpec("m")]


SMALL = '[[models]]\nid = "small"\nsource = "path:/srv/small"\naliases = ["s"]\n'
LARGE = '[[models]]\nid = "large"\nsource = "path:/srv/large"\n'


def test_what_is_exllamav2s_reaches_the_spec(read):
    text = 'draft = "small"\nlora = ["/srv/adapter", "/srv/other"]\ncontext = 512\ncache_tokens = 512\n'
    catalogue, warnings = read(SMALL + LARGE + text)
    assert warnings == []
    assert catalogue.specs["large"] == ModelSpec(
        "large",
        source="path:/srv/large",
        draft="small",
        lora=("/srv/adapter", "/srv/other"),
        context=512,
        cache_tokens=512,
    )
    assert read(LARGE + 'speculation = "ngram"')[0].specs["large"].speculation == "ngram"


@pytest.mark.parametrize("draft", ["s", "hf:org/small", "hf:org/small@v1", "path:/srv/a b"])
def test_a_draft_is_named_by_id_alias_or_source(read, draft):
    assert read(f'{SMALL}{LARGE}draft = "{draft}"')[0].specs["large"].draft == draft


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        ("smal", "'smal' is no model of models.toml; add its entry there, or write where it is"),
        ("large", "is the model itself; name a smaller one"),
        ("path:/srv/large", "is the model itself; name a smaller one"),
        ("cpu", "'cpu' is a model of llamacpp; a draft is a folder of safetensors"),
        ("path:/srv/x.gguf", "'path:/srv/x.gguf' is a model of llamacpp"),
        ("upstream:http://h/v1", "'upstream:http://h/v1' is no model of models.toml"),
        ("a b", "must be the id of a model, or hf:org/name or path:/absolute/folder of one, not 'a b'"),
    ],
)
def test_a_draft_that_is_none_is_a_fault_at_its_line(faults, draft, said):
    cpu = '[[models]]\nid = "cpu"\nsource = "path:/srv/cpu.gguf"\n'
    (fault,) = faults(f'{cpu}{LARGE}draft = "{draft}"')
    assert fault.startswith(f"7: models[1].draft: {said}")


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ('harness = "llamacpp"', "says harness = 'llamacpp'"),
        ('harness = "upstream"', "says harness = 'upstream'"),
        ('source = "path:/srv/m.gguf"', "is, by its source, for llamacpp"),
        ('source = "hf:org/name:Q4_K_M"', "is, by its source, for llamacpp"),
        ('source = "upstream:http://h/v1"', "is, by its source, for upstream"),
    ],
)
@pytest.mark.parametrize(
    "line", ['draft = "hf:org/small"', 'speculation = "ngram"', 'lora = ["/a"]', "cache_tokens = 512"]
)
def test_a_key_of_exllamav2_is_a_fault_where_another_engine_would_ignore_it(faults, origin, why, line):
    key = line.partition(" ")[0]
    assert faults(f'[[models]]\nid = "m"\n{origin}\n{line}') == [
        f"4: models[0].{key}: is for harness exllamav2, and this entry {why}; leave it out"
    ]


def test_pooling_is_llamacpps_alone(read, faults):
    assert read(LARGE + 'harness = "llamacpp"\npooling = "cls"')[0].specs["large"].pooling == "cls"
    assert faults(LARGE + 'pooling = "rank"') == [
        "4: models[0].pooling: must be 'mean' or 'cls' or 'last', not 'rank'"
    ]
    assert faults('[[models]]\nid = "m"\nsource = "upstream:http://h/v1"\npooling = "mean"') == [
        "4: models[0].pooling: is for harness llamacpp, and this entry is, by its source, for upstream; "
        "leave it out"
    ]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('draft = "hf:a/b"\nspeculation = "ngram"', "5: models[0].speculation: and draft exclude each other"),
        ('lora = ["adapters/x"]', "4: models[0].lora[0]: must be an absolute path, not 'adapters/x'"),
        ('lora = ["/a", "/a"]', "4: models[0].lora[1]: is listed twice"),
        (
            "context = 1025\ncache_tokens = 1000",
            "5: models[0].cache_tokens: is 1024 tokens in whole pages, and one context is 1025;",
        ),
        ("cache_tokens = 0", "4: models[0].cache_tokens: must be 1 to 2147483648, not 0"),
        ('speculation = "eagle"', "4: models[0].speculation: must be 'ngram', not 'eagle'"),
    ],
)
def test_what_cannot_be_of_exllamav2s_keys_is_a_fault(faults, lines, fault):
    (said,) = faults(LARGE + lines)
    assert said.startswith(fault)


def test_a_cache_of_as_many_whole_pages_as_the_context_needs_is_enough(read):
    """1000 tokens are four pages of 256."""
    spec = read(LARGE + "context = 1024\ncache_tokens = 1000")[0].specs["large"]
    assert (spec.context, spec.cache_tokens) == (1024, 1000)


def test_who_has_another_catalogue_is_told_where_the_draft_is_from(read):
    entries = '[[models]]\nid = "org/tiny"\nrevision = "4.0bpw"\n[[models]]\nid = "bare"\n'
    for draft, told in (
        ("small", "path:/srv/small"),
        ("s", "path:/srv/small"),
        ("org/tiny", "hf:org/tiny@4.0bpw"),
        ("hf:a/b", "hf:a/b"),
        ("bare", "bare"),
    ):
        catalogue, _ = read(f'{SMALL}{entries}{LARGE}draft = "{draft}"')
        sent = catalogue.for_others(catalogue.specs["large"])
        assert sent == replace(catalogue.specs["large"], draft=told)
        assert spec_from_plain(spec_to_plain(sent)) == sent
    assert catalogue.for_others(catalogue.specs["small"]) is catalogue.specs["small"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[models]]\nid = "a"\n[[models]]\nid = "a"', "4: models[1].id: is the same as that of models[0]"),
        ("[[models]]", "1: models[0].id: is missing"),
        ('[[models]]\nid = "a"\nharness = "candel"', "3: models[0].harness: must be 'exllamav2' or"),
        ('[[models]]\nid = "a"\ncache = "q5"', "3: models[0].cache: must be 'fp16' or 'q8' or 'q6' or 'q4'"),
        (
            '[[models]]\nid = "a"\nfootprint = 1\nvram_mb = 1',
            "4: models[0].vram_mb: says the same as footprint",
        ),
        ('[[models]]\nid = "a"\n[models.cost]\ninput = 1', "3: models[0].cost.output: is missing"),
        (
            '[[models]]\nid = "a"\n[models.sampling]\ntop_p = 1.5',
            "4: models[0].sampling.top_p: must be 0 to 1",
        ),
        (
            '[[models]]\nid = "a"\n[models.sampling]\nlogit_bias = { x = 1 }',
            "4: models[0].sampling.logit_bias.x: must",
        ),
        ('[[models]]\nid = "a"\nsource = "path:rel"', "3: models[0].source: must be hf:"),
        ('[[model]]\nid = "a"', "1: model: unknown key; did you mean 'models'?"),
    ],
)
def test_a_wrong_entry_is_a_fault_at_its_line(faults, text, expected):
    (fault,) = faults(text)
    assert fault.startswith(expected)


A_AND_B = '[[models]]\nid = "a"\naliases = ["x"]\n[[models]]\nid = "b"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('aliases = ["a"]', "6: models[1].aliases[0]: 'a' is the id of a model already"),
        (
            'aliases = ["x"]',
            "6: models[1].aliases[0]: 'x' stands for 'a' already, and cannot stand for 'b' too",
        ),
        ('[aliases]\nb = "a"', "7: aliases.b: 'b' is the id of a model already"),
        # [aliases] goes first, so the entry's own list is what clashes.
        (
            '[aliases]\nx = "b"',
            "3: models[0].aliases[0]: 'x' stands for 'b' already, and cannot stand for 'a' too",
        ),
        ('[aliases]\ny = "x"', "7: aliases.y: stands for 'x', which is an alias itself; write the id"),
    ],
)
def test_an_alias_clash_is_a_fault(faults, text, fault):
    assert faults(A_AND_B + text) == [fault]


def test_an_alias_said_twice_for_one_model_is_no_clash(read):
    assert read(A_AND_B + '[aliases]\nx = "a"')[0].aliases == {"x": "a"}


def test_an_alias_for_a_model_of_no_entry_is_a_warning_with_near_names(read):
    catalogue, warnings = read('[[models]]\nid = "qwen3-4b"\n[aliases]\nq = "qwen3-4B"')
    assert warnings == [
        "4: aliases.q: stands for 'qwen3-4B', which is not in this file; did you mean 'qwen3-4b'?"
    ]
    assert catalogue.resolve("q") == "qwen3-4B"


def test_an_alias_far_from_all_of_many_models_lists_none_of_them(read):
    entries = "".join(f'[[models]]\nid = "model-{i}"\n' for i in range(31))
    assert read(entries + '[aliases]\nq = "zz"')[1] == [
        "64: aliases.q: stands for 'zz', which is not in this file"
    ]


CATALOGUE = Catalogue({"a": ModelSpec("a"), "b": ModelSpec("b")}, {"x": "a"})


def test_the_gateways_aliases_join_the_catalogues():
    merged = merge_aliases(CATALOGUE, {"y": "b", "x": "a", "far": "only-on-a-neuron"})
    assert merged == Catalogue(CATALOGUE.specs, {"x": "a", "y": "b", "far": "only-on-a-neuron"})
    assert CATALOGUE.aliases == {"x": "a"}


def test_every_clash_of_the_gateways_aliases_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        merge_aliases(CATALOGUE, {"x": "b", "a": "b", "y": "x", "z": "b"})
    assert caught.value.faults == [
        "cortex.toml: aliases.x: 'x' stands for 'a' already, and cannot stand for 'b' too",
        "cortex.toml: aliases.a: 'a' is the id of a model already",
        "cortex.toml: aliases.y: stands for 'x', which is an alias itself; write the id",
    ]


def test_an_alias_may_sample_by_itself(read):
    catalogue, warnings = read(
        A_AND_B + '[aliases]\ny = "b"\n[alias_sampling.x]\ntemperature = 1.2\n[alias_sampling.y]\ntop_k = 1'
    )
    assert not warnings
    assert catalogue.sampling("x") == Sampling(temperature=1.2)
    assert catalogue.sampling("y") == Sampling(top_k=1)
    assert catalogue.sampling("a") is None


def test_the_sampling_of_a_name_that_is_no_alias_is_a_fault(faults):
    text = "[alias_sampling.a]\ntop_k = 1\n[alias_sampling.far]\ntop_k = 1\n[alias_sampling.x]\ntop_k = -1"
    assert faults(A_AND_B + text) == [
        "6: alias_sampling.a: is the name of no alias; known here: x",
        "8: alias_sampling.far: is the name of no alias; known here: x",
        "11: alias_sampling.x.top_k: must be 0 to 1000000, not -1",
    ]


def biased(alias, tokens):
    """The longest way to write a bias for so many tokens."""
    bias = ", ".join(f"{999999999 - each} = -2.2250738585072014e-308" for each in range(tokens))
    return f"[alias_sampling.{alias}]\nlogit_bias = {{ {bias} }}\n"


def test_the_sampling_of_an_alias_fits_into_a_header_or_is_a_fault(read, faults):
    """A neuron takes heads of 16 KiB, and would refuse each request by the alias."""
    catalogue, _ = read(A_AND_B + biased("x", MOST_ALIAS_BIAS))
    assert len(sampling_to_text(catalogue.sampling("x"))) < 10 * 1024
    (fault,) = faults(A_AND_B + biased("x", MOST_ALIAS_BIAS + 1))
    assert fault.startswith("7: alias_sampling.x.logit_bias: names 257 tokens, and travels in a header")


def test_what_the_gateways_file_says_of_an_alias_stands():
    catalogue = replace(CATALOGUE, alias_sampling={"x": Sampling(top_k=1)})
    merged = merge_aliases(catalogue, {"y": "b"}, {"y": Sampling(top_k=2), "x": Sampling(top_k=3)})
    assert (merged.sampling("x"), merged.sampling("y")) == (Sampling(top_k=3), Sampling(top_k=2))


@given(st.deferred(lambda: samplings))
def test_the_sampling_of_an_alias_comes_back_whole_from_a_header(sampling):
    text = sampling_to_text(sampling)
    assert text.isascii() and text.isprintable()
    assert sampling_from_text(text) == sampling


@pytest.mark.parametrize("text", ["", "[]", '{"top_k": -1}', '{"top_q": 1}', '{"temperature": "hot"}'])
def test_no_other_sampling_is_taken_from_a_header(text):
    with pytest.raises(BadAsk, match="the sampling of the alias"):
        sampling_from_text(text)


ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9:_-]{0,20}(/[a-z0-9._-]*[a-z])?", fullmatch=True)
labels = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
maybe = st.none()
usd = st.floats(0, 10**6)
samplings = st.builds(
    Sampling,
    temperature=maybe | st.floats(0, 100),
    top_p=maybe | st.floats(0, 1),
    top_k=maybe | st.integers(0, 10**6),
    min_p=maybe | st.floats(0, 1),
    seed=maybe | st.integers(-(2**63), 2**63 - 1),
    presence_penalty=maybe | st.floats(-2, 2),
    frequency_penalty=maybe | st.floats(-2, 2),
    repetition_penalty=maybe | st.floats(0.01, 10),
    logit_bias=maybe | st.dictionaries(st.integers(0, 10**9 - 1), st.floats(-100, 100), max_size=3),
)
FIELDS = dict(
    id=ids,
    source=maybe | st.sampled_from(["hf:org/name@main:q4", "path:/srv/m.gguf", "upstream:http://h:1/v1"]),
    harness=maybe | st.sampled_from(["exllamav2", "llamacpp", "upstream"]),
    # These two belong to hubs; see below.
    quant=maybe,
    revision=maybe,
    # Nothing acts on this one, so a spec that was read never holds it.
    idle_unload_s=st.just(0.0),
    context=maybe | st.integers(1, 2**31),
    cache=maybe | st.sampled_from(["fp16", "q8", "q6", "q4"]),
    footprint=maybe | st.integers(1, 2**53 - 1),
    min_devices=st.integers(1, 64),
    min_device_memory=st.integers(0, 2**53 - 1),
    pinned_on=st.lists(labels, max_size=3, unique=True).map(tuple),
    residency_priority=maybe | st.integers(0, 2**31),
    slots=maybe | st.integers(1, 1024),
    aliases=st.lists(ids, max_size=3, unique=True).map(tuple),
    capabilities=st.lists(labels, max_size=3, unique=True).map(tuple),
    cost=maybe | st.builds(Cost, input=usd, output=usd, cache_read=maybe | usd, cache_write=maybe | usd),
    sampling=samplings,
    # These belong to one harness.
    draft=maybe,
    speculation=maybe,
    lora=st.just(()),
    cache_tokens=maybe,
    pooling=maybe,
)
CUDA = dict(
    source=st.just("path:/srv/folder"),
    harness=maybe | st.just("exllamav2"),
    lora=st.lists(st.sampled_from(["/a", "/b c"]), unique=True).map(tuple),
)
POOLED = dict(harness=st.just("llamacpp"), pooling=st.sampled_from(["mean", "cls", "last"]))
SPOKEN_AHEAD = (
    dict(draft=maybe | ids | st.just("hf:org/d@v1")),
    dict(speculation=st.just("ngram"), context=maybe, cache_tokens=maybe | st.integers(1, 2**31)),
)
specs = st.one_of(
    st.builds(ModelSpec, **FIELDS),
    st.builds(ModelSpec, **(FIELDS | POOLED)),
    *(st.builds(ModelSpec, **(FIELDS | CUDA | each)) for each in SPOKEN_AHEAD),
)


@given(specs)
def test_a_spec_comes_back_whole_from_json(spec):
    assert spec_from_plain(json.loads(json.dumps(spec_to_plain(spec)))) == spec


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("org/name", quant="Q4_K_M", revision="v1"),
        ModelSpec("m", source="hf:org/name", quant="Q4_K_M", revision="refs/pr/1"),
        ModelSpec("m", source="hf:org/name@main", quant="Q4_K_M"),
        ModelSpec("m", source="hf:org/name:Q4_K_M", revision="v1"),
    ],
)
def test_quant_and_revision_say_what_of_a_hubs_repo(spec):
    assert spec_from_plain(spec_to_plain(spec)) == spec


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('source = "hf:org/name:Q8_0"\nquant = "Q4_K_M"', "quant: is said by the source already, as 'Q8_0'"),
        ('source = "hf:org/name@v1"\nrevision = "v2"', "revision: is said by the source already, as 'v1'"),
        ('source = "path:/m.gguf"\nquant = "Q4_K_M"', "quant: is for models of a hub"),
        ('source = "upstream:http://h/v1"\nrevision = "v2"', "revision: is for models of a hub"),
        ('quant = "Q4_K_M"', "quant: is for models of a hub"),
    ],
)
def test_quant_and_revision_where_they_say_nothing_are_faults(faults, line, said):
    (fault,) = faults(f'[[models]]\nid = "m"\n{line}\n')
    assert said in fault


def test_what_is_default_is_not_sent():
    assert spec_to_plain(ModelSpec("m")) == {"id": "m"}
    assert spec_to_plain(ModelSpec("m", cost=Cost(0, 1))) == {"id": "m", "cost": {"input": 0, "output": 1}}


def test_no_field_of_a_spec_is_left_out_of_the_round_trip():
    assert set(FIELDS) == {field.name for field in fields(ModelSpec)}


@pytest.mark.parametrize(
    ("plain", "param", "kind"),
    [
        ({}, "id", BadAsk),
        ({"id": "../x"}, "id", BadAsk),
        ({"id": "m", "contxt": 1}, "contxt", BadAsk),
        ({"id": "m", "context": "big"}, "context", BadAsk),
        ({"id": "m", "quant": None}, "quant", BadAsk),
        ({"id": "m", "sampling": {"top_p": 2}}, "sampling.top_p", BadAsk),
        ({"id": "m", "pinned_on": ["a", "b c"]}, "pinned_on[1]", BadAsk),
        ({"id": "m", "harness": "candle"}, "harness", BadAsk),
        ({"id": "m", "cache": "q5"}, "cache", BadAsk),
        ({"id": "m", "quant": "q4"}, "quant", BadAsk),
        ({"id": "m", "limit": {}}, "limit", Unsupported),
        ({"id": "m", "source": "path:/m.gguf", "draft": "d"}, "draft", BadAsk),
        ({"id": "m", "source": "path:/m", "context": 300, "cache_tokens": 1}, "cache_tokens", BadAsk),
        ({"id": "m", "vram_mb": 5}, "vram_mb", Unsupported),
    ],
)
def test_a_sent_entry_that_would_not_be_obeyed_is_refused_by_key(plain, param, kind):
    with pytest.raises(BadAsk) as caught:
        spec_from_plain(plain)
    assert type(caught.value) is kind
    assert caught.value.param == param
    assert f"{param}: " in caught.value.message


def test_a_refusal_names_every_wrong_key():
    with pytest.raises(BadAsk, match=r"context: .*; slots: .*; limit: "):
        spec_from_plain({"id": "m", "context": 0, "slots": 0, "limit": {}})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('harness = "llamacpp"', ["models[0].capabilities: 'vision' has no effect: llamacpp has none here"]),
        ('source = "path:/m/folder"', ["models[0].capabilities: 'vision' has no effect: exllamav2 has none"]),
        ('source = "upstream:http://h/v1"', []),
        ("", []),
    ],
)
def test_who_says_that_a_model_of_ours_sees_is_told_that_it_does_not(read, more, said):
    warnings = read(f'[[models]]\nid = "m"\ncapabilities = ["vision"]\n{more}\n')[1]
    assert len(warnings) == len(said)
    for warning, words in zip(warnings, said, strict=True):
        assert words in warning
