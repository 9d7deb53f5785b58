"""neuron.toml, whole: every key has a default, and what nothing acts on is said."""

from ipaddress import ip_network

import pytest

from cortex.catalogue import ModelSpec
from cortex.config.hub import HubConfig
from cortex.config.neuron import (
    Address,
    Admission,
    Devices,
    ExLlamaV2,
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
    assert config.exllamav2 == ExLlamaV2("thread", "fp16", 1024, "auto")
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
        use = ["cuda:0", "cpu", "cuda:1"]
        memory_limit = "200MiB"
        memory_headroom = 0
        groups = [["cuda:0", "cuda:1"]]
        [eviction]
        strategy = "priority"
        min_residency_s = "1m"
        [harness.llamacpp]
        isolation = "process"
        threads = 3
        batch = 64
        mmap = false
        [harness.exllamav2]
        isolation = "process"
        cache = "q8"
        chunk = 512
        attention = "triton"
        [hub]
        cache_dir = "models"
        token_env = "MY_TOKEN"
        endpoint = "https://mirror.example/hub"
        offline = true
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
        """,
        {"MY_TOKEN": "t"},
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
        devices=Devices(("cuda:0", "cpu", "cuda:1"), 200 * 2**20, 0, (("cuda:0", "cuda:1"),)),
        eviction=NeuronEviction("priority", 60.0),
        llamacpp=LlamaCpp(3, 64, False, "process"),
        exllamav2=ExLlamaV2("process", "q8", 512, "triton"),
        hub=HubConfig(tmp_path / "models", "MY_TOKEN", "https://mirror.example/hub", True),
        admission=Admission(1, 0, 0.5),
        default_models=(ModelSpec("a", footprint=2**30), ModelSpec("b", footprint=2**20)),
    )
    assert "sixteen" not in repr(config)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[[default_models]]\nid = 'a'\nlimit = {}", "default_models[0].limit"),
    ],
)
def test_a_key_that_nothing_acts_on_is_a_warning(read, text, key):
    _, warnings = read(text)
    assert [warning.split(": ", 1)[1] for warning in warnings] == [f"{key}: has no effect in this version"]


def test_a_variable_that_holds_no_token_is_warned_of(read):
    for env in ({}, {"MY_TOKEN": " "}):
        config, warnings = read("[hub]\ntoken_env = 'MY_TOKEN'", env)
        assert config.hub == HubConfig(token_env="MY_TOKEN")
        assert warnings == [
            "2: hub.token_env: the environment variable MY_TOKEN is not set: no token is sent"
        ]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:hunter2@h",
        "http://h:99999",
        "http://[::1",
        "huggingface.co",
        "ftp://x",
        "https://user:secret@x",
        "https://x?token=1",
        "https://",
        "https://a b",
    ],
)
def test_the_endpoint_of_a_hub_is_a_plain_url(faults, endpoint):
    (fault,) = faults(f"[hub]\nendpoint = '{endpoint}'")
    assert "hub.endpoint: must be the URL of a hub or a mirror" in fault
    # What is refused may hold a password.
    assert "secret" not in fault and "hunter2" not in fault


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
        (
            "[harness.exllamav2]\ncache = 'q5'",
            "2: harness.exllamav2.cache: must be 'fp16' or 'q8' or 'q6' or 'q4', not 'q5'",
        ),
        (
            "[harness.exllamav2]\nchunk = 1000",
            "2: harness.exllamav2.chunk: must be a multiple of 256, not 1000; 768 is one",
        ),
        ("[harness.exllamav2]\nchunk = 0", "2: harness.exllamav2.chunk: must be 256 to 65536, not 0"),
        ("[harness.exllamav2]\nchunk = true", "2: harness.exllamav2.chunk: must be a whole number"),
        ("[harness.exllamav2]\nattention = 'sdpa'", "2: harness.exllamav2.attention: must be 'auto' or"),
        ("[harness.exllamav2]\nisolation = 1", "2: harness.exllamav2.isolation: must be text in quotes"),
        ("[harness.llama]", "1: harness.llama: unknown key; did you mean 'llamacpp'?"),
        ("[harness.upstream]\nx = 1", "2: harness.upstream.x: unknown key"),
        (
            "[devices]\nuse = ['cpu', 'gpu']",
            "2: devices.use[1]: must be a device such as 'cpu' or 'cuda:0', not 'gpu'",
        ),
        ("[devices]\nuse = ['cpu', 'cpu']", "2: devices.use[1]: is listed twice"),
        ("[devices]\ngroups = [['cuda:0']]", "2: devices.groups[0]: must be a list of at least two devices"),
        ("[devices]\ngroups = [['cuda:0', 'x']]", "2: devices.groups[0]: must be a device"),
        ("[devices]\ngroups = [['cuda:0', 'cpu']]", "2: devices.groups[0]: must be CUDA devices"),
        (
            "[devices]\ngroups = [['cuda:0', 'cuda:1'], ['cuda:2', 'cuda:1']]",
            "2: devices.groups[1]: names cuda:1, which groups[0] has",
        ),
        (
            "[devices]\ngroups = [['cuda:0', 'cuda:0']]",
            "2: devices.groups[0]: names cuda:0, which groups[0] has",
        ),
        (
            "[devices]\nuse = ['cuda:0', 'cpu']\ngroups = [['cuda:0', 'cuda:1']]",
            "3: devices.groups[0]: names cuda:1, which devices.use does not",
        ),
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


def test_the_chunk_may_come_from_the_environment(read):
    config, _ = read("", {"CORTEX_HARNESS__EXLLAMAV2__CHUNK": "2048"})
    assert config.exllamav2.chunk == 2048


UPSTREAM = "[harness.upstream]\nendpoints = ['http://gpu-1:8000/v1/', 'https://[::1]/v1']\n"


def test_the_key_of_upstreams_comes_from_a_variable_or_a_file(read, tmp_path):
    (tmp_path / "key").write_text("k\n")
    (tmp_path / "key").chmod(0o600)
    for text, env in (("api_key_env = 'KEY'", {"KEY": " k "}), ("api_key_file = 'key'", {})):
        config, warnings = read(UPSTREAM + text, env)
        assert (config.upstream.api_key, warnings) == ("k", [])
        assert config.upstream.endpoints == ("http://gpu-1:8000/v1", "https://[::1]/v1")
        assert "api_key" not in repr(config)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (UPSTREAM + "api_key_env = 'KEY'", "harness.upstream.api_key_env: KEY is not set or empty"),
        (UPSTREAM + "api_key_file = 'none'", "harness.upstream.api_key_file: "),
        (UPSTREAM + "api_key_env = 'KEY'\napi_key_file = 'x'", "says the same as api_key_env; keep one"),
        (
            "[harness.upstream]\napi_key_env = 'PATH_'",
            "harness.upstream.endpoints: is empty, and a key is given",
        ),
        ("[harness.upstream]\nendpoints = ['http://a/v1', 'http://a/v1/']", "is listed twice"),
        ("[harness.upstream]\nkind = 'gpt'", "harness.upstream.kind: must be 'openai' or 'vllm'"),
    ],
)
def test_what_is_wrong_about_upstreams_is_a_fault(tmp_path, text, fault):
    env = {"PATH_": "k"} if "PATH_" in text else {}
    path = tmp_path / "neuron.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        read_neuron(path, env)
    assert fault in str(wrong.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@a/v1",
        "http://a/v1?key=secret",
        "a/v1",
        "ftp://a/v1",
        "http://a:99999/v1",
        "http:///v1",
    ],
)
def test_an_address_of_an_upstream_is_a_plain_url_and_not_echoed(faults, url):
    (fault,) = faults(f"[harness.upstream]\nendpoints = ['{url}']")
    assert "must be the URL of an OpenAI-compatible API" in fault
    assert "secret" not in fault
