"""The words of a recipe: what a client is to be pointed at, and what its settings are to say.

Values alone. A key is told by the place where it stands, an environment variable or a file, so that
no setting, and nothing that is printed, has to hold it.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cortex.ask import Json

Dialect: TypeAlias = Literal["chat", "messages", "responses"]
FormName: TypeAlias = Literal["json", "toml", "yaml"]

VARIABLE: Final = "CORTEX_API_KEY"
# For a gateway without keys: most clients do not start without one.
NO_KEY: Final = "none"
# Of the context, so much may be an answer; the rest is for the conversation.
ANSWER_SHARE: Final = 4
MOST_ANSWER: Final = 32_000


@dataclass(frozen=True, slots=True)
class KeyAt:
    """Where the key is: in `file`, else in the variable if `given`, else nobody needs one."""

    given: bool = False
    file: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is a key at all."""
        return self.given or self.file is not None

    @property
    def shell(self) -> str:
        """The key as a word of a shell's line."""
        if self.file is not None:
            return f'"$(cat {shlex.quote(str(self.file))})"'
        return f'"${VARIABLE}"' if self.given else NO_KEY

    def before(self, command: str, variable: str = VARIABLE, *, always: bool = False) -> str:
        """`command` with `variable` set to the key, unless the environment has it so; `always` also
        where no key is wanted."""
        there = self.given and self.file is None and variable == VARIABLE
        if there or not (self.wanted or always):
            return command
        return f"{variable}={self.shell} {command}"


@dataclass(frozen=True, slots=True)
class Model:
    """A model by the name that it is asked for. `context` and `abilities` are None while nobody knows:
    before its first load."""

    name: str
    context: int | None = None
    abilities: frozenset[str] | None = None

    @property
    def answer(self) -> int | None:
        """How long an answer may be, so that room is left for the conversation."""
        return None if self.context is None else max(1, min(MOST_ANSWER, self.context // ANSWER_SHARE))

    def can(self, ability: str) -> bool | None:
        """None when nobody knows."""
        return None if self.abilities is None else ability in self.abilities


@dataclass(frozen=True, slots=True)
class Places:
    """Where this user's settings are."""

    home: Path
    environment: Mapping[str, str]

    def config(self) -> Path:
        """The folder of the XDG specification; what is not absolute is ignored, as it says."""
        named = Path(self.environment.get("XDG_CONFIG_HOME", ""))
        return named if named.is_absolute() else self.home / ".config"

    def state(self) -> Path:
        """Where it is remembered what was written."""
        named = Path(self.environment.get("XDG_STATE_HOME", ""))
        return (named if named.is_absolute() else self.home / ".local" / "state") / "cortex" / "connect"

    def own(self, variable: str, usual: str) -> Path:
        """The folder that a client's own variable names, else `usual` in the home."""
        named = self.environment.get(variable)
        return Path(named).expanduser() if named else self.home / usual


@dataclass(frozen=True, slots=True)
class Target:
    """What a client is to be pointed at. `file` stands in for its usual settings file."""

    endpoint: str
    model: Model
    fast: Model
    key: KeyAt
    places: Places
    file: Path | None = None

    @property
    def api(self) -> str:
        """The base of OpenAI's dialects."""
        return f"{self.endpoint}/v1"


@dataclass(frozen=True, slots=True)
class Edit:
    """What stands at `path` is `value`; or `value` is the first entry of the list there."""

    path: tuple[str, ...]
    value: Json
    add: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """Edits of one file. `path` is None where the client has no usual one."""

    path: Path | None
    form: FormName
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a client needs. `environment` are words for a shell; `example` is for what has no
    command of its own."""

    files: tuple[Settings, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    start: str = ""
    example: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """One client. Its first request has about `first` tokens, and it is of use from a context of
    `least` on, where these are known; `agent` lives by tool calls."""

    title: str
    dialect: Dialect
    make: Callable[[Target], Recipe]
    has_fast: bool = False
    agent: bool = False
    first: int = 0
    least: int = 0
    writes: bool = True
