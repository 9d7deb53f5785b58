"""Each kind of value reads its forms in one spelling, and refuses the others with a remedy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.config import kinds
from cortex.config.kinds import (
    ADDRESS,
    ENDPOINT,
    HOST,
    NETWORK,
    ORIGIN,
    PATH,
    SOURCE,
    number,
    sizes,
    spans,
    whole,
)
from cortex.config.network import read_endpoint


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        (ADDRESS, "127.0.0.1:80", "127.0.0.1:80"),
        (ADDRESS, "LocalHost:0", "localhost:0"),
        (ADDRESS, "[::]:31313", "[::]:31313"),
        (ADDRESS, "[0::1]:1", "[::1]:1"),
        (ENDPOINT, "http://beast:13131", "http://beast:13131"),
        (ENDPOINT, "HTTP://Beast.Local:13131/", "http://beast.local:13131"),
        (ENDPOINT, "http://[FD00::1]:13131", "http://[fd00::1]:13131"),
        (ENDPOINT, "http://10.0.0.7", "http://10.0.0.7:80"),
        (ENDPOINT, "http://[::1]", "http://[::1]:80"),
        (HOST, "My_Host.example", "my_host.example"),
        (HOST, "fd00::1", "fd00::1"),
        (NETWORK, "10.0.0.0/8", "10.0.0.0/8"),
        (NETWORK, "fd00::1", "fd00::1/128"),
        (ORIGIN, "vscode-webview://abc", "vscode-webview://abc"),
        (ORIGIN, "http://LocalHost:3000", "http://localhost:3000"),
        (ORIGIN, "https://app.example:443", "https://app.example"),
        (ORIGIN, "http://app.example:80", "http://app.example"),
        (ORIGIN, "http://app.example:443", "http://app.example:443"),
        (SOURCE, "hf:org/name", "hf:org/name"),
        (SOURCE, "hf:org/name@v1.0:Q4_K_M", "hf:org/name@v1.0:Q4_K_M"),
        (SOURCE, "hf:org/name:sub/file.gguf", "hf:org/name:sub/file.gguf"),
        (SOURCE, "path:/srv/models/a b.gguf", "path:/srv/models/a b.gguf"),
        (SOURCE, "upstream:http://host:8000/v1", "upstream:http://host:8000/v1"),
        (SOURCE, "upstream:https://[::1]:8000/v1/#a/b:c", "upstream:https://[::1]:8000/v1/#a/b:c"),
        (PATH, "rel/x", "rel/x"),
    ],
)
def test_texts_with_a_form_are_read_in_one_spelling(kind, given, read):
    assert str(kind.read(given)) == read


REFUSED = {
    ADDRESS: [
        "",
        "host",
        ":80",
        "host:",
        "host:65536",
        "host:-1",
        "::1:80",
        "[::1]",
        "a b:1",
        "1.2.3:80",
        "é:1",
    ],
    ENDPOINT: [
        "",
        "beast:13131",
        "https://beast:1",
        "http://",
        "http://:13131",
        "http://beast:0",
        "http://beast:70000",
        "http://beast:13131/v1",
        "http://beast?x",
        "http://beast#x",
        "http://us er:1",
        "http://me@beast:1",
        "http://beast:1\n",
        "http://beast:1:2",
    ],
    HOST: ["", "*", "*.example", "host:80", "-a", "a..b", "http://a", "1.2.3", "a" * 254],
    NETWORK: ["", "10.0.0.1/8", "host", "10.0.0.0/33", "*"],
    ORIGIN: ["", "*", "null", "localhost", "http://a/b", "http://*.a", "http://", "http://me@a"],
    SOURCE: [
        "",
        "org/name",
        "hf:name",
        "hf:org/na me",
        "hf:../name",
        "hf:org/name:../x",
        "hf:org/name:a/../x",
        "hf:org/name@",
        "hf:org/a/b",
        "path:rel",
        "path:",
        "upstream:host",
        "upstream:http://me:pw@host/v1",
        "upstream:http://host:99999/v1",
        "upstream:http://host:x/v1#m",
        "upstream:http://a..b/v1",
        "upstream:http://" + "a" * 64 + ".b/v1",
        "upstream:http://[::1/v1",
        "upstream:http://[12]:1/v1",
        "upstream:http://host/v1é",
        "s3:x/y",
        "path",
    ],
    PATH: ["", "a\nb", "~nobody-of-that-name/x"],
}


@pytest.mark.parametrize(("kind", "given"), [(kind, text) for kind in REFUSED for text in REFUSED[kind]])
def test_other_forms_are_refused(kind, given):
    with pytest.raises(ValueError, match=r"must|not|needs|begins"):
        kind.read(given)


@pytest.mark.parametrize("given", ["http://me:hunter2@beast:1", "https://hunter2"])
def test_an_endpoint_that_may_hold_a_password_is_not_echoed(given):
    with pytest.raises(ValueError, match="plain URL") as caught:
        ENDPOINT.read(given)
    assert "hunter2" not in str(caught.value)


def test_a_home_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/op")
    assert str(PATH.read("~/x")) == "/home/op/x"


def test_bounds_belong_to_the_range_and_nan_does_not():
    kind = number(0.5, 2)
    assert (kind.read(0.5), kind.read(2)) == (0.5, 2.0)
    assert isinstance(kind.read(1), float)
    for value in (0.49, 2.01, float("nan"), True, "1"):
        with pytest.raises(ValueError, match="must be"):
            kind.read(value)


plain = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.none(), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


KINDS = [
    *(kind for kind in vars(kinds).values() if isinstance(kind, kinds.Kind)),
    *(sizes(), spans(), whole(0, 9), number(0, 9)),
]


@given(st.sampled_from(KINDS), plain)
def test_a_kind_reads_or_refuses_whatever_it_is_given(kind, value):
    try:
        kind.read(value)
    except ValueError as error:
        assert str(error)


def test_a_label_of_a_host_name_is_as_long_as_a_resolver_takes_it() -> None:
    assert read_endpoint(f"http://{'x' * 63}.example:1")
    with pytest.raises(ValueError, match="host"):
        read_endpoint(f"http://{'x' * 64}.example:1")
