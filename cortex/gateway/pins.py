"""Who stays where: pins by order, and what models.toml says of models that are loaded already.

A pin by order is a neuron's, kept there and reported; this gateway remembers none. What the
catalogue says of pins, class and idling is told to each neuron that has the model and says
otherwise, so that a changed file holds for what is loaded, too. It is said once: where a
neuron's own catalogue has the model, or another gateway's file differs, nobody argues.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from cortex.catalogue import ModelSpec, near
from cortex.errors import BadAsk, CortexError, NotResident, TooSlow, UnknownModel, UpstreamFailed
from cortex.gateway.fleet import Fleet, Neuron
from cortex.gateway.listing import Listing
from cortex.wire import neuron as wire
from cortex.wire.fleet import PinReport
from cortex.wire.keeping import Keep, KeepRequest

log = logging.getLogger(__name__)

# A neuron writes a file for a pin, which takes moments; one that takes longer than this hangs.
LONGEST_ORDER_S: Final = 10.0


@dataclass(slots=True)
class _Told:
    """What one process of a neuron knows of the catalogue, by model."""

    boot_id: str = ""
    keeps: dict[str, Keep] = field(default_factory=dict)


class Pins:
    """The pins of one gateway's fleet. Tasks of `nursery` tell neurons what the catalogue says."""

    def __init__(self, listing: Listing, nursery: trio.Nursery) -> None:
        self._listing, self._nursery = listing, nursery
        self._told: dict[str, _Told] = {}

    @property
    def _fleet(self) -> Fleet:
        return self._listing.fleet

    def heed(self, neuron: Neuron) -> None:
        """A report has come: the neuron is told where the catalogue says otherwise."""
        for order in self._owed(neuron):
            self._nursery.start_soon(self._tell, neuron, order)

    def forget(self, neuron: str) -> None:
        """There is no such neuron any more."""
        self._told.pop(neuron, None)

    async def put(self, model: str, at: str | None, *, pinned: bool) -> PinReport:
        """`model` stays, or may leave again: at the neuron `at`, else wherever it is. Raises when no
        neuron obeyed; one that did not while others did is in the answer."""
        resident: dict[str, bool] = {}
        failed: dict[str, CortexError] = {}
        for neuron in self._meant(model, at, pinned=pinned):
            try:
                resident[neuron.name] = await self._order(neuron, model, pinned=pinned)
            except CortexError as error:
                failed[neuron.name] = error
        if failed and not resident:
            raise next(iter(failed.values()))
        return PinReport(
            model=model,
            pinned=pinned,
            neurons=list(resident),
            awaited=[name for name, here in resident.items() if not here],
            failed={name: error.message for name, error in failed.items()},
        )

    def _meant(self, model: str, at: str | None, *, pinned: bool) -> list[Neuron]:
        """The neurons that an order concerns."""
        if at is not None:
            return [self._named(at)]
        holders = self._listing.ledger.holders(model)
        here = {place.name for place, resident in holders if resident.phase != "leaving"}
        # One to be unpinned may be awaited somewhere, with a pin.
        found = [
            neuron
            for neuron in self._fleet
            if neuron.up and (neuron.name in here or (not pinned and model in neuron.residents.pinned))
        ]
        if pinned and not found:
            raise NotResident(
                f"Model '{model}' is loaded nowhere. Load it first, name the neuron to pin it at, or write "
                "pinned_on in models.toml",
                param="model",
            )
        return found

    def _named(self, name: str) -> Neuron:
        names = [neuron.name for neuron in self._fleet]
        if name in names:
            return self._fleet[name]
        like = near(name, names) or names
        raise BadAsk(f"There is no neuron '{name}'; there is {', '.join(like) or 'none'}", param="neuron")

    async def _order(self, neuron: Neuron, model: str, *, pinned: bool) -> bool:
        """The neuron obeyed, and is believed to have; answers whether the model is there."""
        # First what the file says: the neuron lets go of no pin that it has from there.
        for owed in list(self._owed(neuron, model)):
            await self._tell(neuron, owed)
        try:
            with trio.fail_after(LONGEST_ORDER_S):
                answer = await neuron.remote.pin(model, pinned=pinned)
        except trio.TooSlowError as error:
            raise TooSlow(f"Neuron '{neuron.name}' took over {LONGEST_ORDER_S:.0f} s for a pin") from error
        except UnknownModel as error:
            raise NotResident(
                f"Model '{model}' is not loaded on '{neuron.name}', and unknown to its own models.toml: load "
                "it there first, or write pinned_on in the gateway's models.toml",
                param="model",
            ) from error
        log.info("model.%s model=%s neuron=%s", "pinned" if pinned else "unpinned", model, neuron.name)
        await self._fleet.look_again(neuron.name)
        await self._fleet.told_all(neuron.name)
        return answer.resident

    def _owed(self, neuron: Neuron, only: str | None = None) -> Iterator[KeepRequest]:
        """What the neuron has to be told of its residents; it counts as told from here on."""
        told = self._told.setdefault(neuron.name, _Told())
        if told.boot_id != neuron.residents.boot_id:
            told.boot_id, told.keeps = neuron.residents.boot_id, {}
        here = {report.id: report for report in neuron.residents.models if report.state == "loaded"}
        if only is None:
            told.keeps = {model: keep for model, keep in told.keeps.items() if model in here}
        for model, report in here.items():
            before = told.keeps.get(model)
            said = self._said(neuron.name, model, before)
            if said is None or only not in (None, model):
                continue
            told.keeps[model] = said
            if before is None and _alike(neuron.residents, report, said):
                continue
            if said != before:
                yield KeepRequest(id=model, keep=said)

    def _said(self, neuron: str, model: str, before: Keep | None) -> Keep | None:
        """What the catalogue says of a model. Of one that it has no more, what is usual."""
        spec = self._listing.catalogue.specs.get(model)
        if spec is None:
            return None if before is None else Keep()
        return keep_of(spec, neuron)

    async def _tell(self, neuron: Neuron, order: KeepRequest) -> None:
        """The neuron knows, or is told again after its next report if it may know one day."""
        try:
            with trio.fail_after(LONGEST_ORDER_S):
                answer = await neuron.remote.keep(order)
        except (NotResident, UpstreamFailed, trio.TooSlowError) as error:
            if (told := self._told.get(neuron.name)) is not None:
                told.keeps.pop(order.id, None)
            log.debug("keep.untold model=%s neuron=%s cause=%s", order.id, neuron.name, error)
        except CortexError as error:
            log.warning("keep.refused model=%s neuron=%s cause=%s", order.id, neuron.name, error.message)
        else:
            holds = answer.keep
            log.info(
                "keep.told model=%s neuron=%s pinned=%s priority=%d",
                order.id,
                neuron.name,
                holds.pinned,
                holds.priority,
            )


def keep_of(spec: ModelSpec, neuron: str) -> Keep:
    """What an entry says of its model where that is loaded on `neuron`."""
    return Keep(pinned=neuron in spec.pinned_on, priority=spec.priority, idle_unload_s=spec.idle_unload_s)


def _alike(residents: wire.Residents, report: wire.ResidentReport, said: Keep) -> bool:
    """Whether a neuron that was told nothing shows what the catalogue says, as far as it shows that."""
    by_order = report.id in residents.pinned
    idles = report.idle_unload_s in (None, said.idle_unload_s)
    return idles and report.priority == said.priority and report.pinned == (said.pinned or by_order)
