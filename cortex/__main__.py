"""`python -m cortex` runs the same program as the `cortex` command."""

from cortex.cli import main

main()
