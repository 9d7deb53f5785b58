"""A gateway takes other values over while it serves, from files that are edited as operators edit them."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.cli.running import Bell
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.whole import Whole, whole_gateway
from cortex.dispatch import Dispatch
from cortex.gateway import Source, run, tuning
from cortex.gateway.expiry import LONGEST_S, end_expired
from cortex.gateway.fleet import Fleet
from cortex.gateway.passage import Passage
from cortex.gateway.process import Process
from cortex.gateway.reload import Reloader
from cortex.keys import Accounts, digest
from cortex.ledger import Ledger
from cortex.notify import Notify
from tests.calls import read_events
from tests.fake_manager import Manager
from tests.fake_neuron import CLOSING, DONE, OPENING, STREAM_HEAD, USAGE, FakeNeuron, body, fake_neuron
from tests.fake_terminal import lines_until, running
from tests.fake_upstream import Wait, chunks, last_chunk
from tests.fake_web import Client

CHAT = "/v1/chat/completions"
# A neuron's name and address.
Named = tuple[str, FakeNeuron]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@dataclass
class Files:
    """cortex.toml and models.toml in a folder."""

    folder: Path
    neurons: list[Named] = field(default_factory=list)
    models: tuple[str, ...] = ("a",)
    more: str = ""
    listen: str = "127.0.0.1:0"

    def write(self) -> None:
        """As editors do it: another file takes the place of the old one."""
        rows = [f"[[neurons]]\nname = '{name}'\nendpoint = '{neuron.url}'\n" for name, neuron in self.neurons]
        head = f"[gateway]\nlisten = '{self.listen}'\nmetrics_listen = '127.0.0.1:0'\n"
        head += "models_config = 'models.toml'\n[poll]\ninterval_s = 0.1\n"
        self.put("models.toml", "".join(f"[[models]]\nid = '{model}'\n" for model in self.models))
        self.put("cortex.toml", head + self.more + "".join(rows))

    def put(self, name: str, text: str) -> None:
        (self.folder / "next").write_text(text)
        os.replace(self.folder / "next", self.folder / name)


@dataclass
class Live:
    """A gateway that runs from `files`."""

    files: Files
    http: httpx.AsyncClient
    bell: Bell

    async def ask(self, model: str = "a", **headers: str) -> httpx.Response:
        return await self.http.post(CHAT, json={"model": model, "messages": []}, headers=headers)

    async def health(self) -> dict:
        return (await self.http.get("/health")).json()

    async def until(self, holds: Callable[[dict], bool], path: str = "/fleet") -> dict:
        """What `path` tells once it has become so."""
        while not holds(told := (await self.http.get(path)).json()):  # noqa: ASYNC110 - asked over HTTP
            await trio.sleep(0.01)
        return told

    async def warned(self, word: str) -> list[str]:
        return (await self.until(lambda told: any(word in each for each in told["warnings"])))["warnings"]


@asynccontextmanager
async def live(
    folder: Path, *neurons: Named, notify: Notify = Notify(), look_s: float = 0.02, **files: object
) -> AsyncIterator[Live]:
    written = Files(folder, list(neurons), **files)  # type: ignore[arg-type]
    written.write()
    path, bell = folder / "cortex.toml", Bell()
    read = whole_gateway(path, {})
    source = Source(lambda: whole_gateway(path, {}), path, bell.wait, look_s)
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus) -> None:
            await run(
                read.config, read.catalogue, source=source, process=Process(notify), task_status=task_status
            )

        ports = await nursery.start(serve)
        url = f"http://127.0.0.1:{ports.api[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as http:
            yield Live(written, http, bell)
        nursery.cancel_scope.cancel()


def names(told: dict) -> dict[str, str]:
    return {each["name"]: each["state"] for each in told["neurons"]}


def slow(neuron: FakeNeuron) -> trio.Event:
    """The next request streams its opening, and goes on after the event."""
    go_on = trio.Event()
    neuron.then(STREAM_HEAD, chunks(OPENING), Wait(go_on), chunks(CLOSING, DONE), last_chunk(USAGE))
    return go_on


@asynccontextmanager
async def streaming(gateway: Live, key: str = "none") -> AsyncIterator[Client]:
    """A client in a stream whose opening has come."""
    url = gateway.http.base_url
    async with await trio.open_tcp_stream(url.host, url.port) as stream:
        client = Client(stream)
        asked = body("a", stream=True)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {key}\r\n"
        await client.send(f"{head}content-length: {len(asked)}\r\n\r\n".encode() + asked)
        await client.until(OPENING)
        yield client


# -- what changes, and what does not notice


async def test_models_and_aliases_come_and_go_while_a_stream_goes_on(tmp_path: Path) -> None:
    """Loaded models stay where they are, and are not asked for again."""
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron)) as gateway:
        go_on = slow(neuron)
        async with streaming(gateway) as client:
            gateway.files.models, gateway.files.more = ("a", "b"), "[aliases]\nquick = 'b'\n"
            gateway.files.write()
            await gateway.until(lambda told: any("quick" in row["aliases"] for row in told["models"]))
            assert (await gateway.ask("quick")).status_code == 200
            go_on.set()
            assert DONE in await client.rest()
        gateway.files.models, gateway.files.more = ("a",), ""
        gateway.files.write()
        await gateway.until(lambda told: not any("quick" in row["aliases"] for row in told["models"]))
        assert (await gateway.ask("quick")).status_code == 404
        assert neuron.ordered("/models/load") == 1  # b's alone


async def test_a_neuron_that_is_added_is_asked_at_once_and_serves(tmp_path: Path) -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two, live(tmp_path, ("n1", one)) as gateway:
        assert (await gateway.ask("b")).status_code == 404
        gateway.files.neurons.append(("n2", two))
        gateway.files.write()
        await gateway.until(lambda told: names(told) == {"n1": "ok", "n2": "ok"})
        assert (await gateway.ask("b")).headers["x-cortex-neuron"] == "n2"


async def test_a_neuron_that_is_removed_drains(tmp_path: Path) -> None:
    """faults.md row 85: who sits there ends in peace, and nobody new goes there."""
    async with (
        fake_neuron("a") as one,
        fake_neuron() as two,
        live(tmp_path, ("n1", one), ("n2", two)) as gateway,
    ):
        go_on = slow(one)
        async with streaming(gateway) as client:
            gateway.files.neurons.pop(0)
            gateway.files.write()
            await gateway.until(lambda told: names(told).get("n1") == "stopping")
            # Its next report says that it is well.
            await one.polled(3)
            assert (await gateway.ask("a")).headers["x-cortex-neuron"] == "n2"
            assert len(one.requests) == 1
            go_on.set()
            assert DONE in await client.rest()
        told = await gateway.until(lambda told: names(told) == {"n2": "ok"})
        assert told["status"] == "ok"


async def test_a_neuron_that_comes_back_before_it_is_empty_serves_again(tmp_path: Path) -> None:
    async with fake_neuron("a") as one, live(tmp_path, ("n1", one)) as gateway:
        go_on, here = slow(one), list(gateway.files.neurons)
        async with streaming(gateway) as client:
            gateway.files.neurons = []
            gateway.files.write()
            await gateway.until(lambda told: names(told) == {"n1": "stopping"})
            gateway.files.neurons = here
            gateway.files.write()
            await gateway.until(lambda told: names(told) == {"n1": "ok"})
            assert (await gateway.ask("a")).status_code == 200
            go_on.set()
            await client.rest()
        assert (await gateway.ask("a")).status_code == 200


async def test_a_name_with_another_address_is_another_neuron(tmp_path: Path) -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two, live(tmp_path, ("n1", one)) as gateway:
        go_on = slow(one)
        async with streaming(gateway) as client:
            gateway.files.neurons = [("n1", two)]
            gateway.files.write()
            await gateway.until(
                lambda told: told["neurons"][0]["endpoint"] == two.url and names(told)["n1"] == "ok"
            )
            assert (await gateway.ask("b")).status_code == 200
            go_on.set()
            assert DONE in await client.rest()


# -- keys


def keys(**secrets: str) -> str:
    return "".join(
        f"[[keys]]\nname = '{name}'\nsha256 = '{digest(secret)}'\n" for name, secret in secrets.items()
    )


async def test_a_revoked_key_is_refused_at_once_and_its_stream_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults.md row 85: new requests at once, running ones within the minute, with an error event."""
    assert tuning.REVOKED_S < 60
    monkeypatch.setattr(tuning, "REVOKED_S", 0.2)
    both = keys(ann="sk-ann", bob="sk-bob")
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron), more=both) as gateway:
        _, go_on = slow(neuron), slow(neuron)
        async with streaming(gateway, "sk-ann") as ann, streaming(gateway, "sk-bob") as bob:
            gateway.files.more = keys(bob="sk-bob")
            gateway.files.write()
            while (await gateway.ask(**{"x-api-key": "sk-ann"})).status_code != 401:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert (await gateway.ask(**{"x-api-key": "sk-bob"})).status_code == 200
            ended = await ann.rest()
            assert b"revoked" in ended and DONE not in ended
            go_on.set()
            assert DONE in await bob.rest()


async def test_who_guesses_keys_is_not_forgiven_by_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron), more=keys(ann="sk")) as gateway:
        tried = 0
        while (await gateway.ask(**{"x-api-key": f"wrong-{tried}"})).status_code != 429:
            tried += 1
        gateway.files.models = ("a", "b")
        gateway.files.write()
        while not any("reload.done changed=models.toml" in each for each in caplog.messages):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await gateway.ask(**{"x-api-key": "another"})).status_code == 429
        assert (await gateway.ask(**{"x-api-key": "sk"})).status_code == 200


async def test_what_the_files_say_is_told_to_the_scope_admin_only(tmp_path: Path) -> None:
    """Neither the catalogue's path nor what stands against the files, which names models, too."""
    text = keys(ann="sk-ann", ops="sk-ops").replace("name = 'ops'", "name = 'ops'\nscopes = ['admin']")
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron), more=text) as gateway:
        gateway.http.headers["x-api-key"] = "sk-ops"
        told = await gateway.until(lambda told: told["gateway"]["models_file"] != "")
        assert told["gateway"]["models_file"] == str(tmp_path / "models.toml")
        assert len(told["gateway"]["models_sha256"]) == 64 and not told["gateway"]["withheld"]
        gateway.files.models = ("no good",)
        gateway.files.write()
        (warning,) = await gateway.warned("no good")
        gateway.http.headers["x-api-key"] = "sk-ann"
        for path in ("/fleet", "/health"):
            answer = await gateway.http.get(path)
            assert str(tmp_path) not in answer.text and "no good" not in answer.text
            (instead,) = answer.json()["warnings"]
            assert "the files were not taken over: a fault" in instead
        told = (await gateway.http.get("/fleet")).json()
        assert told["gateway"]["withheld"] and told["gateway"]["models_file"] == ""
        assert told["gateway"]["models_sha256"] == "" and warning


# -- what is wrong


async def test_a_bad_file_changes_nothing_and_shows_its_faults_until_it_is_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """faults.md row 84: the old values stay whole, and each fault is told with its line."""
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron)) as gateway:
        gateway.files.models = ("a", "b", "no good")
        gateway.files.more = "[limits]\nquueue = 1\n[aliases]\nquick = 'a'\n"
        gateway.files.write()
        await gateway.warned("quueue")
        warnings = await gateway.warned("models.toml:")
        assert any("cortex.toml:8: limits.quueue" in each for each in warnings)
        assert (await gateway.ask("quick")).status_code == 404
        assert (await gateway.ask("a")).status_code == 200
        told = await gateway.health()
        assert told["warnings"] == warnings and told["status"] == "degraded", (
            "and `cortex status` exits with 1"
        )
        assert [record.levelname for record in caplog.records if "quueue" in record.getMessage()] == ["ERROR"]
        gateway.files.models, gateway.files.more = ("a",), "[aliases]\nquick = 'a'\n"
        gateway.files.write()
        await gateway.until(lambda told: not told["warnings"] and told["status"] == "ok")
        assert (await gateway.ask("quick")).status_code == 200


async def test_a_catalogue_that_is_named_before_it_is_there_is_taken_when_it_comes(tmp_path: Path) -> None:
    """It is watched by nobody yet: files with faults are read again."""
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron)) as gateway:
        text = (tmp_path / "cortex.toml").read_text()
        gateway.files.put("cortex.toml", text.replace("models.toml", "others.toml"))
        await gateway.warned("others.toml")
        gateway.files.put("others.toml", "[[models]]\nid = 'c'\n")
        await gateway.until(lambda told: "c" in [row["id"] for row in told["models"]])
        assert (await gateway.health())["warnings"] == []


@pytest.mark.parametrize(
    ("part", "step"),
    [
        (Accounts, "renew"),
        (Passage, "refit"),
        (Dispatch, "be_patient"),
        (Ledger, "go_by"),
        (Fleet, "reform"),
    ],
)
async def test_a_part_that_does_not_take_its_value_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type, step: str
) -> None:
    """All or nothing, also where it breaks half-way; and it is told, and tried again."""
    real, calls = getattr(part, step), []

    def breaks_for_the_new_ones(self, *values, **more) -> None:
        real(self, *values, **more)
        calls.append(step)
        # Every other call puts the values of before back.
        if len(calls) % 2:
            raise ZeroDivisionError("a bug")

    both = "scopes = ['inference', 'admin']\n"
    async with fake_neuron("a") as one, fake_neuron("b") as two:
        ann = keys(ann="sk-ann") + both
        async with live(tmp_path, ("n1", one), more=ann) as gateway:
            gateway.http.headers["x-api-key"] = "sk-ann"
            before = await gateway.until(lambda told: told["gateway"]["models_file"] != "")
            monkeypatch.setattr(part, step, breaks_for_the_new_ones)
            gateway.files.models = ("a", "c")
            gateway.files.more = keys(bob="sk-bob") + both + "[aliases]\nquick = 'a'\n"
            gateway.files.neurons.append(("n2", two))
            gateway.files.write()
            (warning,) = await gateway.warned("not taken over")
            assert "those of before" in warning or "the values of before stay" in warning
            assert (await gateway.ask("a")).status_code == 200
            assert (await gateway.ask("a", **{"x-api-key": "sk-bob"})).status_code == 401
            assert (await gateway.ask("quick")).status_code == 404
            told = await gateway.until(lambda told: names(told) == {"n1": "ok"})
            assert {row["id"] for row in told["models"]} == {"a"}
            assert told["gateway"]["models_sha256"] == before["gateway"]["models_sha256"]
            monkeypatch.setattr(part, step, real)
            gateway.http.headers["x-api-key"] = "sk-bob"
            await gateway.until(lambda told: not told.get("warnings", True))
            assert (await gateway.ask("quick")).status_code == 200
            assert (await gateway.ask("a", **{"x-api-key": "sk-ann"})).status_code == 401
            await gateway.until(lambda told: names(told) == {"n1": "ok", "n2": "ok"})


async def test_how_long_a_stop_may_take_is_what_the_files_said_last(tmp_path: Path) -> None:
    """The stop itself, and what the service manager is told of it."""
    manager = Manager(str(tmp_path / "n.sock"))
    try:
        async with fake_neuron("a") as neuron, trio.open_nursery() as nursery:
            stop, ended = trio.Event(), trio.Event()
            files = Files(tmp_path, [("n1", neuron)], more="[limits]\ndrain_s = 500\n")
            files.write()
            path = tmp_path / "cortex.toml"
            read = whole_gateway(path, {})
            source = Source(lambda: whole_gateway(path, {}), path, look_s=0.02)

            async def serve(*, task_status: trio.TaskStatus) -> None:
                await run(
                    read.config,
                    read.catalogue,
                    source=source,
                    stop=stop,
                    process=Process(Notify(manager.address)),
                    task_status=task_status,
                )
                ended.set()

            ports = await nursery.start(serve)
            gateway = Live(files, httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports.api[1]}"), Bell())
            async with gateway.http:
                slow(neuron)
                async with streaming(gateway) as client:
                    files.more = "[limits]\ndrain_s = 0.3\n[aliases]\nquick = 'a'\n"
                    files.write()
                    await gateway.until(lambda told: any("quick" in row["aliases"] for row in told["models"]))
                    manager.heard()
                    stop.set()
                    # The stream would go on for ever.
                    assert b"shutting_down" in await client.rest()
                    await ended.wait()
        said = [line for message in manager.heard() for line in message]
        assert "EXTEND_TIMEOUT_USEC=1300000" in said
    finally:
        manager.close()


async def test_what_needs_a_restart_is_told_by_name_until_it_is_taken_back(tmp_path: Path) -> None:
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron)) as gateway:
        gateway.files.listen, gateway.files.more = "127.0.0.1:1", "[aliases]\nquick = 'a'\n"
        gateway.files.write()
        assert "gateway.listen is changed" in (await gateway.warned("restart"))[0]
        assert (await gateway.ask("quick")).status_code == 200
        gateway.files.listen = "0.0.0.0:1"
        gateway.files.more = "[aliases]\nslow = 'a'\n"
        gateway.files.write()
        told = await gateway.until(lambda told: "slow" in str(told["models"]))
        assert "no [[keys]]" not in str(told["warnings"]), "it listens where it did at the start"
        gateway.files.listen = "127.0.0.1:0"
        gateway.files.write()
        await gateway.until(lambda told: not told["warnings"])


# -- how it is noticed


class Growing:
    """A file that somebody still writes, for its first looks."""

    looks = 0

    def stat(self) -> SimpleNamespace:
        self.looks += 1
        return SimpleNamespace(st_dev=1, st_ino=1, st_size=min(self.looks, 5), st_mtime_ns=0)


class Taken:
    def take(self, whole: Whole) -> list[str]:
        return []

    def show(self, faults: list[str]) -> None:
        raise AssertionError(faults)


async def test_a_file_that_is_still_written_is_left_to_settle() -> None:
    """A file cut short may be a good one, without its last neurons."""
    file, reads, done = Growing(), [], trio.Event()

    def read() -> Whole:
        reads.append(file.looks)
        if len(reads) == 2:
            trio.from_thread.run_sync(done.set)
        return Whole(GatewayConfig(), Catalogue(), None, ())

    async with trio.open_nursery() as nursery:
        source = Source(read, file, look_s=0.001)  # type: ignore[arg-type]
        nursery.start_soon(Reloader(source, Taken(), Notify()).run)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert reads == [1, 6]


async def test_a_volume_that_is_swapped_as_a_whole_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does with a ConfigMap: the files are links through a link, which is replaced."""
    async with fake_neuron("a") as neuron:
        for name, models in (("one", ("a",)), ("two", ("a", "b"))):
            (tmp_path / name).mkdir()
            Files(tmp_path / name, [("n1", neuron)], models).write()
        (tmp_path / "data").symlink_to("one")
        etc = tmp_path / "etc"
        etc.mkdir()
        async with live(etc, ("n1", neuron)) as gateway:
            for file in ("cortex.toml", "models.toml"):
                (etc / file).unlink()
                (etc / file).symlink_to(tmp_path / "data" / file)
            # More often than what else has changed by then could have the files read.
            for name, has in (("two", {"a", "b"}), ("one", {"a"})) * 3:
                (tmp_path / "next").symlink_to(name)
                os.replace(tmp_path / "next", tmp_path / "data")
                await gateway.until(lambda told, has=has: {row["id"] for row in told["models"]} == has)
                listed = (await gateway.http.get("/v1/models")).json()["data"]
                assert {entry["id"] for entry in listed} == has
            assert (await gateway.health())["warnings"] == []


@pytest.mark.slow
async def test_the_command_takes_files_over_at_a_signal_and_by_itself(tmp_path: Path) -> None:
    async with fake_neuron("a") as neuron:
        files = Files(tmp_path, [("n1", neuron)])
        files.write()
        file = str(tmp_path / "cortex.toml")
        async with running("-m", "cortex", "gateway", "--config", file, "--log-format", "text") as child:
            await lines_until(child.stderr, b"gateway.listening")
            child.send_signal(signal.SIGHUP)
            await lines_until(child.stderr, b"reload.done changed=-")
            files.models = ("a", "b")
            files.write()
            await lines_until(child.stderr, b"reload.done changed=models.toml")
            child.send_signal(signal.SIGTERM)
            assert await child.wait() == 0


async def test_a_signal_has_the_files_read_at_once_and_the_manager_is_told(tmp_path: Path) -> None:
    """systemd's notify-reload: RELOADING with the time, then READY, whatever the files hold."""
    manager = Manager(str(tmp_path / "n.sock"))
    notify = Notify.taken_from({"NOTIFY_SOCKET": manager.address})
    try:
        async with (
            fake_neuron("a") as neuron,
            live(tmp_path, ("n1", neuron), notify=notify, look_s=60.0) as gateway,
        ):
            # The first look is over when the catalogue's file is known.
            await gateway.until(lambda told: told["gateway"]["models_file"] != "")
            manager.heard()
            for more, status in (
                ("[aliases]\nquick = 'a'\n", "1 neuron configured"),
                ("[alias]\n", "1 fault in the files; the values of before stay"),
            ):
                gateway.files.more = more
                gateway.files.write()
                gateway.bell.ring()
                heard: list[list[str]] = []
                while len(heard) < 2:
                    await trio.sleep(0.01)
                    heard += manager.heard()
                began, ended = heard
                assert began[0] == "RELOADING=1" and began[1].startswith("MONOTONIC_USEC=")
                assert ended == ["READY=1", f"STATUS={status}"]
            assert (await gateway.ask("quick")).status_code == 200
    finally:
        manager.close()


async def test_a_change_is_told_with_the_time_at_which_the_files_were_read(tmp_path: Path) -> None:
    """A signal that comes while they are read is not answered by that: the manager waits on."""
    manager, file, read_us = Manager(str(tmp_path / "n.sock")), tmp_path / "cortex.toml", list[int]()

    class Changed(Taken):
        def take(self, whole: Whole) -> list[str]:
            return ["keys"]

    def read() -> Whole:
        read_us.append(time.monotonic_ns() // 1000)
        return Whole(GatewayConfig(), Catalogue(), None, ())

    try:
        async with trio.open_nursery() as nursery:
            notify = Notify.taken_from({"NOTIFY_SOCKET": manager.address})
            nursery.start_soon(Reloader(Source(read, file), Changed(), notify).run)
            heard: list[list[str]] = []
            while len(heard) < 2:
                await trio.sleep(0.01)
                heard += manager.heard()
            nursery.cancel_scope.cancel()
        word, began, _ = heard[0]
        assert word == "RELOADING=1" and int(began.removeprefix("MONOTONIC_USEC=")) <= read_us[0]
    finally:
        manager.close()


async def test_files_that_are_touched_and_say_the_same_are_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron)) as gateway:
        before = await gateway.until(lambda told: told["gateway"]["models_file"] != "")
        gateway.files.put("models.toml", "# a word\n[[models]]\nid = 'a'\n")
        digest_of = lambda told: told["gateway"]["models_sha256"]  # noqa: E731
        await gateway.until(lambda told: digest_of(told) != digest_of(before))
        assert not [record for record in caplog.records if "reload" in record.getMessage()]


@pytest.mark.parametrize(
    ("after", "revoked"),
    [
        (Key("ops", "1" * 64, ("admin",)), set()),
        (Key("ops", "1" * 64, ("inference", "admin")), set()),
        (Key("other", "1" * 64, ("admin",)), set()),
        (Key("ops", "2" * 64, ("admin",)), {"ops"}),
        (Key("ops", "1" * 64, ("inference",)), {"ops"}),
        (Key("ops", "1" * 64, ("admin",), models=("qwen/*", "one")), {"ops"}),
    ],
    ids=["the same", "more", "another name", "another key", "less", "not all models"],
)
async def test_revoked_is_who_may_do_less_than_before(after: Key, revoked: set[str]) -> None:
    before = GatewayConfig(keys=(Key("ops", "1" * 64, ("admin",)),))
    assert tuning._revoked(before, GatewayConfig(keys=(after,))) == revoked
    assert tuning._revoked(before, GatewayConfig()) == {"ops"}


@pytest.mark.parametrize(
    ("after", "revoked"),
    [
        ((), set()),
        (("*",), set()),
        (("one", "qwen/*", "more"), set()),
        (("o*", "qwen*"), set()),
        (("qwen/*",), {"ops"}),
        (("one", "qwen/?"), {"ops"}),
        (("one", "qwen/small"), {"ops"}),
    ],
)
async def test_revoked_is_who_may_use_fewer_models(after: tuple[str, ...], revoked: set[str]) -> None:
    before = GatewayConfig(keys=(Key("ops", "1" * 64, models=("one", "qwen/*")),))
    now = GatewayConfig(keys=(Key("ops", "1" * 64, models=after),))
    assert tuning._revoked(before, now) == revoked


async def test_what_a_key_has_under_way_ends_when_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "REVOKED_S", 0.1)
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    more = keys(bob="sk-bob") + keys(ann="sk-ann") + f"expires = '{soon.isoformat()}'\n"
    async with fake_neuron("a") as neuron, live(tmp_path, ("n1", neuron), more=more) as gateway:
        _, go_on = slow(neuron), slow(neuron)
        async with streaming(gateway, "sk-ann") as ann, streaming(gateway, "sk-bob") as bob:
            ended = await ann.rest()
            assert b"expired" in ended and DONE not in ended and datetime.now(UTC) >= soon
            go_on.set()
            assert DONE in await bob.rest()


async def test_each_end_of_a_key_counts_once_however_the_clock_is_set(autojump_clock) -> None:
    began, told = datetime(2026, 12, 1, tzinfo=UTC), list[tuple[float, frozenset[str]]]()
    known = [Key("a", "1" * 64, expires=began + timedelta(seconds=12)), Key("b", "2" * 64)]
    start, set_forward = trio.current_time(), 0.0

    def now() -> datetime:
        return began + timedelta(seconds=trio.current_time() - start + set_forward)

    def end(names: frozenset[str]) -> None:
        told.append((trio.current_time() - start, names))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_expired, lambda: known, end, now)
        await trio.sleep(20)
        assert told == [(12.0, {"a"})]
        known[:] = [Key("b", "2" * 64, expires=began + timedelta(hours=1)), known[0]]
        set_forward = 3600.0
        await trio.sleep(LONGEST_S + 0.5)
        assert [names for _, names in told] == [{"a"}, {"b"}]
        known[1] = Key("a", "1" * 64, expires=began + timedelta(minutes=1))
        await trio.sleep(LONGEST_S + 0.5)
        assert [names for _, names in told] == [{"a"}, {"b"}, {"a"}]
        nursery.cancel_scope.cancel()


async def test_who_listens_hears_of_a_reload_and_of_a_neuron_that_is_taken_out(tmp_path) -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        async with live(tmp_path, ("n1", one), ("n2", two)) as gateway:
            host, _, port = gateway.http.base_url.netloc.decode().partition(":")
            client = Client(await trio.open_tcp_stream(host, int(port)))
            reader = await read_events(client)
            assert (await reader.next())["type"] == "snapshot"
            gateway.files.neurons = [("n1", one)]
            gateway.files.write()
            dismissed, reloaded = await reader.next(), await reader.next()
            assert (dismissed["type"], dismissed["neuron"]) == ("neuron.dismissed", "n2")
            assert (reloaded["type"], reloaded["changed"]) == ("reloaded", ["neurons"])
            gateway.files.neurons.append(("n2", two))
            gateway.files.write()
            assert (await reader.next())["type"] == "reloaded"
            again = await reader.next()
            assert (again["type"], again["neuron"]) == ("neuron.new", "n2")
            await client.close()
