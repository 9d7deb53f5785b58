"""Which model `cortex up` serves: a GGUF file, a folder of safetensors, or one of a hub.

Weights are judged by their headers, and what no engine here can load is refused with the reason and
the remedy, before anything is downloaded or started.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cortex import demo
from cortex.catalogue import ModelSpec
from cortex.cli import pulling
from cortex.cli.trouble import Usage, leaves
from cortex.errors import Unfit
from cortex.hub import HF, Format, Local, Source
from cortex.weights import read_folder, read_gguf

SHOWN: Final = 5  # files of a folder; more help nobody
# org/name, perhaps with more; what ends in .gguf, and does not name a repo before, was meant as a file.
_HUB_ID: Final = re.compile(r"(?![^:]*\.gguf\Z)[A-Za-z0-9][\w.-]*/[\w.-]+([@:].*)?")


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to serve, with the bytes of its weights, and where these lie if no hub has them."""

    spec: ModelSpec
    bytes: int
    roots: tuple[Path, ...] = ()


def choose(model: str | None) -> Choice:
    """The model that `model` means. Usage when that is no model, Unfit when its weights are no good or
    no engine here can load them."""
    if model is None:
        return _file(demo.GGUF.resolve(), demo.MODEL_ID, demo.CONTEXT)
    if (source := _on_hub(model)) is not None:
        return _from_hub(source)
    path = Path(model).expanduser().resolve()
    return _folder(path) if path.is_dir() else _file(path, _id(path.stem), None)


def _on_hub(model: str) -> Source | None:
    """What of a hub is meant. Usage when it should be, and is written wrongly."""
    if model.startswith(HF):
        if (source := Source.parse(model)) is None:
            raise Usage(f"{model} is no hub id: write hf:org/name[@revision][:file-or-quant]")
        return source
    looks_so = _HUB_ID.fullmatch(model) and not Path(model).expanduser().exists()
    return Source.parse(model) if looks_so else None


def _from_hub(source: Source) -> Choice:
    """The model, after its download unless the cache has it."""
    lacks = no_cuda() if ModelSpec("", source=str(source)).harness_name == "exllamav2" else None
    local = _local(source, lacks)
    # By its commit: what was looked at is what the neuron finds, and it asks nobody.
    where = str(replace(source, revision=local.commit))
    if local.format == "gguf":
        spec = ModelSpec(source.repo, source=where, harness="llamacpp")
        return Choice(spec, read_gguf(local.path).file_bytes)
    return Choice(
        ModelSpec(source.repo, source=where, harness="exllamav2"), read_folder(local.path).file_bytes
    )


def _local(source: Source, lacks: str | None) -> Local:
    """What `source` holds, in a format that can be loaded here; `lacks` is why safetensors cannot.
    Raises before anything is downloaded when it holds only others."""
    gguf_only = lacks is not None or ModelSpec("", source=str(source)).harness_name == "llamacpp"
    formats: tuple[Format, ...] = ("gguf",) if gguf_only else ("safetensors", "gguf")
    try:
        return pulling.local(source, formats)
    except* Unfit as refused:
        for error in leaves(refused):
            if lacks is not None and _holds_safetensors(error):
                raise Unfit(f"{error}. exllamav2, which loads these, cannot run here: {lacks}") from error
        raise


def _holds_safetensors(error: BaseException) -> bool:
    held = error.facts.get("holds") if isinstance(error, Unfit) else None
    return isinstance(held, list) and "safetensors" in held


def no_cuda() -> str | None:
    """Why exllamav2 cannot run on this host, and what to do; None when it can."""
    from cortex.neuron.cards import cards_of  # noqa: PLC0415 - only where a model asks for it
    from cortex.neuron.devices import find  # noqa: PLC0415 - as above
    from cortex.neuron.harnesses import usual  # noqa: PLC0415 - as above

    # A look at the driver may set how CUDA counts its devices: that is the neuron's to do.
    why = usual(lambda: cards_of(find(dict(os.environ))))["exllamav2"].unavailable()
    return None if why is None else str(why)


def _file(path: Path, name: str, context: int | None) -> Choice:
    """The model of a GGUF file."""
    header = read_gguf(path)
    spec = ModelSpec(name, source=f"path:{path}", harness="llamacpp", context=context)
    # The one file, rather than its folder: nothing that lies beside it is offered.
    return Choice(spec, header.file_bytes, (path,))


def _folder(path: Path) -> Choice:
    """The model of a folder of safetensors."""
    if not any(path.glob("*.safetensors")):
        raise Usage(f"{path} is a folder{_instead_of(path)}")
    header = read_folder(path)
    if (lacks := no_cuda()) is not None:
        raise Unfit(f"{path} is for exllamav2, which cannot run here: {lacks}")
    spec = ModelSpec(_id(path.name), source=f"path:{path}", harness="exllamav2")
    return Choice(spec, header.file_bytes, (path,))


def _instead_of(path: Path) -> str:
    files = sorted(path.glob("*.gguf"))
    if not files:
        return " without a model: give a .gguf file, or a folder with config.json and .safetensors files"
    named = ", ".join(file.name for file in files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
    return f" of GGUF files: give the path of one of them: {named}"


def _id(stem: str) -> str:
    """A model id made of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:128] or "model"
