"""A client of a cold model that leaves, in every phase and every way, between real roles: nothing of it
stays at the gateway or at the neuron, and the load goes on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import msgspec
import pytest
import trio

from cortex.harness.scripted import Gate, Script
from tests.calls import CHAT, Caller, calling, figures, hello, text_of, until
from tests.fake_neuron import Open, open_gateway
from tests.fake_web import ask
from tests.roles import Running, running_neuron, specs

WAYS = pytest.mark.parametrize("how", ["fin", "rst", "half", "ahead"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
# What the contract gives: a device's slot is free within a second.
FREE_S = 1.0


@dataclass
class Site:
    """A gateway in front of a neuron that has no model yet. `loaded` ends its load, `gate` lets turns."""

    gateway: Open
    neuron: Running
    loaded: Event
    gate: Gate

    async def books(self, says: str) -> None:
        """The gateway's ledger comes to say so, soon."""
        with trio.fail_after(FREE_S):
            await self.gateway.knows(lambda ledger: says in repr(ledger))

    async def free(self) -> None:
        """Nobody sits or waits, here or there, and the engine computes nothing."""
        await self.books("seats=0 waiting=0")

        async def idle() -> bool:
            engine = self.neuron.engines.get("a")
            return (await figures(self.neuron)).get("a", (0, 0)) == (0, 0) and not (engine and engine._live)

        await until(idle, FREE_S)

    async def serves(self) -> None:
        """The next one is answered, by the same load."""
        self.loaded.set()
        self.gate.open()
        answer = await self.gateway.http.post(CHAT, json=hello(max_tokens=2))
        assert text_of(answer) == "0 1"
        await self.free()
        page = await self.gateway.page()
        assert 'cortex_in_flight{model="a"} 0.0' in page
        assert 'cortex_cold_starts_total{model="a"} 1.0' in page


@asynccontextmanager
async def site(folder: Path, *, turns: int = 0) -> AsyncIterator[Site]:
    loaded, gate = Event(), Gate(turns)
    catalogue = specs(folder, "a")
    script = Script(endless=True, hold=gate, slow_load=loaded)
    with trio.fail_after(30):
        async with running_neuron(folder, catalogue, script) as neuron:
            async with open_gateway(neuron, catalogue=catalogue) as gateway:  # type: ignore[arg-type]
                try:
                    yield Site(gateway, neuron, loaded, gate)
                finally:
                    loaded.set()


async def begin(at: Site, caller: Caller, *, stream: bool) -> None:
    """The request waits for the load that it caused."""
    await caller.ask(CHAT, hello(stream=stream))
    await at.books("waiting=1 loads=1")


@WAYS
@pytest.mark.parametrize("part", [0.2, 1.0, 1.5], ids=["in the head", "before the body", "in the body"])
async def test_who_leaves_before_the_request_is_whole_causes_no_load(
    tmp_path: Path, how: str, part: float
) -> None:
    """Row 28: dropped, and nothing routed."""
    body = msgspec.json.encode(hello())
    whole = ask(CHAT, body)
    head = len(whole) - len(body)
    sent = whole[: int(head * part)] if part <= 1 else whole[: head + len(body) // 2]
    async with site(tmp_path) as at, calling(at.gateway) as caller:  # type: ignore[arg-type]
        before = repr(at.gateway.ledger)
        await caller.stream.send_all(sent)
        await caller.leave(how)
        assert (await at.gateway.http.get("/livez")).status_code == 200
        assert repr(at.gateway.ledger) == before
        assert not at.neuron.engines
        await at.serves()


@WAYS
@STREAMS
async def test_who_leaves_during_the_load_leaves_no_ticket(tmp_path: Path, how: str, stream: bool) -> None:
    """Rows 29 and 31: the load goes on for the next one."""
    async with site(tmp_path) as at, calling(at.gateway) as caller:  # type: ignore[arg-type]
        await begin(at, caller, stream=stream)
        await caller.leave(how)
        await at.books("seats=0 waiting=0 loads=1")
        await at.serves()


@WAYS
@STREAMS
async def test_who_leaves_as_the_load_ends_leaves_no_seat_and_no_job(
    tmp_path: Path, how: str, stream: bool
) -> None:
    """Row 29 at its edge: whether the seat was given or not is for the clock to say."""
    async with site(tmp_path) as at, calling(at.gateway) as caller:  # type: ignore[arg-type]
        await begin(at, caller, stream=stream)
        at.loaded.set()
        await caller.leave(how)
        await at.books("loads=0")
        await at.free()
        await at.serves()


@WAYS
@STREAMS
async def test_who_leaves_in_the_prefill_after_a_load_frees_the_slot(
    tmp_path: Path, how: str, stream: bool
) -> None:
    """Rows 30 and 31: not a byte of the answer is there to find it out by."""
    async with site(tmp_path) as at, calling(at.gateway) as caller:  # type: ignore[arg-type]
        await begin(at, caller, stream=stream)
        at.loaded.set()

        async def computes() -> bool:
            return bool((engine := at.neuron.engines.get("a")) and engine._live)

        await until(computes, 10)
        await caller.leave(how)
        await at.free()
        await at.serves()


@WAYS
async def test_who_leaves_a_stream_that_had_to_wait_for_its_model_frees_the_slot(
    tmp_path: Path, how: str
) -> None:
    """Row 30: in the middle of the words."""
    async with site(tmp_path, turns=3) as at, calling(at.gateway) as caller:  # type: ignore[arg-type]
        await begin(at, caller, stream=True)
        at.loaded.set()
        await caller.until(b" 1")
        await caller.leave(how)
        await at.free()
        await at.serves()


async def test_a_storm_of_clients_that_leave_in_every_phase_leaves_nothing(tmp_path: Path) -> None:
    """Rows 28 to 31: those who stay are answered, each one."""
    async with site(tmp_path) as at:
        answers: list[str] = []

        async def leave(number: int) -> None:
            async with calling(at.gateway) as caller:  # type: ignore[arg-type]
                whole = ask(CHAT, msgspec.json.encode(hello(stream=bool(number % 2))))
                await caller.stream.send_all(whole[: 1 + number * len(whole) // 40])
                await caller.leave(("fin", "rst", "half", "ahead")[number % 4])

        async def stay() -> None:
            answers.append(text_of(await at.gateway.http.post(CHAT, json=hello(max_tokens=2))))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(leave, number)
                if number % 4 == 0:
                    nursery.start_soon(stay)
            await at.gateway.knows(lambda ledger: "loads=1" in repr(ledger))
            at.loaded.set()
            at.gate.open()
        assert answers == ["0 1"] * 10
        await at.free()
