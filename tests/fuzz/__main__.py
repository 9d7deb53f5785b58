"""By hand, and guided by what code a case reaches: `pip install atheris`, then

    python -m tests.fuzz answers -max_total_time=600

The first word is a target, the others are libFuzzer's. A tape that fails is written beside and played again
by naming its file.
"""

import sys

import atheris

with atheris.instrument_imports(include=["cortex.text", "cortex.translator", "cortex.wire"]):
    from tests.fuzz.tape import Tape
    from tests.fuzz.targets import TARGETS

TARGET = TARGETS[sys.argv.pop(1)]


def one(tape: bytes) -> None:
    TARGET(Tape(tape))


atheris.Setup([*sys.argv, "-max_len=96"], one)
atheris.Fuzz()
