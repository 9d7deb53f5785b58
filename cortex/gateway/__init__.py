"""The gateway role: one API in front of many neurons."""

from cortex.gateway.reload import Source
from cortex.gateway.service import run

__all__ = ["Source", "run"]
