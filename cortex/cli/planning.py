"""`cortex plan`: what a gateway would do with a request for a model, and why.

Nothing is changed. A refusal that was foretold is exit code 1, as a fleet that is not well; a
gateway that was not seen at all is 2.
"""

import typer

from cortex.cli.asking import ask, draw
from cortex.cli.options import Site
from cortex.cli.trouble import Interrupted, tell
from cortex.cli.watching import UNREACHABLE
from cortex.errors import UnknownModel
from cortex.status import view


def look(model: str, site: Site, *, as_json: bool) -> int:
    """The exit code, after the plan has been printed."""
    try:
        report = ask(site, lambda at: at.plan(model))
    except UnknownModel as error:
        return tell(error)
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001 - `tell` raises again what is a bug
        tell(error)
        return UNREACHABLE
    if as_json:
        typer.echo(view.as_json(report))
    else:
        draw(view.plan(report))
    return view.plan_exit_code(report)
