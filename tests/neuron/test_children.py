"""A neuron whose models have processes of their own outlives them, and brings them back.

Through llama.cpp and the bundled model: the engine that is killed is a real one.
"""

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.neuron import LlamaCpp, NeuronConfig
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.ledger import rests
from cortex.neuron.sources import demo_spec
from tests.calls import CHAT, calling, figures, hello, residents, settings, text_of, until
from tests.roles import Running, demo_neuron

# The same token again and again, to the end of the context: an answer that lasts.
LASTING = {"logit_bias": {"71": 100}, "stream": True}


@pytest.fixture(autouse=True)
async def _hang_guard():
    if (why_not := LlamaCppHarness().unavailable()) is not None:
        pytest.skip(str(why_not))
    with trio.fail_after(60):
        yield


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that died comes back without the seconds that a real one is made to wait."""
    monkeypatch.setattr(rests, "DEATH_S", 0.01)
    monkeypatch.setattr(rests, "STABLE_S", 0.0)


@asynccontextmanager
async def neuron(isolation="process", models: int = 1) -> AsyncIterator[Running]:
    config: NeuronConfig = replace(settings(), llamacpp=LlamaCpp(threads=1, isolation=isolation))
    copies = {f"m{number}": replace(demo_spec(), id=f"m{number}") for number in range(models)}
    async with demo_neuron(config, Catalogue(copies)) as role:
        yield role


async def killed_in_its_answer(role: Running, model: str = "m0") -> None:
    """A stream whose engine is killed: what was said before is delivered, then the error."""
    async with calling(role) as caller:
        await caller.ask(CHAT, hello(model, **LASTING))
        await caller.until(b'"content":"')
        os.kill((await residents(role))[model]["pid"], signal.SIGKILL)
        answer = await caller.all()
        assert (answer.status, answer.complete) == (200, True)
        assert '"code":"engine_failed"' in answer.data[-1]
        assert "was killed by SIGKILL" in answer.data[-1]


async def test_a_model_says_where_it_runs() -> None:
    async with neuron() as role:
        await role.http.post(CHAT, json=hello("m0"))
        row = (await residents(role))["m0"]
        assert row["isolation"] == "process"
        assert Path(f"/proc/{row['pid']}").exists()  # noqa: ASYNC240
        assert row["pid"] != os.getpid()
    assert not Path(f"/proc/{row['pid']}").exists()  # noqa: ASYNC240


@pytest.mark.parametrize("isolation", [None, "thread"])
async def test_a_small_model_stays_in_the_neuron(isolation: str | None) -> None:
    async with neuron(isolation) as role:
        await role.http.post(CHAT, json=hello("m0"))
        row = (await residents(role))["m0"]
        assert (row["isolation"], row["pid"]) == ("thread", os.getpid())


async def test_a_model_above_the_size_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.harness.llamacpp.loading.APART_BYTES", 2**20)
    async with neuron(None) as role:
        await role.http.post(CHAT, json=hello("m0"))
        assert (await residents(role))["m0"]["isolation"] == "process"


async def test_a_killed_engine_costs_its_streams_and_is_back_on_the_next_request() -> None:
    async with neuron() as role:
        said = text_of(await role.http.post(CHAT, json=hello("m0")))
        first = (await residents(role))["m0"]["pid"]
        await killed_in_its_answer(role)
        assert text_of(await role.http.post(CHAT, json=hello("m0"))) == said
        assert (await residents(role))["m0"]["pid"] != first
        assert await figures(role) == {"m0": (0, 0)}
        assert (await role.http.get("/health")).json()["status"] == "ok"


async def test_its_neighbours_stream_on() -> None:
    """Row 75: the other models of the device lose nothing."""
    async with neuron(models=2) as role:
        whole = text_of(await role.http.post(CHAT, json=hello("m1", logit_bias={"71": 100})))
        async with calling(role) as caller:
            await caller.ask(CHAT, hello("m1", **LASTING))
            await caller.until(b'"content":"')
            await killed_in_its_answer(role, "m0")
            answer = await caller.all()
            assert (answer.complete, answer.data[-1]) == (True, "[DONE]")
            chunks = (json.loads(each) for each in answer.data[:-1])
            choices = (choice for chunk in chunks for choice in chunk["choices"])
            assert "".join(choice["delta"].get("content") or "" for choice in choices) == whole


async def test_an_engine_that_dies_while_nobody_asks_is_gone_and_comes_back() -> None:
    async with neuron() as role:
        await role.http.post(CHAT, json=hello("m0"))
        os.kill((await residents(role))["m0"]["pid"], signal.SIGKILL)

        async def gone() -> bool:
            return "m0" not in await residents(role)

        await until(gone, 10)
        assert text_of(await role.http.post(CHAT, json=hello("m0")))


@dataclass(frozen=True)
class Held:
    """What this process has open and takes."""

    fds: int
    threads: int
    sockets: int
    folders: int
    children: int
    rss_bytes: int

    @classmethod
    def now(cls) -> "Held":
        me = Path("/proc/self")
        opened = [os.readlink(each) for each in (me / "fd").iterdir() if each.is_symlink()]
        tasks = list((me / "task").iterdir())
        return cls(
            fds=len(opened),
            threads=len(tasks),
            sockets=sum(each.startswith("socket:") for each in opened),
            folders=len(list(Path(tempfile.gettempdir()).glob("cortex-*"))),
            children=sum(len((task / "children").read_text().split()) for task in tasks),
            rss_bytes=int((me / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        )


@pytest.mark.slow
async def test_twenty_kills_in_a_row_leak_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    """No memory, descriptor, thread, socket, process or file is left of any of them."""
    monkeypatch.setattr("tempfile.tempdir", tempfile.mkdtemp(prefix="cx"))  # sockets have short names
    async with neuron() as role:
        said = text_of(await role.http.post(CHAT, json=hello("m0")))
        after: list[Held] = []
        for _ in range(20):
            await killed_in_its_answer(role)
            assert text_of(await role.http.post(CHAT, json=hello("m0"))) == said
            after.append(Held.now())
        record_property("held", after)
        early = after[4]

        async def settled() -> bool:
            """The last one's folder may be on its way out still."""
            late = Held.now()
            counts = ("fds", "threads", "sockets", "folders", "children")
            return all(getattr(late, name) <= getattr(early, name) for name in counts)

        await until(settled, 10)
        assert after[-1].rss_bytes < early.rss_bytes + 8 * 2**20, after
    assert list(Path(tempfile.gettempdir()).iterdir()) == []  # noqa: ASYNC240
    os.rmdir(tempfile.gettempdir())
