"""The gateway role: one API in front of many neurons."""

from cortex.gateway.process import Process
from cortex.gateway.reload import Source
from cortex.gateway.service import run

__all__ = ["Process", "Source", "run"]
