"""A load that nobody waits for, at a real neuron and a real gateway: it goes on until its room is needed."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.harness.scripted import Script
from tests.calls import CHAT, hello, settings, text_of
from tests.roles import MIB, Running, eventually, running_gateway, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@dataclass
class Site:
    """A neuron with room for one of two models, behind a gateway. "a" loads until `done` is set."""

    neuron: Running
    gateway: Running
    done: threading.Event

    async def jobs(self) -> dict[str, str]:
        """State by model, as the neuron has it."""
        rows = (await self.neuron.http.get("/models/jobs")).json()["jobs"]
        return {row["model"]: row["state"] for row in reversed(rows)}

    async def loading(self) -> None:
        async def so() -> bool:
            return (await self.jobs()).get("a") == "loading"

        await eventually(so)

    async def waiting(self, count: int) -> None:
        """So many wait at the neuron for "a"."""

        async def so() -> bool:
            rows = (await self.neuron.http.get("/models/jobs")).json()["jobs"]
            return [row["waiting"] for row in rows if row["model"] == "a"] == [count]

        await eventually(so)


@asynccontextmanager
async def site(folder: Path, known: Catalogue | None = None) -> AsyncIterator[Site]:
    done = threading.Event()
    scripts = {
        "a": Script(reply="ay", bytes=60 * MIB, slow_load=done),
        "b": Script(reply="bee", bytes=60 * MIB),
    }
    catalogue = specs(folder, "a", "b", footprint=60 * MIB)
    async with (
        running_neuron(folder, catalogue, scripts, memory=100 * MIB, config=settings()) as neuron,
        running_gateway(neuron, catalogue=known or catalogue) as gateway,
    ):
        try:
            yield Site(neuron, gateway, done)
        finally:
            done.set()


async def leave(at: Running, there: Site) -> None:
    """A client asks for "a" and hangs up when the load is under way."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, at, "a")
        await there.loading()
        nursery.cancel_scope.cancel()


async def ask(at: Running, model: str) -> Any:
    return await at.http.post(CHAT, json=hello(model))


@pytest.mark.parametrize("footprints", [True, False], ids=["sizes known", "sizes unknown"])
async def test_another_model_has_the_room_when_the_only_client_left(tmp_path: Path, footprints: bool) -> None:
    """Rows 29 and 61. The gateway cannot foresee it where only the neuron knows the sizes."""
    unknown = Catalogue({name: ModelSpec(name, source=f"path:{tmp_path / name}.gguf") for name in "ab"})
    async with site(tmp_path, None if footprints else unknown) as there:
        await leave(there.gateway, there)
        assert text_of(await ask(there.gateway, "b")) == "bee"
        assert await there.jobs() == {"a": "cancelled", "b": "done"}


async def test_at_a_neuron_alone_it_is_the_same(tmp_path: Path) -> None:
    async with site(tmp_path) as there:
        await leave(there.neuron, there)
        assert text_of(await ask(there.neuron, "b")) == "bee"


async def test_it_goes_on_while_nothing_needs_the_room(tmp_path: Path) -> None:
    async with site(tmp_path) as there:
        await leave(there.gateway, there)
        there.done.set()

        async def loaded() -> bool:
            return (await there.jobs())["a"] == "done"

        await eventually(loaded)
        assert text_of(await ask(there.gateway, "a")) == "ay"


@pytest.mark.parametrize("who", ["client", "order", "gateway"])
async def test_it_is_not_called_off_while_somebody_else_waits_at_the_neuron(tmp_path: Path, who: str) -> None:
    """The neuron's word binds: the gateway lets go, and the load goes on for the others."""
    async with site(tmp_path) as there:
        await leave(there.gateway, there)
        async with trio.open_nursery() as nursery:
            spec = {"id": "a", "source": f"path:{tmp_path / 'a'}.gguf"}
            match who:
                case "client":
                    nursery.start_soon(ask, there.neuron, "a")
                case "order":
                    await there.neuron.http.post("/models/load?wait=false", json={"spec": spec})
                case "gateway":

                    async def other() -> None:
                        await there.neuron.http.post("/models/load", json={"spec": spec})

                    nursery.start_soon(other)
            await there.waiting(2)
            nursery.start_soon(ask, there.gateway, "b")
            await there.waiting(1)  # the gateway has let go
            assert (await there.jobs())["a"] == "loading"
            there.done.set()
        assert await there.jobs() == {"a": "done", "b": "done"}
