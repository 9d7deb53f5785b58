"""Workers that end as they are told, in place of a gateway."""

import os
import signal
import socket
import sys
import time

import msgspec

from cortex.workers import words
from cortex.workers.spawn import Plan


def main(text: str) -> None:
    """Serves, and ends: how is what `about` says for this life of this worker."""
    plan = msgspec.json.decode(text, type=Plan)
    with open(plan.about["lives"], "a") as lives:
        lives.write(f"{plan.index}\n")
    with open(plan.about["lives"]) as lives:
        life = lives.read().split().count(str(plan.index))
    end = plan.about.get(f"{plan.index}.{life}", "serve")
    if end.isdigit():
        sys.exit(int(end))
    line = socket.socket(fileno=plan.line)
    if end != "mute":
        say(line, words.State(["READY=1", "STATUS=there"]))
    if end == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    while line.recv(4096):  # pings, and the word to stop
        time.sleep(0.01)
        if end == "lively":
            say(line, words.Release("nothing"))
        if end == "serve" and plan.about.get("stops"):
            sys.exit(0)


def say(line: socket.socket, word: words.Word) -> None:
    said = msgspec.msgpack.encode(word)
    line.sendall(len(said).to_bytes(4, "big") + said)
