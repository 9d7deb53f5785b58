"""Who may call what at a gateway: every route, both forms of a key, networks, names and origins."""

import re
from dataclasses import replace
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.network import Address
from cortex.gateway.app import CONTROL, application, scope_of
from cortex.gateway.tuning import warnings_of
from cortex.web.listeners import fleet_credential
from cortex.web.site import Entry, Site, inventory
from tests.fake_neuron import Open, body, fake_neuron, open_gateway
from tests.fake_web import Answer, ask

USER, ADMIN, BOTH = "sk-user", "sk-admin", "sk-both"
KEYS = tuple(
    Key(name, fleet_credential(key).sha256, scopes)
    for name, key, scopes in (
        ("ann", USER, ("inference",)),
        ("ops", ADMIN, ("admin",)),
        ("root", BOTH, ("inference", "admin")),
    )
)
KEYED = GatewayConfig(keys=KEYS)
INFERENCE = ("/v1/chat/completions", "/v1/completions")
OPEN_ROUTES = {"/livez", "/readyz"}
LOAD = b'{"model":"a"}'
PLAN = {"/fleet/plan": "/fleet/plan?model=some-model"}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def call(gateway: Open, method: str, path: str, sent: bytes = b"", **headers: str) -> Answer:
    client = await gateway.dial()
    await client.send(ask(path, sent, method, **headers))
    answer = await (client.head() if path == "/fleet/events" else client.answer())
    await client.close()
    return answer


def sent_to(entry: Entry, model: str) -> bytes:
    """A body that the route takes."""
    order = f'{{"model": "{model}"}}'.encode()
    return b"" if entry.method == "GET" else body(model) if entry.path in INFERENCE else order


def entries():
    """Every route of a gateway and what it demands."""
    routes = dict.fromkeys(INFERENCE)
    return inventory(Site(routes, None, None, scope_of), CONTROL)  # type: ignore[arg-type]


async def test_the_inventory_has_every_route_that_there_is() -> None:
    """P2: a route that is added without a place in the list is found out here."""
    nothing = SimpleNamespace(listing=None)
    rules = application(nothing, nothing, nothing, nothing, nothing).url_map.iter_rules()  # type: ignore[arg-type]
    known = {
        re.sub("<[^>]*>", "some-model", rule.rule): tuple(sorted(rule.methods - {"HEAD", "OPTIONS"}))
        for rule in rules
    }
    assert known == CONTROL
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        for path in INFERENCE:
            assert (await call(gateway, "POST", path, body())).status == 200
            assert (await call(gateway, "GET", path)).status == 405


async def test_an_odd_path_is_nothing_and_no_redirect_is_made_from_the_clients_host() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        for path in ("/v1//models", "/health/"):
            answer = await call(gateway, "GET", path, host="1.2.3.4:99")
            assert answer.status == 404
            assert b'"code":"not_found"' in answer.body
            assert "location" not in answer.headers


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        answer = await call(gateway, "PUT", "/fleet")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


WRONG_KEYS: dict[str, dict[str, str]] = {
    "none": {},
    "empty": {"authorization": ""},
    "the scheme alone": {"authorization": "Bearer"},
    "the scheme and a space": {"authorization": "Bearer "},
    "another": {"authorization": "Bearer sk-other"},
    "another, in the other header": {"x_api_key": "sk-other"},
    "an empty one in the other header": {"x_api_key": ""},
    "in capitals": {"authorization": f"Bearer {USER.upper()}"},
    "its start": {"authorization": f"Bearer {USER[:-1]}"},
    "more than it": {"authorization": f"Bearer {USER}x"},
    "basic": {"authorization": f"Basic {USER}"},
    "two that differ": {"authorization": f"Bearer {USER}", "x_api_key": ADMIN},
    "the digest": {"authorization": f"Bearer {KEYS[0].sha256}"},
    "a long one": {"authorization": "Bearer " + "k" * 8000},
    "a statement": {"authorization": "Bearer ' OR 1=1 --"},
}


@pytest.mark.parametrize("headers", WRONG_KEYS.values(), ids=WRONG_KEYS.keys())
async def test_no_route_but_the_probes_answers_without_a_key(headers: dict[str, str]) -> None:
    """Row 55: and a client library does not repeat the call."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        for entry in entries():
            answer = await call(gateway, entry.method, entry.path, **headers)
            if entry.path in OPEN_ROUTES:
                assert (answer.status, answer.body) == (200, b"ok\n")
                continue
            assert answer.status == 401, entry
            assert answer.headers["x-should-retry"] == "false"
            assert b"invalid_api_key" in answer.body
            assert USER.encode() not in answer.body
        assert not neuron.requests and not neuron.orders


PATHS = (
    "//fleet",
    "/fleet/",
    "/v1/../fleet",
    "/%66leet",
    "/v1%2f..%2ffleet",
    "/fleet/models/load/",
    "/nowhere",
    "/v1/x",
)


@pytest.mark.parametrize("path", PATHS)
async def test_no_spelling_of_a_path_gets_past_the_key(path: str) -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            client = await gateway.dial()
            await client.send(ask(path, b"", method))
            assert b" 401 " in await client.until(b"\r\n")


@pytest.mark.parametrize("form", ["authorization", "x_api_key"])
@pytest.mark.parametrize("key", [USER, ADMIN, BOTH])
async def test_a_key_opens_what_its_scopes_say_in_either_header(form: str, key: str) -> None:
    """Row 58: scope by route, over every route."""
    scopes = next(each.scopes for each in KEYS if each.sha256 == fleet_credential(key).sha256)
    headers = {form: f"bearer {key}" if form == "authorization" else key}
    async with (
        fake_neuron() as neuron,
        open_gateway(neuron, catalogue=["some-model"], config=KEYED) as gateway,
    ):
        for entry in entries():
            sent = sent_to(entry, "some-model")
            path = PLAN.get(entry.path, entry.path)
            answer = await call(gateway, entry.method, path, sent, **headers)
            allowed = entry.scope in ("open", "read", *scopes)
            assert answer.status == (200 if allowed else 403), entry
            if not allowed:
                assert b"not_allowed" in answer.body and answer.headers["x-should-retry"] == "false"


async def test_an_inference_key_may_not_load_or_unload() -> None:
    """Row 58."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        for path in ("/fleet/models/load", "/fleet/models/unload"):
            assert (await call(gateway, "POST", path, LOAD, x_api_key=USER)).status == 403
        assert not neuron.orders
        answer = await call(gateway, "POST", "/fleet/models/unload", LOAD, x_api_key=ADMIN)
        assert answer.status == 200 and neuron.ordered("/models/unload") == 1


async def test_a_key_works_from_anywhere_and_by_any_name() -> None:
    """Where keys are, neither networks nor names decide."""
    config = replace(KEYED, trusted_networks=(ip_network("192.0.2.0/24"),))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        answer = await call(gateway, "POST", INFERENCE[0], body(), x_api_key=USER, host="evil.example")
        assert answer.status == 200


async def test_anonymous_callers_of_trusted_networks_infer_and_do_nothing_else() -> None:
    config = replace(KEYED, anonymous=True)
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        for entry in entries():
            sent = b"" if entry.method == "GET" else body()
            answer = await call(gateway, entry.method, entry.path, sent)
            if entry.scope == "inference" or entry.path in OPEN_ROUTES:
                assert answer.status == (404 if "some-model" in entry.path else 200), entry
            else:
                assert answer.status == 401, entry
        assert (await call(gateway, "POST", INFERENCE[0], body(), x_api_key="sk-other")).status == 401
        names = [dict(request.headers).get("x-cortex-key-name") for request in neuron.requests]
        assert names == [None] * len(names)
    config = replace(config, trusted_networks=(ip_network("192.0.2.0/24"),))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        assert (await call(gateway, "POST", INFERENCE[0], body())).status == 403


# A trusted proxy on loopback lets a test come from any address.
PROXIED = GatewayConfig(trusted_proxies=(ip_network("127.0.0.0/8"),))


@pytest.mark.parametrize(
    ("address", "inference", "admin"),
    [
        ("127.0.0.1", 200, 200),
        ("192.168.1.5", 200, 403),
        ("10.1.2.3", 200, 403),
        ("100.64.0.9", 200, 403),
        ("fd00::7", 200, 403),
        ("8.8.8.8", 403, 403),
        ("2001:db8::1", 403, 403),
    ],
)
async def test_without_keys_the_network_decides_and_admin_is_this_hosts(
    address: str, inference: int, admin: int
) -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"], config=PROXIED) as gateway:
        for entry in entries():
            sent = sent_to(entry, "a")
            path = PLAN.get(entry.path, entry.path).replace("some-model", "a")
            answer = await call(gateway, entry.method, path, sent, x_forwarded_for=address)
            assert answer.status == (admin if entry.scope == "admin" else inference), entry


async def test_a_proxy_that_is_not_trusted_is_not_this_host() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        answer = await call(gateway, "POST", "/fleet/models/load", LOAD, x_forwarded_for="127.0.0.1")
        assert answer.status == 403 and b"trusted_proxies" in answer.body
        assert not neuron.orders


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:31313", 200),
        ("[::1]:31313", 200),
        ("localhost", 200),
        ("gpu.internal", 200),
        ("box.local:80", 200),
        ("api.mine.example", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
    ],
)
async def test_without_keys_only_names_of_this_host_are_served(host: str, status: int) -> None:
    """Row 57: rebinding."""
    config = GatewayConfig(allowed_hosts=("api.mine.example",))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        for method, path, sent in (("POST", INFERENCE[0], body()), ("GET", "/fleet", b"")):
            assert (await call(gateway, method, path, sent, host=host)).status == status


@pytest.mark.parametrize("config", [GatewayConfig(), KEYED], ids=["no keys", "keys"])
async def test_a_web_page_reaches_nothing_unless_its_origin_is_allowed(config: GatewayConfig) -> None:
    """Row 57: with a key, too; and an allowed one may read the answer."""
    config = replace(config, allowed_origins=("https://chat.example",))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        for origin in (
            "https://evil.example",
            "null",
            "https://chat.example.evil.example",
            "http://chat.example",
        ):
            for entry in entries():
                answer = await call(gateway, entry.method, entry.path, origin=origin, x_api_key=BOTH)
                assert answer.status == 403, entry
                assert "access-control-allow-origin" not in answer.headers
        mine = {"origin": "https://chat.example", "x_api_key": BOTH}
        answer = await call(gateway, "POST", INFERENCE[0], body(), **mine)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert len(neuron.requests) == 1
        assert "origin" not in dict(neuron.requests[0].headers)


async def test_the_metrics_listener_obeys_the_networks_and_asks_for_no_key() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=KEYED) as gateway:
        assert "cortex_neuron_up" in await gateway.page()
        host, port = gateway.gateway.ports.metrics
        for path in ("/fleet", "/v1/models", "/health", "/"):
            assert (await gateway.http.get(f"http://{host}:{port}{path}")).status_code == 404
        assert (await gateway.http.get("/metrics", headers={"x-api-key": BOTH})).status_code == 404
    config = replace(KEYED, trusted_networks=(ip_network("192.0.2.0/24"),))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        host, port = gateway.gateway.ports.metrics
        url = f"http://{host}:{port}/metrics"
        assert (await gateway.http.get(url, headers={"x-api-key": BOTH})).status_code == 403


async def test_a_gateway_that_anybody_may_use_says_so() -> None:
    everywhere = Address("0.0.0.0", 31313)
    assert warnings_of(replace(GatewayConfig(), listen=everywhere)) != ()
    assert warnings_of(replace(KEYED, listen=everywhere)) == ()
    assert warnings_of(GatewayConfig()) == ()
