"""The door: what a person types.

`door` has the commands, `running` holds a role until a signal ends it, `up` wires a
gateway and a neuron into one process, `ports` finds out who has a port, `trouble`
turns an error into a line and an exit code. Nothing that a role needs is imported
before the command that needs it runs, so that `--help` answers at once.
"""

from cortex.cli.door import main

__all__ = ["main"]
