"""What happens in the fleet is told while it happens, to everybody who listens and may know."""

from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import trio

from cortex.config.gateway import GatewayConfig, Key
from cortex.errors import Overloaded
from cortex.gateway import happenings
from cortex.gateway.happenings import Happenings
from cortex.wire import happenings as told
from cortex.wire.fleet import FleetReport
from cortex.wire.neuron import LoadAnswer
from tests.calls import CHAT, EVENTS, Reader, read_events
from tests.fake_neuron import Open, body, fake_neuron, open_gateway, refusal
from tests.fake_upstream import Wait, whole
from tests.fake_web import ask
from tests.roles import MIB

KEEP_ALIVE = b": keep-alive\n\n"


async def listening(gateway: Open, **headers: str) -> Reader:
    return await read_events(await gateway.dial(), **headers)


async def test_a_load_is_told_from_its_beginning_to_its_end_with_whom_it_sent_away() -> None:
    async with fake_neuron(known=["old"]) as neuron:
        neuron.has("old", bytes={"cpu": 1024 * MIB})
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway, trio.open_nursery() as nursery:
            reader = await listening(gateway)
            snapshot = await reader.next()
            assert snapshot["type"] == "snapshot" and snapshot["at"] > 1e9
            assert snapshot["fleet"] == (await gateway.http.get("/fleet")).json() | {
                key: snapshot["fleet"][key]
                for key in ("gateway", "neurons")  # with ages
            }
            nursery.start_soon(gateway.ask, "a")
            began = await reader.until("load.started")
            assert (began["model"], began["neuron"], began["total_bytes"]) == ("a", "n1", MIB)
            row = {"bytes": {"cpu": 0}, "state": "loading", "phase": "load", "total_bytes": 40, "age_s": 0}
            neuron.has("a", done_bytes=10, **row)
            first = await reader.until("load.progress")
            assert (first["done_bytes"], first["total_bytes"], first["waiting"]) == (10, 40, 1)
            assert first["phase"] == "load"
            neuron.has("a", done_bytes=30, **row)
            second = await reader.until("load.progress")
            assert second["done_bytes"] == 30 and second["eta_s"] >= 1
            assert second["running_s"] > first["running_s"]
            neuron.loading.set()
            done = await reader.until("load.done")
            assert (done["model"], done["neuron"], done["bytes"]) == ("a", "n1", MIB)
            assert done["seconds"] > 0
            left = await reader.until("evicted")
            assert (left["model"], left["neuron"], left["reason"]) == ("old", "n1", "room")
            numbers = [int(identity.rpartition("-")[2]) for identity in reader.ids]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "one more each time"
            boot_id = (await gateway.http.get("/fleet")).json()["gateway"]["boot_id"]
            assert {identity.rpartition("-")[0] for identity in reader.ids} == {boot_id}


async def test_a_load_that_fails_is_told_with_the_cause_that_its_waiters_hear() -> None:
    async with fake_neuron() as neuron:
        neuron.on["/models/load"].append(neuron.plan(refusal(422, "unfit_model", message="it is damaged")))
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            reader = await listening(gateway)
            answer = await gateway.ask()
            failed = await reader.until("load.failed")
            assert (failed["model"], failed["neuron"], failed["code"]) == ("a", "n1", "unfit_model")
            assert failed["message"] == answer.json()["error"]["message"]


async def test_what_others_do_with_a_neuron_is_told_from_its_reports() -> None:
    """Another gateway, the operator, or the neuron itself: nothing of it passes through here."""
    async with fake_neuron("idle", known=["b", "c"]) as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        neuron.has("b", state="loading", age_s=0)
        assert (await reader.until("load.started"))["total_bytes"] is None
        neuron.has("b", age_s=0, load_s=3.0)
        done = await reader.until("load.done", model="b")
        assert (done["bytes"], done["seconds"]) == (MIB, 3.0)
        del neuron.residents["idle"]
        assert (await reader.until("evicted", model="idle"))["reason"] is None
        neuron.has("c", state="loading", age_s=0)
        await reader.until("load.started", model="c")
        del neuron.residents["c"]
        failed = await reader.until("load.failed", model="c")
        assert failed["code"] is None and failed["message"]


async def test_a_load_that_is_called_off_is_told_when_its_neuron_has_ended_it() -> None:
    """Until then it goes on, for all that this gateway knows."""
    async with fake_neuron() as neuron:
        neuron.memory, neuron.loading = MIB, trio.Event()
        async with open_gateway(neuron, catalogue=["a", "b"]) as gateway, trio.open_nursery() as nursery:
            reader, client = await listening(gateway), await gateway.dial()
            await client.send(ask(CHAT, body("a")))
            await reader.until("load.started", model="a")
            neuron.has("a", bytes={"cpu": 0}, state="loading", age_s=0)
            await neuron.polled()
            await client.close()
            await gateway.knows(lambda ledger: ledger.waiting == 0)
            nursery.start_soon(gateway.ask, "b")
            event = await reader.until("load.started")
            assert event["model"] == "b"
            del neuron.residents["a"]
            event = await reader.next()
            assert (event["type"], event["model"], event["code"]) == ("load.failed", "a", None)
            neuron.loading.set()
            assert (await reader.next())["type"] == "load.done"


async def test_an_unload_that_was_asked_for_says_so() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        await gateway.http.post("/fleet/models/unload", json={"model": "a"})
        assert (await reader.until("evicted"))["reason"] == "order"


async def test_a_load_that_a_report_shows_before_its_order_is_answered_is_told_once() -> None:
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway, trio.open_nursery() as nursery:
            reader = await listening(gateway)
            nursery.start_soon(gateway.ask, "a")
            await neuron.told_to_load()
            neuron.has("a", age_s=0)
            await neuron.polled(3)
            neuron.loading.set()
            done = await reader.until("load.done")
            assert done["model"] == "a" and done["seconds"] > 0
            await neuron.polled(3)
            neuron.poisoned = True
            assert (await reader.next())["type"] == "device", "nothing more of the load"


async def test_whom_a_report_showed_to_make_room_may_leave_for_another_reason_the_next_time() -> None:
    async with fake_neuron() as neuron:
        neuron.has("v", bytes={"cpu": 1024 * MIB})
        async with open_gateway(neuron, catalogue=["a"]) as gateway, trio.open_nursery() as nursery:
            reader, answered = await listening(gateway), trio.Event()
            neuron.has("a", age_s=0)
            answer = LoadAnswer(resident=neuron.residents.pop("a"), evicted=["v"])
            said = whole(200, msgspec.json.encode(answer))
            neuron.on["/models/load"].append(neuron.plan(Wait(answered), said))
            nursery.start_soon(gateway.ask, "a")
            await neuron.told_to_load()
            del neuron.residents["v"]
            assert (await reader.until("evicted", model="v"))["reason"] == "room"
            neuron.residents["a"] = answer.resident
            answered.set()
            await reader.until("load.done", model="a")
            neuron.has("v")
            await reader.until("load.done", model="v")
            del neuron.residents["v"]
            assert (await reader.until("evicted", model="v"))["reason"] is None


async def test_an_unload_that_a_report_shows_before_it_is_answered_says_that_it_was_ordered() -> None:
    """And only that one: the next time it leaves by itself."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway, trio.open_nursery() as nursery:
        reader, answered = await listening(gateway), trio.Event()
        neuron.on["/models/unload"].append(neuron.plan(Wait(answered), whole(200, b"{}")))
        nursery.start_soon(partial(gateway.http.post, "/fleet/models/unload", json={"model": "a"}))
        await neuron.told_to("/models/unload")
        del neuron.residents["a"]
        assert (await reader.until("evicted"))["reason"] == "order"
        answered.set()
        neuron.has("a")
        await reader.until("load.done")
        del neuron.residents["a"]
        assert (await reader.until("evicted"))["reason"] is None


async def test_a_model_that_a_neuron_kept_against_an_order_leaves_for_a_reason_of_its_own() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        neuron.on["/models/unload"].append(neuron.plan(refusal(409, "busy")))
        kept = await gateway.http.post("/fleet/models/unload", json={"model": "a"})
        assert kept.status_code == 409
        del neuron.residents["a"]
        assert (await reader.until("evicted"))["reason"] is None


async def test_a_neuron_that_goes_and_comes_is_told_once_each_time() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        assert (await reader.next())["fleet"]["neurons"][0]["state"] == "ok"
        await neuron.die()
        lost = await reader.next()
        assert (lost["type"], lost["neuron"]) == ("neuron.lost", "n1") and lost["why"]
        await neuron.listen()
        assert (await reader.next())["type"] == "neuron.back", "not its models: they were there before"
        neuron.boot_id = "boot-2"  # restarted between two polls
        lost = await reader.next()
        assert (lost["type"], lost["why"]) == ("neuron.lost", "it was restarted")
        assert (await reader.next())["type"] == "neuron.back"
        neuron.state = "stopping"
        lost = await reader.next()
        assert (lost["type"], lost["why"]) == ("neuron.lost", "it is shutting down")
        neuron.state = "ready"
        assert (await reader.next())["type"] == "neuron.back"


async def test_a_device_that_is_lost_and_found_is_told() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        neuron.poisoned = True
        lost = await reader.until("device")
        assert (lost["neuron"], lost["device"], lost["state"]) == ("n1", "cpu", "poisoned")
        neuron.poisoned = False
        assert (await reader.until("device"))["state"] == "ok"


async def test_a_reader_goes_on_where_it_stopped_or_begins_with_a_snapshot() -> None:
    async with fake_neuron("a", "b", "c") as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        await reader.next()
        del neuron.residents["a"]
        await reader.until("evicted", model="a")
        await reader.client.close()
        del neuron.residents["b"]
        await neuron.polled()
        again = await listening(gateway, last_event_id=reader.ids[-1])
        del neuron.residents["c"]
        assert [(await again.next())["model"] for _ in range(2)] == ["b", "c"]
        assert not {*again.ids} & {*reader.ids}
        boot_id = reader.ids[-1].rpartition("-")[0]
        for unknown in (f"other-{reader.ids[-1]}", f"{boot_id}-99999", f"{boot_id}-x", "", "7"):
            fresh = await listening(gateway, last_event_id=unknown)
            assert (await fresh.next())["type"] == "snapshot", unknown


async def test_a_key_hears_of_its_own_models_alone_by_its_own_names_for_them() -> None:
    keys = (
        Key("some", sha256(b"sk-some").hexdigest(), models=("mine*", "nick")),
        Key("all", sha256(b"sk-all").hexdigest()),
    )
    blocked = refusal(409, "busy", message="theirs is pinned")
    async with fake_neuron("mine", "theirs", "named", known=["mine2"]) as neuron:
        neuron.on["/models/load"].append(neuron.plan(blocked))
        config = GatewayConfig(keys=keys, aliases={"nick": "named"})
        async with open_gateway(neuron, catalogue=["named", "mine2"], config=config) as gateway:
            some, everything = [await listening(gateway, x_api_key=key) for key in ("sk-some", "sk-all")]
            names = [row["id"] for row in (await some.next())["fleet"]["models"]]
            assert sorted(names) == ["mine", "mine2", "nick"]
            neuron.residents.clear()
            neuron.poisoned = True
            events = [await some.next() for _ in range(3)]
            assert sorted(event.get("model", event["type"]) for event in events) == ["device", "mine", "nick"]
            assert {(await everything.until("evicted"))["model"] for _ in range(3)} == {
                "mine",
                "theirs",
                "named",
            }
            neuron.poisoned = False
            await everything.until("device", state="ok")
            await gateway.http.post(
                "/v1/chat/completions",
                json={"model": "mine2", "messages": []},
                headers={"x-api-key": "sk-some"},
            )
            failed = await some.until("load.failed")
            assert (failed["code"], failed["message"]) == (
                "busy",
                "There is no room for 'mine2' at the moment",
            )
            assert "theirs is pinned" in (await everything.until("load.failed"))["message"]
            client = await gateway.dial()
            await client.send(ask(EVENTS, b"", "GET"))
            assert (await client.answer()).status == 401


async def test_a_listener_does_not_hold_up_the_end_and_is_told_of_it() -> None:
    """Findings 5 and 6: an event that says so, and a terminator, rather than a cut."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        reader = await listening(gateway)
        await reader.next()
        with trio.fail_after(5):
            await gateway.gateway.leave(20.0)
            rest = await reader.client.rest()
        assert b"shutting_down" in rest and rest.endswith(b"0\r\n\r\n")


async def test_listeners_that_leave_or_never_read_hold_nothing(caplog) -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        told_to = gateway.gateway.tuning._parts.watch.happenings
        readers = [await listening(gateway) for _ in range(3)]
        await readers[0].next()
        assert len(told_to._listeners) == 3
        for reader in readers[1:]:
            await reader.client.close()
        while len(told_to._listeners) > 1:  # noqa: ASYNC110 - it tells nobody who left
            await trio.sleep(0.002)
        del neuron.residents["a"]
        assert (await readers[0].until("evicted"))["model"] == "a"
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_odd_questions_are_refused_and_a_head_alone_is_answered() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        assert (await gateway.http.get(EVENTS, params={"since": "1"})).status_code == 400
        assert (await gateway.http.post(EVENTS)).status_code == 405
        answer = await gateway.http.head(EVENTS)
        assert answer.status_code == 200 and "text/event-stream" in answer.headers["content-type"]


# -- the owner of events, with a clock of its own


async def frame(stream: Any) -> bytes:
    return await anext(stream)


async def test_a_quiet_stream_is_kept_alive(autojump_clock) -> None:
    book = Happenings("b")
    stream = book.stream("", FleetReport, lambda event: event)
    assert b"event: snapshot" in await frame(stream)
    for _ in range(3):
        began = trio.current_time()
        assert await frame(stream) == KEEP_ALIVE
        assert trio.current_time() - began == pytest.approx(10)
    book.tell(told.NeuronBack(neuron="n"))
    assert (await frame(stream)).startswith(b"id: b-1\nevent: neuron.back\ndata: {")
    await stream.aclose()
    assert not book._listeners


async def test_a_reader_that_is_too_slow_gets_what_it_had_and_an_error_and_nobody_waits(monkeypatch) -> None:
    monkeypatch.setattr(happenings, "BEHIND", 3)
    book = Happenings("b")
    slow, quick = [book.stream("", FleetReport, lambda event: event) for _ in range(2)]
    await frame(slow)
    await frame(quick)
    for number in range(5):
        book.tell(told.NeuronBack(neuron=f"n{number}"))
        assert f"n{number}".encode() in await frame(quick)
    for number in range(3):
        assert f"n{number}".encode() in await frame(slow)
    with pytest.raises(Overloaded, match="Last-Event-ID"):
        await frame(slow)
    await quick.aclose()
    assert not book._listeners
    # What it missed is kept, so that it loses nothing by coming again.
    again = book.stream("b-3", FleetReport, lambda event: event)
    assert b"n3" in await frame(again) and b"n4" in await frame(again)
    await again.aclose()


async def test_only_so_many_events_are_kept(monkeypatch) -> None:
    book = Happenings("b")
    for number in range(happenings.KEPT + 2):
        book.tell(told.NeuronBack(neuron=f"n{number}"))
    for last, snapshot in ((1, True), (2, False)):
        stream = book.stream(f"b-{last}", FleetReport, lambda event: event)
        assert (b"event: snapshot" in await frame(stream)) is snapshot
        await stream.aclose()
