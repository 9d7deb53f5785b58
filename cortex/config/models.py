"""Reads models.toml into a catalogue, and carries its entries over the wire.

Owns what the keys of an entry mean together: ids are unique, aliases are flat and
clash with nothing, keys of the predecessor are carried over with a warning each. A
key without effect is left out of the spec, so that a spec says only what is acted on.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, Final

import msgspec

from cortex.ask import Json, Sampling
from cortex.catalogue import HUB, PATH, Catalogue, Cost, ModelSpec, paged
from cortex.config.lines import Path
from cortex.config.reading import Findings, Known, Values, distinct, dotted, fill, near, open_document, take
from cortex.config.tables import ALIAS_SAMPLING, MODEL_KEYS, MODELS_FILE
from cortex.errors import BadAsk, ConfigError, Unsupported

MIB = 2**20
# The head of a request holds 16 KiB, and so many fill no more than 10 of them.
MOST_ALIAS_BIAS: Final = 256
# What only one harness knows.
CUDA_KEYS: Final = ("draft", "speculation", "lora", "cache_tokens")
OWN_KEYS: Final = {"exllamav2": CUDA_KEYS, "llamacpp": ("pooling",)}
_HARNESS: Final = MODEL_KEYS.keys["harness"]
_FORMER: Final = _HARNESS.former if isinstance(_HARNESS, Known) else ()
# By these an entry is known to be the predecessor's.
_THEIRS: Final = frozenset(
    key for key, known in MODEL_KEYS.keys.items() if known.idle or (isinstance(known, Known) and known.old)
)
# What the predecessor quantised dense weights to while it loaded them.
_IN_PLACE: Final = ("q4k", "q5k", "q6k", "q8_0")


def read_models(path: FilePath) -> tuple[Catalogue, list[str]]:
    """The catalogue of a file and its warnings; ConfigError lists every fault."""
    document = open_document(path)
    found = document.found
    rows_as_written(document.plain.get("models"), ("models",), found)
    values = take(MODELS_FILE, document.plain, (), found)
    rows: list[Values] = values.get("models", [])
    check_rows(rows, ("models",), found)
    aliases = _aliases(values, rows, found)
    sketches = Catalogue({row["id"]: _sketch(row) for row in rows if "id" in row}, aliases)
    check_drafts(rows, ("models",), sketches.find, found)
    check_alias_sampling(values, aliases, found)
    warnings = found.settle()
    specs = [spec_of(row) for row in rows]
    return Catalogue({spec.id: spec for spec in specs}, aliases, alias_sampling(values)), warnings


def merge_aliases(
    catalogue: Catalogue, aliases: Mapping[str, str], sampling: Mapping[str, Sampling] = MappingProxyType({})
) -> Catalogue:
    """The catalogue with the aliases of cortex.toml and their `sampling`; ConfigError names each clash.

    An alias may stand for a model that only a neuron's own catalogue has.
    """
    faults = alias_faults(catalogue, aliases)
    if faults:
        raise ConfigError([f"cortex.toml: aliases.{alias}: {why}" for alias, why in faults.items()])
    merged = {**catalogue.alias_sampling, **sampling}
    return Catalogue(catalogue.specs, {**catalogue.aliases, **aliases}, merged)


def alias_sampling(values: Values) -> dict[str, Sampling]:
    """The `[alias_sampling]` tables of a file's good values."""
    return {name: fill(Sampling, said) for name, said in values.get("alias_sampling", {}).items()}


def check_alias_sampling(values: Values, aliases: Collection[str], found: Findings) -> None:
    """A fault for each table of a name that is no alias, and of more than a header can carry."""
    for name, said in values.get("alias_sampling", {}).items():
        if name not in aliases:
            known = dict.fromkeys(aliases)
            found.fault(("alias_sampling", name), "is the name of no alias" + near(name, known))
        if (tokens := len(said.get("logit_bias", ()))) > MOST_ALIAS_BIAS:
            found.fault(
                ("alias_sampling", name, "logit_bias"),
                f"names {tokens} tokens, and travels in a header with each request: {MOST_ALIAS_BIAS} are "
                "the most. Name fewer, or write them into the model's own [models.sampling]",
            )


def alias_faults(catalogue: Catalogue, aliases: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with aliases of cortex.toml, by themselves and beside a catalogue."""
    merged = dict(catalogue.aliases)
    faults = {
        alias: clash
        for alias, model in aliases.items()
        if (clash := _claim(merged, catalogue.specs, alias, model))
    }
    for alias, model in merged.items():
        if model not in merged:
            continue
        if alias in aliases:
            faults.setdefault(alias, f"stands for '{model}', which is an alias itself; write the id")
        else:
            faults.setdefault(model, f"is what '{alias}' of the catalogue stands for; that must be an id")
    return faults


def spec_to_plain(spec: ModelSpec) -> dict[str, Json]:
    """The entry as models.toml has it: what is not said, or default, is absent."""
    return {
        field.name: _json(getattr(spec, field.name))
        for field in fields(spec)
        if getattr(spec, field.name) != field.default
    }


def spec_from_plain(plain: Mapping[str, Json]) -> ModelSpec:
    """The entry that a request carries. BadAsk names the key that is wrong or without effect:
    there is no log to warn in, and a key must not be taken and ignored."""
    found = Findings("")
    values = take(MODEL_KEYS, plain, (), found)
    _check_row(values, (), found)
    findings = [*found.faults, *found.warnings]
    if findings:
        kind = BadAsk if found.faults else Unsupported
        param = dotted(findings[0].path)
        raise kind("the model entry cannot be used: " + "; ".join(map(str, findings)), param=param)
    return spec_of(values)


def spec_to_text(spec: ModelSpec) -> str:
    """The entry as one line of JSON, for a header, which has no letters but ASCII's."""
    return json.dumps(spec_to_plain(spec))


def spec_from_text(text: str) -> ModelSpec:
    """The same, read. Raises BadAsk."""
    try:
        return spec_from_plain(msgspec.json.decode(text, type=dict[str, Any]))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadAsk(f"the model entry cannot be read: {error}") from error


def sampling_to_text(sampling: Sampling) -> str:
    """Defaults of sampling as one line of JSON, for a header."""
    return msgspec.json.encode(_json(sampling)).decode()


def sampling_from_text(text: str) -> Sampling:
    """The same, read. Raises BadAsk for what no file could say."""
    found = Findings("")
    try:
        plain = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadAsk(f"the sampling of the alias cannot be read: {error}") from error
    values = take(ALIAS_SAMPLING, plain, (), found)
    if found.faults:
        raise BadAsk("the sampling of the alias cannot be used: " + "; ".join(map(str, found.faults)))
    return fill(Sampling, values)


def rows_as_written(rows: object, at: Path, found: Findings) -> None:
    """Take out what only the predecessor had a value for, before kinds are checked; and of an entry
    that is known by that, tell what its other keys mean here."""
    for i, row in enumerate(rows if isinstance(rows, list) else ()):
        if not isinstance(row, dict):
            continue
        theirs = not row.keys().isdisjoint(_THEIRS)
        if row.get("harness") in _FORMER:
            name, theirs = row.pop("harness"), True
            found.warn((*at, i, "harness"), f"'{name}' is no harness here; the weights' format chooses one")
        if theirs:
            _tell_changed(row, (*at, i), found)


def _tell_changed(row: Mapping[str, object], at: Path, found: Findings) -> None:
    """Keys of the predecessor that are keys here, with another meaning."""
    if row.get("pinned_on"):
        found.warn((*at, "pinned_on"), "pins the model, too: it is never evicted from these neurons")
    if row.get("quant") in _IN_PLACE:
        found.warn(
            (*at, "quant"), f"'{row['quant']}' picks a file of the hub's repo; nothing is quantised at a load"
        )


def check_rows(rows: list[Values], at: Path, found: Findings) -> None:
    """What good keys of entries can still get wrong together; old sizes become bytes."""
    distinct(rows, "id", at, found)
    for i, row in enumerate(rows):
        for old, key in (("vram_mb", "footprint"), ("min_device_vram_mb", "min_device_memory")):
            if old not in row:
                continue
            if key in row:
                found.fault((*at, i, old), f"says the same as {key}; keep only {key}")
            row[key] = row.pop(old) * MIB
        _check_row(row, (*at, i), found)


def check_drafts(
    rows: list[Values], at: Path, find: Callable[[str], ModelSpec | None], found: Findings
) -> None:
    """Each draft is a model that `find` knows, or a source, and one that can go ahead of another."""
    for i, row in enumerate(rows):
        if (name := row.get("draft")) is not None and (fault := _draft_fault(row, name, find(name))):
            found.fault((*at, i, "draft"), fault)


def _draft_fault(row: Values, name: str, draft: ModelSpec | None) -> str:
    if draft is None and name.startswith((HUB, PATH)):
        draft = ModelSpec("", source=name)
    if draft is None:
        return (
            f"'{name}' is no model of models.toml; add its entry there, or write where it is: "
            "hf:org/name or path:/absolute/folder"
        )
    if draft.id == row.get("id") or draft.origin == _sketch(row).origin is not None:
        return "is the model itself; name a smaller one of the same vocabulary"
    if not draft.may_draft:
        return f"'{name}' is a model of {draft.harness_name}; a draft is a folder of safetensors"
    return ""


def _sketch(row: Values) -> ModelSpec:
    """Where the model of a row is from, whatever else is wrong with the row."""
    return ModelSpec(
        row.get("id", ""), row.get("source"), row.get("harness"), row.get("quant"), row.get("revision")
    )


def _check_row(row: Values, at: Path, found: Findings) -> None:
    _check_origin(row, at, found)
    said = [key for key in CUDA_KEYS if row.get(key)]
    name = _sketch(row).harness_name
    why = f"says harness = '{name}'" if "harness" in row else f"is, by its source, for {name}"
    for harness, keys in OWN_KEYS.items():
        for key in keys if name not in (harness, None) else ():
            if row.get(key):
                found.fault((*at, key), f"is for harness {harness}, and this entry {why}; leave it out")
    if "vision" in row.get("capabilities", ()) and name not in ("upstream", None):
        found.warn((*at, "capabilities"), f"'vision' has no effect: {name} has none here, upstreams may")
    if "draft" in said and "speculation" in said:
        found.fault((*at, "speculation"), "and draft exclude each other; keep one of them")
    kept, context = paged(row.get("cache_tokens", 0)), row.get("context", 0)
    if "cache_tokens" in said and kept < context:
        found.fault(
            (*at, "cache_tokens"),
            f"is {kept} tokens in whole pages, and one context is {context}; raise it, or lower context",
        )


def _check_origin(row: Values, at: Path, found: Findings) -> None:
    """Quant and revision say which file of a hub's repo, and say it once."""
    source: str = row.get("source") or f"hf:{row.get('id', '')}"
    repo, _, picked = source.partition(":")[2].partition(":")
    for key, said in (("quant", picked), ("revision", repo.partition("@")[2])):
        if key not in row:
            continue
        if not source.startswith("hf:") or "/" not in repo:
            found.fault((*at, key), "is for models of a hub, and neither source nor id is hf:org/name")
        elif said:
            found.fault((*at, key), f"is said by the source already, as '{said}'; keep one of them")


def spec_of(values: Values) -> ModelSpec:
    """A spec from checked values, without those that nothing acts on."""
    live = {name: value for name, value in values.items() if not MODEL_KEYS.keys[name].idle}
    if "cost" in live:
        live["cost"] = fill(Cost, live["cost"])
    if "sampling" in live:
        live["sampling"] = fill(Sampling, live["sampling"])
    return fill(ModelSpec, live)


def _aliases(values: Values, rows: list[Values], found: Findings) -> dict[str, str]:
    """All aliases of a file: `[aliases]` first, then those of the entries."""
    ids = {row["id"]: None for row in rows if "id" in row}
    table: dict[str, str] = values.get("aliases", {})
    merged: dict[str, str] = {}
    claims: list[tuple[Path, str, str]] = [(("aliases", name), name, table[name]) for name in table]
    for i, row in enumerate(rows):
        listed = enumerate(row.get("aliases", ()) if "id" in row else ())
        claims += [(("models", i, "aliases", k), alias, row["id"]) for k, alias in listed]
    for at, alias, model in claims:
        if clash := _claim(merged, ids, alias, model):
            found.fault(at, clash)
    for alias, model in table.items():
        if model in merged:
            found.fault(("aliases", alias), f"stands for '{model}', which is an alias itself; write the id")
        elif model not in ids:
            hint = near(model, ids)
            found.warn(("aliases", alias), f"stands for '{model}', which is not in this file{hint}")
    return merged


def _claim(merged: dict[str, str], ids: Mapping[str, object], alias: str, model: str) -> str:
    """Enter the alias, or say what it clashes with."""
    if alias in ids:
        return f"'{alias}' is the id of a model already"
    if merged.setdefault(alias, model) != model:
        return f"'{alias}' stands for '{merged[alias]}' already, and cannot stand for '{model}' too"
    return ""


def _json(value: object) -> Json:
    match value:
        case Cost() | Sampling():
            said = {field.name: getattr(value, field.name) for field in fields(value)}
            return {name: _json(item) for name, item in said.items() if item is not None}
        case tuple():
            return [_json(item) for item in value]
        case Mapping():
            return {str(name): _json(item) for name, item in value.items()}
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"a spec holds no {type(value).__name__}")
