"""Knows where configuration files lie, and checks one whatever its kind.

Pure look-up of candidate paths: which of them exists is the caller's question. The
kind of a file is told by its tables, and by its name only where these leave it open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cortex.config.gateway import read_gateway
from cortex.config.models import read_models
from cortex.config.neuron import read_neuron
from cortex.config.reading import open_document
from cortex.config.tables import GATEWAY_FILE, MODELS_FILE, NEURON_FILE
from cortex.errors import ConfigError

Role: TypeAlias = Literal["gateway", "neuron", "models"]

NAMES: Final[Mapping[Role, str]] = {
    "gateway": "cortex.toml",
    "neuron": "neuron.toml",
    "models": "models.toml",
}
_TABLES: Final = {"gateway": GATEWAY_FILE, "neuron": NEURON_FILE, "models": MODELS_FILE}


@dataclass(frozen=True, slots=True)
class Report:
    """What `cortex config check` says of a file; `kind` None when it could not be told."""

    kind: Role | None
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def candidates(role: Role, env: Mapping[str, str]) -> list[Path]:
    """Where the file of a role is looked for, first come first."""
    name = NAMES[role]
    places = [Path("/etc/cortex") / name]
    if role == "neuron":
        places.append(Path("/etc/neuron") / name)
    if home := _config_home(env):
        places.append(home / "cortex" / name)
    return places


def check(path: Path) -> Report:
    """Every fault and warning of one file, by itself: no environment, no other file but secrets."""
    kind: Role | None = None
    try:
        kind = _kind(path)
        if kind is None:
            names = ", ".join(NAMES.values())
            return Report(None, (f"{path}: has no table that tells {names} apart",))
        return Report(kind, (), tuple(_warnings(kind, path)))
    except ConfigError as error:
        warnings = error.facts.get("warnings")
        return Report(kind, tuple(error.faults), tuple(warnings) if isinstance(warnings, list) else ())


def _warnings(kind: Role, path: Path) -> list[str]:
    if kind == "gateway":
        return read_gateway(path, {})[1]
    return read_neuron(path, {})[1] if kind == "neuron" else read_models(path)[1]


def _kind(path: Path) -> Role | None:
    """The file with the most of its tables here; the name decides between equals."""
    tables = open_document(path).plain
    scores = {role: sum(name in _TABLES[role].keys for name in tables) for role in NAMES}
    best = [role for role, score in scores.items() if score == max(scores.values())]
    named = [role for role in best if NAMES[role] == path.name]
    return best[0] if len(best) == 1 else next(iter(named), None)


def _config_home(env: Mapping[str, str]) -> Path | None:
    """$XDG_CONFIG_HOME, which counts only when absolute; else ~/.config."""
    said = Path(env.get("XDG_CONFIG_HOME", ""))
    if said.is_absolute():
        return said
    return Path(env["HOME"]) / ".config" if env.get("HOME") else None
