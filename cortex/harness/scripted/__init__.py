"""An engine with no weights, which does what it is told: for tests, examples, benchmarks.

It keeps the contract of `base` to the letter. `script` says what an engine answers and what
goes wrong, `engine` plays it, `tokens` are its vocabulary, `loading` brings it in.
"""

from cortex.harness.scripted.engine import ScriptedEngine
from cortex.harness.scripted.loading import ScriptedHarness, scripted_order
from cortex.harness.scripted.script import SCRIPT_TEMPLATE, Gate, Script, hang, hold_interpreter
from cortex.harness.scripted.tokens import bytes_of, numbered, tokens_of

__all__ = [
    "SCRIPT_TEMPLATE",
    "Gate",
    "Script",
    "ScriptedEngine",
    "ScriptedHarness",
    "bytes_of",
    "hang",
    "hold_interpreter",
    "numbered",
    "scripted_order",
    "tokens_of",
]
