"""The loads that gateways are measured under, by what they are made of: requests, bursts, paced streams."""

import json
from pathlib import Path
from typing import Final

from tests.bench.stage import MESSAGES, Load

EVENTS: Final = 64
# Role, finish and end mark.
FRAME_EVENTS: Final = 3
PACED_EVENTS: Final = 100
PAUSE_MS: Final = 10
MESSAGE: Final = {
    "model": "mock",
    "max_tokens": EVENTS,
    "stream": True,
    "messages": [{"role": "user", "content": "the quick brown fox " * 10}],
}


def write_message(folder: Path) -> None:
    """The request of `messages` is there."""
    (folder / "message.json").write_text(json.dumps(MESSAGE))


def burst(clients: int, seconds: float) -> Load:
    """Streams as fast as they can be."""
    return Load(clients, seconds, _stream(EVENTS))


def alone(seconds: float) -> Load:
    """One stream at a time, and a pause after each, in which the gateway falls asleep."""
    return Load(1, seconds, (*_stream(EVENTS), "-t", str(PAUSE_MS)))


def messages(clients: int, seconds: float, folder: Path) -> Load:
    """Anthropic's streams, which the neuron does not speak. How many events they have is the teller's."""
    return Load(clients, seconds, ("-s", "-b", str(folder / "message.json")), path=MESSAGES)


def paced(streams: int, seconds: float, ramp_s: float = 1.0) -> Load:
    """Streams with the mock's pace, begun over a while."""
    return Load(streams, seconds, ("-m", "paced", *_stream(PACED_EVENTS)), 0.5, ramp_s)


def _stream(events: int) -> tuple[str, ...]:
    return ("-s", "-n", str(events), "-e", str(events + FRAME_EVENTS))
