"""A role's file together with the catalogue that it names, and files of the wrong kind."""

import pytest

from cortex.config.files import check
from cortex.config.listeners import clash
from cortex.config.network import Address
from cortex.config.whole import whole_gateway, whole_neuron
from cortex.errors import ConfigError

NEURON = '[[neurons]]\nname = "n"\nendpoint = "http://n:1"\n'
GATEWAY = '[gateway]\nmodels_config = "models.toml"\n'
WEIGHTS = '[[models]]\nid = "m"\nsource = "path:/srv/m.gguf"\n'


@pytest.fixture
def lay(tmp_path):
    """Write files, and check the first; its findings are without the folder."""

    def lay(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.toml").write_text(text)
        report = check(tmp_path / f"{next(iter(texts))}.toml")
        return [
            [said.replace(f"{tmp_path}/", "") for said in group] for group in (report.faults, report.warnings)
        ]

    return lay


def test_an_alias_of_an_alias_is_a_fault_of_cortex_toml(lay):
    assert lay(cortex=NEURON + '[aliases]\na = "b"\nb = "c"\n')[0] == [
        "cortex.toml:5: aliases.a: stands for 'b', which is an alias itself; write the id"
    ]


def test_what_an_alias_of_cortex_toml_samples_with_fits_into_a_header(lay):
    bias = ", ".join(f"{token} = 1" for token in range(257))
    text = f'[aliases]\na = "b"\n[alias_sampling.a]\nlogit_bias = {{ {bias} }}\n'
    (fault,) = lay(cortex=NEURON + text)[0]
    assert fault.startswith("cortex.toml:7: alias_sampling.a.logit_bias: names 257 tokens")


@pytest.mark.parametrize(
    ("aliases", "fault"),
    [
        ('m = "x"', "aliases.m: 'm' is the id of a model already"),
        ('fast = "x"', "aliases.fast: 'fast' stands for 'm' already, and cannot stand for 'x' too"),
        ('quick = "fast"', "aliases.quick: stands for 'fast', which is an alias itself; write the id"),
        ('far = "x"', "aliases.far: is what 'away' of the catalogue stands for; that must be an id"),
    ],
)
def test_an_alias_that_clashes_with_the_catalogue_is_told_at_its_line(lay, aliases, fault):
    models = WEIGHTS + '[aliases]\nfast = "m"\naway = "far"\n'
    faults, _ = lay(cortex=f"{GATEWAY}{NEURON}[aliases]\n{aliases}\n", models=models)
    assert faults == [f"cortex.toml:7: {fault}"]


def test_the_faults_of_both_files_come_at_once_each_with_its_own_line(lay):
    faults, warnings = lay(
        cortex=GATEWAY + "x = 1\n" + NEURON, models='[[models]]\nid = "m"\ny = 1\nlimit = {}\n'
    )
    assert [fault.partition(": unknown")[0] for fault in faults] == [
        "cortex.toml:3: gateway.x",
        "models.toml:3: models[0].y",
    ]
    assert warnings == [
        "models.toml:4: models[0].limit: has no effect in this version",
    ]


@pytest.mark.parametrize(
    ("name", "text", "at"),
    [
        ("cortex", GATEWAY + NEURON, "cortex.toml:2: gateway.models_config"),
        ("cortex", 'models_config = "models.toml"\n' + NEURON, "cortex.toml:1: models_config"),
        ("neuron", '[neuron]\nmodels_config = "models.toml"\n', "neuron.toml:2: neuron.models_config"),
    ],
)
def test_a_catalogue_that_is_not_there_is_a_fault_of_the_key_that_names_it(lay, name, text, at):
    assert lay(**{name: text})[0] == [f"{at}: models.toml cannot be read: No such file or directory"]


def test_a_catalogue_that_is_no_catalogue_is_told_as_what_it_is(lay):
    faults, _ = lay(cortex='[gateway]\nmodels_config = "other.toml"\n' + NEURON, other="[neuron]\n[hub]\n")
    assert faults == [
        "other.toml: looks like a neuron.toml (it has [neuron], [hub]); a models.toml is wanted here"
    ]


@pytest.mark.parametrize(
    ("read", "text", "kind"),
    [
        (whole_gateway, WEIGHTS, "models.toml"),
        (whole_gateway, "[neuron]\n", "neuron.toml"),
        (whole_neuron, WEIGHTS, "models.toml"),
        (whole_neuron, "[gateway]\n[limits]\n", "cortex.toml"),
    ],
)
def test_a_file_of_another_kind_is_told_as_that(tmp_path, read, text, kind):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "x.toml", {})
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path}/x.toml: looks like a {kind} (")


def test_a_misspelt_table_is_no_other_kind_of_file(tmp_path):
    (tmp_path / "models.toml").write_text("[eviction]\n[aliasses]\n")
    with pytest.raises(ConfigError, match="did you mean 'aliases'"):
        whole_gateway(tmp_path / "models.toml", {})


@pytest.mark.parametrize(
    ("one", "other", "clashes"),
    [
        ("127.0.0.1:5", "127.0.0.1:5", True),
        ("127.0.0.1:5", "127.0.0.1:6", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:5", "127.0.0.2:5", False),
        ("0.0.0.0:5", "127.0.0.1:5", True),
        ("0.0.0.0:5", "::1:5", False),
        ("127.0.0.1:5", ":::5", True),
    ],
)
def test_two_listeners_clash_on_one_port_of_one_address(one, other, clashes):
    first, second = (
        Address(host, int(port)) for host, _, port in (one.rpartition(":"), other.rpartition(":"))
    )
    assert clash(first, second) == clash(second, first) == clashes


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        (
            "cortex",
            '[gateway]\nlisten = "127.0.0.1:7"\nmetrics_listen = "127.0.0.1:7"\n',
            "3: gateway.metrics_listen: takes the port of listen, 127.0.0.1:7; each needs one of its own",
        ),
        (
            "cortex",
            '[gateway]\nlisten = "0.0.0.0:31314"\n',
            "2: gateway.listen: takes the port of metrics_listen, 127.0.0.1:31314; each needs one of its own",
        ),
        (
            "neuron",
            '[neuron]\nmetrics_listen = "127.0.0.1:13131"\n',
            "2: neuron.metrics_listen: takes the port of listen, 127.0.0.1:13131; each needs one of its own",
        ),
    ],
)
def test_two_listeners_on_one_port_are_a_fault_of_the_file(lay, name, text, fault):
    assert lay(**{name: text})[0] == [f"{name}.toml:{fault}"]


def test_weights_without_a_folder_that_they_may_come_from_are_warned_of(lay, tmp_path):
    text = '[neuron]\nmodels_config = "models.toml"\n'
    rest = '[[default_models]]\nid = "d"\nsource = "path:/srv/d.gguf"\n'
    (faults, warnings) = lay(neuron=text + rest, models=WEIGHTS + '[[models]]\nid = "h"\nsource = "hf:a/b"\n')
    assert faults == []
    assert warnings == [
        "neuron.toml:1: neuron.model_roots: is empty, so m, d will be refused at load: "
        "add the folder of each path: source and adapter to model_roots"
    ]
    assert lay(neuron=f'{text}model_roots = ["{tmp_path}"]\n{rest}', models=WEIGHTS) == [[], []]


def test_an_adapter_without_a_folder_that_it_may_come_from_is_warned_of(lay):
    models = '[[models]]\nid = "m"\nsource = "hf:a/b"\nlora = ["/srv/adapter"]\n'
    models += '[[models]]\nid = "n"\nsource = "hf:a/c"\ndraft = "path:/srv/d"\n'
    _, (warning,) = lay(neuron='[neuron]\nmodels_config = "models.toml"\n', models=models)
    assert "is empty, so m, n will be refused at load" in warning


def test_a_draft_of_a_default_model_is_looked_for_in_the_catalogue(lay):
    text = '[neuron]\nmodels_config = "models.toml"\n'
    rest = '[[default_models]]\nid = "d"\nsource = "hf:a/large"\ndraft = "{}"\n'
    models = '[[models]]\nid = "small"\nsource = "hf:a/small"\naliases = ["s"]\n'
    for draft in ("small", "s", "hf:a/small"):
        assert lay(neuron=text + rest.format(draft), models=models) == [[], []]
    ((fault,), _) = lay(neuron=text + rest.format("smal"), models=models)
    assert fault.startswith("neuron.toml:6: default_models[0].draft: 'smal' is no model of models.toml")
    # What cannot be read has faults of its own, and hides no other.
    (faults, _) = lay(neuron=text + rest.format("small"), models=models + "x = 1\n")
    assert [fault.partition(": unknown")[0] for fault in faults] == ["models.toml:5: models[0].x"]


def test_a_catalogue_in_the_usual_place_goes_with_a_file_that_names_none(tmp_path):
    (tmp_path / "models.toml").write_text(WEIGHTS)
    read = whole_neuron(None, {}, tmp_path / "models.toml")
    assert (list(read.catalogue.specs), read.models) == (["m"], tmp_path / "models.toml")
    assert len(read.warnings) == 1
