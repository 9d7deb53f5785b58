"""Folders of safetensors are judged by their headers and their config.json.

As with GGUF: bounded, in pure Python, every number checked against the file's size before it is
believed, and what comes of it is a folder or `Unfit` with the file, the fault and the remedy.
Only headers are read. A shard that is missing or cut is found here, not by an engine that maps
it. What a quantisation method means, and which architecture can be run, is for the engine.
"""

import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cortex.errors import Unfit
from cortex.units import size
from cortex.weights.bounded import contents
from cortex.weights.settings import Settings, object_of, read_settings

HEADER_LIMIT: Final = 64 * 2**20  # the largest mixtures of experts have some 10 MiB
INDEX_LIMIT: Final = 64 * 2**20
TENSOR_LIMIT: Final = 500_000
NAME_LIMIT: Final = 1024
MOST_DIMENSIONS: Final = 8
INDEX: Final = "model.safetensors.index.json"
# Bytes of an element. A type that is not here has its size from its offsets alone.
WIDTHS: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    file: str = ""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model as a folder has it: its settings, and every tensor of its shards."""

    path: Path
    settings: Settings
    tensors: tuple[Tensor, ...]
    file_bytes: int


def read_folder(path: Path) -> ModelFolder:
    """The model in a folder, every shard of which is there and whole. Raises Unfit."""
    try:
        if not path.is_dir():
            raise Unfit(f"{path}: is no folder; name the folder that has config.json and .safetensors files")
        settings = read_settings(path / "config.json")
        shards = _shards(path)
        tensors = [tensor for shard in shards for tensor in read_shard(path / shard, shards[shard])]
        file_bytes = sum((path / shard).stat().st_size for shard in shards)
    except (OSError, ValueError) as error:
        raise Unfit(f"{path}: cannot be read: {error}; check the model's source") from error
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise Unfit(
                f"{path}: tensor {tensor.name!r} comes in two files; leave one set of weights in the folder"
            )
        names.add(tensor.name)
    return ModelFolder(path, settings, tuple(tensors), file_bytes)


def read_shard(path: Path, wanted: frozenset[str] = frozenset()) -> list[Tensor]:
    """The tensors of one file, all of which lie inside it, `wanted` among them. Raises Unfit."""
    try:
        total = _length(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if total < 8 or length > total - 8:
                raise _fault(path, f"truncated: {total} bytes cannot hold its header")
            if length > HEADER_LIMIT:
                raise _fault(path, f"claims a header of {size(length)}, more than {size(HEADER_LIMIT)}")
            header = object_of(file.read(length), path)
    except FileNotFoundError as error:
        raise _fault(path, "is missing") from error
    if len(header) > TENSOR_LIMIT:
        raise _fault(path, f"claims {len(header)} tensors; {TENSOR_LIMIT} is the limit")
    tensors, reach = [], 0
    for name, told in header.items():
        if name != "__metadata__":
            tensor, end = _tensor(path, name, told, total - 8 - length)
            reach = max(reach, end)
            tensors.append(tensor)
    if reach != total - 8 - length:
        raise _fault(path, f"has {total} bytes where its header tells of {reach + 8 + length}")
    if missing := wanted - {tensor.name for tensor in tensors}:
        raise _fault(path, f"lacks tensor {min(missing)!r}, which {INDEX} places there")
    return tensors


def _tensor(path: Path, name: str, told: Any, room: int) -> tuple[Tensor, int]:  # noqa: ANN401 - JSON
    """A tensor as its header tells, and where it ends. What is multiplied or searched has bounds first."""
    if len(name) > NAME_LIMIT:
        raise _fault(path, f"has a tensor with a name of {len(name)} characters")
    match told:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise _fault(path, f"tensor {name!r} is not described as the format has it")
    if len(shape) > MOST_DIMENSIONS:
        raise _fault(path, f"tensor {name!r} has a shape of {len(shape)} dimensions")
    if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**63 for each in shape):
        raise _fault(path, f"tensor {name!r} has the impossible shape {shape}")
    if not 0 <= start <= end:
        raise _fault(path, f"tensor {name!r} lies from {start} to {end}")
    if end > room:
        raise _fault(path, f"truncated: tensor {name!r} ends at byte {end} of {room}")
    if kind in WIDTHS and math.prod(shape) * WIDTHS[kind] != end - start:
        raise _fault(path, f"tensor {name!r} of {kind} {shape} has {end - start} bytes")
    return Tensor(name, kind, tuple(shape), end - start, path.name), end


def _shards(folder: Path) -> dict[str, frozenset[str]]:
    """The files that hold the weights, and what the index says is in each."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if (places := _indexed(folder / INDEX)) is not None and not (names and places.keys().isdisjoint(names)):
        return places
    # Without an index, or beside that of other weights: quants keep that of what they were made from.
    if not names:
        raise Unfit(f"{folder}: holds no .safetensors file; choose a folder with weights")
    # Some repos ship the same weights twice, once by their maker's own names.
    chosen = [name for name in names if name.startswith("model")] or names
    for name in chosen:
        if part := _PART.fullmatch(name):
            stem, count = part[1], int(part[3])
            for number in range(1, min(count, 10**4) + 1):
                other = f"{stem}-{number:05d}-of-{part[3]}.safetensors"
                if other not in names:
                    raise _fault(folder / other, "is missing")
    return dict.fromkeys(chosen, frozenset())


def _length(path: Path) -> int:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _fault(path, "is not a regular file")
    return status.st_size


def _indexed(path: Path) -> dict[str, frozenset[str]] | None:
    data = contents(path, INDEX_LIMIT)
    if data is None:
        return None
    places = object_of(data, path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise _fault(path, "has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise _fault(path, f"places tensor {tensor!r} in {file!r}, which is no file of this folder")
        shards.setdefault(file, set()).add(tensor)
    return {file: frozenset(tensors) for file, tensors in sorted(shards.items())}


def _fault(path: Path, what: str) -> Unfit:
    return Unfit(f"{path}: {what}; download it again, or choose another model")
