"""Which files of a repo make up the model that was asked for.

Pure: names and sizes in, names out; the same for a listing of the hub and for what lies in
the cache. A GGUF repo may hold one model many times over: it is never guessed which one is
meant, the error lists them. The parts of a split model go together.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

from cortex.catalogue import ModelSpec
from cortex.errors import Unfit
from cortex.hub.names import PICKLES, WEIGHTS, beside, folder_of, suffix
from cortex.units import size

Format: TypeAlias = Literal["gguf", "safetensors"]
# What the engines load that load anything but GGUF.
_LOADED: Final[Mapping[str | None, tuple[Format, ...]]] = {"exllamav2": ("safetensors",)}

_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
# The quants as llama.cpp names them, perhaps with the mark of who made them.
_QUANT: Final = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|BF16|FP?16|FP?32|MXFP4\w*|NVFP4\w*))$", re.IGNORECASE
)
# GGUF files that are no language model: projectors of pictures, matrices of importance, vocabularies.
_OTHER: Final = re.compile(r"mmproj|imatrix|ggml-vocab", re.IGNORECASE)
# A repo with more is listed in part; nobody reads on.
_SHOWN: Final = 30


@dataclass(frozen=True, slots=True)
class Choice:
    """`main` is what an engine is given: the first GGUF, or the folder of safetensors ("" is the
    repo's own). `weights` and `beside` are names of files."""

    format: Format
    main: str
    weights: tuple[str, ...]
    beside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One model in GGUF: a file, or all parts of one."""

    name: str
    quant: str | None
    parts: tuple[str, ...]
    bytes: int
    whole: bool

    def __str__(self) -> str:
        return f"{self.quant or self.name} ({size(self.bytes)})"


def formats_of(spec: ModelSpec) -> tuple[Format, ...]:
    """What the engine of `spec` can load."""
    return _LOADED.get(spec.harness_name, ("gguf",))


def choose(repo: str, files: Mapping[str, int], pick: str | None, formats: Sequence[Format]) -> Choice:
    """What to fetch of `files`, sizes by name. Raises Unfit, naming what there is, when nothing can
    be loaded in one of `formats`, the first of them first, or `pick` does not say which."""
    if pick is not None and pick.lower().endswith(".safetensors"):
        raise Unfit(f"{repo}: a safetensors model is its whole folder: leave ':{pick}' away")
    for form in formats:
        if form == "gguf" and (models := _ggufs(files)):
            return _gguf(repo, files, pick, models)
        if form == "safetensors" and pick is None and (weights := _safetensors(files)):
            _ensure_whole(repo, weights)
            return Choice(form, "", weights, tuple(beside(files, "")))
    held = [suffix(name).removeprefix(".") for name in files if suffix(name) in WEIGHTS]
    raise Unfit(f"{repo} {_instead(repo, files, pick, formats)}", facts={"holds": sorted(set(held))})


def _gguf(repo: str, files: Mapping[str, int], pick: str | None, models: list[_Candidate]) -> Choice:
    found = models if pick is None else [model for model in models if _meant(model, pick)]
    if len(found) != 1:
        raise Unfit(_unclear(repo, pick, found, models))
    (model,) = found
    if not model.whole:
        raise Unfit(f"{repo}: parts of {model.name} are missing; choose another quant, or another repo")
    main = model.parts[0]
    return Choice("gguf", main, model.parts, tuple(beside(files, folder_of(main))))


def _ggufs(files: Mapping[str, int]) -> list[_Candidate]:
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        if suffix(name) == ".gguf" and not _OTHER.search(PurePosixPath(name).name):
            match = _PART.fullmatch(name)
            key = f"{match['stem']}{match['suffix']}" if match else name
            groups.setdefault(f"{key}/{match['count']}" if match else key, []).append(name)
    return [_candidate(names, files) for names in groups.values()]


def _candidate(names: list[str], files: Mapping[str, int]) -> _Candidate:
    match = _PART.fullmatch(names[0])
    name = f"{match['stem']}{match['suffix']}" if match else names[0]
    quant = _QUANT.search(PurePosixPath(name).stem)
    return _Candidate(
        name,
        quant[1].upper() if quant else None,
        tuple(names),
        sum(files[part] for part in names),
        _complete(names),
    )


def _complete(names: Iterable[str]) -> bool:
    """Whether all parts are there of what comes in parts."""
    counts: dict[str, tuple[int, int]] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            stem, wanted = match["stem"], int(match["count"])
            counts[stem] = counts.get(stem, (0, 0))[0] + 1, wanted
    return all(there == wanted for there, wanted in counts.values())


def _meant(model: _Candidate, pick: str) -> bool:
    if pick.lower().endswith(".gguf"):
        names = (model.name, *model.parts)
        return pick in names or pick in (name.rpartition("/")[2] for name in names)
    return model.quant is not None and pick.upper() == model.quant


def _unclear(repo: str, pick: str | None, found: list[_Candidate], models: list[_Candidate]) -> str:
    shown = ", ".join(map(str, (found or models)[:_SHOWN]))
    more = f" and {len(found or models) - _SHOWN} more" if len(found or models) > _SHOWN else ""
    if pick is None:
        return f"{repo} holds several models: name one as hf:{repo}:QUANT, or by its quant: {shown}{more}"
    if found:
        files = ", ".join(f"{model.name} ({size(model.bytes)})" for model in found[:_SHOWN])
        return f"{repo} holds '{pick}' more than once: name the file as hf:{repo}:FILE: {files}"
    known = [model.quant or model.name for model in models]
    near = difflib.get_close_matches(pick.upper(), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{repo} holds no '{pick}'.{hint} There are: {shown}{more}"


def _safetensors(files: Mapping[str, int]) -> tuple[str, ...]:
    """The weights of the repo's own folder. Beside `model*` others hold the same once more."""
    names = [name for name in sorted(files) if suffix(name) == ".safetensors" and "/" not in name]
    usual = [name for name in names if name.startswith("model")]
    return tuple(usual or names)


def _ensure_whole(repo: str, weights: tuple[str, ...]) -> None:
    if not _complete(weights):
        raise Unfit(f"{repo}: parts of its weights are missing; choose another revision, or another repo")


def _instead(repo: str, files: Mapping[str, int], pick: str | None, formats: Sequence[Format]) -> str:
    """What the repo holds rather than what was looked for, and what to do."""
    loadable = " or ".join("GGUF" if form == "gguf" else form for form in formats)
    there = {suffix(name) for name in files}
    remedy = f"choose a repo that holds {loadable}, often named {repo.partition('/')[2]}-GGUF"
    if pick is not None and "gguf" not in formats:
        return f"has no '{pick}': quants are picked of GGUF files, and {loadable} is wanted here"
    if there & {".gguf", ".safetensors"} and not (".gguf" in there and "gguf" in formats):
        held = " and ".join(kind[1:] for kind in sorted(there & {".gguf", ".safetensors"}))
        return f"holds {held}, and {loadable} is what can be loaded here: {remedy}"
    if there & set(PICKLES):
        return f"holds its weights as pickles, which can run code and are never loaded: {remedy}"
    return f"holds no weights: {remedy}"
