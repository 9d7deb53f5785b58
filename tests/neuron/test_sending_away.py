"""Who is told to leave is the one that was there then, whatever comes in under its name later."""

import trio

from cortex.dispatch import Dispatch, Patience
from cortex.evictor import Rules
from cortex.ledger import Ledger, Policy, Serve
from cortex.metrics import Metrics
from cortex.neuron.orders import Orders
from cortex.places import Room
from cortex.wire import neuron as wire
from tests.fake_ledger import resident, want


class Away:
    """Residents as orders know them: who was unloaded."""

    def __init__(self) -> None:
        self.unloaded: list[str] = []
        _, self.faults = trio.open_memory_channel[tuple[str, str]](0)

    def meant(self, name: str) -> str:
        return name

    async def unload(self, place: str, model: str) -> None:
        self.unloaded.append(model)


async def test_who_came_in_after_a_process_died_is_not_unloaded_in_its_stead(autojump_clock) -> None:
    """A forced unload waits for who is seated; meanwhile the process dies, and the model is back."""
    ledger = Ledger(trio.current_time, Policy(Rules("lru", 0.0), 8, 0.0))
    ledger.report("cpu", [Room("g", 100)], [resident("a")], trio.current_time())
    away = Away()
    dispatch = Dispatch(ledger, away, Patience(60.0, 300.0), None)
    orders = Orders(away, dispatch, None, Metrics(lambda model: True), jobs=None, terms=None)
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatch.run)
        await nursery.start(orders.run)
        seated, decision = ledger.arrive(want("a"))
        assert isinstance(decision, Serve)
        async with trio.open_nursery() as asking:
            asking.start_soon(orders.unload, wire.UnloadRequest(id="a", force=True))
            await trio.testing.wait_all_tasks_blocked()
            ledger.died("cpu", "a")
            await trio.sleep(2)
            ledger.report("cpu", [Room("g", 100)], [resident("a")], trio.current_time())
        assert away.unloaded == []
        ledger.depart(seated)
        nursery.cancel_scope.cancel()
