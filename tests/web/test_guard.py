"""Who is let in: networks, keys in every odd form, Host and Origin."""

import hashlib
from dataclasses import replace
from ipaddress import ip_network

import pytest
import trio

from cortex.errors import BadFraming, CortexError, Denied, Unauthorised
from cortex.web import guard
from cortex.web.connection import Headers, Request
from cortex.web.guard import Credential, Policy, admit, host_name, preflight, visitor
from cortex.web.site import inventory
from tests.fake_web import CHAT, CONTROL, LOCAL, Stage, ask, make_site, open_door

KEY, ADMIN_KEY = "sk-user", "sk-admin"


def credential(name: str, key: str, *scopes: str) -> Credential:
    return Credential(name, hashlib.sha256(key.encode()).hexdigest(), frozenset(scopes))


def test_no_repr_shows_a_digest_a_body_or_a_header() -> None:
    ann = credential("ann", KEY, "inference")
    request = Request(
        method="POST",
        path="/v1/x",
        query="",
        headers=Headers([("x-api-key", KEY)]),
        body=b"canary",
        peer="127.0.0.1",
        id="r-1",
        caller="ann",
        arrived=0.0,
    )
    shown = repr((ann, Policy(credentials=(ann,)), request))
    assert "ann" in shown and "r-1" in shown
    assert not [secret for secret in (ann.sha256, KEY, "canary") if secret in shown]


NETWORKS = tuple(map(ip_network, ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "fe80::/10")))
OPEN = Policy(trusted_networks=NETWORKS)
KEYED = replace(
    OPEN,
    credentials=(
        credential("ann", KEY, "inference"),
        credential("root", ADMIN_KEY, "inference", "admin"),
        credential("status", "sk-status"),
    ),
)
ANONYMOUS = replace(KEYED, anonymous=True)


def call(policy: Policy, scope: guard.Scope = "inference", peer: str = "127.0.0.1", **fields: str) -> str:
    headers = Headers(
        (name.replace("_", "-"), value) for name, value in {"host": "10.0.0.1", **fields}.items()
    )
    return admit(policy, headers=headers, visitor=visitor(policy, peer, headers), scope=scope)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


ALLOWED = {
    "loopback infers": (OPEN, "inference", "127.0.0.1", {}, ""),
    "loopback over IPv6": (OPEN, "inference", "::1", {}, ""),
    "an IPv4 peer of a dual socket": (OPEN, "inference", "::ffff:10.1.2.3", {}, ""),
    "a link-local peer": (OPEN, "inference", "fe80::1%eth0", {}, ""),
    "loopback administers": (OPEN, "admin", "127.0.0.1", {}, ""),
    "a placeholder key means nothing without keys": (OPEN, "inference", "10.0.0.9", bearer("sk-none"), ""),
    "a neuron's admin follows the network": (
        replace(OPEN, loopback_admin=False),
        "admin",
        "10.0.0.9",
        {},
        "",
    ),
    "a key from anywhere": (KEYED, "inference", "8.8.8.8", bearer(KEY), "ann"),
    "the other header form": (KEYED, "inference", "8.8.8.8", {"x_api_key": KEY}, "ann"),
    "both forms, alike": (KEYED, "inference", "8.8.8.8", {**bearer(KEY), "x_api_key": KEY}, "ann"),
    "the scheme in any case": (KEYED, "inference", "8.8.8.8", {"authorization": f"bearer {KEY}"}, "ann"),
    "a key under any host name": (KEYED, "read", "8.8.8.8", {**bearer(KEY), "host": "evil.example"}, "ann"),
    "a key without scopes reads": (KEYED, "read", "8.8.8.8", bearer("sk-status"), "status"),
    "an admin key administers": (KEYED, "admin", "8.8.8.8", bearer(ADMIN_KEY), "root"),
    "the probe needs no key": (KEYED, "open", "8.8.8.8", {}, ""),
    "anonymous inference": (ANONYMOUS, "inference", "10.0.0.9", {}, ""),
    "a key where anonymous is on": (ANONYMOUS, "inference", "10.0.0.9", bearer(KEY), "ann"),
}

REFUSED = {
    "a stranger": (OPEN, "inference", "8.8.8.8", {}, Denied),
    "a stranger at the probe": (OPEN, "open", "8.8.8.8", {}, Denied),
    "a stranger with a placeholder": (OPEN, "inference", "8.8.8.8", bearer("sk-none"), Denied),
    "admin from the network": (OPEN, "admin", "10.0.0.9", {}, Denied),
    "admin through an unnamed proxy": (OPEN, "admin", "127.0.0.1", {"x_forwarded_for": "127.0.0.1"}, Denied),
    "no key": (KEYED, "inference", "127.0.0.1", {}, Unauthorised),
    "no key, reading": (KEYED, "read", "127.0.0.1", {}, Unauthorised),
    "no key, admin": (KEYED, "admin", "127.0.0.1", {}, Unauthorised),
    "empty key": (KEYED, "inference", "127.0.0.1", {"x_api_key": ""}, Unauthorised),
    "only the scheme": (KEYED, "inference", "127.0.0.1", {"authorization": "Bearer"}, Unauthorised),
    "an empty bearer": (KEYED, "inference", "127.0.0.1", {"authorization": "Bearer "}, Unauthorised),
    "another scheme": (KEYED, "inference", "127.0.0.1", {"authorization": f"Basic {KEY}"}, Unauthorised),
    "a bare key": (KEYED, "inference", "127.0.0.1", {"authorization": KEY}, Unauthorised),
    "the key in another case": (KEYED, "inference", "127.0.0.1", bearer(KEY.upper()), Unauthorised),
    "a prefix of the key": (KEYED, "inference", "127.0.0.1", bearer(KEY[:-1]), Unauthorised),
    "the digest as key": (KEYED, "inference", "127.0.0.1", bearer(KEYED.credentials[0].sha256), Unauthorised),
    "two keys": (KEYED, "inference", "127.0.0.1", {**bearer(KEY), "x_api_key": ADMIN_KEY}, Unauthorised),
    "a key and an empty one": (
        KEYED,
        "inference",
        "127.0.0.1",
        {**bearer(KEY), "x_api_key": ""},
        Unauthorised,
    ),
    "64 KB of key": (KEYED, "inference", "127.0.0.1", bearer("k" * 65536), Unauthorised),
    "SQL": (KEYED, "inference", "127.0.0.1", bearer("' OR 1=1 --"), Unauthorised),
    "a key beyond ASCII": (KEYED, "inference", "127.0.0.1", bearer("\xe9"), Unauthorised),
    "a user's key at admin": (KEYED, "admin", "127.0.0.1", bearer(KEY), Denied),
    "a scopeless key at inference": (KEYED, "inference", "127.0.0.1", bearer("sk-status"), Denied),
    "anonymous admin": (ANONYMOUS, "admin", "127.0.0.1", {}, Unauthorised),
    "anonymous reading": (ANONYMOUS, "read", "127.0.0.1", {}, Unauthorised),
    "anonymous from outside": (ANONYMOUS, "inference", "8.8.8.8", {}, Denied),
    "a wrong key where anonymous is on": (ANONYMOUS, "inference", "10.0.0.9", bearer("no"), Unauthorised),
    "anonymous through rebinding": (ANONYMOUS, "inference", "10.0.0.9", {"host": "evil.example"}, Denied),
}


@pytest.mark.parametrize(
    ("policy", "scope", "peer", "fields", "caller"), ALLOWED.values(), ids=ALLOWED.keys()
)
def test_who_is_let_in_has_a_name(policy, scope, peer, fields, caller):
    assert call(policy, scope, peer, **fields) == caller


@pytest.mark.parametrize(("policy", "scope", "peer", "fields", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_who_is_not_let_in_learns_why(policy, scope, peer, fields, error):
    """Rows 55, 58."""
    with pytest.raises(error) as caught:
        call(policy, scope, peer, **fields)
    assert KEY not in caught.value.message and ADMIN_KEY not in caught.value.message


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:31313",
        "127.0.0.1:1",
        "[::1]:80",
        "10.9.8.7",
        "a.local",
        "b.internal.",
        "box",
        "",
    ],
)
def test_a_name_of_this_house_passes(host: str):
    policy = replace(OPEN, allowed_hosts=frozenset({"box"}))
    call(policy, host=host)
    with pytest.raises(Denied):
        call(policy, host="evil.example")


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "box.evil", "local", "1.2.3.4.evil"]
)
def test_a_foreign_name_is_refused_where_no_key_protects(host: str):
    """Row 57: DNS rebinding."""
    with pytest.raises(Denied, match="allowed_hosts"):
        call(replace(OPEN, allowed_hosts=frozenset({"box"})), host=host)
    call(replace(OPEN, any_host=True), host=host)


@pytest.mark.parametrize("policy", [OPEN, KEYED], ids=["open", "keyed"])
@pytest.mark.parametrize("scope", ["open", "read", "inference", "admin"])
def test_a_web_page_of_another_origin_is_refused_everywhere(policy: Policy, scope: guard.Scope):
    """Row 57: also with a key, and on loopback."""
    for origin in ("https://evil.example", "null", "http://localhost:3000"):
        with pytest.raises(Denied, match="allowed_origins"):
            call(policy, scope, origin=origin, **bearer(ADMIN_KEY))


def test_a_page_of_an_allowed_origin_may_call_and_read():
    policy = replace(KEYED, allowed_origins=frozenset({"https://ui.example"}))
    fields = {"origin": "https://ui.example", **bearer(KEY)}
    assert call(policy, **fields) == "ann"
    told = dict(guard.cross_origin(policy, Headers(fields.items())))
    assert told["access-control-allow-origin"] == "https://ui.example" and told["vary"] == "origin"
    assert guard.cross_origin(policy, Headers([("origin", "https://evil.example")])) == ()


def test_a_preflight_carries_no_key_and_is_answered_for_allowed_origins_only():
    policy = replace(KEYED, allowed_origins=frozenset({"https://ui.example"}))
    fields = {"origin": "https://ui.example", "access-control-request-method": "POST"}
    told = dict(preflight(policy, "OPTIONS", Headers(fields.items())) or ())
    assert told["access-control-allow-methods"] == "POST"
    assert preflight(policy, "OPTIONS", Headers({"origin": "https://ui.example"}.items())) is None
    assert preflight(policy, "POST", Headers(fields.items())) is None
    with pytest.raises(Denied):
        preflight(policy, "OPTIONS", Headers({**fields, "origin": "https://evil.example"}.items()))


PROXIED = replace(OPEN, trusted_proxies=(ip_network("10.0.0.0/24"),))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client", "relayed"),
    [
        ("10.0.0.1", ["8.8.8.8"], "8.8.8.8", False),
        ("10.0.0.1", ["127.0.0.1, 8.8.8.8"], "8.8.8.8", False),
        ("10.0.0.1", ["8.8.8.8, 10.0.0.2"], "8.8.8.8", False),
        ("10.0.0.1", ["127.0.0.1", "8.8.8.8"], "8.8.8.8", False),
        ("10.0.0.1", ["8.8.8.8:4711"], "8.8.8.8", False),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1", False),
        ("10.0.0.1", [], "10.0.0.1", True),
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1", True),
        ("8.8.8.8", ["127.0.0.1"], "8.8.8.8", True),
    ],
)
def test_only_a_trusted_proxy_names_the_client_and_only_the_hop_before_it(peer, forwarded, client, relayed):
    found = visitor(PROXIED, peer, Headers(("X-Forwarded-For", line) for line in forwarded))
    assert (str(found.address), found.relayed) == (client, relayed)


BEHIND = replace(OPEN, trusted_proxies=(ip_network("127.0.0.1/32"),))


def test_a_trusted_proxy_that_does_not_name_its_client_is_not_this_host():
    """Else everybody behind it would have the admin routes, where there are no keys."""
    with pytest.raises(Denied, match="X-Forwarded-For"):
        call(BEHIND, "admin", "127.0.0.1")
    assert call(BEHIND, "inference", "127.0.0.1") == ""
    assert call(BEHIND, "admin", "127.0.0.1", x_forwarded_for="127.0.0.1") == ""
    assert call(replace(BEHIND, credentials=KEYED.credentials), "admin", **bearer(ADMIN_KEY)) == "root"


@pytest.mark.parametrize("header", ["x_real_ip", "forwarded"])
@pytest.mark.parametrize("scope", ["open", "read", "inference", "admin"])
def test_a_client_that_a_trusted_proxy_names_elsewhere_needs_a_key(header: str, scope: guard.Scope):
    """He may have written that header himself."""
    with pytest.raises(Denied, match=header.replace("_", "-")):
        call(BEHIND, scope, "127.0.0.1", **{header: "127.0.0.1"})
    keyed = replace(BEHIND, credentials=KEYED.credentials)
    assert call(keyed, "inference", "127.0.0.1", **{header: "8.8.8.8"}, **bearer(KEY)) == "ann"
    assert call(BEHIND, scope, "127.0.0.1", **{header: "8.8.8.8"}, x_forwarded_for="127.0.0.1") == ""


def test_a_proxy_that_names_no_address_is_not_guessed_at():
    with pytest.raises(BadFraming, match="X-Forwarded-For"):
        visitor(PROXIED, "10.0.0.1", Headers([("x-forwarded-for", "unknown")]))


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch):
    """The time that a refusal takes tells nothing about the keys."""
    compared: list[bytes] = []
    real = guard.hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    for key in (KEY, ADMIN_KEY, "none"):
        compared.clear()
        try:
            call(KEYED, **bearer(key))
        except CortexError:
            assert key == "none"
        assert compared == [each.sha256.encode() for each in KEYED.credentials]


def test_the_name_of_a_host_header_has_no_port_brackets_or_dot():
    assert [host_name(h) for h in ("A.b.:1", "[::1]:2", "x")] == ["a.b", "::1", "x"]


async def test_no_route_of_a_site_with_keys_lets_a_stranger_in():
    """Annex B 10, row 55: every route, also by odd spellings of its path."""
    policy = replace(LOCAL, credentials=KEYED.credentials)
    control = {CONTROL: ("GET", "POST"), "/livez": ("GET",), "/admin/load": ("POST",), "/nowhere": ("GET",)}
    listed = inventory(make_site(Stage(), policy), control)
    assert {entry.path for entry in listed} >= {CHAT, "/v1/messages", *control}
    with trio.fail_after(30):
        async with open_door(policy) as site:
            for entry in listed:
                spellings = [
                    entry.path,
                    "/" + entry.path,
                    entry.path + "/",
                    entry.path.replace("/", "/%61", 1),
                ]
                for path in [entry.path] if entry.scope == "open" else spellings:
                    client = await site.dial()
                    await client.send(ask(path, method=entry.method))
                    status = (await client.answer()).status
                    assert status == (200 if entry.scope == "open" else 401), (entry, path)
            assert site.stage.began == []


async def test_a_percent_encoded_path_does_not_slip_past_its_scope():
    """Row 55: what the application will see is what the guard judges."""
    policy = replace(LOCAL, credentials=KEYED.credentials)
    with trio.fail_after(30):
        async with open_door(policy) as site:
            client = await site.dial()
            await client.send(ask("/%61dmin/load", authorization=f"Bearer {KEY}"))
            assert (await client.answer()).status == 403


async def test_a_refusal_comes_before_the_body_is_read():
    with trio.fail_after(30):
        async with open_door(replace(LOCAL, credentials=KEYED.credentials)) as site:
            client = await site.dial()
            await client.send(ask(content_length="100000", expect="100-continue").removesuffix(b"{}"))
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert answer.headers["x-should-retry"] == "false"


async def test_a_preflight_and_the_answer_behind_it_name_the_origin():
    policy = replace(LOCAL, allowed_origins=frozenset({"https://ui.example"}))
    with trio.fail_after(30):
        async with open_door(policy) as site:
            client = await site.dial()
            for path in (CHAT, CONTROL):
                fields = {"origin": "https://ui.example", "access_control_request_method": "POST"}
                await client.send(ask(path, b"", "OPTIONS", **fields))
                answer = await client.answer()
                assert (answer.status, answer.headers["access-control-allow-methods"]) == (204, "POST")
                assert "content-length" not in answer.headers
                await client.send(ask(path, origin="https://ui.example"))
                answer = await client.answer()
                assert answer.status == 200
                assert answer.headers["access-control-allow-origin"] == "https://ui.example"
