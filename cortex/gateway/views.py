"""The catalogue as each caller may see it.

A model may be used by whoever may use one of the names that it is asked by or stands for: its
id, or the alias of the request. A caller whose key is narrowed sees nothing of the others: a
model that he may not use and one that nobody knows get the same answer. One who may use an
alias only sees that alone, in whatever cortex says of the model. What tells of files, where models
may be named that are not his, takes the scope admin.
"""

import re
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from cortex.ask import Json
from cortex.errors import Busy, CortexError, DoesNotFit, NoRoom, UnknownModel
from cortex.gateway.listing import Listing
from cortex.keys import Accounts
from cortex.wire.fleet import CatalogueModel, FleetNeuron, FleetReport
from cortex.wire.happenings import Happening, LoadFailed

# Refusals that name who takes up the room.
_CROWDED: Final = frozenset({Busy.code, DoesNotFit.code, NoRoom.code})


@dataclass(frozen=True, slots=True)
class Views:
    """`caller` is the name of a key, "" for one without."""

    listing: Listing
    accounts: Accounts

    def ids(self, caller: str) -> list[str]:
        """What to ask for, once for each model; each alias of one whose id may not be used."""
        return sorted(self._seen(caller))

    def shown(self, caller: str, name: str) -> str:
        """The name by which `caller` knows the model that `name` stands for: its id, if he may use
        that. Raises when there is none for him."""
        return self.called(caller, name, self.known(caller, name))

    def called(self, caller: str, name: str, model: str) -> str:
        """What `caller` calls the model of that id which he asked for as `name`."""
        return model if self.accounts.allows(caller, model) else name

    def entry(self, caller: str, name: str) -> dict[str, Json]:
        """The same model as GET /v1/models lists it."""
        shown, model = self.shown(caller, name), self.listing.catalogue.resolve(name)
        entry = self.listing.entry(model)
        if shown == model:
            return entry
        why = {"why": _renamed(str(entry["why"]), model, shown)} if "why" in entry else {}
        return {**entry, "id": shown, "aliases": [], **why}

    def name(self, caller: str, model: str) -> str | None:
        """What `caller` calls the model of that id: the id, else the first alias that he may use; None
        when he may not know of it."""
        if self.accounts.allows(caller, model):
            return model
        aliases = self.listing.catalogue.aliases_of(model)
        return next((alias for alias in aliases if self.accounts.allows(caller, alias)), None)

    def happening(self, caller: str, event: Happening) -> Happening | None:
        """An event as `caller` may hear of it; None when it is about a model that he may not know of."""
        model = getattr(event, "model", "")
        if not model or not self.accounts.narrow(caller):
            return event
        if (name := self.name(caller, model)) is None:
            return None
        if isinstance(event, LoadFailed) and event.code in _CROWDED:
            return replace(event, model=name, message=f"There is no room for '{name}' at the moment")
        if name == model:
            return event
        if isinstance(event, LoadFailed):
            return replace(event, model=name, message=_renamed(event.message, model, name))
        return replace(event, model=name)

    def discreet(self, caller: str, model: str, name: str, error: CortexError) -> CortexError:
        """`error` about the model of that id in the words that `caller` may hear, who calls it `name`: a
        neuron names who blocks its room."""
        message, facts, blockers = error.message, error.facts, error.facts.get("blocked_by")
        if isinstance(blockers, list) and self.names(caller, blockers) != blockers:
            message = f"There is no room for '{name}' at the moment; try again later, or ask the operator"
            facts = {key: fact for key, fact in facts.items() if key != "blocked_by"}
        elif name != model:
            message = _renamed(message, model, name)
        if message == error.message:
            return error
        told = copy(error)
        told.message, told.args, told.facts = message, (message,), facts
        return told

    def fleet(self, caller: str, whole: FleetReport) -> FleetReport:
        """GET /fleet without the models that `caller` may not know of, nor what neurons warn of, which
        may name them."""
        if not self.accounts.narrow(caller):
            return whole
        loads = [replace(row, model=name) for row in whole.loads if (name := self.name(caller, row.model))]
        return replace(
            whole,
            neurons=[self._neuron(caller, neuron) for neuron in whole.neurons],
            models=[_row(row, name) for row in whole.models if (name := self.name(caller, row.id))],
            loads=loads,
        )

    def names(self, caller: str, models: Iterable[str]) -> list[str]:
        """Those of these ids that `caller` may know of, as he calls them."""
        return [name for model in models if (name := self.name(caller, model))]

    def _neuron(self, caller: str, neuron: FleetNeuron) -> FleetNeuron:
        models = [replace(row, id=name) for row in neuron.models if (name := self.name(caller, row.id))]
        warnings = neuron.warnings if self.accounts.governs(caller) else []
        return replace(neuron, models=models, warnings=warnings)

    def resolve(self, caller: str, name: str) -> str:
        """The id that `name` stands for. Raises for one that `caller` may not use; what everybody
        may ask for and nobody knows is found out where it is placed."""
        model = self.listing.catalogue.resolve(name)
        if not self.accounts.narrow(caller):
            return model
        if self.accounts.allows(caller, name, model) and self.listing.has(model):
            return model
        raise self.missing(caller, name)

    def known(self, caller: str, name: str) -> str:
        """The same, of a model that exists."""
        model = self.resolve(caller, name)
        if not self.listing.has(model):
            raise self.missing(caller, name)
        return model

    def missing(self, caller: str, name: str) -> CortexError:
        """The error for a name that nothing answers to which `caller` may use."""
        if not self.accounts.narrow(caller):
            return self.listing.missing(name)
        error = self.listing.missing(name, [*self.ids(caller), *self._aliases(caller)])
        if not isinstance(error, UnknownModel):
            return error
        hint = f" The key '{caller}' sees only the models that it may use."
        return UnknownModel(error.message + hint, param="model")

    def _seen(self, caller: str) -> Iterator[str]:
        ids = self.listing.ids()
        yield from (model for model in ids if self.accounts.allows(caller, model))
        if self.accounts.narrow(caller):
            exist = set(ids)
            for alias in self._aliases(caller):
                model = self.listing.catalogue.resolve(alias)
                if model in exist and not self.accounts.allows(caller, model):
                    yield alias

    def _aliases(self, caller: str) -> Iterator[str]:
        return (alias for alias in self.listing.catalogue.aliases if self.accounts.allows(caller, alias))


def _renamed(message: str, model: str, name: str) -> str:
    """The message with the other name, wherever it stands as errors have it: quoted, or with a colon."""
    said = re.escape(model)
    return re.sub(rf"(?<='){said}(?=')|(?<!\S){said}(?=: )", lambda _: name, message)


def _row(row: CatalogueModel, name: str) -> CatalogueModel:
    if name == row.id:
        return row
    return replace(row, id=name, aliases=[], why=_renamed(row.why, row.id, name))
