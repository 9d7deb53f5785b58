"""What a script does with one client: a scenario a function, its outcome a line of JSON.

Scripts run with the client's own packages and know nothing of cortex. What they are told on the command
line: where a gateway is, one with keys, one whose line is full, and three keys of the second.
"""

import json
import sys
import time
import urllib.request
from collections.abc import Callable

# Which model answers to what: fleet.py of the folder above.
MODEL, COLD, SMALL, DOOMED, NOBODY = "m", "cold", "small", "doomed", "nobody"
FULL, FULL2 = "full", "full2"
LONG = "Hello, " * 100
URL, KEYED_URL, CROWDED_URL, KEY, SLOW, SPENT = sys.argv[1:7]
V1, KEYED_V1, CROWDED_V1 = f"{URL}/v1", f"{KEYED_URL}/v1", f"{CROWDED_URL}/v1"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def recovered() -> None:
    """Whoever died has come back, as far as the gateway knows."""
    while True:
        with urllib.request.urlopen(f"{URL}/fleet") as answer:
            if all(neuron["state"] != "away" for neuron in json.load(answer)["neurons"]):
                return
        time.sleep(0.05)


def tell(**scenarios: Callable[[], object]) -> None:
    """Each scenario has been played; what it raised is its outcome, too."""
    for name, play in scenarios.items():
        recovered()
        began = time.monotonic()
        try:
            outcome = {"said": play()}
        except Exception as error:  # noqa: BLE001 - whatever a client raises is what its user gets
            outcome = {"error": type(error).__name__, "text": str(error)}
        print(
            json.dumps({"scenario": name, "seconds": round(time.monotonic() - began, 1), **outcome}),
            flush=True,
        )
