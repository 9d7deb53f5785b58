"""What goes wrong at the fake neuron, when, and how often.

A script of switches is set as a whole, by `--faults` or `POST /faults`. Each one names a moment
of a request, a load or a report, and is used up; what it does is done here.
"""

import os
import signal
from collections.abc import Mapping
from typing import Literal

import msgspec
import trio
from lines import Gone, Line

from cortex import errors

ANYWHERE = frozenset({"kill", "freeze", "hang", "close", "reset"})
# What can go wrong where: on what, and at which moment of it.
KNOWN: Mapping[tuple[str, str], frozenset[str]] = {
    ("request", "head"): ANYWHERE,
    ("request", "asked"): ANYWHERE | {"full", "stopping", "not-here", "status", "redirect", "gzip"},
    ("request", "tokens"): ANYWHERE
    | {"slow", "garbage", "utf8", "truncated", "endless", "no-end", "fail", "drip"},
    ("load", "asked"): frozenset({"kill", "freeze", "hang", "slow", "fail"}),
    ("report", "asked"): frozenset({"hang", "stale", "claim", "restart"}),
}
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
BROKEN_TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xff\xe2\x82"}}]}\n\n'


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong `times` times (0: always), for one `model` if it is named. A request fails when
    its head has come, when it was `asked` whole, or when `after` tokens of its stream are out."""

    do: str
    on: Literal["request", "load", "report"] = "request"
    at: Literal["head", "asked", "tokens"] = "asked"
    after: int = 0
    times: int = 1
    model: str = ""
    seconds: float = 1.0
    status: int = 500
    name: str = ""
    boot_id: str = ""

    def __post_init__(self) -> None:
        if self.do not in (known := KNOWN.get((self.on, self.at), frozenset())):
            raise ValueError(f"'{self.do}' is not for {self.on} at {self.at}; known: {sorted(known)}")


class Script(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The switches from here on; an empty one turns all of them off."""

    faults: list[Fault] = []

    def take(self, on: str, at: str = "asked", *, model: str = "", said: int = 0) -> Fault | None:
        """The first switch for this moment, used up once more."""
        for fault in self.faults:
            if (fault.on, fault.at, fault.after) == (on, at, said) and fault.model in ("", model):
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
                return fault
        return None


async def strike(fault: Fault | None, line: Line) -> None:
    """What can go wrong anywhere. A frozen process goes on from here when it is thawed."""
    match fault and fault.do:
        case "kill" | "freeze" as how:
            os.kill(os.getpid(), SIGNALS[how])
        case "hang":
            await trio.sleep_forever()
        case "close":
            raise Gone
        case "reset":
            line.reset()
            raise Gone


async def read_weights(fault: Fault | None, usual_s: float) -> None:
    """The time of a load has passed, or how it came to another end. `kill` comes after `seconds`."""
    match fault and fault.do:
        case None:
            await trio.sleep(usual_s)
        case "fail":
            await trio.sleep(usual_s)
            raise errors.LoadFailed("the fake neuron plays weights that cannot be read")
        case "hang":
            await trio.sleep_forever()
        case how:
            await trio.sleep(0 if fault is None else fault.seconds)
            if how in SIGNALS:
                os.kill(os.getpid(), SIGNALS[how])


async def instead(fault: Fault | None, line: Line) -> bool:
    """Whether something else than an answer was said to a request."""
    await strike(fault, line)
    if fault is None:
        return False
    match fault.do:
        case "full":
            raise errors.Overloaded("the fake neuron plays full", retry_after_s=7)
        case "stopping":
            raise errors.Stopping("the fake neuron plays that it stops")
        case "not-here":
            raise errors.NotHereNow("the fake neuron plays that the model has left")
        case "status":
            body = {"error": {"message": "a secret of the neuron", "code": "played", "type": "t"}}
            await line.answer(fault.status, msgspec.json.encode(body))
        case "redirect":
            await line.answer(307, b"", {"location": "http://127.0.0.1:9/v1/chat/completions"})
        case "gzip":
            await line.answer(200, b"\x1f\x8b\x08\0", {"content-encoding": "gzip"})
        case _:
            return False
    return True


async def spoil(fault: Fault | None, line: Line) -> None:
    """What goes wrong between two tokens of a stream."""
    await strike(fault, line)
    if fault is None:
        return
    match fault.do:
        case "slow":
            await trio.sleep(fault.seconds)
        case "garbage":
            await line.chunk(b"\x00\xff\xfe this is no event\n")
            await trio.sleep_forever()
        case "utf8":
            await line.chunk(BROKEN_TEXT)
        case "truncated":
            await line.chunk(BROKEN_TEXT[:30])
            raise Gone
        case "drip":
            await line.chunk(b"data: ")
            while True:  # an event that never ends, a byte at a time
                await line.chunk(b"x")
                await trio.sleep(fault.seconds)
        case "endless":
            await line.chunk(b"data: ")
            while True:
                await line.chunk(b"x" * 65536)
        case "no-end":
            await line.end()
            raise Gone
        case "fail":
            raise errors.EngineFailed("the fake neuron plays an engine that breaks")
