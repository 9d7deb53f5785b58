"""docs/config.md and the list of known keys say the same, in both directions.

The defaults of the page are read as TOML, by the key's own kind, and compared with
the field that the key fills: so the page, the kinds and the dataclasses hold each other.
"""

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from cortex.ask import Sampling
from cortex.catalogue import Cost, ModelSpec
from cortex.config.gateway import ColdLoad, Discovery, Eviction, GatewayConfig, NeuronRef, Poll
from cortex.config.hub import HubConfig
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.config.network import PRIVATE
from cortex.config.neuron import Admission, Devices, ExLlamaV2, LlamaCpp, NeuronConfig, NeuronEviction
from cortex.config.reading import Known, Table
from cortex.config.tables import GATEWAY_FILE, MODEL_KEYS, MODELS_FILE, NEURON_FILE, SAMPLING
from cortex.config.upstream import UpstreamConfig

PAGE = (Path(__file__).parent.parent / "docs" / "config.md").read_text(encoding="utf-8")
FILES = {"cortex.toml": GATEWAY_FILE, "neuron.toml": NEURON_FILE, "models.toml": MODELS_FILE}
SHAPES = {
    ("cortex.toml", "gateway"): GatewayConfig,
    ("cortex.toml", "eviction"): Eviction,
    ("cortex.toml", "cold_load"): ColdLoad,
    ("cortex.toml", "limits"): Limits,
    ("cortex.toml", "poll"): Poll,
    ("cortex.toml", "neurons"): NeuronRef,
    ("cortex.toml", "discovery"): Discovery,
    ("cortex.toml", "keys"): Key,
    ("neuron.toml", "neuron"): NeuronConfig,
    ("neuron.toml", "devices"): Devices,
    ("neuron.toml", "eviction"): NeuronEviction,
    ("neuron.toml", "harness.llamacpp"): LlamaCpp,
    ("neuron.toml", "harness.exllamav2"): ExLlamaV2,
    ("neuron.toml", "harness.upstream"): UpstreamConfig,
    ("neuron.toml", "hub"): HubConfig,
    ("neuron.toml", "admission"): Admission,
    ("models.toml", "models"): ModelSpec,
    ("models.toml", "models.cost"): Cost,
    ("models.toml", "models.sampling"): Sampling,
}
# Sections with the keys of another one, and what those are.
SAME = {
    "default_models": (MODEL_KEYS.keys, "[[models]]"),
    "alias_sampling": (SAMPLING.keys, "[models.sampling]"),
}
# Keys that reach a field of another name, and keys whose one value needs no field.
FIELDS = {"token_file": "token", "api_key_env": "api_key", "api_key_file": "api_key"}


def sections(table, at=()):
    """Heading and node of every section that the page must have."""
    for name, node in table.keys.items():
        path = (*at, name)
        if isinstance(node, Table):
            # A table that only holds tables needs no heading of its own.
            if not node.keys or any(isinstance(inner, Known) for inner in node.keys.values()):
                yield ".".join(path), node
            if node.keys is not MODEL_KEYS.keys or name == "models":
                yield from sections(node, path)
        elif not at:
            yield name, node


KNOWN = {(file, name): node for file, table in FILES.items() for name, node in sections(table)}


def documented():
    """(file, section) to its text and the cells of its rows by key."""
    found = {}
    for part in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        file = part.split("\n", 1)[0]
        for section in re.split(r"^### ", part, flags=re.M)[1:]:
            heading, text = section.split("\n", 1)
            rows = [
                re.split(r" \| ", line.strip("| \n")) for line in text.splitlines() if line.startswith("| `")
            ]
            name = heading.strip("`[]")
            found[file, name] = heading.strip("`"), text, {row[0].strip("`"): row[1:] for row in rows}
            assert len(found[file, name][2]) == len(rows), f"{heading} names a key twice"
    return found


PAGES = documented()
ROWS = [
    pytest.param(file, section, key, known, id=f"{file}:{section}.{key}")
    for (file, section), node in KNOWN.items()
    if isinstance(node, Table) and section not in SAME
    for key, known in node.keys.items()
    if isinstance(known, Known)
]


def test_the_page_has_every_section_and_no_other():
    assert set(PAGES) == set(KNOWN)


@pytest.mark.parametrize(("file", "section"), KNOWN)
def test_a_section_is_written_as_the_file_writes_it(file, section):
    node, (heading, text, rows) = KNOWN[file, section], PAGES[file, section]
    if isinstance(node, Table):
        assert heading == (f"[[{section}]]" if node.many else f"[{section}]")
        assert node.idle == ("No effect in this version." in text.split("|")[0])
    else:
        assert f"Type: {node.word}." in text and not rows
        assert bool(node.old) == ("Key of the predecessor" in text)


@pytest.mark.parametrize(("file", "section"), KNOWN)
def test_the_page_names_the_keys_of_a_section_and_no_other(file, section):
    node, (_, text, rows) = KNOWN[file, section], PAGES[file, section]
    if section in SAME:
        keys, where = SAME[section]
        assert node.keys is keys and f"the keys of `{where}`" in text and not rows
    elif isinstance(node, Table):
        assert set(rows) == {key for key, inner in node.keys.items() if isinstance(inner, Known)}


@pytest.mark.parametrize(("file", "section", "key", "known"), ROWS)
def test_type_default_and_standing_of_a_key_are_as_documented(file, section, key, known):
    word, default, meaning = PAGES[file, section][2][key]
    shape = SHAPES.get((file, section))
    idle = known.idle or KNOWN[file, section].idle
    assert word == known.word
    assert idle == ("no effect in this version" in meaning.lower())
    assert bool(known.old) == ("Key of the predecessor" in meaning)
    assert known.required == (default == "required")
    field = {field.name: field for field in fields(shape)}.get(FIELDS.get(key, key)) if shape else None
    if field is None:
        assert default == "-"
        assert idle or known.old or FIELDS.get(key, key) is None, "a key that fills nothing"
    elif not known.required:
        assert written(default, known) == (field.default if field.default is not MISSING else None)


def written(cell, known):
    """The value of a cell of the column 'default', as the program has it."""
    if cell == "none":
        return () if known.form == "list" else None
    if cell == "loopback and private networks":
        return PRIVATE
    value = tomllib.loads(f"x = {cell.strip('`')}")["x"]
    return tuple(known.kind.read(item) for item in value) if known.form == "list" else known.kind.read(value)


@pytest.mark.parametrize(("file", "section"), SHAPES)
def test_every_field_is_filled_by_a_key_or_a_section(file, section):
    filled = {FIELDS.get(key, key) for key in KNOWN[file, section].keys} | set(FILES[file].keys)
    # Those of the harnesses are tables of [harness]; a neuron's limits are not in its file.
    rest = {field.name for field in fields(SHAPES[file, section])} - filled
    assert rest <= {"llamacpp", "exllamav2", "upstream", "limits"}


def test_the_page_lists_the_networks_that_are_trusted_by_default():
    said = re.search(r"\*\*Default of `trusted_networks`:\*\*.*?\n\n", PAGE, flags=re.S)[0]
    assert set(re.findall(r"[0-9a-f:.]+/[0-9]+", said)) == {str(network) for network in PRIVATE}
