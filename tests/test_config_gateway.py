"""cortex.toml, whole: defaults, the predecessor's form, secrets, what is refused."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.config.division import divided
from cortex.config.gateway import (
    Address,
    ColdLoad,
    Discovery,
    Eviction,
    GatewayConfig,
    NeuronRef,
    Poll,
    read_gateway,
)
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.config.network import PRIVATE
from cortex.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden" / "config"
DIGEST = "AB" * 32
NO_NAME = "must be a name of letters, digits and ._-, not 'a b'"
NO_ID = (
    "must be a model id: a letter or digit, then up to 127 letters, digits and ._:/- "
    "without a '..' segment, not"
)
BOSS = Key(
    "boss",
    "0" * 64,
    ("inference", "admin"),
    ("org/*", "fast"),
    max_in_flight=2,
    requests_per_minute=3,
    tokens_per_day=4,
    expires=datetime(2030, 1, 2, tzinfo=UTC),
    share=2.0,
)
ONE_NEURON = '[[neurons]]\nname = "n"\nendpoint = "http://n:1"\n'


@pytest.fixture
def read(tmp_path):
    """Read a text as cortex.toml."""

    def read(text, env=None):
        (tmp_path / "cortex.toml").write_text(text)
        return read_gateway(tmp_path / "cortex.toml", env or {})

    return read


@pytest.fixture
def faults(read, tmp_path):
    """The faults of a text, without the folder they are in."""

    def faults(text, env=None):
        with pytest.raises(ConfigError) as caught:
            read(text, env)
        return [fault.removeprefix(f"{tmp_path}/") for fault in caught.value.faults]

    return faults


def test_the_predecessors_file_loads_unchanged():
    config, warnings = read_gateway(GOLDEN / "predecessor-cortex.toml", {})
    assert config == GatewayConfig(
        listen=Address("0.0.0.0", 31313),
        metrics_listen=Address("0.0.0.0", 31314),
        models_config=Path("/etc/cortex/models.toml"),
        eviction=Eviction("priority", 50),
        neurons=(
            NeuronRef("beast", "http://beast.internal:13131"),
            NeuronRef("benjy", "http://benjy.internal:13131"),
            NeuronRef("quadbrat", "http://10.3.0.4:13131"),
        ),
    )
    assert [warning.split(": ", 1)[1] for warning in warnings] == [
        "models_config: is read as gateway.models_config; write it there",
    ]


def test_a_file_with_every_section_is_read_whole(read, tmp_path):
    (tmp_path / "secret").write_text("sixteen-or-more-characters\n")
    (tmp_path / "secret").chmod(0o600)
    config, warnings = read(
        f"""
        [gateway]
        listen = "[::]:1"
        metrics_listen = "h:2"
        models_config = "sub/models.toml"
        trusted_networks = ["10.0.0.0/8", "fd00::/8"]
        allowed_hosts = ["LLM.example"]
        allowed_origins = ["http://localhost:3000"]
        trusted_proxies = ["10.1.1.1"]
        anonymous = true
        workers = 2
        log_format = "json"
        [eviction]
        strategy = "priority"
        [cold_load]
        max_wait_s = "10m"
        max_overtake_s = 7
        min_residency_s = 5
        [limits]
        body = "1MiB"
        header = "8KiB"
        connections = 3
        queue = 2
        queue_wait_s = 3
        drain_s = 4
        stall_s = 5
        first_token_s = 6
        upstream_stall_s = 7
        header_s = 8
        request_body_s = 9
        [poll]
        interval_s = 0.5
        timeout_s = "1s"
        failures = 1
        [[neurons]]
        name = "n"
        endpoint = "http://N:1/"
        token_file = "secret"
        [[keys]]
        name = "k"
        sha256 = "{DIGEST}"
        [[keys]]
        name = "boss"
        sha256 = "{"0" * 64}"
        scopes = ["inference", "admin"]
        models = ["org/*", "fast"]
        max_in_flight = 2
        requests_per_minute = 3
        tokens_per_day = 4
        expires = 2030-01-01
        share = 2
        [aliases]
        fast = "org/small"
        """
    )
    assert warnings == []
    assert config == GatewayConfig(
        listen=Address("::", 1),
        metrics_listen=Address("h", 2),
        models_config=tmp_path / "sub/models.toml",
        trusted_networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        allowed_hosts=("llm.example",),
        allowed_origins=("http://localhost:3000",),
        trusted_proxies=(ip_network("10.1.1.1/32"),),
        anonymous=True,
        workers=2,
        log_format="json",
        eviction=Eviction("priority", 0),
        cold_load=ColdLoad(600.0, 7.0, 5.0),
        limits=Limits(2**20, 2**13, 3, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        poll=Poll(0.5, 1.0, 1),
        neurons=(NeuronRef("n", "http://n:1", "sixteen-or-more-characters"),),
        keys=(Key("k", DIGEST.lower()), BOSS),
        aliases={"fast": "org/small"},
    )


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("[limits]\nconnections = 3", "limits.connections"),
        ("[limits]\nqueue = 3", "limits.queue"),
        (f'[[keys]]\nname = "k"\nsha256 = "{DIGEST}"\nmax_in_flight = 3', "keys[0].max_in_flight"),
        (
            f'[[keys]]\nname = "k"\nsha256 = "{DIGEST}"\nrequests_per_minute = 3',
            "keys[0].requests_per_minute",
        ),
    ],
)
def test_a_limit_of_which_a_worker_would_have_nothing_is_a_fault(read, text, at):
    with pytest.raises(ConfigError) as refused:
        read(f"[gateway]\nworkers = 4\n{ONE_NEURON}{text}\n")
    (fault,) = refused.value.faults
    assert f"{at}: is less than the 4 workers (gateway.workers)" in fault
    assert read(f"[gateway]\nworkers = 3\n{ONE_NEURON}{text}\n")[0].workers == 3


def test_nobody_may_wait_at_any_of_several_workers(read):
    config, _ = read(f"[gateway]\nworkers = 4\n{ONE_NEURON}[limits]\nqueue = 0\n")
    assert divided(config, 3, 4).limits.queue == 0


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_the_shares_of_all_workers_are_the_limit_and_no_worker_has_none(workers):
    keys = (Key("k", DIGEST, max_in_flight=64, requests_per_minute=100, tokens_per_day=10), Key("free", ""))
    config = GatewayConfig(keys=keys, limits=Limits(connections=999, queue=65))
    parts = [divided(config, index, workers) for index in range(workers)]
    assert sum(part.limits.connections for part in parts) == 999
    assert sum(part.limits.queue for part in parts) == 65
    assert sum(part.keys[0].max_in_flight for part in parts) == 64
    assert sum(part.keys[0].requests_per_minute for part in parts) == 100
    assert min(part.keys[0].max_in_flight for part in parts) >= 1
    # The neurons count these for all, and what is none stays none.
    assert {part.keys[0].tokens_per_day for part in parts} == {10}
    assert {part.keys[1] for part in parts} == {keys[1]}


def test_a_file_that_says_nothing_is_all_default(read):
    config, _ = read(ONE_NEURON)
    assert config == GatewayConfig(neurons=(NeuronRef("n", "http://n:1"),))
    assert config.trusted_networks == PRIVATE
    assert (str(config.listen), str(config.metrics_listen)) == ("127.0.0.1:31313", "127.0.0.1:31314")


def test_relative_paths_count_from_the_folder_of_the_file_wherever_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "cortex.toml").write_text('gateway.models_config = "models.toml"')
    monkeypatch.chdir(tmp_path)
    config, _ = read_gateway(Path("cortex.toml"), {})
    assert config.models_config == tmp_path / "models.toml"


def test_no_file_at_all_is_all_default_too():
    assert read_gateway(None, {})[0] == GatewayConfig()


def test_a_gateway_without_neurons_is_a_warning(read, tmp_path):
    assert read("")[1] == [
        f"{tmp_path}/cortex.toml: names no [[neurons]] and no [discovery], so that nothing can be served"
    ]
    assert read(ONE_NEURON)[1] == []


def test_neurons_that_dns_names_are_read_with_their_token(read, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-secret-of-the-fleet")
    token.chmod(0o600)
    servers = 'nameservers = ["10.96.0.10:53", "[fd00::1]:53"]'
    text = f'[discovery]\ndns = "_cortex._tcp.example"\ninterval_s = "1m"\ntoken_file = "token"\n{servers}\n'
    config, warnings = read(text)
    assert warnings == []
    assert config.discovery == Discovery(
        "_cortex._tcp.example",
        60.0,
        "a-secret-of-the-fleet",
        (Address("10.96.0.10", 53), Address("fd00::1", 53)),
    )
    assert "secret" not in repr(config)
    assert read(ONE_NEURON)[0].discovery == Discovery()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("interval_s = 5", "discovery.dns: is missing"),
        ("dns = '10.0.0.1'", "discovery.dns: must be a DNS name such as _cortex._tcp.example.com"),
        ("dns = 'a..b'", "discovery.dns: must be a DNS name"),
        (f"dns = '{'a.' * 127}b'", "discovery.dns: must be a DNS name"),
        ("dns = 'x'\ninterval_s = 0", "discovery.interval_s: must be"),
        ("dns = 'x'\nnameservers = ['ns.example:53']", "discovery.nameservers[0]: must be the IP address"),
        ("dns = 'x'\nnameservers = ['10.0.0.1:0']", "discovery.nameservers[0]: needs the port"),
        ("dns = 'x'\ntoken_file = 'gone'", "discovery.token_file: "),
    ],
)
def test_what_cannot_be_looked_up_is_a_fault(read, text, fault):
    with pytest.raises(ConfigError) as caught:
        read(ONE_NEURON + "[discovery]\n" + text)
    assert [each.split(": ", 1)[1].startswith(fault) for each in caught.value.faults] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "127.0.0.9",
        "100.64.1.1",
        "169.254.1.1",
        "::1",
        "fd12::1",
        "fe80::1",
    ],
)
def test_private_peers_are_trusted_by_default(text):
    assert any(
        ip_network(text).subnet_of(network)
        for network in PRIVATE
        if network.version == ip_network(text).version
    )


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.169.0.1", "2001:db8::1", "::2"]
)
def test_other_peers_are_not(text):
    assert not any(
        ip_network(text).subnet_of(network)
        for network in PRIVATE
        if network.version == ip_network(text).version
    )


ONE_KEY = f'[[keys]]\nname = "k"\nsha256 = "{DIGEST}"\n'


@pytest.mark.parametrize(
    ("written", "expires"),
    [
        ("2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
        ("'2026-12-31'", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2026-12-31T18:00:00Z", datetime(2026, 12, 31, 18, tzinfo=UTC)),
        ("2026-12-31 18:00:00+02:00", datetime(2026, 12, 31, 16, tzinfo=UTC)),
        ("'2026-12-31T18:00Z'", datetime(2026, 12, 31, 18, tzinfo=UTC)),
    ],
)
def test_a_key_expires_at_the_end_of_a_date_or_at_a_moment(read, written, expires):
    config, _ = read(f"{ONE_NEURON}{ONE_KEY}expires = {written}\n")
    assert config.keys[0].expires == expires
    assert config.keys[0].expires.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("expires = 2026-12-31T18:00:00", "needs an offset, such as Z for UTC: 2026-12-31T18:00:00Z"),
        ("expires = '2026-12-31T18:00:00'", "needs an offset, such as Z for UTC: 2026-12-31T18:00:00Z"),
        ("expires = 9999-12-31", "is beyond the calendar; leave it out for a key that never expires"),
        ("expires = 18:00:00", "must be a date such as 2026-12-31, or a time such as 2026-12-31T18:00:00Z"),
        ("expires = 1", "must be a date such as 2026-12-31, or a time such as 2026-12-31T18:00:00Z"),
        ("expires = 'next year'", "must be a date such as 2026-12-31, or a time such as 2026-12-31T18"),
        ("expires = '2026-02-30'", "must be a date such as 2026-12-31, or a time such as 2026-12-31T18"),
        ("expires = '2026-W09-1'", "must be a date such as 2026-12-31, or a time such as 2026-12-31T18"),
        ("models = []", "is empty: leave it out for a key that may use every model"),
        ("models = 'a*'", "must be a list, not text"),
        ("models = ['a b']", "must be a glob of model names"),
        ("max_in_flight = 0", "must be 1 to 100000, not 0"),
        ("requests_per_minute = 0", "must be 1 to 100000, not 0"),
        ("tokens_per_day = 0", "must be 1 to 1000000000000000, not 0"),
        ("share = 0", "must be 0.01 to 1000, not 0"),
        ("share = -1", "must be 0.01 to 1000, not -1"),
        ("share = 1e9", "must be 0.01 to 1000, not 1000000000"),
        ("share = nan", "must be 0.01 to 1000, not nan"),
        ("share = '2'", "must be a number, not text"),
    ],
)
def test_what_cannot_limit_a_key_is_a_fault(faults, line, fault):
    (told,) = faults(ONE_KEY + line)
    assert told.startswith("cortex.toml:4: keys[0].") and fault in told


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (ONE_NEURON * 2, "5: neurons[1].name: is the same as that of neurons[0]"),
        (
            ONE_NEURON + ONE_NEURON.replace('"n"', '"m"'),
            "6: neurons[1].endpoint: is the same as that of neurons[0]",
        ),
        (
            f'[[keys]]\nname = "k"\nsha256 = "{DIGEST}"\nscopes = []',
            "4: keys[0].scopes: is empty: such a key could do nothing",
        ),
        ("[gateway]\nlissten = 1", "2: gateway.lissten: unknown key; did you mean 'listen'?"),
        ("[evicton]", "1: evicton: unknown key; did you mean 'eviction'?"),
        ("[eviction]\nstrategy = 'fifo'", "2: eviction.strategy: must be 'lru' or 'priority', not 'fifo'"),
        (
            "models_config = 'a'\n[gateway]\nmodels_config = 'b'",
            "1: models_config: says the same as gateway.models_config; keep only that",
        ),
        ("[poll]\nfailures = 0", "2: poll.failures: must be 1 to 1000, not 0"),
        ("[limits]\nstall_s = 0", "2: limits.stall_s: must be 0.1 to 31622400, not 0.0"),
        ("[[neurons]]\nname = 'a b'\nendpoint = 'http://n'", f"2: neurons[0].name: {NO_NAME}"),
        ("[aliases]\n'a b' = 'x'", f"2: aliases.'a b': {NO_ID} 'a b'"),
        ("[aliases]\na = '../x'", f"2: aliases.a: {NO_ID} '../x'"),
    ],
)
def test_what_is_wrong_or_contradicts_itself_is_a_fault(faults, text, fault):
    assert f"cortex.toml:{fault}" in faults(text)


@pytest.mark.parametrize(
    "key",
    [
        *(f"limits.{name}" for name in ("stall_s", "first_token_s", "upstream_stall_s", "header_s")),
        *("limits.request_body_s", "limits.body", "limits.header", "limits.connections"),
        *("poll.interval_s", "poll.timeout_s", "poll.failures"),
    ],
)
def test_a_limit_that_would_refuse_everything_is_a_fault(faults, key):
    (fault,) = faults(f"{key} = 0")
    assert fault.startswith(f"cortex.toml:1: {key}: must be ")


def test_every_fault_of_a_file_comes_at_once(faults):
    text = "[gateway]\nx = 1\nlisten = 2\n[poll]\nfailures = 0\n" + ONE_NEURON * 2
    assert len(faults(text, {"CORTEX_LIMITS__QUEUE": "-1"})) == 6


def test_two_keys_with_one_digest_are_a_fault_in_whatever_case(faults):
    rows = "".join(
        f'[[keys]]\nname = "{name}"\nsha256 = "{digest}"\n'
        for name, digest in (("a", DIGEST), ("b", DIGEST.lower()))
    )
    assert faults(rows) == ["cortex.toml:6: keys[1].sha256: is the same as that of keys[0]"]


def test_a_key_written_in_place_of_its_digest_is_not_echoed(faults):
    (fault,) = faults('[[keys]]\nname = "k"\nsha256 = "sk-canary"\n')
    assert "64 hex digits" in fault and "canary" not in fault


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty; put a token into it"),
        (b" \n", "is empty; put a token into it"),
        (b"fifteen-letters\n", "holds a token of fewer than 16 characters"),
        (b"two words of a token", "must hold one line of printable ASCII without blanks"),
        (b"line-one-of-token\nline-two", "must hold one line of printable ASCII without blanks"),
        ("é".encode() * 16, "must hold one line of printable ASCII without blanks"),
        (b"x" * 4097, "holds more than 4096 bytes; a token is one line"),
    ],
)
def test_a_token_file_without_a_token_is_a_fault_that_does_not_show_it(faults, tmp_path, data, says):
    if data is not None:
        (tmp_path / "token").write_bytes(data)
    assert faults(ONE_NEURON + 'token_file = "token"') == [
        f"cortex.toml:4: neurons[0].token_file: {tmp_path}/token {says}"
    ]


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_token_that_everyone_can_read_is_a_warning(read, tmp_path, mode, warned):
    (tmp_path / "token").write_text("x" * 16)
    (tmp_path / "token").chmod(mode)
    config, warnings = read(ONE_NEURON + 'token_file = "token"')
    assert config.neurons[0].token == "x" * 16
    assert [w.endswith("is readable by everyone on this host; chmod o-r it") for w in warnings] == [
        True
    ] * warned


def test_no_secret_shows_in_the_repr_of_the_configuration(read, tmp_path):
    """Threat row P4 of faults.md: a canary in every secret, and none of them in the repr."""
    (tmp_path / "token").write_text("canary-canary-canary")
    config, warnings = read(
        f'{ONE_NEURON}token_file = "token"\n[[keys]]\nname = "k"\nsha256 = "{"cafe" * 16}"\n'
    )
    assert config.neurons[0].token == "canary-canary-canary"
    for text in (repr(config), *warnings):
        assert "canary" not in text and "cafe" not in text


VALID = (GOLDEN / "predecessor-cortex.toml").read_bytes()
edits = st.lists(
    st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 40), st.binary(max_size=12)), max_size=4
)


@given(edits)
def test_a_damaged_file_is_read_or_refused_whole(tmp_path_factory, edits):
    """Row 84: whatever the damage, the answer is a configuration or faults that name the file."""
    data = VALID
    for at, cut, put in edits:
        data = data[:at] + put + data[at + cut :]
    file = tmp_path_factory.getbasetemp() / "damaged.toml"
    file.write_bytes(data)
    try:
        config, _ = read_gateway(file, {})
    except ConfigError as error:
        assert error.faults and all(fault.startswith(str(file)) for fault in error.faults)
    else:
        assert isinstance(config, GatewayConfig)
