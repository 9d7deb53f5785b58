"""A gateway's fleet that has reported, without a socket: for what a gateway makes of many neurons."""

from collections.abc import Sequence
from typing import cast

import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import NeuronRef, Poll
from cortex.dispatch import Dispatch, LoadBook, Patience
from cortex.evictor import Rules
from cortex.gateway.fleet import Fleet
from cortex.gateway.listing import Listing
from cortex.gateway.loading import RemoteLoader
from cortex.gateway.report import Report
from cortex.ledger import Ledger, Policy
from cortex.metrics import Metrics
from cortex.wire import neuron as wire

GIB = 2**30
DISCOVERY = wire.Discovery(harnesses=[wire.HarnessReport(name="exllamav2", available=True)])


def refs_of(count: int) -> tuple[NeuronRef, ...]:
    return tuple(NeuronRef(f"n{number:03}", f"http://10.0.0.1:{8000 + number}") for number in range(count))


class Believed:
    """`neurons` of two devices each, and `models` in the catalogue, of which each neuron has one. The
    neurons `know` further models by themselves. Only within trio."""

    def __init__(self, neurons: int, models: int, know: Sequence[str] = ()) -> None:
        self.ledger = Ledger(trio.current_time, Policy(Rules("lru", 30.0), 1024, 30.0, delegates=True))
        loader = cast(RemoteLoader, None)  # nothing is loaded
        self.metrics = Metrics(lambda model: True)
        dispatch = Dispatch(self.ledger, loader, Patience(60.0, 300.0), LoadBook(self.metrics, evicts=False))
        self.fleet = Fleet(refs_of(neurons), Poll(), dispatch, self.metrics, silent_s=60.0)
        specs = [
            ModelSpec(f"m{number:04}", harness="exllamav2", footprint=(1 + number % 60) * GIB)
            for number in range(models)
        ]
        self.listing = Listing(
            Catalogue({spec.id: spec for spec in specs}, {f"a{spec.id}": spec.id for spec in specs}),
            self.ledger,
            self.fleet,
        )
        self.report = Report("b", trio.current_time(), self.ledger, self.fleet, self.listing, 300.0)
        self.know = list(know)
        for number, neuron in enumerate(self.fleet):
            self.tell(neuron.name, f"m{number % models:04}" if models else "")

    def tell(self, name: str, model: str = "", *, memory: int = 24, stopping: bool = False) -> None:
        """The neuron reports: so much GiB on each of its devices, and that it has the model."""
        devices = [
            wire.DeviceHealth(name=f"cuda:{index}", memory_total=memory * GIB, memory_free=memory * GIB)
            for index in range(2)
        ]
        neuron = self.fleet[name]
        neuron.asked_at = trio.current_time()
        state = "stopping" if stopping else "ready"
        models = [wire.ResidentReport(id=model, bytes={"cuda:0": GIB}, slots=4)] if model else []
        self.fleet.believe(
            neuron,
            DISCOVERY,
            wire.Health(boot_id=name, devices=devices, activation=wire.Activation(state=state)),
            wire.Residents(boot_id=name, models=models, known=self.know),
        )
