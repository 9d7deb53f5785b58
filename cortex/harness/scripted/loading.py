"""Plays scripts: the harness of an engine with no weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cortex.errors import LoadFailed, Unfit
from cortex.harness.base import Apart, LoadOrder, Preflight, Progress, Unavailable
from cortex.harness.scripted.engine import ScriptedEngine
from cortex.harness.scripted.script import Script

# What an order may say of a script, as plain data.
_OPTIONS: Final = frozenset(
    {"bytes", "crash_after", "endless", "fail_after", "reply", "split", "tokens_per_turn"}
)


class ScriptedHarness:
    """Plays `script`, or the one that `scripts` has for a model, with what an order's options
    say of it. `engines` is for looking at. A child makes its own harness by `factory`, which
    knows nothing of the scripts here."""

    def __init__(
        self,
        script: Script | None = None,
        scripts: Mapping[str, Script] | None = None,
        *,
        factory: str = "cortex.harness.scripted:ScriptedHarness",
    ) -> None:
        self.name = "scripted"
        self.apart: Apart | None = Apart(factory)
        self.engines: dict[str, ScriptedEngine] = {}
        self.releases = 0
        self._script, self._scripts = script or Script(), dict(scripts or {})

    @property
    def vocabulary(self) -> "ScriptedHarness":
        return self

    def release(self) -> None:
        self.releases += 1

    def unavailable(self) -> Unavailable | None:
        return None

    def preflight(self, order: LoadOrder) -> Preflight:
        script = self._of(order)
        if script.unfit is not None:
            raise Unfit(f"{order.path}: {script.unfit}")
        return Preflight(
            weights_bytes=script.bytes,
            cache_bytes=0,
            overhead_bytes=0,
            context=min(order.context, script.trained_context),
            trained_context=script.trained_context,
            architecture="scripted",
            template=script.template,
            embeds=bool(script.embeds),
        )

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> ScriptedEngine:
        script = self._of(order)
        if progress(0, script.bytes):
            raise LoadFailed(f"{order.model}: the load was given up")
        while script.slow_load is not None and not script.slow_load.wait(0.005):
            if progress(script.bytes // 2, script.bytes):
                raise LoadFailed(f"{order.model}: the load was given up")
        if script.on_load is not None:
            script.on_load()
        if script.load_error is not None:
            raise script.load_error
        if progress(script.bytes, script.bytes):
            raise LoadFailed(f"{order.model}: the load was given up")
        if script.hold is not None:
            script.hold.listen(ring)
        engine = self.engines[order.model] = ScriptedEngine(order, script)
        return engine

    def _of(self, order: LoadOrder) -> Script:
        script = self._scripts.get(order.model, self._script)
        said: dict[str, Any] = {name: value for name, value in order.options.items() if name in _OPTIONS}
        return replace(script, **said) if said else script


def scripted_order(model: str = "scripted", context: int = 8192, slots: int = 4) -> LoadOrder:
    """An order that every script can carry out: there is no file to name."""
    return LoadOrder(model=model, path=Path(model), device="cpu", context=context, slots=slots)
