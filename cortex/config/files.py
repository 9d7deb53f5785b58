"""Knows where configuration files lie, and checks one whatever its kind.

Pure look-up of candidate paths: which of them exists is the caller's question. A role's
file is checked together with the models.toml that it names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cortex.config.models import read_models
from cortex.config.reading import open_document
from cortex.config.whole import NAMES, Kind, kind_of, whole_gateway, whole_neuron
from cortex.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Report:
    """What `cortex config check` says of a file; `kind` None when it could not be told."""

    kind: Kind | None
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def candidates(role: Kind, env: Mapping[str, str]) -> list[Path]:
    """Where the file of a role is looked for, first come first."""
    name = NAMES[role]
    places = [Path("/etc/cortex") / name]
    if role == "neuron":
        places.append(Path("/etc/neuron") / name)
    if home := _config_home(env):
        places.append(home / "cortex" / name)
    return places


def check(path: Path) -> Report:
    """Every fault and warning of a file, and of the catalogue that it names; no environment."""
    kind: Kind | None = None
    try:
        kind = kind_of(path, open_document(path))
        if kind is None:
            names = ", ".join(NAMES.values())
            return Report(None, (f"{path}: has no table that tells {names} apart",))
        return Report(kind, (), tuple(_warnings(kind, path)))
    except ConfigError as error:
        warnings = error.facts.get("warnings")
        return Report(kind, tuple(error.faults), tuple(warnings) if isinstance(warnings, list) else ())


def _warnings(kind: Kind, path: Path) -> Iterable[str]:
    if kind == "gateway":
        return whole_gateway(path, {}).warnings
    return whole_neuron(path, {}).warnings if kind == "neuron" else read_models(path)[1]


def _config_home(env: Mapping[str, str]) -> Path | None:
    """$XDG_CONFIG_HOME, which counts only when absolute; else ~/.config."""
    said = Path(env.get("XDG_CONFIG_HOME", ""))
    if said.is_absolute():
        return said
    return Path(env["HOME"]) / ".config" if env.get("HOME") else None
