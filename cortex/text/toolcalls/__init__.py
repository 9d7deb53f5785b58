"""Tool calls are told from the visible answer, in the form that the model's template writes.

`forms` says which form that is, `reader` gives the scanner of an answer, `force` what makes
an engine write a call, and `beside` what lets it call or answer in a form. A scanner looks at
every character once and runs no pattern over what a model wrote. What is no call comes out
word for word, markers included, as soon as that is certain: nothing is lost, and an answer
that speaks of a marker streams on.
"""

from cortex.text.toolcalls.beside import beside
from cortex.text.toolcalls.forcing import Forced, force
from cortex.text.toolcalls.forms import CallForm, call_form, markers, reader
from cortex.text.toolcalls.scanning import CallReader, Said

__all__ = ["CallForm", "CallReader", "Forced", "Said", "beside", "call_form", "force", "markers", "reader"]
