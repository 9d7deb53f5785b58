"""Reads a role's file together with the models.toml that it goes with.

What is wrong between two files is a fault of the one that names the other, at its line:
a catalogue that is not there, an alias that clashes with it. All faults of both come at
once. A file that is plainly of another kind is told as that, and not key by key.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from cortex import demo
from cortex.catalogue import PATH, Catalogue
from cortex.config import gateway, neuron
from cortex.config.lines import Path
from cortex.config.models import alias_faults, check_alias_sampling, check_drafts, read_models
from cortex.config.reading import Document, Table, open_document
from cortex.config.tables import GATEWAY_FILE, MODELS_FILE, NEURON_FILE
from cortex.errors import ConfigError

Kind: TypeAlias = Literal["gateway", "neuron", "models"]
Config = TypeVar("Config", gateway.GatewayConfig, neuron.NeuronConfig)

NAMES: Final[Mapping[Kind, str]] = {
    "gateway": "cortex.toml",
    "neuron": "neuron.toml",
    "models": "models.toml",
}
TABLES: Final[Mapping[Kind, Table]] = {"gateway": GATEWAY_FILE, "neuron": NEURON_FILE, "models": MODELS_FILE}
# So many models tell which are meant.
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Whole(Generic[Config]):
    """A role's configuration, its catalogue, and the file that has it. `files` are all that were
    read, `digest` is the SHA-256 of the catalogue's."""

    config: Config
    catalogue: Catalogue
    models: FilePath | None
    warnings: tuple[str, ...]
    files: tuple[FilePath, ...] = ()
    digest: str = ""


def whole_gateway(
    path: FilePath | None, env: Mapping[str, str], usual: FilePath | None = None
) -> Whole[gateway.GatewayConfig]:
    """cortex.toml, and the models.toml that it names, else the `usual` one. ConfigError lists
    every fault of both."""
    refuse_other_kind(path, "gateway")
    values, document = gateway.gather(path, env)
    said = values.get("gateway", {})
    old = "models_config" in document.plain
    at: Path = ("models_config",) if old else ("gateway", "models_config")
    models = _Models(document, said.get("models_config"), at, usual)
    for alias, why in alias_faults(models.catalogue, values.get("aliases", {})).items():
        document.found.fault(("aliases", alias), why)
    known = {**models.catalogue.aliases, **values.get("aliases", {})}
    if models.sound:
        check_alias_sampling(values, known, document.found)
    warnings = models.settle()
    tables = [*values.get("neurons", []), values.get("discovery", {})]
    tokens = [document.folder / table["token_file"] for table in tables if "token_file" in table]
    files = tuple(file for file in (path, models.path, *tokens) if file is not None)
    config = gateway.finish(values, document)
    return Whole(config, models.catalogue, models.path, warnings, files, models.digest)


def whole_neuron(
    path: FilePath | None, env: Mapping[str, str], usual: FilePath | None = None
) -> Whole[neuron.NeuronConfig]:
    """As `whole_gateway`, for neuron.toml."""
    refuse_other_kind(path, "neuron")
    values, document = neuron.gather(path, env)
    said = values["neuron"]
    models = _Models(document, said.get("models_config"), ("neuron", "models_config"), usual)
    defaults = values.get("default_models", [])
    if models.sound:
        check_drafts(defaults, ("default_models",), models.catalogue.find, document.found)
    if not said["model_roots"]:
        _warn_of_no_roots(models.catalogue, defaults, document)
    warnings = models.settle()
    return Whole(neuron.finish(values), models.catalogue, models.path, warnings)


def refuse_other_kind(path: FilePath | None, wanted: Kind) -> None:
    """ConfigError when the file has tables that only another kind has."""
    if path is None:
        return
    document = open_document(path)
    kind = kind_of(path, document)
    foreign = [name for name in document.plain if name not in TABLES[wanted].keys]
    if kind in (None, wanted) or not any(name in TABLES[kind].keys for name in foreign):
        return
    raise ConfigError(
        [
            f"{path}: looks like a {NAMES[kind]} (it has {', '.join(f'[{name}]' for name in foreign)}); "
            f"a {NAMES[wanted]} is wanted here"
        ]
    )


def kind_of(path: FilePath, document: Document) -> Kind | None:
    """The file with the most of its tables here; the name decides between equals."""
    scores = {kind: sum(name in TABLES[kind].keys for name in document.plain) for kind in NAMES}
    best = [kind for kind, score in scores.items() if score == max(scores.values())]
    named = [kind for kind in best if NAMES[kind] == path.name]
    return best[0] if len(best) == 1 else next(iter(named), None)


class _Models:
    """The catalogue that a role's file goes with; empty when it is faulty, which `settle` tells."""

    def __init__(self, document: Document, named: FilePath | None, at: Path, usual: FilePath | None) -> None:
        self.path = usual if named is None else document.folder / named
        self.catalogue = Catalogue()
        self.digest = ""
        self._document = document
        self._faults: list[str] = []
        self._warnings: list[str] = []
        if self.path is not None:
            self._read(self.path, at if named is not None else ())

    @property
    def sound(self) -> bool:
        """Whether there is nothing wrong with its file."""
        return not self._faults

    def settle(self) -> tuple[str, ...]:
        """The warnings of both files; ConfigError with all faults of both."""
        faults, warnings = self._faults, self._warnings
        try:
            warnings = [*self._document.found.settle(), *warnings]
        except ConfigError as own:
            faults, warnings = [*own.faults, *faults], [*_warnings_of(own), *warnings]
        if faults:
            error = ConfigError(faults)
            error.facts["warnings"] = list(warnings)
            raise error
        return tuple(warnings)

    def _read(self, path: FilePath, at: Path) -> None:
        try:
            # Before it is parsed: of a file that changes meanwhile, this is not what it says.
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            self._document.found.fault(at, f"{path} cannot be read: {error.strerror or error}")
            return
        try:
            refuse_other_kind(path, "models")
            self.catalogue, self._warnings = read_models(path)
        except ConfigError as error:
            self._faults, self._warnings = error.faults, _warnings_of(error)


def _warnings_of(error: ConfigError) -> list[str]:
    said = error.facts.get("warnings")
    return [str(each) for each in said] if isinstance(said, list) else []


def _warn_of_no_roots(catalogue: Catalogue, defaults: list[dict[str, object]], document: Document) -> None:
    known: dict[str, tuple[object, object, object]] = {
        spec.id: (spec.source, spec.draft, spec.lora) for spec in catalogue
    }
    known |= {str(row.get("id")): (row.get("source"), row.get("draft"), row.get("lora")) for row in defaults}
    refused = [
        model
        for model, (source, draft, lora) in known.items()
        if _needs_root(source) or _needs_root(draft) or lora
    ]
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        document.found.warn(
            ("neuron", "model_roots"),
            f"is empty, so {', '.join(refused[:_SHOWN])}{more} will be refused at load: "
            "add the folder of each path: source and adapter to model_roots",
        )


def _needs_root(source: object) -> bool:
    if not isinstance(source, str) or not source.startswith(PATH):
        return False
    return not FilePath(source.removeprefix(PATH)).is_relative_to(demo.FOLDER)
