"""The door: what a person types.

`door` has the commands, `running` holds a role until a signal ends it, `up` wires a
gateway and a neuron into one process, `ports` finds out who has a port, `trouble`
turns an error into a line and an exit code. Nothing that a role needs is imported
before the command that needs it runs, so that `--help` answers at once.
"""

try:
    from cortex.cli.door import main
except ModuleNotFoundError as missing:
    if (missing.name or "cortex").partition(".")[0] == "cortex":
        raise
    raise SystemExit(
        f"cortex: the library {missing.name} is not installed; from the checkout: "
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/cortex up"
    ) from None

__all__ = ["main"]
