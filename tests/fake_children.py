"""What children are made of in tests: harnesses that break in ways that only a process survives.

Each function is named by its dotted name in `ScriptedHarness(factory=...)`, and runs in the
child. An engine here answers numbers without end, and does its worst in its third turn.
"""

import ctypes
import os
import sys

from cortex.config.upstream import UpstreamConfig
from cortex.errors import Unfit
from cortex.harness.scripted import Script, ScriptedHarness, hang, hold_interpreter
from cortex.harness.upstream import UpstreamHarness


def _in_turn(deed, turn=3):
    return ScriptedHarness(Script(endless=True, on_turn=lambda number: number == turn and deed()))


def aborts():
    def deed():
        print("GGML_ASSERT(n > 0) failed", file=sys.stderr, flush=True)
        os.abort()

    return _in_turn(deed)


def faults():
    return _in_turn(lambda: ctypes.string_at(0))


def leaves():
    return _in_turn(lambda: os._exit(3))


def hangs():
    return _in_turn(hang)


def holds():
    return _in_turn(hold_interpreter)


def raises():
    return _in_turn(lambda: 1 / 0)


def loses_its_device():
    def deed():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    return _in_turn(deed)


def aborts_in_load():
    return ScriptedHarness(Script(on_load=os.abort))


def hangs_in_load():
    return ScriptedHarness(Script(on_load=hang))


def holds_in_load():
    """As a real constructor does: for a second, nothing in Python runs."""
    return ScriptedHarness(Script(on_load=lambda: ctypes.PyDLL(None).usleep(1_000_000 - 1)))


def refuses_to_load():
    return ScriptedHarness(Script(load_error=Unfit("it is torn")))


def refuses_to_unload():
    harness = ScriptedHarness()
    load = harness.load

    def stubborn(*said):
        engine = load(*said)
        engine.unload = hang
        return engine

    harness.load = stubborn
    return harness


def never_begins():
    hang()


def cannot_be_made():
    raise ImportError("libgomp.so.1: cannot open shared object file")


def talks():
    """Its stderr is as bad as an engine's can be."""

    def deed():
        sys.stderr.write("x" * 100_000 + "\n\x1b[31mred\x00\n" + "half a line")
        sys.stderr.flush()

    return _in_turn(deed)


def upstream():
    """What a child of its own makes of an upstream's harness; products keep it on a thread."""
    return UpstreamHarness(UpstreamConfig())


def _at_tokens(deed):
    """Its engine does its worst when it is asked for tokens."""
    harness = ScriptedHarness()
    load = harness.load

    def fragile(*said):
        engine = load(*said)
        engine.tokenise = lambda text: deed()
        return engine

    harness.load = fragile
    return harness


def aborts_at_tokens():
    return _at_tokens(os.abort)


def hangs_at_tokens():
    return _at_tokens(hang)


def breaks_at_tokens():
    return _at_tokens(lambda: 1 / 0)
