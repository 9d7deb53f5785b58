"""Commands that ask a running cortex, and print what comes back."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio
import typer
from rich.console import Console, RenderableType

from cortex.cli.interrupting import interruptible
from cortex.cli.options import Site
from cortex.errors import Unreachable
from cortex.status import view
from cortex.status.fetch import Asker, asker, named_in

# Reports are read from memory: a host that needs longer is in trouble.
ANSWER_S: Final = 5.0

T = TypeVar("T")


def show_models(site: Site, *, as_json: bool) -> None:
    """The catalogue is printed."""
    models = ask(site, Asker.report).models
    if as_json:
        typer.echo(view.as_json(models))
    else:
        draw(view.catalogue(models))


def show_model(name: str, site: Site, *, as_json: bool) -> None:
    """One model is printed. UnknownModel names near ones."""
    report = ask(site, Asker.report)
    model = named_in(report, name)
    if as_json:
        typer.echo(view.as_json(model))
    else:
        pinned_at = [
            neuron.name
            for neuron in report.neurons
            if any(each.id == model.id and each.pinned for each in neuron.models)
        ]
        draw(view.one(model, pinned_at))


def ask(
    site: Site,
    question: Callable[[Asker], Awaitable[T]],
    wait_s: float = ANSWER_S,
    left: str = "nothing was changed",
) -> T:
    """The answer to `question`; Unreachable when it does not come within `wait_s`, Interrupted
    when a signal does, with what is `left` then."""

    async def run() -> T:
        async with asker(site.endpoint, site.token()) as at:
            return await within(wait_s, at, question)

    return interruptible(run, lambda: f"stopped before {site.endpoint} answered; {left}")


async def within(wait_s: float, at: Asker, question: Callable[[Asker], Awaitable[T]]) -> T:
    """As `ask`, for a caller that is in trio already."""
    try:
        with trio.fail_after(wait_s):
            return await question(at)
    except trio.TooSlowError as error:
        raise Unreachable(f"{at.endpoint} did not answer within {wait_s:g} s") from error


def draw(picture: RenderableType) -> None:
    """The picture is on stdout, in colour where that is a terminal that wants it."""
    Console(highlight=False).print(picture)
