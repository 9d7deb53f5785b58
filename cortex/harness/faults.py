"""What it costs when an engine raises: its jobs, itself, or the device.

Of a device's thread alone. The jobs only, where the engine can be reset or the job was
never taken in; the engine, where nobody knows; the device, where it is lost or where
nobody knows too often. Each fault is told once, and logged where it happened.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from cortex.errors import CortexError, DeviceLost, DoesNotFit, EngineFailed, LoadFailed, OutOfMemory
from cortex.events import Failed
from cortex.harness.base import Job, Resettable
from cortex.harness.driven import Driven
from cortex.harness.orders import Faulted, Heard, Load, Word
from cortex.harness.pulse import Pulse
from cortex.harness.severity import BORNE, BORNE_S, Severity, Strikes, severity

log = logging.getLogger(__name__)

_REMEDY: Final = "send a shorter prompt, or fewer requests at once"


class Faults:
    """Of one device. `lost` says why it computes nothing more."""

    def __init__(self, tell: Callable[[Word], None], pulse: Pulse) -> None:
        self.lost: str | None = None
        self._tell, self._pulse = tell, pulse
        self._strikes = Strikes()

    def refused(self, driven: Driven, job: Job, error: Exception) -> None:
        """The engine raised when it was given `job`, and did not take it."""
        how = severity(error)
        if how not in ("memory", "job"):
            self.raised(driven, error, job.request_id)
            return
        driven.forget(job.id)
        told = error if isinstance(error, CortexError) else _told(driven.model, how, error)
        log.warning(
            "job.refused model=%s error=%s", driven.model, told.message, extra={"request_id": job.request_id}
        )
        self._tell(Heard(driven.model, ((job.id, Failed(told)),)))
        self._tell(Faulted(driven.model, told.message, how, broken=False))

    def raised(self, driven: Driven, error: Exception, request_id: str = "-") -> None:
        """The engine raised. `request_id` is of the request that it was at, where it is one."""
        model, how, why = driven.model, severity(error), _words(error)
        if how == "unknown" and self._strikes.strike(time.monotonic()):
            how, why = "sticky", f"{why} (unknown, and more than {BORNE} in {BORNE_S / 60:.0f} minutes)"
        extra = {"request_id": request_id}
        log.error("engine.faulted model=%s severity=%s", model, how, exc_info=error, extra=extra)
        if how == "sticky":
            self._lose(model, why)
        elif how != "unknown" and self._reset(driven):
            told = _told(model, how, error)
            self._tell(Heard(model, tuple((job_id, Failed(told)) for job_id in driven.forget_all())))
            self._tell(Faulted(model, why, how, broken=False))
        elif self.lost is None:
            driven.broken = True
            driven.forget_all()
            self._tell(Faulted(model, why, how))

    def undone(self, load: Load, error: Exception) -> CortexError:
        """What is told of a load that raised `error`. An unknown one is not held against the
        device: a broken file makes as many as it is tried."""
        model, how, why = load.order.model, severity(error), _words(error)
        if self.lost is not None:
            return DeviceLost(f"{model}: the device was lost while it loaded: {self.lost}")
        if how == "sticky":
            log.error("load.failed model=%s severity=%s", model, how, exc_info=error)
            self._lose(model, why)
            return DeviceLost(f"{model}: the device was lost while it loaded: {why}")
        if how == "memory":
            log.warning("load.failed model=%s severity=%s error=%s", model, how, why)
            self._tell(Faulted(model, why, how, broken=False))
            return DoesNotFit(
                f"{model}: {load.order.device} ran out of memory while it loaded ({why}); "
                "choose a smaller context, fewer slots or a smaller quant"
            )
        if isinstance(error, CortexError):
            return error
        log.error("load.failed model=%s", model, exc_info=error)
        return LoadFailed(f"{model}: {load.harness} raised {why}")

    def _reset(self, driven: Driven) -> bool:
        """Whether the engine goes on, with none of its jobs."""
        if not isinstance(driven.engine, Resettable):
            return False
        try:
            driven.engine.reset()
        except Exception as error:
            log.exception("engine.lost model=%s", driven.model)
            if severity(error) == "sticky":
                self._lose(driven.model, _words(error))
            return False
        return True

    def _lose(self, model: str, why: str) -> None:
        """Nothing touches the device any more. The journal keeps who was at it."""
        self.lost = why
        self._pulse.lose()
        self._tell(Faulted(model, why, "sticky"))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _told(model: str, how: Severity, error: Exception) -> EngineFailed:
    if how == "memory":
        return OutOfMemory(f"{model}: the device ran out of memory ({_words(error)}); {_REMEDY}")
    return EngineFailed(f"{model}: the engine failed at this request: {_words(error)}")
