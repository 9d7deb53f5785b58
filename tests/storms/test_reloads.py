"""Files that change while streams run: models come, a neuron goes, a key is revoked.

No stream is touched but those of the revoked key; what comes after goes by the new files at once.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from cortex.cli.running import Bell
from cortex.config.whole import whole_gateway
from cortex.gateway import Source, run, tuning
from cortex.harness.scripted import Gate
from cortex.keys import digest
from tests.calls import settings
from tests.roles import Running, running_neuron, specs
from tests.storms.storm import TIMES, Storm, Tally, storm

pytestmark = pytest.mark.slow
CROWD = 50 * TIMES
LONG = 200
KEYS = ("ann", "bob", "cid")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30 * TIMES):
        yield


@dataclass
class Live:
    """A gateway that runs from files in `folder`."""

    folder: Path
    url: str = ""

    def write(self, neurons: dict[str, Running], models: str, keys: tuple[str, ...]) -> None:
        """As editors do it: another file takes the place of the old one."""
        self._put("models.toml", "".join(f'[[models]]\nid = "{model}"\n' for model in models))
        rows = [f'[[neurons]]\nname = "{name}"\nendpoint = "{at.url}"\n' for name, at in neurons.items()]
        rows += [f'[[keys]]\nname = "{key}"\nsha256 = "{digest(f"sk-{key}")}"\n' for key in keys]
        head = '[gateway]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\n'
        self._put(
            "cortex.toml", f'{head}models_config = "models.toml"\n[poll]\ninterval_s = 0.1\n' + "".join(rows)
        )

    def _put(self, name: str, text: str) -> None:
        (self.folder / "next").write_text(text)
        os.replace(self.folder / "next", self.folder / name)


@asynccontextmanager
async def running(live: Live, bell: Callable[[], object], look_s: float) -> AsyncIterator[None]:
    path = live.folder / "cortex.toml"
    read = whole_gateway(path, {})
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus) -> None:
            source = Source(lambda: whole_gateway(path, {}), path, bell, look_s)  # type: ignore[arg-type]
            await run(read.config, read.catalogue, source=source, task_status=task_status)

        ports = await nursery.start(serve)
        live.url = f"http://127.0.0.1:{ports.api[1]}"
        yield
        nursery.cancel_scope.cancel()


async def refused(gale: Storm, live: Live, key: str) -> None:
    """The key opens nothing any more."""
    tries = 0
    while (await gale.ask(live, f"try-{tries}", key=key)).status != 401:
        tries += 1


@pytest.mark.parametrize("way", ["file", "signal"])
async def test_a_reload_under_load_touches_the_streams_of_the_revoked_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Rows 84, 85: those of the key have an error event, at the end of their grace; those at the neuron
    that was taken out go on to their end, and nobody new goes there."""
    monkeypatch.setattr(tuning, "REVOKED_S", 0.3)
    gates, bell = (Gate(), Gate()), Bell()
    tallies = [Tally("n1"), Tally("n2")]
    catalogue = specs(tmp_path, "a", "b")
    scripts = [
        {model: tally.script(model, hold=gate) for model in "ab"}
        for tally, gate in zip(tallies, gates, strict=True)
    ]
    config = settings(slots=CROWD)
    live = Live(tmp_path)
    with storm(*tallies) as gale:
        async with (
            running_neuron(tmp_path, catalogue, scripts[0], config=config) as one,
            running_neuron(tmp_path, catalogue, scripts[1], config=config) as two,
        ):
            for neuron in (one, two):
                assert (await neuron.http.post("/models/load", json={"spec": {"id": "a"}})).status_code == 200
            live.write({"n1": one, "n2": two}, "a", KEYS)
            async with running(live, bell.wait, 0.02 if way == "file" else 60.0):
                try:
                    async with trio.open_nursery() as nursery:
                        calls = []
                        for number in range(CROWD):
                            key = KEYS[number % 3]
                            ask = partial(gale.ask, live, f"{key}-{number}", key=key, tokens=LONG)
                            calls.append(await nursery.start(ask))
                        while not all(b'"content":"0' in call.caller.answer.body for call in calls):
                            for gate in gates:  # each turn is of those who are seated by then
                                gate.let(1)
                            await trio.sleep(0.005)
                        assert all(tally.runs for tally in tallies)
                        live.write({"n2": two}, "ab", KEYS[1:])
                        if way == "signal":
                            bell.ring()
                        await refused(gale, live, "ann")
                        while gale.ends()["error_event"] < CROWD // 3:  # noqa: ASYNC110
                            await trio.sleep(0.005)
                        for gate in gates:
                            gate.open()
                        before = len(tallies[0].runs)
                        for number in range(6):
                            await gale.ask(live, f"after-{number}", "ab"[number % 2], key="bob")
                    assert len(tallies[0].runs) == before
                finally:
                    for gate in gates:
                        gate.open()
        revoked = {asked.id for asked in gale.asked if asked.id.startswith("ann-")}
        assert gale.ends(revoked) == {"error_event": len(revoked)}
        for id in revoked:
            assert "revoked" in msgspec.json.decode(gale.answers[id].data[-1])["error"]["message"]
        spared = {asked.id for asked in gale.asked if asked.id[:3] in ("bob", "cid", "aft")}
        assert gale.ends(spared) == {"complete": CROWD - len(revoked) + 6}
        assert gale.twice() == [] and await gale.findings() == []
