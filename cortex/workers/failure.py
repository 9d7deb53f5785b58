"""How a supervisor ends that has no worker to supervise."""

from cortex.errors import CortexError


class WorkerFailed(CortexError):
    """A worker ended before it served, and has said why. `exit_code` is its own."""

    code = "worker_failed"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
