"""Asking gateways and neurons over loopback, with their answers played from here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from cortex.errors import BadAsk, Busy, Unauthorised, UnknownModel, Unreachable, UpstreamFailed
from cortex.status.fetch import Asker, asker, named_in
from cortex.wire import faults, fleet, neuron
from tests.fake_reports import Played, played_at


@asynccontextmanager
async def at(played: Played, token: str | None = None) -> AsyncIterator[Asker]:
    async with played_at(played) as url, asker(url, token) as asked:
        yield asked


def a_neuron() -> Played:
    health = neuron.Health(
        status="degraded",
        name="benjy",
        devices=[neuron.DeviceHealth(name="cpu", memory_total=10, memory_used=4)],
        activation=neuron.Activation(state="activating", in_progress="next", failed={"bad": "corrupt"}),
        models=[neuron.ModelLoad(id="a", in_flight=2, queue=1, slots=4, tok_s_decode=9.5)],
        warnings=["no token"],
    )
    residents = neuron.Residents(
        models=[
            neuron.ResidentReport(id="a", devices=["cpu"], bytes={"cpu": 3}, idle_s=7, pinned=True, slots=4),
            neuron.ResidentReport(id="sick", servable=neuron.Servable(ok=False, reason="engine died")),
            neuron.ResidentReport(id="coming", state="loading", age_s=2, done_bytes=3, total_bytes=9),
        ],
        known=["a", "z"],
    )
    return Played().says("GET /health", health).says("GET /models", residents)


async def test_a_gateways_report_comes_as_it_is() -> None:
    report = fleet.FleetReport(status="impaired", waiting=3, warnings=["w"])
    played = Played().says("GET /fleet", report)
    async with at(played) as asked:
        assert await asked.report() == report
    assert [what for what, _, _ in played.heard] == ["GET /fleet"]


async def test_a_neuron_alone_is_a_fleet_of_one() -> None:
    async with at(a_neuron()) as asked:
        report = await asked.report()
    assert report.status == "degraded"
    assert report.gateway.boot_id == ""
    assert report.waiting == 1
    [here] = report.neurons
    assert (here.name, here.state, here.endpoint) == ("benjy", "ok", asked.endpoint)
    assert here.devices[0].memory_used == 4
    assert here.models[0] == fleet.FleetModel(
        id="a",
        devices=["cpu"],
        bytes={"cpu": 3},
        in_flight=2,
        queue=1,
        slots=4,
        tok_s=9.5,
        pinned=True,
        idle_s=7,
    )
    assert here.warnings == ["no token", "default model bad is not loaded: corrupt"]
    assert report.loads == [
        fleet.FleetLoad(model="coming", neuron="benjy", running_s=2, done_bytes=3, total_bytes=9),
        fleet.FleetLoad(model="next", neuron="benjy"),
    ]
    assert {model.id: model.state for model in report.models} == {
        "a": "loaded",
        "coming": "loading",
        "sick": "recovering",
        "z": "unloaded",
    }
    assert report.models[0].locations == [fleet.Location(neuron="benjy", devices=["cpu"], bytes=3)]
    assert [model.state for model in here.models] == ["loaded", "recovering", "loading"]


async def test_a_stopping_neuron_is_shown_as_such() -> None:
    health = neuron.Health(name="n", activation=neuron.Activation(state="stopping"))
    async with at(Played().says("GET /health", health).says("GET /models", neuron.Residents())) as asked:
        assert (await asked.report()).neurons[0].state == "stopping"


async def test_the_token_is_sent_along() -> None:
    played = Played().says("GET /fleet", fleet.FleetReport())
    async with at(played, "s3cret") as asked:
        await asked.report()
    assert played.heard[0][2]["authorization"] == "Bearer s3cret"


async def test_a_gateway_is_told_by_id_or_alias() -> None:
    played = Played().says("GET /fleet", fleet.FleetReport())
    played.says("POST /fleet/models/load", {}).says("POST /fleet/models/unload", {})
    async with at(played) as asked:
        await asked.load("m")
        await asked.unload("m", force=True)
    orders = {what: msgspec.json.decode(body) for what, body, _ in played.heard if body}
    assert orders == {
        "POST /fleet/models/load": {"model": "m"},
        "POST /fleet/models/unload": {"model": "m", "force": True},
    }


async def test_a_neuron_is_told_in_its_own_words() -> None:
    played = Played().says("POST /models/load", {}).says("POST /models/unload", {})
    async with at(played) as asked:
        await asked.load("m")
        await asked.unload("m", force=False)
    bodies = {what: body for what, body, _ in played.heard if body}
    assert msgspec.json.decode(bodies["POST /models/load"], type=neuron.LoadRequest).spec == {"id": "m"}
    order = msgspec.json.decode(bodies["POST /models/unload"], type=neuron.UnloadRequest)
    assert order == neuron.UnloadRequest(id="m", force=False)


async def test_a_refusal_arrives_as_the_error_that_it_is() -> None:
    busy = faults.body(Busy("2 requests sit there"), "openai", "r")
    played = Played().says("GET /fleet", fleet.FleetReport()).says("POST /fleet/models/unload", busy, 409)
    async with at(played) as asked:
        with pytest.raises(Busy, match="2 requests sit there"):
            await asked.unload("m", force=False)


async def test_a_missing_key_is_told_before_anything_is_tried() -> None:
    denied = faults.body(Unauthorised("this needs a key"), "openai", "r")
    played = Played().says("GET /fleet", denied, 401)
    async with at(played) as asked:
        with pytest.raises(Unauthorised, match="this needs a key"):
            await asked.load("m")
        with pytest.raises(Unauthorised):
            await asked.report()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>hello</html>", "not as a cortex does"),
        (200, b'{"status": 7}', "not as a cortex does .Expected `string`, got `integer`"),
        (500, b"<html>oh no</html>", "answers 500 and says '<html>oh no</html>'"),
        (502, b"", "answers 502 and says 'nothing'"),
    ],
)
async def test_what_is_no_cortex_is_named_as_such(status: int, body: bytes, said: str) -> None:
    async with at(Played().says("GET /fleet", body, status)) as asked:
        with pytest.raises(UpstreamFailed, match=said):
            await asked.report()


async def test_nobody_at_the_address_is_unreachable_with_the_systems_own_word() -> None:
    with trio.fail_after(30):
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await listener.aclose()
        async with asker(f"http://127.0.0.1:{port}", None) as asked:
            with pytest.raises(Unreachable, match=r"\(Connection refused\).*--endpoint"):
                await asked.report()


async def test_a_hang_up_is_unreachable_too() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, hang_up, 0)
            port = listeners[0].socket.getsockname()[1]
            async with asker(f"http://127.0.0.1:{port}", None) as asked:
                with pytest.raises(Unreachable):
                    await asked.report()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "127.0.0.1:31313", "ftp://host", "http://", "http://[::1", "x:y:z"]
)
async def test_what_is_no_url_is_refused_with_an_example(endpoint: str) -> None:
    with pytest.raises(BadAsk, match="--endpoint"):
        async with asker(endpoint, None):
            pass


@pytest.mark.parametrize("endpoint", ["http://h:31313/v1", "https://h/cortex/v1/"])
async def test_the_base_address_of_a_dialect_is_refused_with_what_to_leave_out(endpoint: str) -> None:
    """It is what every client library wants, and nothing of the fleet is below it."""
    with pytest.raises(BadAsk, match="leave /v1 out"):
        async with asker(endpoint, None):
            pass


MODELS = fleet.FleetReport(
    models=[fleet.CatalogueModel(id="qwen", aliases=["q"]), fleet.CatalogueModel(id="llama")]
)


def test_a_model_is_found_by_id_and_alias() -> None:
    assert named_in(MODELS, "qwen").id == "qwen"
    assert named_in(MODELS, "q").id == "qwen"


def test_an_unknown_model_is_told_with_near_names() -> None:
    with pytest.raises(UnknownModel, match="Did you mean qwen"):
        named_in(MODELS, "qwem")


async def test_a_pin_is_ordered_at_a_neuron_or_by_way_of_a_gateway() -> None:
    played = Played().says("POST /models/pin", {"id": "m", "pinned": True, "resident": False})
    async with at(played) as asked:
        told = await asked.pin("m", pinned=True)
        assert (told.neurons, told.awaited) == ([asked.endpoint], [asked.endpoint])
        with pytest.raises(BadAsk, match="leave --neuron out"):
            await asked.pin("m", pinned=True, neuron="n1")
        report = fleet.PinReport(model="m", pinned=False, neurons=["n1"], failed={"n2": "full"})
        played.says("GET /fleet", fleet.FleetReport()).says("POST /fleet/models/unpin", report)
        assert await asked.pin("m", pinned=False, neuron="n1") == report
        await asked.pin("m", pinned=False)
    bodies = [msgspec.json.decode(body) for what, body, _ in played.heard if "unpin" in what]
    assert bodies == [{"model": "m", "neuron": "n1"}, {"model": "m"}]


async def test_a_port_without_tls_is_told_as_that() -> None:
    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, plain, 0)
            port = listeners[0].socket.getsockname()[1]
            async with asker(f"https://127.0.0.1:{port}", None) as asked:
                with pytest.raises(Unreachable, match="does not speak TLS"):
                    await asked.report()
            nursery.cancel_scope.cancel()
