"""When a load is over is told by its pace, its last time or its neuron's rate, or not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from cortex.gateway.headway import Headway
from cortex.ledger.outlook import Outlook
from cortex.wire.neuron import ResidentReport
from cortex.wire.sse import COMMENT
from tests.fake_ledger import books, resident
from tests.fake_neuron import Open, fake_neuron, open_gateway
from tests.roles import MIB, patient

MESSAGES = "/v1/messages"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@asynccontextmanager
async def loading(load_s: float) -> AsyncIterator[Open]:
    """A gateway whose neuron has read a quarter of a model for as long as anybody waits."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"], config=patient(load_s=load_s)) as gateway:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.ask)
                await neuron.told_to_load()
                row = {"state": "loading", "phase": "load", "age_s": 0, "bytes": {"cpu": 0}}
                neuron.has("a", done_bytes=MIB, total_bytes=4 * MIB, **row)
                await neuron.polled()
                yield gateway
                nursery.cancel_scope.cancel()


def told(error: dict[str, Any]) -> None:
    assert (error["done_bytes"], error["total_bytes"]) == (MIB, 4 * MIB)
    # A quarter took so long: what is left takes thrice that.
    assert error["eta_s"] >= 1 and error["eta_s"] == pytest.approx(3 * error["loading_for_s"], abs=1.5)


@pytest.mark.slow
async def test_who_waited_too_long_is_told_how_far_the_load_is() -> None:
    async with loading(0.6) as gateway:
        for stream in (False, True):
            answer = await gateway.ask(stream=stream)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "model_loading")
            told(error)
            assert int(answer.headers["retry-after"]) == error["retry_after"] >= error["eta_s"]


@pytest.mark.slow
async def test_so_is_a_stream_that_was_kept_alive_in_its_last_event() -> None:
    async with loading(1.3) as gateway:
        answer = await gateway.ask(stream=True)
        assert answer.status_code == 200 and answer.content.startswith(COMMENT + b"data: ")
        error = msgspec.json.decode(answer.content.removeprefix(COMMENT + b"data: "))["error"]
        assert error["code"] == "model_loading" and error["retry_after"] >= error["eta_s"]
        told(error)


@pytest.mark.slow
async def test_anthropics_dialect_has_pings_and_its_own_error_event() -> None:
    body = {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with loading(1.3) as gateway:
        answer = await gateway.http.post(MESSAGES, json=body)
        assert answer.status_code == 200 and answer.content.startswith(PING + b"event: error\ndata: ")
        said = msgspec.json.decode(answer.content.removeprefix(PING + b"event: error\ndata: "))
        assert said["type"] == "error" and said["error"]["type"] == "overloaded_error"
        assert said["error"]["retry_after"] >= 1
        told(said["error"]["details"])
        assert b"message_stop" not in answer.content
        whole = await gateway.http.post(MESSAGES, json={**body, "stream": False})
        assert whole.status_code == 529 and int(whole.headers["retry-after"]) >= 1


# -- by the clock of a test


class Told:
    """A gateway's ledger with the neuron "p", which loads "a" and reports when it is told to."""

    def __init__(self, usual_s: float | None = None) -> None:
        self.book = books(1000)
        self.headway = Headway(self.book.ledger)
        if usual_s is not None:
            _, load = self.book.begin("a", 100)
            self.book.clock.pass_by(usual_s)
            self.book.finish(load)
            self.book.ledger.gone("p", "a")
        self.book.begin("a", 100)

    def report(self, *rows: ResidentReport) -> None:
        residents = SimpleNamespace(models=rows)
        neuron = SimpleNamespace(name="p", residents=residents, seen_at=self.book.clock())
        self.headway.reported(neuron)  # type: ignore[arg-type]

    def left_s(self, after: float = 0.0) -> float | None:
        self.book.clock.pass_by(after)
        return self.headway.outlook("a").left_s


def row(done: int, total: int = 100, phase: str = "load") -> ResidentReport:
    return ResidentReport(id="a", state="loading", phase=phase, done_bytes=done, total_bytes=total)


def test_the_pace_of_the_bytes_counts_most() -> None:
    told = Told(usual_s=500.0)
    told.book.clock.pass_by(10)
    told.report(row(0))
    told.book.clock.pass_by(10)
    told.report(row(20))
    assert told.left_s() == 40, "20 in 10 s; what came before the first report does not count"
    assert told.left_s(after=15) == 25
    assert told.left_s(after=100) == 1, "it must be there any moment"
    told.report(row(60))
    assert told.left_s() == pytest.approx(40 / (60 / 125))


def test_a_download_is_followed_by_what_a_load_usually_takes() -> None:
    told = Told(usual_s=30.0)
    told.report(row(0, phase="download"))
    told.book.clock.pass_by(10)
    told.report(row(50, phase="download"))
    assert told.left_s() == 10 + 30
    told.report(row(0, phase="load"))
    assert told.left_s() == 20, "another phase has its own pace, which is not known yet"


def test_without_a_pace_the_last_load_counts_until_it_is_late() -> None:
    told = Told(usual_s=30.0)
    assert told.left_s(after=10) == 20
    assert told.left_s(after=19) == 1
    assert told.left_s(after=5) is None


def test_without_a_last_load_the_neurons_usual_rate_counts() -> None:
    told = Told()
    assert told.left_s() is None, "nobody can tell"
    known = [
        ResidentReport(id="b", bytes={"g": 300}, load_s=10.0),
        ResidentReport(id="c", bytes={"g": 100}, load_s=10.0),
        ResidentReport(id="d", bytes={"g": 999}),  # it was there before the neuron counted
        ResidentReport(id="e", bytes={}, load_s=90.0),  # an upstream's, which takes no room
    ]
    told.report(*known)
    assert told.left_s(after=1) == 100 / 20 - 1
    told.report(*known, row(0, total=200))
    assert told.left_s() == 200 / 20 - 1, "the bytes that the neuron found, not the estimate of the file"
    told.headway.forget("p")
    assert told.headway.of("a").done_bytes == 0


def test_a_load_of_somebody_else_is_one_like_our_own() -> None:
    book = books(100)
    headway = Headway(book.ledger)
    book.tell("p", 100, resident("a", 40, phase="loading", loaded_at=book.clock() - 5))
    (listed,) = headway.loads()
    assert (listed.model, listed.neuron, listed.running_s, listed.total_bytes) == ("a", "p", 5.0, 40)
    assert (listed.phase, listed.eta_s, listed.done_bytes) == (None, None, 0)
    assert headway.outlook("b") == Outlook() and headway.of("b") is None
