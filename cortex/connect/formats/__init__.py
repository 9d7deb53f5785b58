"""Texts of settings files, changed at one place each, with every other byte as it was written.

Each form can read a text and change it; `Unreadable` says what is wrong with one, and where.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from cortex.ask import Json
from cortex.connect.formats import json_text, toml_text, yaml_text
from cortex.connect.formats.unreadable import Unreadable
from cortex.connect.recipe import FormName

__all__ = ["FORMS", "Form", "Unreadable"]

Changing: TypeAlias = Callable[[str, tuple[str, ...], Json], str]


@dataclass(frozen=True, slots=True)
class Form:
    """One form. `empty` is the text of a file that says nothing; `put` makes what stands at a path a
    value, `add` puts one first in a list that is there, `drop` and `take` are their opposites."""

    empty: str
    read: Callable[[str], Json]
    put: Changing
    add: Changing
    drop: Callable[[str, tuple[str, ...]], str]
    take: Changing


FORMS: Final = MappingProxyType[FormName, Form](
    {
        "json": Form("{}\n", json_text.read, json_text.put, json_text.add, json_text.drop, json_text.take),
        "toml": Form("", toml_text.read, toml_text.put, toml_text.add, toml_text.drop, toml_text.take),
        "yaml": Form("", yaml_text.read, yaml_text.put, yaml_text.add, yaml_text.drop, yaml_text.take),
    }
)
