"""Where the weights of a spec are on this host.

Only what lies below the configured model roots is ever opened, and the bundled demo model:
.gguf files, and folders that hold a config.json and .safetensors files. A client's text never
becomes a path: it names a spec, and the spec names what is opened. The roots are looked through
in threads, now and then; everybody else reads what was found. A root that hangs costs nobody
more than the deadline of a look, and the other roots nothing.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final, TypeAlias

import trio

from cortex import demo
from cortex.catalogue import HUB, PATH, Catalogue, ModelSpec, valid_id
from cortex.errors import Unfit

log = logging.getLogger(__name__)

# Models that others have and this neuron passes on, by id.
Offered: TypeAlias = Callable[[], Mapping[str, ModelSpec]]

LOOK_S: Final = 5.0  # a file that was put there shows in the lists after so long
# However many unknown names are asked for, no two looks are closer. They wait for the next one,
# since what was just put there must be found, and are refused before a stream's status goes out.
AGAIN_S: Final = 0.5
LOOK_DEADLINE_S: Final = 2.0  # a folder of thousands on a disk of today takes some ms


@dataclass(slots=True, eq=False)
class _Root:
    """One folder. `fault` says why the last look did not see it; None before the first one."""

    folder: Path
    specs: dict[str, ModelSpec] = field(default_factory=dict)
    fault: str | None = None
    # Its own thread: a mount that hangs must not take one of those that all share.
    thread: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))


class Found:
    """What this neuron can load by itself: its catalogue, what lies in its roots, and what is
    `offered`, which is None where there is nobody to offer anything."""

    def __init__(
        self, catalogue: Catalogue, roots: Iterable[Path] = (), offered: Offered | None = None
    ) -> None:
        self.catalogue, self._offered = catalogue, offered
        self._roots = tuple(map(_Root, roots))
        self._skipped: set[Path] = set()
        self._looked_at, self._looked = -inf, trio.Event()
        self._wanted = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep knowing what lies in the roots, until cancelled."""
        task_status.started()
        while True:
            await self._look()
            await trio.sleep_until(self._looked_at + AGAIN_S)
            with trio.move_on_at(self._looked_at + LOOK_S):
                await self._wanted.wait()
            self._wanted = trio.Event()

    async def seen(self) -> None:
        """The first look is over. `run` must be running, here and for `find`."""
        while self._looked_at == -inf:
            await self._looked.wait()

    async def find(self, model: str) -> ModelSpec | None:
        """The spec of that id. Before there is said to be none, the roots are looked through once
        more, for all who ask meanwhile, unless that takes longer than LOOK_DEADLINE_S."""
        if self._roots and valid_id(model):
            asked_at = trio.current_time()
            with trio.move_on_after(LOOK_DEADLINE_S):
                while self.spec(model) is None and self._looked_at < asked_at:
                    self._wanted.set()
                    await self._looked.wait()
        return self.spec(model)

    def resolve(self, name: str) -> str:
        """The id behind an alias."""
        return self.catalogue.resolve(name)

    def spec(self, model: str) -> ModelSpec | None:
        """The catalogue's entry of that id first, then a file or a folder whose name it is. An alias
        has none."""
        return self.known().get(model)

    def draft_of(self, spec: ModelSpec) -> ModelSpec | None:
        """The model that speaks ahead of `spec`; None when it names none. Unfit when that is no model
        that can."""
        if spec.draft is None:
            return None
        draft = self.spec(self.resolve(spec.draft))
        if draft is None and spec.draft.startswith((HUB, PATH)):
            draft = ModelSpec(spec.draft, source=spec.draft)
        if draft is None:
            raise Unfit(
                f"Model '{spec.id}': its draft '{spec.draft}' is no model that this neuron knows; add it to "
                "models.toml, or name where it is: hf:org/name or path:/absolute/folder"
            )
        if not draft.may_draft:
            raise Unfit(
                f"Model '{spec.id}': its draft '{spec.draft}' is a model of {draft.harness_name}; name one "
                "that is a folder of safetensors"
            )
        return draft

    def known(self) -> dict[str, ModelSpec]:
        """All of them by id, the first root before the next, and what upstreams offer last. The demo
        model stands in where there is nothing else; that is known when every root was seen."""
        specs: dict[str, ModelSpec] = {} if self._offered is None else {**self._offered()}
        for root in reversed(self._roots):
            specs |= root.specs
        specs |= self.catalogue.specs
        if not specs and self._offered is None and all(root.fault == "" for root in self._roots):
            specs[demo.MODEL_ID] = demo_spec()
        return specs

    async def _look(self) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for root in self._roots:
                nursery.start_soon(self._look_into, root)
        self._looked_at = began
        self._looked.set()
        self._looked = trio.Event()

    async def _look_into(self, root: _Root) -> None:
        """The root's models are known, or its fault is, and was told once."""
        if root.thread.borrowed_tokens:
            return  # the thread of an earlier look hangs in it still
        fault = f"no answer in {LOOK_DEADLINE_S:g} s; what it held at the last look is used"
        with trio.move_on_after(LOOK_DEADLINE_S):
            try:
                files = await trio.to_thread.run_sync(
                    _models_in, root.folder, abandon_on_cancel=True, limiter=root.thread
                )
                fault = ""
            except OSError as error:
                # A mount that is gone takes its models with it, and nothing else.
                files, fault = [], error.strerror or str(error)
            root.specs = self._specs(files)
        if fault and not root.fault:
            log.warning("model_root.unreadable folder=%s error=%s", root.folder, fault)
        root.fault = fault

    def _specs(self, paths: Sequence[Path]) -> dict[str, ModelSpec]:
        specs: dict[str, ModelSpec] = {}
        meant = {spec.source for spec in self.catalogue}
        for path in paths:
            name, source = _name(path), f"{PATH}{path}"
            if source in meant and not valid_id(name):
                continue  # it has an id in the catalogue
            if not valid_id(name):
                self._skip(path, "its name is no model id; rename it")
            elif name in specs:
                self._skip(path, f"{specs[name].source} beside it has the same name; rename one")
            else:
                specs[name] = ModelSpec(name, source=source)
        return specs

    def _skip(self, path: Path, why: str) -> None:
        """Said once."""
        if path not in self._skipped:
            self._skipped.add(path)
            log.warning("model.skipped file=%s why=%s", path, why)


def _models_in(root: Path) -> list[Path]:
    """The .gguf files of a root, then the model folders: those in it, or the root itself."""
    if _is_model(root):
        return [root]
    found = sorted(root.glob("*"))
    files = [path for path in found if path.suffix == ".gguf"]
    return files + [path for path in found if path.suffix != ".gguf" and _is_model(path)]


def _is_model(folder: Path) -> bool:
    """Whether a folder has what makes a model of safetensors."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _name(path: Path) -> str:
    # A folder's name may have a dot in it: "model-4.0bpw".
    return path.stem if path.suffix == ".gguf" else path.name


def demo_spec() -> ModelSpec:
    """The bundled demo model as a catalogue entry."""
    return ModelSpec(demo.MODEL_ID, source=f"{PATH}{demo.GGUF}", harness="llamacpp", context=demo.CONTEXT)


def locate(spec: ModelSpec, roots: Sequence[Path]) -> Path:
    """The file or folder of `spec`, by a path without links: what was checked is what is opened.
    Raises Unfit when its source is not one that lies on this host.

    Touches the disk: for a thread.
    """
    source = spec.source
    if source is None or not source.startswith(PATH):
        said = "no source" if source is None else f"source {source!r}"
        raise Unfit(
            f"Model '{spec.id}' has {said}, and its id is no hub id: set source to "
            '"hf:org/name", or to "path:/..." of a .gguf file or a model folder below model_roots'
        )
    path = Path(source.removeprefix(PATH))
    return _below(spec, path, roots, "source", "name the .gguf file itself, or the folder of the model")


def adapters(spec: ModelSpec, roots: Sequence[Path]) -> tuple[Path, ...]:
    """The folders of the adapters of `spec`, found and checked as `locate` does."""
    remedy = "name the folder that has adapter_config.json"
    found = tuple(_below(spec, Path(each), roots, "lora", remedy) for each in spec.lora)
    for named, folder in zip(spec.lora, found, strict=True):
        if not folder.is_dir():
            raise Unfit(f"Model '{spec.id}': its lora {named!r} is no folder; {remedy}")
    return found


def _below(spec: ModelSpec, path: Path, roots: Sequence[Path], what: str, remedy: str) -> Path:
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links that go in a circle
        raise Unfit(
            f"Model '{spec.id}': its {what} {str(path)!r} leads to no file or folder ({error}); {remedy}"
        ) from error
    if not _is_below(real, (*roots, demo.FOLDER)):
        raise Unfit(
            f"Model '{spec.id}': {path} is not below this neuron's model_roots "
            f"({', '.join(map(str, roots)) or 'none set'}); add its folder to [neuron] model_roots"
        )
    return real


def _is_below(real: Path, roots: Sequence[Path]) -> bool:
    # By name first: a root that hangs costs those nothing that lie in another one.
    return any(real.is_relative_to(root) for root in roots) or any(
        real.is_relative_to(folder) for root in roots if (folder := _real(root)) is not None
    )


def _real(root: Path) -> Path | None:
    """The root without links; None when it leads nowhere, so that nothing is below it."""
    try:
        return root.resolve()
    except (OSError, RuntimeError):
        return None
