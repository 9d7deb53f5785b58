"""What a script does with one client: a scenario a function, its outcome a line of JSON.

Scripts run with the client's own packages and know nothing of cortex. `python SCRIPT.py URL KEYED_URL KEY`.
"""

import json
import sys
import time
from collections.abc import Callable

# Which model answers to what: fleet.py of the folder above.
MODEL, COLD, SMALL, MORTAL, NOBODY = "m", "cold", "small", "mortal", "nobody"
LONG = "Hello, " * 100
URL, KEYED_URL, KEY = sys.argv[1:4]
V1, KEYED_V1 = f"{URL}/v1", f"{KEYED_URL}/v1"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tell(**scenarios: Callable[[], object]) -> None:
    """Each scenario has been played; what it raised is its outcome, too."""
    for name, play in scenarios.items():
        began = time.monotonic()
        try:
            outcome = {"said": play()}
        except Exception as error:  # noqa: BLE001 - whatever a client raises is what its user gets
            outcome = {"error": type(error).__name__, "text": str(error)}
        print(
            json.dumps({"scenario": name, "seconds": round(time.monotonic() - began, 1), **outcome}),
            flush=True,
        )
