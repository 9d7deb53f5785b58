"""Environment variables over a file: what each kind takes, and whom a wrong name troubles."""

import pytest

from cortex.config.gateway import Address, read_gateway
from cortex.config.neuron import read_neuron
from cortex.config.overrides import overridable
from cortex.config.tables import GATEWAY_FILE, NEURON_FILE
from cortex.errors import ConfigError


@pytest.mark.parametrize(
    ("variable", "text", "look", "value"),
    [
        ("CORTEX_GATEWAY__LISTEN", "0.0.0.0:1", lambda c: c.listen, Address("0.0.0.0", 1)),
        ("CORTEX_GATEWAY__ANONYMOUS", "true", lambda c: c.anonymous, True),
        ("CORTEX_GATEWAY__LOG_FORMAT", "json", lambda c: c.log_format, "json"),
        ("CORTEX_GATEWAY__ALLOWED_HOSTS", "a, b.c ,", lambda c: c.allowed_hosts, ("a", "b.c")),
        ("CORTEX_GATEWAY__ALLOWED_HOSTS", '["a", "b.c"]', lambda c: c.allowed_hosts, ("a", "b.c")),
        ("CORTEX_GATEWAY__TRUSTED_NETWORKS", "", lambda c: c.trusted_networks, ()),
        ("CORTEX_LIMITS__DRAIN_S", "5", lambda c: c.limits.drain_s, 5.0),
        ("CORTEX_LIMITS__DRAIN_S", "5m", lambda c: c.limits.drain_s, 300.0),
        ("CORTEX_LIMITS__BODY", "1MiB", lambda c: c.limits.body, 2**20),
        ("CORTEX_POLL__FAILURES", "7", lambda c: c.poll.failures, 7),
    ],
)
def test_a_variable_goes_over_the_file(tmp_path, variable, text, look, value):
    (tmp_path / "f").write_text('[gateway]\nlisten = "h:9"\nallowed_hosts = ["x"]\n[poll]\nfailures = 1\n')
    config, _ = read_gateway(tmp_path / "f", {variable: text, "PATH": "/bin"})
    assert look(config) == value


def test_the_rest_of_the_file_stays(tmp_path):
    (tmp_path / "f").write_text('[gateway]\nlisten = "h:9"\nlog_format = "json"\n')
    config, _ = read_gateway(tmp_path / "f", {"CORTEX_GATEWAY__LISTEN": "h:1"})
    assert (config.listen.port, config.log_format) == (1, "json")


def test_a_table_of_two_names_has_three_parts():
    config, _ = read_neuron(None, {"CORTEX_HARNESS__LLAMACPP__THREADS": "3", "CORTEX_NEURON__NAME": "42"})
    assert (config.llamacpp.threads, config.name) == (3, "42")


@pytest.mark.parametrize(
    ("variable", "text", "fault"),
    [
        ("CORTEX_POLL__FAILURES", "many", "poll.failures: must be a whole number, not text"),
        ("CORTEX_POLL__FAILURES", "1\ny = 2", "poll.failures: must be a whole number, not text"),
        ("CORTEX_POLL__FAILURES", "0", "poll.failures: must be 1 to 1000, not 0"),
        ("CORTEX_GATEWAY__ANONYMOUS", "yes", "gateway.anonymous: must be true or false, not text"),
        ("CORTEX_GATEWAY__ALLOWED_HOSTS", "[1", "gateway.allowed_hosts: must be a list, not text"),
        (
            "CORTEX_GATEWAY__ALLOWED_HOSTS",
            "a,b c",
            "gateway.allowed_hosts[1]: 'b c' is not a host name or IP address",
        ),
    ],
)
def test_a_wrong_value_is_a_fault_that_names_the_variable(tmp_path, variable, text, fault):
    (tmp_path / "f").write_text("[poll]\nfailures = 2\n")
    with pytest.raises(ConfigError) as caught:
        read_gateway(tmp_path / "f", {variable: text})
    assert caught.value.faults == [f"{variable}: {fault}"]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("CORTEX_GATEWAY__LISTNE", "; did you mean CORTEX_GATEWAY__LISTEN?"),
        ("CORTEX_NEURONS__NAME", "; did you mean CORTEX_NEURON__NAME?"),
        ("CORTEX_ZZZ__X", ""),
        ("CORTEX_ALIASES__FAST", ""),
        ("CORTEX_KEYS__SHA256", ""),
    ],
)
@pytest.mark.parametrize("read", [read_gateway, read_neuron])
def test_a_variable_that_names_no_key_of_either_role_is_a_fault(read, variable, hint):
    with pytest.raises(ConfigError) as caught:
        read(None, {variable: "canary"})
    assert caught.value.faults == [f"{variable}: names no key that the environment can set{hint}"]


def test_a_variable_of_the_other_role_is_left_alone():
    env = {
        "CORTEX_GATEWAY__LISTEN": "h:1",
        "CORTEX_NEURON__LISTEN": "h:2",
        "CORTEX_EVICTION__STRATEGY": "priority",
    }
    gateway, neuron = read_gateway(None, env)[0], read_neuron(None, env)[0]
    assert (gateway.listen.port, neuron.listen.port) == (1, 2)
    assert gateway.eviction.strategy == neuron.eviction.strategy == "priority"


@pytest.mark.parametrize(
    "variable", ["CORTEX_HOME", "CORTEX__X", "CORTEX___X", "CORTEX_", "cortex_gateway__x", "MY_CORTEX_A__B"]
)
def test_a_variable_of_another_form_is_not_ours(variable):
    assert read_gateway(None, {variable: "1"}) == read_gateway(None, {})


def test_a_table_that_is_none_stays_a_fault_of_the_file(tmp_path):
    (tmp_path / "f").write_text("gateway = 1\n")
    with pytest.raises(ConfigError, match="f:1: gateway: must be a table, not a whole number"):
        read_gateway(tmp_path / "f", {"CORTEX_GATEWAY__LISTEN": "h:1"})


@pytest.mark.parametrize("table", [GATEWAY_FILE, NEURON_FILE])
def test_no_two_keys_share_a_variable(table):
    variables = [variable for variable, _, _ in overridable(table)]
    assert len(variables) == len(set(variables)) > 10
