"""An error becomes a line on stderr and an exit code.

What has a name is told in one line, with its remedy and without a traceback. What
has none is a bug: it is raised again, so that the traceback is seen.
"""

import errno
from collections.abc import Iterator
from typing import Final

import typer

from cortex.errors import BadAsk, ConfigError, CortexError, Denied, Unauthorised, Unreachable
from cortex.logs import escape
from cortex.workers.failure import WorkerFailed

# Ctrl-C where no role was running yet: 128 + SIGINT, as shells count.
_INTERRUPTED: Final = 130


class Usage(CortexError):
    """The command line asks for something that this version does not do."""

    code, blame = "usage", "caller"


class Interrupted(CortexError):
    """A signal ended what was under way."""

    code, blame = "interrupted", "caller"

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


# The command line or a file is to be put right, or nobody answers whom we may ask.
_TWO: Final = (ConfigError, Usage, BadAsk, Unreachable, Unauthorised, Denied)


def tell(error: BaseException) -> int:
    """The exit code for `error`, after it has been told. A bug is raised again."""
    causes = list(leaves(error))
    if all(isinstance(each, KeyboardInterrupt) for each in causes):
        return _INTERRUPTED
    named = [each for each in causes if _is_named(each)]
    if len(named) < len(causes):
        raise error
    for each in named:
        for line in _lines(each):
            typer.echo(f"cortex: {escape(line)}", err=True)
    return max(_code(each) for each in named)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def _is_named(error: BaseException) -> bool:
    """Files and listeners fail for reasons that their error says in full; other OSErrors do not."""
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL}
    return isinstance(error, CortexError)


def _lines(error: BaseException) -> list[str]:
    if isinstance(error, ConfigError):
        return error.faults
    if isinstance(error, OSError) and error.filename is not None:
        return [f"{error.filename}: {error.strerror}"]
    if isinstance(error, OSError):
        # The bind does not say which; what is taken before the start is told with its owner.
        return [f"cannot listen: {error.strerror}; set listen and metrics_listen to others"]
    return [str(error)]


def _code(error: BaseException) -> int:
    if isinstance(error, Interrupted):
        return 128 + error.number
    if isinstance(error, WorkerFailed):
        return error.exit_code
    return 2 if isinstance(error, _TWO) else 1
