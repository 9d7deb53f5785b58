"""neuron.toml, whole: every key has a default, and what nothing acts on is said."""

from ipaddress import ip_network

import pytest

from cortex.catalogue import ModelSpec
from cortex.config.neuron import (
    Address,
    Admission,
    Devices,
    LlamaCpp,
    NeuronConfig,
    NeuronEviction,
    read_neuron,
)
from cortex.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Read a text as neuron.toml; warnings without the folder."""

    def read(text, env=None):
        (tmp_path / "neuron.toml").write_text(text)
        config, warnings = read_neuron(tmp_path / "neuron.toml", env or {})
        return config, [warning.removeprefix(f"{tmp_path}/neuron.toml:") for warning in warnings]

    return read


@pytest.fixture
def faults(read, tmp_path):
    def faults(text, env=None):
        with pytest.raises(ConfigError) as caught:
            read(text, env)
        return [fault.removeprefix(f"{tmp_path}/neuron.toml:") for fault in caught.value.faults]

    return faults


def test_every_key_has_a_default(read):
    assert read("") == (NeuronConfig(), [])
    assert read_neuron(None, {}) == (NeuronConfig(), [])
    config = NeuronConfig()
    assert (str(config.listen), str(config.metrics_listen)) == ("127.0.0.1:13131", "127.0.0.1:13132")
    assert config.devices == Devices((), None, 2**30)
    assert config.admission == Admission(4, 64, 60.0)
    assert config.llamacpp == LlamaCpp(None, 256, True)
    assert config.eviction == NeuronEviction(None, None, None)


def test_a_file_with_every_section_is_read_whole(read, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "token").write_text("sixteen-or-more-characters\n")
    (tmp_path / "token").chmod(0o600)
    config, warnings = read(
        """
        [neuron]
        name = "beast"
        listen = "0.0.0.0:1"
        metrics_listen = "0.0.0.0:2"
        models_config = "models.toml"
        token_file = "token"
        trusted_networks = ["10.0.0.0/8"]
        allowed_hosts = ["beast.example"]
        model_roots = ["weights", "/"]
        log_format = "json"
        [devices]
        use = ["cuda:0", "cpu"]
        memory_limit = "200MiB"
        memory_headroom = 0
        [eviction]
        strategy = "priority"
        min_residency_s = "1m"
        [harness.llamacpp]
        isolation = "process"
        threads = 3
        batch = 64
        mmap = false
        [admission]
        slots = 1
        queue = 0
        max_wait_s = 0.5
        [[default_models]]
        id = "a"
        footprint = "1GiB"
        [[default_models]]
        id = "b"
        harness = "candle"
        vram_mb = 1
        """
    )
    assert [warning.split(": ")[1] for warning in warnings] == [
        "default_models[1].harness",
        "default_models[1].vram_mb",
    ]
    assert config == NeuronConfig(
        name="beast",
        listen=Address("0.0.0.0", 1),
        metrics_listen=Address("0.0.0.0", 2),
        models_config=tmp_path / "models.toml",
        token="sixteen-or-more-characters",
        trusted_networks=(ip_network("10.0.0.0/8"),),
        allowed_hosts=("beast.example",),
        model_roots=(tmp_path / "weights", tmp_path.__class__("/")),
        log_format="json",
        devices=Devices(("cuda:0", "cpu"), 200 * 2**20, 0),
        eviction=NeuronEviction("priority", 60.0),
        llamacpp=LlamaCpp(3, 64, False, "process"),
        admission=Admission(1, 0, 0.5),
        default_models=(ModelSpec("a", footprint=2**30), ModelSpec("b", footprint=2**20)),
    )
    assert "sixteen" not in repr(config)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[harness.exllamav2]\ncache = 'q4'", "harness.exllamav2"),
        ("[harness.upstream]", "harness.upstream"),
        ("[hub]\noffline = true\ncache_dir = 'x'", "hub"),
    ],
)
def test_a_key_that_nothing_acts_on_is_a_warning(read, text, key):
    _, warnings = read(text)
    assert [warning.split(": ", 1)[1] for warning in warnings] == [f"{key}: has no effect in this version"]


@pytest.mark.parametrize("text", ["[devices]\ngroups = []"])
def test_a_value_that_asks_for_nothing_is_no_warning(read, text):
    assert read(text) == (NeuronConfig(), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[harness.llamacpp]\nisolation = 'child'",
            "2: harness.llamacpp.isolation: must be 'thread' or 'process', not 'child'",
        ),
        ("[harness.llama]", "1: harness.llama: unknown key; did you mean 'llamacpp'?"),
        ("[harness.upstream]\nx = 1", "2: harness.upstream.x: unknown key; nothing is known here"),
        (
            "[devices]\nuse = ['cpu', 'gpu']",
            "2: devices.use[1]: must be a device such as 'cpu' or 'cuda:0', not 'gpu'",
        ),
        ("[devices]\nuse = ['cpu', 'cpu']", "2: devices.use[1]: is listed twice"),
        ("[devices]\ngroups = [['cuda:0']]", "2: devices.groups[0]: must be a list of at least two devices"),
        ("[devices]\ngroups = [['cuda:0', 'x']]", "2: devices.groups[0]: must be a device"),
        (
            "[[default_models]]\nid = 'a'\n[[default_models]]\nid = 'a'",
            "4: default_models[1].id: is the same",
        ),
        ("[neuron]\ntoken_file = 'none'", "2: neuron.token_file: "),
        ("port = 13131", "1: port: unknown key; known here: neuron, devices"),
    ],
)
def test_a_wrong_value_is_a_fault_at_its_line(faults, text, expected):
    (fault,) = faults(text)
    assert fault.startswith(expected)


def test_a_missing_model_root_is_a_fault_wherever_it_is_named(faults, tmp_path):
    says = f"{tmp_path}/gone is not a folder; make it first"
    assert faults("[neuron]\nmodel_roots = [\n'/',\n'gone']") == [f"4: neuron.model_roots[1]: {says}"]
    assert faults("", {"CORTEX_NEURON__MODEL_ROOTS": "/,gone"}) == [
        f"CORTEX_NEURON__MODEL_ROOTS: neuron.model_roots[1]: {says}"
    ]
