"""Chat templates are found where models keep them, beside the weights.

In this order: `chat_template.jinja` (with `additional_chat_templates/tool_use.jinja`),
`chat_template.json`, `tokenizer_config.json` (one template, or a list with names). The
first that holds one wins; a GGUF's own comes after them all. Beside a GGUF only the first
two count: they are put there on purpose, while a tokenizer's config may be another
model's. Bounded reads of fixed names; a file that is broken is `Unfit`, not skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from cortex.errors import Unfit
from cortex.weights.bounded import contents
from cortex.wire.reading import in_json_words

# A tokenizer's config lists all added tokens: the largest have some MiB.
MOST_BYTES: Final = 16 * 2**20
JINJA: Final = "chat_template.jinja"
TOOL_JINJA: Final = "additional_chat_templates/tool_use.jinja"
JSON: Final = "chat_template.json"
CONFIG: Final = "tokenizer_config.json"
# What else is read of a model's folder before it is loaded.
BESIDE: Final = ("config.json", "generation_config.json", "tokenizer.json")


class _Named(msgspec.Struct, frozen=True):
    name: str
    template: str


class _Token(msgspec.Struct, frozen=True):
    content: str


class _Config(msgspec.Struct, frozen=True):
    chat_template: str | list[_Named] | None = None
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None


@dataclass(frozen=True, slots=True)
class TemplateSources:
    """What a model ships. `tool_use` takes the place of `plain` where tools are given. The
    tokens are None where the files do not tell."""

    plain: str | None = None
    tool_use: str | None = None
    bos: str | None = None
    eos: str | None = None

    @property
    def found(self) -> bool:
        return self.plain is not None or self.tool_use is not None


_Look: TypeAlias = Callable[[Path], TemplateSources]


def templates_of(model: Path) -> TemplateSources:
    """The templates of the model folder `model`, or those beside the weights file `model`. Raises
    Unfit. Touches the disk: for a thread."""
    if not model.is_dir():
        return _first(model.parent, (_jinja, _json))
    found = _first(model, (_jinja, _json, _config))
    tokens = _config(model)
    return TemplateSources(found.plain, found.tool_use, tokens.bos, tokens.eos)


def stamp(model: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes when a file does that is looked at beside the weights, be it in its place."""
    folder = model if model.is_dir() else model.parent
    return tuple(_stamp(folder / name) for name in (JINJA, TOOL_JINJA, JSON, CONFIG, *BESIDE))


def _first(folder: Path, looks: tuple[_Look, ...]) -> TemplateSources:
    found = (look(folder) for look in looks)
    return next((sources for sources in found if sources.found), TemplateSources())


def _jinja(folder: Path) -> TemplateSources:
    plain = contents(folder / JINJA, MOST_BYTES)
    return TemplateSources(
        _text(folder / JINJA, plain), _text(folder / TOOL_JINJA, contents(folder / TOOL_JINJA, MOST_BYTES))
    )


def _json(folder: Path) -> TemplateSources:
    return _sources(folder / JSON)


def _config(folder: Path) -> TemplateSources:
    return _sources(folder / CONFIG)


def _sources(path: Path) -> TemplateSources:
    data = contents(path, MOST_BYTES)
    if data is None:
        return TemplateSources()
    try:
        config = msgspec.json.decode(data, type=_Config)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{path}: is not what it should be: {in_json_words(error)}; download it again") from error
    given = config.chat_template
    named = {each.name: each.template for each in given} if isinstance(given, list) else {"default": given}
    return TemplateSources(
        named.get("default"), named.get("tool_use"), _token(config.bos_token), _token(config.eos_token)
    )


def _token(token: str | _Token | None) -> str | None:
    return token.content if isinstance(token, _Token) else token


def _text(path: Path, data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise Unfit(f"{path}: is not UTF-8 ({error}); download it again") from error


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
