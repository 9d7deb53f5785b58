"""Where the weights of a spec are on this host.

Only files below the configured model roots are ever opened, and the bundled demo model.
A client's text never becomes a path: it names a spec, and the spec names the file. The
roots are looked through in a thread, now and then; everybody else reads what was found.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from cortex import demo
from cortex.catalogue import Catalogue, ModelSpec, valid_id
from cortex.errors import Unfit

log = logging.getLogger(__name__)

PATH: Final = "path:"
LOOK_S: Final = 5.0  # a file that was put there shows in the lists after so long


class Found:
    """What this neuron can load by itself: its catalogue, and files that lie in its roots."""

    def __init__(self, catalogue: Catalogue, roots: Iterable[Path] = ()) -> None:
        self.catalogue, self.roots = catalogue, tuple(roots)
        self._lying: dict[str, ModelSpec] = {}
        self._skipped: set[Path] = set()
        # Its own thread: a mount that hangs must not take one of those that all share.
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep knowing what lies in the roots. `started` comes with the first look."""
        await self.look()
        task_status.started()
        while True:
            await trio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """What lies in the roots is known as of now."""
        self._lying = await trio.to_thread.run_sync(
            self._listed, abandon_on_cancel=True, limiter=self._limiter
        )

    async def find(self, model: str) -> ModelSpec | None:
        """The spec of that id; before there is said to be none, the roots are looked through again."""
        spec = self.spec(model)
        if spec is None and self.roots and valid_id(model):
            await self.look()
            spec = self.spec(model)
        return spec

    def resolve(self, name: str) -> str:
        """The id behind an alias."""
        return self.catalogue.resolve(name)

    def spec(self, model: str) -> ModelSpec | None:
        """The catalogue's entry of that id first, then a file whose stem it is. An alias has none."""
        return self.known().get(model)

    def known(self) -> dict[str, ModelSpec]:
        """All of them by id. The demo model stands in where there is nothing else."""
        specs = {**self._lying, **self.catalogue.specs}
        return specs or {demo.MODEL_ID: demo_spec()}

    def _listed(self) -> dict[str, ModelSpec]:
        specs: dict[str, ModelSpec] = {}
        for path in (path for root in self.roots for path in self._files(root)):
            if valid_id(path.stem):
                specs.setdefault(path.stem, ModelSpec(path.stem, source=f"{PATH}{path}"))
            elif path not in self._skipped:
                self._skipped.add(path)
                log.warning("model.skipped file=%s: its name is no model id; rename it", path)
        return specs

    def _files(self, root: Path) -> list[Path]:
        try:
            files = sorted(root.glob("*.gguf"))
        except OSError as error:
            # A mount that is gone takes its models with it, and nothing else.
            if root not in self._skipped:
                log.warning("model_root.unreadable folder=%s error=%s", root, error.strerror)
            self._skipped.add(root)
            return []
        self._skipped.discard(root)
        return files


def demo_spec() -> ModelSpec:
    """The bundled demo model as a catalogue entry."""
    return ModelSpec(demo.MODEL_ID, source=f"{PATH}{demo.GGUF}", harness="llamacpp", context=demo.CONTEXT)


def locate(spec: ModelSpec, roots: Iterable[Path]) -> Path:
    """The file of `spec`. Raises Unfit when its source is not one that lies on this host.

    Touches the disk: for a thread.
    """
    source = spec.source
    if source is None or not source.startswith(PATH):
        raise Unfit(
            f"Model '{spec.id}' has source {source or f'hf:{spec.id}'}: this version loads files only; "
            f'download it and set source = "path:/..." to a .gguf file below model_roots'
        )
    path = Path(source.removeprefix(PATH))
    real = path.resolve()
    allowed = [root.resolve() for root in roots] + [demo.FOLDER.resolve()]
    if not any(real.is_relative_to(root) for root in allowed):
        raise Unfit(
            f"Model '{spec.id}': {path} is not below this neuron's model_roots "
            f"({', '.join(map(str, roots)) or 'none set'}); add its folder to [neuron] model_roots"
        )
    return path
