"""The catalogue as clients and operators see it: what there is, where, in which state.

Pure reads of the ledger and the last reports. Live facts beat the file; what nobody
knows is absent, never 0.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from cortex.ask import Json
from cortex.catalogue import Catalogue, ModelSpec, unknown
from cortex.errors import CortexError, Recovering, UnknownModel, Unreachable
from cortex.gateway.feasible import Feasible
from cortex.gateway.fleet import Fleet
from cortex.ledger import Ledger
from cortex.places import Place, Resident
from cortex.wire.fleet import CatalogueModel, Location, ModelState
from cortex.wire.neuron import ResidentReport

_UNSERVABLE: Final[tuple[ModelState, ...]] = ("unservable", "recovering")


@dataclass(frozen=True, slots=True)
class _Hearsay(ModelSpec):
    """A model that only neurons know: what it is from, and runs on, is for them to say."""

    @property
    def harness_name(self) -> str | None:
        return None


@dataclass(slots=True)
class Listing:
    """The merged catalogue of one gateway; a reload puts another `catalogue` in. `since` is the
    time, in Unix seconds, that its models are said to be created at: nobody here knows when they were."""

    catalogue: Catalogue
    ledger: Ledger
    fleet: Fleet
    since: int = field(default_factory=lambda: int(time.time()))
    _feasible: Feasible = field(init=False, repr=False)
    _hearsay: dict[str, _Hearsay] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        fleet = self.fleet
        self._feasible = Feasible(self.ledger, lambda name: fleet[name].up, lambda: fleet.comings)

    def ids(self) -> list[str]:
        """Every model that exists here: in the file, resident, or known to a neuron. What a
        neuron had that is away is listed still, so that its lack is seen."""
        found = {*self.catalogue.specs, *self.fleet.knowers}
        for neuron in self.fleet:
            found.update(report.id for report in neuron.residents.models)
        found.update(self.ledger.loads)
        return sorted(found)

    def has(self, model: str) -> bool:
        """Whether `model` is one of `ids`."""
        if model in self.catalogue.specs or self.ledger.holders(model):
            return True
        return bool(self.fleet.knowers.of(model))

    def missing(self, name: str, known: Iterable[str] | None = None) -> CortexError:
        """The error for a name that no model answers to; who has not reported yet might know it.
        `known` are the names that may be hinted at, else all."""
        silent = [neuron.name for neuron in self.fleet if not neuron.heard]
        error = unknown(name, self.names() if known is None else known)
        if not silent or not isinstance(error, UnknownModel):
            return error
        if not any(neuron.heard for neuron in self.fleet):
            return Recovering(
                f"No neuron has reported yet, so nobody knows whether '{name}' exists; see `cortex status`"
            )
        hint = f" Not heard from yet, and so not asked: {', '.join(silent)}."
        return UnknownModel(error.message + hint, param="model")

    def names(self) -> Iterator[str]:
        """Ids and aliases."""
        yield from self.ids()
        yield from self.catalogue.aliases

    def spec(self, model: str) -> ModelSpec | None:
        """The catalogue's entry, as neurons understand it, or one made up for a model that only they
        know."""
        spec = self.catalogue.specs.get(model)
        if spec is not None:
            return self.catalogue.for_others(spec)
        knowers, made = self.fleet.knowers.of(model), self._hearsay.pop(model, None)
        if not knowers:
            return None
        if made is None or made.pinned_on is not knowers:
            made = _Hearsay(model, pinned_on=knowers, residency_priority=100)
        # The same one again: what is known of it elsewhere holds for as long.
        self._hearsay[model] = made
        return made

    def model(self, model: str) -> CatalogueModel:
        """One entry."""
        locations = [
            Location(
                neuron=place.name,
                devices=sorted(resident.room_bytes),
                state=resident.phase if _proven(place, resident) else "recovering",
                bytes=resident.bytes,
            )
            for place, resident in sorted(self.ledger.holders(model), key=lambda pair: pair[0].name)
        ]
        spec = self.spec(model)
        feasible = list(self._feasible.names(spec)) if spec is not None else []
        state, why = self._state(model, spec)
        aliases = list(self.catalogue.names(spec)) if spec is not None else []
        return CatalogueModel(
            id=model,
            state=state,
            locations=locations,
            feasible_on=feasible,
            aliases=aliases,
            why=why,
            waiting=self.ledger.waiting_for(model),
        )

    def served(self, model: str) -> bool:
        """Whether a request for it would be taken where it is, by a neuron on probation for one."""
        return any(place.ready and resident.servable for place, resident in self.ledger.holders(model))

    def sees(self, model: str) -> bool | None:
        """Whether it can be shown pictures; None when nobody knows before it is loaded."""
        if told := {name for report in self._told(model) for name in report.capabilities}:
            return "vision" in told
        spec = self.catalogue.specs.get(model)
        if spec is None or spec.kind is None:
            return None
        if spec.kind != "upstream":
            return False  # no engine of ours sees
        return "vision" in spec.capabilities if spec.capabilities else None

    def elsewhere(self, model: str) -> bool:
        """Whether an upstream serves it, as far as that is known."""
        spec = self.catalogue.specs.get(model)
        known = spec is not None and spec.kind == "upstream"
        return known or any(report.harness == "upstream" for report in self._told(model))

    def unservable(self) -> list[str]:
        """Those that nobody could serve at present, by id."""
        stands = ((model, self._state(model, self.spec(model))[0]) for model in self.ids())
        return self.hurt(stands)

    def hurt(self, stands: Iterable[tuple[str, ModelState]]) -> list[str]:
        """Of models in such a state those that nobody could serve at present."""
        return [model for model, state in stands if state in _UNSERVABLE and not self.served(model)]

    def models(self) -> list[CatalogueModel]:
        """All entries, by id."""
        return [self.model(model) for model in self.ids()]

    def entry(self, model: str) -> dict[str, Json]:
        """One model as GET /v1/models lists it."""
        row = self.model(model)
        entry: dict[str, Json] = {
            "id": model,
            "object": "model",
            "created": self.since,
            "owned_by": "cortex",
            "state": row.state,
            "locations": [_location(at) for at in row.locations],
            "feasible_on": list(row.feasible_on),
            "aliases": list(row.aliases),
        }
        if row.why:
            entry["why"] = row.why
        entry.update(self._facts(model))
        return entry

    def _facts(self, model: str) -> dict[str, Json]:
        facts: dict[str, Json] = {}
        spec, reports = self.catalogue.specs.get(model), list(self._reports(model))
        contexts = [report.context_length for report in reports if report.context_length]
        context = min(contexts, default=spec.context if spec else None)
        if context:
            facts["context_length"] = facts["max_model_len"] = context
        live = sorted({name for report in reports for name in report.capabilities})
        capabilities = live or (list(spec.able) if spec else [])
        if capabilities:
            facts["capabilities"] = list(capabilities)
            facts["tool_call"], facts["reasoning"] = "tools" in capabilities, "reasoning" in capabilities
            facts["vision"] = "vision" in capabilities
        if spec is not None and spec.cost is not None:
            cost: dict[str, Json] = {"input": spec.cost.input, "output": spec.cost.output}
            if spec.cost.cache_read is not None:
                cost["cache_read"] = spec.cost.cache_read
            if spec.cost.cache_write is not None:
                cost["cache_write"] = spec.cost.cache_write
            facts["cost"] = cost
        return facts

    def _told(self, model: str) -> Iterator[ResidentReport]:
        """What those say of it who have it."""
        for place, _ in self.ledger.holders(model):
            with suppress(Unreachable):  # taken out of the fleet, and not empty yet
                reports = self.fleet[place.name].residents.models
                yield from (report for report in reports if report.id == model)

    def _reports(self, model: str) -> Iterator[ResidentReport]:
        for place, _ in self.ledger.holders(model):
            neuron = self.fleet[place.name]
            if neuron.up:
                yield from (report for report in neuron.residents.models if report.id == model)

    def _state(self, model: str, spec: ModelSpec | None) -> tuple[ModelState, str]:
        holders = self.ledger.holders(model)
        serving = [(place, resident) for place, resident in holders if place.ready and resident.servable]
        if any(_proven(place, resident) for place, resident in serving):
            return "loaded", ""
        if any(resident.phase == "loading" for _, resident in holders):
            return "loading", ""
        if serving:
            return "recovering", f"served by '{serving[0][0].name}', which has to prove itself"
        if any(resident.phase != "leaving" for _, resident in holders):
            return "recovering", next((resident.fault or place.why_not for place, resident in holders), "")
        if (rest := self.ledger.resting(model)) is not None:
            left_s = max(1, math.ceil(rest.until - self.ledger.clock()))
            return "unservable", f"{rest.error.message}; it is not loaded again for {left_s} s"
        if spec is not None and self._feasible.names(spec):
            return "unloaded", ""
        return "unservable", "no neuron that is up can hold it; `cortex plan` says why of each"


def _proven(place: Place, resident: Resident) -> bool:
    """Whether nothing speaks against a resident and its neuron."""
    return resident.fault is None and (place.most is None or resident.phase != "loaded")


def _location(at: Location) -> dict[str, Json]:
    place: dict[str, Json] = {"neuron": at.neuron, "devices": list(at.devices), "state": at.state}
    # A load whose size its neuron has yet to look up.
    return {**place, "bytes": at.bytes} if at.bytes else place
