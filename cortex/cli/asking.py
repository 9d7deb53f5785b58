"""Commands that ask a running cortex, or give it an order, and print what comes back.

The answer goes to stdout; a spinner goes to stderr, and only to a terminal.
"""

from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from typing import Final, TypeVar

import trio
import typer
from rich.console import Console, RenderableType

from cortex.errors import Unreachable
from cortex.logs import escape
from cortex.status import view
from cortex.status.fetch import Asker, asker, named_in

# Reports are read from memory: a host that needs longer is in trouble.
ANSWER_S: Final = 5.0

T = TypeVar("T")


def show_models(endpoint: str, token_file: Path | None, *, as_json: bool) -> None:
    """The catalogue is printed."""
    models = ask(endpoint, token_file, Asker.report).models
    if as_json:
        typer.echo(view.as_json(models))
    else:
        draw(view.catalogue(models))


def show_model(name: str, endpoint: str, token_file: Path | None, *, as_json: bool) -> None:
    """One model is printed. UnknownModel names near ones."""
    model = named_in(ask(endpoint, token_file, Asker.report), name)
    if as_json:
        typer.echo(view.as_json(model))
    else:
        draw(view.one(model))


def order(
    doing: str, endpoint: str, token_file: Path | None, what: Callable[[Asker], Awaitable[None]]
) -> None:
    """`what` is done. It takes what it takes: the other side has the deadlines for it."""
    with Console(stderr=True).status(escape(doing)):
        ask(endpoint, token_file, what, inf)


def ask(
    endpoint: str,
    token_file: Path | None,
    question: Callable[[Asker], Awaitable[T]],
    wait_s: float = ANSWER_S,
) -> T:
    """The answer to `question`; Unreachable when it does not come within `wait_s`."""

    async def run() -> T:
        async with asker(endpoint, token_of(token_file)) as at:
            return await within(wait_s, at, question)

    return trio.run(run)


async def within(wait_s: float, at: Asker, question: Callable[[Asker], Awaitable[T]]) -> T:
    """As `ask`, for a caller that is in trio already."""
    try:
        with trio.fail_after(wait_s):
            return await question(at)
    except trio.TooSlowError as error:
        raise Unreachable(f"{at.endpoint} did not answer within {wait_s:g} s") from error


def token_of(path: Path | None) -> str | None:
    """What the token file holds."""
    return path.read_text().strip() if path is not None else None


def draw(picture: RenderableType) -> None:
    """The picture is on stdout, in colour where that is a terminal that wants it."""
    Console(highlight=False).print(picture)
