"""Who may call a neuron: every route, every listener, from the first day."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
import trio

from cortex.config.network import Address
from cortex.config.neuron import NeuronConfig
from cortex.errors import Denied
from cortex.harness.scripted import Script
from cortex.neuron.app import CONTROL, routes, scope_of
from cortex.neuron.service import _policy, _warnings
from cortex.neuron.speech import Speech
from cortex.neuron.tokens import Tokeniser
from cortex.web.connection import Headers
from cortex.web.guard import Policy, admit, visitor
from cortex.web.site import Entry, Site, inventory
from tests.calls import CHAT, fault_of, hello, settings, text_of
from tests.roles import Running, running_neuron, specs

TOKEN = "a-token-of-the-fleet-0123456789"
ELSEWHERE = (ip_network("192.0.2.0/24"),)
INFERENCE = {
    **Speech("n1", None, None, None, None).routes(),  # type: ignore[arg-type]
    **Tokeniser("n1", None, None).routes(),  # type: ignore[arg-type]
}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def neuron(folder: Path, config: NeuronConfig):
    return running_neuron(folder, specs(folder, "a"), Script(reply="hi"), config=config)


def listed() -> list[Entry]:
    async def nothing(scope, receive, send) -> None: ...

    return inventory(Site(INFERENCE, nothing, Policy(), scope_of), CONTROL)


def code_of(answer: httpx.Response) -> str:
    """The code of a refusal, in whichever dialect it is."""
    error = fault_of(answer)
    return error["code"] if "code" in error else error["details"]["error_code"]


async def call(role: Running, entry: Entry, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await role.http.request(entry.method, entry.path, headers=sent)


async def test_the_list_of_control_routes_has_every_route_of_the_application() -> None:
    """A route that is forgotten here would be held by no test."""
    app = routes(None, None, None)  # type: ignore[arg-type]
    address = app.url_map.bind("")
    found = {
        (address.match(path, method)[0], method) for path, methods in CONTROL.items() for method in methods
    }
    real = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert found == real
    paths = {
        CHAT,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
    assert set(INFERENCE) == paths


async def test_what_a_route_demands() -> None:
    demands = {f"{entry.method} {entry.path}": entry.scope for entry in listed()}
    assert demands == {
        "POST /v1/chat/completions": "inference",
        "POST /v1/completions": "inference",
        "POST /v1/embeddings": "inference",
        "POST /v1/responses": "inference",
        "POST /v1/messages": "inference",
        "POST /v1/messages/count_tokens": "inference",
        "POST /tokenize": "inference",
        "POST /detokenize": "inference",
        "GET /models/some-model/endpoint": "read",
        "GET /models/some-model/capabilities": "read",
        "GET /v1/models": "inference",
        "GET /v1/models/some-model": "inference",
        "GET /livez": "open",
        "GET /readyz": "open",
        "GET /health": "read",
        "GET /version": "read",
        "GET /openapi.json": "read",
        "GET /discovery": "read",
        "GET /models": "read",
        "POST /models/load": "admin",
        "POST /models/unload": "admin",
        "POST /models/pin": "admin",
        "POST /models/unpin": "admin",
        "POST /models/keep": "admin",
        "GET /models/jobs": "read",
        "GET /models/jobs/some-job": "read",
        "DELETE /models/jobs/some-job": "admin",
    }
    assert scope_of("GET", "/anything/else") == "admin"
    assert scope_of("POST", "/models") == "admin"


async def test_with_a_token_no_route_but_the_probes_answers_without_it(tmp_path: Path) -> None:
    """Row 55, over the whole inventory."""
    wrong: Iterator[dict[str, str]] = iter(
        (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Bearer"},
            {"authorization": f"Basic {TOKEN}"},
            {"x_api_key": TOKEN + "x"},
            {"x_api_key": TOKEN.upper()},
            {"x_api_key": "wrong", "authorization": f"Bearer {TOKEN}"},
        )
    )
    async with neuron(tmp_path, settings(token=TOKEN)) as role:
        for headers in wrong:
            for entry in (*listed(), Entry("GET", "/no/such/route", "admin")):
                answer = await call(role, entry, **headers)
                if entry.scope == "open":
                    assert answer.status_code in (200, 503)
                    continue
                assert answer.status_code == 401, (entry, headers)
                assert code_of(answer) == "invalid_api_key"
                assert answer.headers["x-should-retry"] == "false"
                assert TOKEN not in answer.text


async def test_both_forms_of_the_token_are_taken_everywhere(tmp_path: Path) -> None:
    async with neuron(tmp_path, settings(token=TOKEN)) as role:
        for headers in (
            {"authorization": f"Bearer {TOKEN}"},
            {"x_api_key": TOKEN},
            {"x_api_key": TOKEN, "authorization": f"bearer {TOKEN}"},
        ):
            for entry in listed():
                answer = await call(role, entry, **headers)
                assert answer.status_code not in (401, 403), entry
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            assert text_of(await role.http.post(CHAT, json=hello(), headers=sent)) == "hi"


async def test_without_a_token_only_trusted_networks_are_served(tmp_path: Path) -> None:
    async with neuron(tmp_path, settings(trusted_networks=ELSEWHERE)) as role:
        for entry in listed():
            answer = await call(role, entry)
            assert (answer.status_code, code_of(answer)) == (403, "not_allowed"), entry
            assert "trusted_networks" in fault_of(answer)["message"]
    async with neuron(tmp_path, settings()) as role:
        for entry in listed():
            assert (await call(role, entry)).status_code not in (401, 403), entry


async def test_a_gateway_on_another_host_may_order_loads_where_the_network_is_the_credential() -> None:
    policy, headers = _policy(NeuronConfig()), Headers([("host", "10.0.0.5")])
    for peer in ("10.0.0.5", "192.168.1.2", "fd00::1"):
        assert admit(policy, headers=headers, visitor=visitor(policy, peer, headers), scope="admin") == ""
    with pytest.raises(Denied):
        admit(policy, headers=headers, visitor=visitor(policy, "8.8.8.8", headers), scope="admin")


async def test_the_metrics_listener_obeys_the_networks_and_nothing_else(tmp_path: Path) -> None:
    """No token is asked for, and none helps."""
    async with neuron(tmp_path, settings(token=TOKEN)) as role:
        page = await role.http.get(role.metrics_url)
        assert (page.status_code, "cortex_requests" in page.text) == (200, True)
        base = role.metrics_url.removesuffix("/metrics")
        for entry in listed():
            assert (await role.http.request(entry.method, base + entry.path)).status_code in (404, 405)
        assert (await role.http.get("/metrics", headers={"x-api-key": TOKEN})).status_code == 404
    async with neuron(tmp_path, settings(token=TOKEN, trusted_networks=ELSEWHERE)) as role:
        answer = await role.http.get(role.metrics_url, headers={"x-api-key": TOKEN})
        assert answer.status_code == 403


async def test_a_foreign_host_name_is_refused_where_no_token_protects(tmp_path: Path) -> None:
    """Row 57: DNS rebinding."""
    foreign = {"host": "evil.example"}
    config = settings(allowed_hosts=("models.example",))
    async with neuron(tmp_path, config) as role:
        for entry in listed():
            assert (await call(role, entry, **foreign)).status_code == 403, entry
            assert (await call(role, entry, host="models.example:13131")).status_code not in (401, 403)
            assert (await call(role, entry, host="localhost")).status_code not in (401, 403)
    async with neuron(tmp_path, replace(config, token=TOKEN)) as role:
        answer = await role.http.get("/health", headers={**foreign, "x-api-key": TOKEN})
        assert answer.status_code == 200


async def test_a_web_page_is_refused_with_a_token_or_without(tmp_path: Path) -> None:
    """Row 57."""
    for token in (None, TOKEN):
        async with neuron(tmp_path, settings(token=token)) as role:
            for entry in listed():
                answer = await call(role, entry, origin="http://localhost:3000", x_api_key=TOKEN)
                assert (answer.status_code, code_of(answer)) == (403, "not_allowed"), entry


async def test_a_neuron_that_is_open_to_its_network_says_so(tmp_path: Path) -> None:
    open_to_all = replace(NeuronConfig(), listen=Address("0.0.0.0", 0))
    assert "token_file" in _warnings(open_to_all)[0]
    assert _warnings(replace(open_to_all, token=TOKEN)) == ()
    assert _warnings(NeuronConfig()) == ()
    async with neuron(tmp_path, settings()) as role:
        assert (await role.http.get("/health")).json()["warnings"] == []
