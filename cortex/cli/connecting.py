"""`cortex connect`: a client's settings for a gateway, printed or written, and tried live.

The model is asked first, since a cold one tells its context length only once it is loaded, and
nothing is written for a gateway that does not answer, or whose models have names that clients could
take for more. Settings go to stdout; how the trial went, and what speaks against it, to stderr. No key
is printed, and none is written.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer
from rich.console import Console

from cortex import connect
from cortex.ask import Json
from cortex.catalogue import unknown, valid_id
from cortex.cli.asking import ask
from cortex.cli.options import KEY_VARIABLE, Site
from cortex.cli.trouble import Usage
from cortex.cli.wish import Wish
from cortex.errors import UpstreamFailed
from cortex.logs import escape
from cortex.status.fetch import Asker
from cortex.wire.openai_answers import ModelEntry

# A cold model may have to be downloaded to a disk; gateways give up far sooner.
TRIAL_S: Final = 900.0
SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class _Outcome:
    wish: Wish
    target: connect.Target
    recipe: connect.Recipe
    trial: connect.Trial | None
    deeds: Sequence[connect.Deed]

    @property
    def client(self) -> connect.Client:
        return connect.CLIENTS[self.wish.client]

    @property
    def good(self) -> bool:
        return self.trial is None or not self.trial.fault


def run(wish: Wish, site: Site) -> int:
    """The exit code, after the settings have been printed or written, or what was written undone."""
    _ensure_sensible(wish, site)
    places = connect.Places(Path.home(), os.environ)
    if wish.undo:
        return _undo(wish, places)
    entries = _entries(site)
    name = wish.model or _only(entries)
    fast = wish.fast_model or name
    for each in (name, fast):
        _entry(entries, each)
    trial = None
    if not wish.no_verify:
        trial = _tried(wish, site, name)
        # What was cold then is known better now.
        entries = _entries(site)
    target = connect.Target(
        endpoint=site.endpoint.rstrip("/"),
        model=_model(entries, name),
        fast=_model(entries, fast),
        key=_key(site),
        places=places,
        file=None if wish.file is None else wish.file.expanduser().absolute(),
    )
    return _finished(wish, target, trial)


def _finished(wish: Wish, target: connect.Target, trial: connect.Trial | None) -> int:
    good = trial is None or not trial.fault
    if trial is not None and trial.fault and not wish.as_json:
        _tell(trial.fault + ("; nothing was written" if wish.write else ""))
    recipe = connect.CLIENTS[wish.client].make(target)
    deeds: list[connect.Deed] = []
    if wish.write and good:
        deeds = [connect.prepare(target.places.state(), wish.client, each) for each in recipe.files]
        for deed in deeds:
            if deed.changed:
                connect.write(target.places.state(), deed)
    outcome = _Outcome(wish, target, recipe, trial, deeds)
    if wish.as_json:
        _echo_json(_as_json(outcome))
    else:
        _print(outcome)
    return 0 if good else 1


def _ensure_sensible(wish: Wish, site: Site) -> None:
    """What is said on the command line is obeyed, or refused by name."""
    client = connect.CLIENTS[wish.client]
    if wish.undo and (wish.write or wish.model or wish.fast_model or wish.no_verify):
        raise Usage("--undo takes out what was written: no other option goes with it but --file and --json")
    if wish.fast_model is not None and not client.has_fast:
        raise Usage(f"{client.title} has no setting for a second model; leave --fast-model out")
    if (wish.write or wish.undo or wish.file) and not client.writes:
        raise Usage(f"{client.title} has no settings file: put the lines that are printed into your shell's")
    if wish.file is None and wish.write and wish.client == "litellm":
        raise Usage("LiteLLM has no usual settings file: name yours with --file")
    if site.endpoint.rstrip("/").endswith("/v1"):
        raise Usage("--endpoint is the address without /v1, such as http://127.0.0.1:31313")


def _key(site: Site) -> connect.KeyAt:
    file = None if site.token_file is None else site.token_file.expanduser().absolute()
    return connect.KeyAt(given=bool(os.environ.get(KEY_VARIABLE, "").strip()), file=file)


def _entries(site: Site) -> list[ModelEntry]:
    """The models of the gateway. Clients take some words in their settings for more than names, such
    as `{env:HOME}`: who says such a thing is none that settings should be made for."""
    entries = ask(site, Asker.models).data
    for name in (name for each in entries for name in (each.id, *_aliases(each))):
        if not valid_id(name):
            raise UpstreamFailed(
                f"{site.endpoint} answers, but not as a cortex does: it lists '{name}', which is no name of "
                "a model; check --endpoint"
            )
    return entries


def _only(entries: Sequence[ModelEntry]) -> str:
    if len(entries) == 1:
        return entries[0].id
    if not entries:
        raise Usage("there is no model to ask for: `cortex status` shows what is amiss")
    names = ", ".join(each.id for each in entries[:SHOWN]) + (", ..." if len(entries) > SHOWN else "")
    raise Usage(f"there are several models; choose one with --model: {names}")


def _entry(entries: Sequence[ModelEntry], name: str) -> ModelEntry:
    for each in entries:
        if name == each.id or name in _aliases(each):
            return each
    raise unknown(name, [known for each in entries for known in (each.id, *_aliases(each))])


def _aliases(entry: ModelEntry) -> list[str]:
    return entry.aliases if isinstance(entry.aliases, list) else []


def _model(entries: Sequence[ModelEntry], name: str) -> connect.Model:
    entry = _entry(entries, name)
    context, able = entry.context_length, entry.capabilities
    return connect.Model(
        name,
        context if isinstance(context, int) else None,
        frozenset(able) if isinstance(able, list) else None,
    )


def _tried(wish: Wish, site: Site, model: str) -> connect.Trial:
    """How the live request went."""
    dialect = connect.CLIENTS[wish.client].dialect
    put = connect.question(dialect, model)
    began = time.monotonic()
    with Console(stderr=True).status(escape(f"asking {model}; one that is not loaded is loaded first")):
        status, body = ask(
            site,
            lambda at: at.exchange(put.path, put.body, dict(put.headers)),
            TRIAL_S,
            left="nothing was written",  # but the model may be loaded
        )
    fault = connect.verdict(dialect, put.path, status, body)
    return connect.Trial(put.path, time.monotonic() - began, fault)


def _undo(wish: Wish, places: connect.Places) -> int:
    only = None if wish.file is None else wish.file.expanduser()
    undone = connect.undo(places.state(), wish.client, only)
    if wish.as_json:
        rows: list[Json] = [{"path": str(each.path), "left": list(each.left)} for each in undone]
        _echo_json({"client": wish.client.value, "undone": rows})
        return 0
    for each in undone:
        typer.echo(escape(f"{each.path} is as it was before"))
        for path in each.left:
            _tell(f"{path} was changed since, and is left as it is")
    if not undone:
        typer.echo(f"nothing was written for {connect.CLIENTS[wish.client].title}; nothing to undo")
    return 0


def _print(outcome: _Outcome) -> None:
    trial, model = outcome.trial, outcome.target.model
    for block in _written(outcome) if outcome.deeds else _to_do(outcome):
        typer.echo("\n".join(map(escape, block.split("\n"))))
    if trial is not None and not trial.fault:
        context = "" if model.context is None else f"; its context is {model.context:,} tokens"
        _tell(f"{model.name} answered {trial.path} in {trial.seconds:.1f} s{context}")
    for warning in connect.warnings(outcome.client, model):
        _tell(f"warning: {warning}")


def _to_do(outcome: _Outcome) -> Iterable[str]:
    """What to put where."""
    recipe = outcome.recipe
    for settings in recipe.files:
        yield f"In {settings.path or 'its config.yaml'}:\n"
        yield connect.shown(settings)
    if recipe.environment:
        yield "In the shell:\n"
        yield "\n".join(f"export {name}={value}" for name, value in recipe.environment) + "\n"
    if recipe.example:
        yield f"A program:\n\n{recipe.example}"
    if recipe.start:
        yield f"Start it with:  {recipe.start}"
    if recipe.files and not outcome.wish.write:
        named = "" if outcome.target.file or recipe.files[0].path else " --file FILE"
        yield f"`cortex connect {outcome.wish.client}{named} --write` merges this into what is there."


def _written(outcome: _Outcome) -> Iterable[str]:
    for deed in outcome.deeds:
        yield f"{deed.path} is written" if deed.changed else f"{deed.path} says so already"
    yield f"Start it with:  {outcome.recipe.start}"
    yield f"`cortex connect {outcome.wish.client} --undo` takes it out again."


def _as_json(outcome: _Outcome) -> dict[str, Json]:
    model, recipe, trial = outcome.target.model, outcome.recipe, outcome.trial
    files: list[Json] = [
        {
            "path": None if each.path is None else str(each.path),
            "format": each.form,
            "text": connect.shown(each),
        }
        for each in recipe.files
    ]
    said: dict[str, Json] = {
        "client": outcome.wish.client.value,
        "endpoint": outcome.target.endpoint,
        "model": model.name,
        "fast_model": outcome.target.fast.name if outcome.client.has_fast else None,
        "context_length": model.context,
        "files": files,
        "environment": dict(recipe.environment),
        "start": recipe.start or None,
        "warnings": list(connect.warnings(outcome.client, model)),
        "written": [str(each.path) for each in outcome.deeds if each.changed],
    }
    if trial is not None:
        said["verified"] = {
            "path": trial.path,
            "ok": outcome.good,
            "seconds": round(trial.seconds, 3),
            "fault": trial.fault or None,
        }
    return said


def _echo_json(said: dict[str, Json]) -> None:
    """In ASCII: a gateway's words may stand in it, and a terminal obeys some letters."""
    typer.echo(json.dumps(said, indent=2))


def _tell(text: str) -> None:
    typer.echo(escape(text), err=True)
