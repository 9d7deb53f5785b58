"""A gateway in front of real neurons with scripted engines: where requests go and what comes back."""

import threading
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.neuron import NeuronConfig, NeuronEviction
from cortex.errors import LoadFailed
from cortex.gateway import passage
from cortex.harness.scripted import Gate, Script
from cortex.web import guest
from tests.fake_web import Client
from tests.fake_web import ask as raw
from tests.roles import MIB, eventually, patient, running_gateway, running_neuron, specs

HELLO = [{"role": "user", "content": "one two three"}]


def chat(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": HELLO, **more}


async def ask(http: httpx.AsyncClient, model: str, **more: object) -> httpx.Response:
    return await http.post("/v1/chat/completions", json=chat(model, **more))


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def test_a_cold_model_is_loaded_for_its_first_request(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "a")
    async with running_neuron(tmp_path, catalogue, Script(reply="hello there")) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            answer = await ask(gateway.http, "a")
            assert said(answer) == "hello there"
            assert answer.headers["x-cortex-neuron"] == "n1"
            assert answer.headers["x-cortex-model"] == "a"
            listed = (await gateway.http.get("/v1/models/a")).json()
            assert listed["state"] == "loaded"
            assert listed["locations"] == [
                {"neuron": "n1", "devices": ["cpu"], "state": "loaded", "bytes": MIB}
            ]


async def test_a_model_that_only_neurons_know_is_served_too(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as neuron:
        async with running_gateway(neuron) as gateway:
            assert said(await ask(gateway.http, "a")) == "hi"


async def test_five_hundred_requests_for_one_cold_model_make_one_load(tmp_path: Path) -> None:
    """Row 60: those beyond the neuron's seats and line wait at the gateway; none is lost."""
    catalogue = specs(tmp_path, "a", slots=8)
    statuses: list[int] = []
    async with running_neuron(tmp_path, catalogue, Script(reply="ok")) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            request = raw(body=msgspec.json.encode(chat("a")))

            async def one() -> None:
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    client = Client(stream)
                    await client.send(request)
                    statuses.append((await client.answer()).status)

            with trio.fail_after(25):
                async with trio.open_nursery() as nursery:
                    for _ in range(500):
                        nursery.start_soon(one)
            page = (await gateway.http.get(neuron.metrics_url)).text
            assert 'cortex_cold_starts_total{model="a"} 1.0' in page
    assert statuses == [200] * 500


async def test_the_least_busy_replica_is_chosen(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "a")
    gate = Gate()
    async with (
        running_neuron(tmp_path, catalogue, Script(reply="held", hold=gate)) as one,
        running_neuron(tmp_path, catalogue, Script(reply="free")) as two,
    ):
        for neuron in (one, two):
            assert (await neuron.http.post("/models/load", json={"spec": {"id": "a"}})).status_code == 200
        async with running_gateway(one, two, catalogue=catalogue) as gateway, trio.open_nursery() as nursery:
            busy: list[str] = []

            async def hold() -> None:
                busy.append(said(await ask(one.http, "a")))

            nursery.start_soon(hold)

            async def gateway_knows() -> bool:
                neurons = (await gateway.http.get("/fleet")).json()["neurons"]
                return any(model["in_flight"] for neuron in neurons for model in neuron["models"])

            await eventually(gateway_knows)
            for _ in range(3):
                assert (await ask(gateway.http, "a")).headers["x-cortex-neuron"] == "n2"
            gate.open()
        assert busy == ["held"]


async def test_an_alias_is_replaced_in_the_body_and_nothing_else_is(tmp_path: Path) -> None:
    prompts: list[object] = []

    def reply(job) -> str:
        prompts.append(job.prompt)
        return "seen"

    catalogue = specs(tmp_path, "a", aliases=("short",))
    catalogue = type(catalogue)(catalogue.specs, {"short": "a"})
    async with running_neuron(tmp_path, catalogue, Script(reply=reply)) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            direct = await ask(neuron.http, "a")
            answer = await ask(gateway.http, "short")
            assert said(answer) == said(direct) == "seen"
            assert answer.json()["model"] == "a"
            assert prompts[0] == prompts[1]


async def test_an_unknown_model_is_a_404_with_near_names(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "llama-large")
    async with running_neuron(tmp_path, catalogue, Script()) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            answer = await ask(gateway.http, "lama-large")
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "model_not_found"
            assert "llama-large" in answer.json()["error"]["message"]
            assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


async def test_the_coldest_model_goes_when_the_next_one_does_not_fit(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "a", "b", "c")
    scripts = {model: Script(reply=model, bytes=100 * MIB) for model in ("a", "b", "c")}
    young = NeuronConfig(eviction=NeuronEviction(min_residency_s=0.0))
    async with running_neuron(tmp_path, catalogue, scripts, memory=250 * MIB, config=young) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            for model in ("a", "b", "a", "c"):
                assert said(await ask(gateway.http, model)) == model
            residents = {model["id"] for model in (await neuron.http.get("/models")).json()["models"]}
            assert residents == {"a", "c"}
            page = (await gateway.http.get(gateway.metrics_url)).text
            assert 'cortex_evictions_total{reason="room"} 1.0' in page


async def test_a_model_that_no_neuron_could_ever_hold_is_refused_for_good(tmp_path: Path) -> None:
    catalogue = specs(tmp_path, "huge", footprint=2**50)
    async with running_neuron(tmp_path, catalogue, Script()) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            answer = await ask(gateway.http, "huge")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "no_capacity"
            assert answer.headers["x-should-retry"] == "false"
            assert "retry-after" not in answer.headers


async def test_a_load_that_fails_is_told_with_its_cause_to_all_who_wait(tmp_path: Path) -> None:
    """Row 62."""
    catalogue = specs(tmp_path, "a")
    async with running_neuron(tmp_path, catalogue, Script(unfit="the file is damaged")) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway, trio.open_nursery() as nursery:

            async def one() -> None:
                answer = await ask(gateway.http, "a")
                assert answer.status_code == 422
                assert "the file is damaged" in answer.json()["error"]["message"]

            for _ in range(5):
                nursery.start_soon(one)


async def test_a_waiter_is_told_that_the_model_is_loading_when_patience_ends(tmp_path: Path) -> None:
    """Row 63: the load goes on, and the next request finds the model there."""
    loading = threading.Event()
    catalogue = specs(tmp_path, "a")
    async with running_neuron(tmp_path, catalogue, Script(reply="late", slow_load=loading)) as neuron:
        async with running_gateway(neuron, catalogue=catalogue, config=patient(load_s=0.3)) as gateway:
            answer = await ask(gateway.http, "a")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_loading"
            assert int(answer.headers["retry-after"]) >= 1
            loading.set()

            async def loaded() -> bool:
                return (await gateway.http.get("/v1/models/a")).json()["state"] == "loaded"

            await eventually(loaded)
            assert said(await ask(gateway.http, "a")) == "late"


async def test_a_large_body_is_looked_at_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has other requests; a small body is not worth a thread."""
    loop = threading.current_thread()
    aside: list[tuple[str, bool]] = []
    for look in (passage.peek, passage.rename):

        def noted(*given: object, look=look) -> object:
            aside.append((look.__name__, threading.current_thread() is not loop))
            return look(*given)

        monkeypatch.setattr(passage, look.__name__, noted)
    catalogue = specs(tmp_path, "a")
    catalogue = Catalogue(catalogue.specs, {"nick": "a"})
    big = [{"role": "user", "content": "word"}, {"role": "user", "content": "x" * guest.MOST_BODY}]
    async with running_neuron(tmp_path, catalogue, Script(reply="hi")) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            assert said(await ask(gateway.http, "nick")) == "hi"
            assert aside == [("peek", False), ("rename", False)]
            refused = await gateway.http.post("/v1/chat/completions", json={"model": "nick", "messages": big})
            assert refused.json()["error"]["code"] == "context_length_exceeded"
            assert aside[2:] == [("peek", True), ("rename", True)]
            refused = await gateway.http.post("/v1/chat/completions", content=b'{"n":' + b" " * 70_000)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_stream_is_kept_alive_while_its_model_loads(tmp_path: Path) -> None:
    """The status stays open for a second; then 200 and a comment, and failures become events."""
    loading = threading.Event()
    catalogue = specs(tmp_path, "a")
    async with running_neuron(tmp_path, catalogue, Script(reply="here", slow_load=loading)) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            async with gateway.http.stream(
                "POST", "/v1/chat/completions", json=chat("a", stream=True)
            ) as answer:
                assert answer.status_code == 200
                assert answer.headers["x-cortex-model"] == "a"
                assert "x-cortex-neuron" not in answer.headers, "nobody sits anywhere yet"
                pieces = answer.aiter_bytes()
                assert (await anext(pieces)).startswith(b":")
                loading.set()
                rest = b"".join([piece async for piece in pieces])
            assert b'"content":"here"' in rest
            assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_failure_after_the_first_second_is_an_error_event(tmp_path: Path) -> None:
    loading = threading.Event()
    catalogue = specs(tmp_path, "a")
    script = Script(slow_load=loading, load_error=LoadFailed("the disk is gone"))
    async with running_neuron(tmp_path, catalogue, script) as neuron:
        async with running_gateway(neuron, catalogue=catalogue) as gateway:
            async with gateway.http.stream(
                "POST", "/v1/chat/completions", json=chat("a", stream=True)
            ) as answer:
                assert answer.status_code == 200
                pieces = answer.aiter_bytes()
                await anext(pieces)
                loading.set()
                rest = b"".join([piece async for piece in pieces])
            assert rest.startswith(b'data: {"error":{')
            assert b"the disk is gone" in rest
            assert b"[DONE]" not in rest
