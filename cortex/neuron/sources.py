"""Where the weights of a spec are on this host.

Only files below the configured model roots are ever opened, and the bundled demo model.
A client's text never becomes a path: it names a spec, and the spec names the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex import demo
from cortex.catalogue import Catalogue, ModelSpec, valid_id
from cortex.errors import Unfit

PATH: Final = "path:"


@dataclass(frozen=True, slots=True)
class Found:
    """What this neuron can load by itself: its catalogue, and files that lie in its roots."""

    catalogue: Catalogue
    roots: tuple[Path, ...] = ()

    def resolve(self, name: str) -> str:
        """The id behind an alias."""
        return self.catalogue.resolve(name)

    def spec(self, name: str) -> ModelSpec | None:
        """The catalogue's entry first, then a file whose stem is `name`."""
        return self.catalogue.find(name) or self._lying().get(name)

    def known(self) -> dict[str, ModelSpec]:
        """All of them by id. The demo model stands in where there is nothing else."""
        specs = {**self._lying(), **self.catalogue.specs}
        return specs or {demo.MODEL_ID: demo_spec()}

    def _lying(self) -> dict[str, ModelSpec]:
        files = {path.stem: path for root in self.roots for path in sorted(root.glob("*.gguf"))}
        specs = {
            stem: ModelSpec(stem, source=f"{PATH}{path}") for stem, path in files.items() if valid_id(stem)
        }
        if not specs and not self.catalogue.specs:
            return {demo.MODEL_ID: demo_spec()}
        return specs


def demo_spec() -> ModelSpec:
    """The bundled demo model as a catalogue entry."""
    return ModelSpec(demo.MODEL_ID, source=f"{PATH}{demo.GGUF}", harness="llamacpp", context=demo.CONTEXT)


def locate(spec: ModelSpec, roots: Iterable[Path]) -> Path:
    """The file of `spec`. Raises Unfit when its source is not one that lies on this host."""
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
