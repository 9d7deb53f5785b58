"""What a client's own settings must say so that it talks to this cortex.

Recipes are pure: an endpoint, a model and where the key is go in, edits of settings files come out.
`formats` puts edits into a text and leaves every other byte as it was, `edits` remembers what they
replaced, `deeds` is the one place that touches files, `trial` says what the live request is and
judges its answer. Nobody is asked here, nothing is printed, and no key is ever read.
"""

from cortex.connect.clients import CLIENTS
from cortex.connect.deeds import Deed, Undone, prepare, undo, write
from cortex.connect.edits import shown
from cortex.connect.recipe import Client, KeyAt, Model, Places, Recipe, Target
from cortex.connect.trial import Trial, question, verdict, warnings

__all__ = [
    "CLIENTS",
    "Client",
    "Deed",
    "KeyAt",
    "Model",
    "Places",
    "Recipe",
    "Target",
    "Trial",
    "Undone",
    "prepare",
    "question",
    "shown",
    "undo",
    "verdict",
    "warnings",
    "write",
]
