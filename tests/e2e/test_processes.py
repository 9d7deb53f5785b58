"""Two neurons and a gateway as processes of their own, on loopback, with the demo model."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

STORY = [{"role": "user", "content": "Tell me a long story."}]
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def cortex(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A cortex process; killed at the end if it is still there."""
    process = subprocess.Popen([sys.executable, "-m", "cortex", *arguments], stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def until(holds, seconds: float = 20.0) -> float:
    """Seconds until `holds()` became true, asked again and again; what a process does gives no event."""
    began = time.monotonic()
    while True:
        try:
            if holds():
                return time.monotonic() - began
        except httpx.TransportError:
            pass
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.02)


class Fleet:
    """Config files in `folder`, and the processes that use them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.ports = {name: free_port() for name in ("n1", "n2", "gateway")}
        self.files = {name: folder / f"{name}.toml" for name in self.ports}
        for name in ("n1", "n2"):
            self.files[name].write_text(
                f'[neuron]\nname = "{name}"\nlisten = "127.0.0.1:{self.ports[name]}"\n'
                f'metrics_listen = "127.0.0.1:0"\n'
            )
        neurons = "".join(
            f'[[neurons]]\nname = "{name}"\nendpoint = "http://127.0.0.1:{self.ports[name]}"\n'
            for name in ("n1", "n2")
        )
        self.files["gateway"].write_text(
            f'[gateway]\nlisten = "127.0.0.1:{self.ports["gateway"]}"\nmetrics_listen = "127.0.0.1:0"\n'
            f"[poll]\ninterval_s = 0.2\n{neurons}"
        )
        self.http = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{self.ports['gateway']}", timeout=30, trust_env=False)
        )

    def start(self, name: str) -> subprocess.Popen[bytes]:
        role = "gateway" if name == "gateway" else "neuron"
        return self.stack.enter_context(cortex(role, "--config", str(self.files[name])))

    def healthy(self) -> int:
        return self.http.get("/health").json()["neurons"]["healthy"]

    def ask(self, messages: object, **more: object) -> httpx.Response:
        body = {"model": "cortex-demo", "messages": messages, **more}
        return self.http.post("/v1/chat/completions", json=body)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


def test_a_killed_neuron_ends_its_stream_with_an_error_and_the_other_goes_on(fleet: Fleet) -> None:
    """Rows 3 and 8: the tokens so far, then the error event; the next request is answered."""
    neurons = {name: fleet.start(name) for name in ("n1", "n2")}
    fleet.start("gateway")
    until(lambda: fleet.healthy() == 2)
    # A model that counts for long: the answer is cut while it comes.
    body = {"model": "cortex-demo", "prompt": "x " * 50, "max_tokens": 1900, "stream": True, "ignore": 1}
    body["logit_bias"] = {"1017": -100, "1015": -100}
    with fleet.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()
        first = next(pieces)
        assert b'"text":' in first
        neurons[answer.headers["x-cortex-neuron"]].send_signal(signal.SIGKILL)
        rest = first + b"".join(pieces)
    events = [line for line in rest.split(b"\n\n") if line]
    assert len(events) > 1
    error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "upstream_failed"
    assert b"[DONE]" not in rest
    survivor = fleet.ask(FRANCE)
    assert survivor.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert survivor.headers["x-cortex-neuron"] != answer.headers["x-cortex-neuron"]


def test_a_restarted_gateway_knows_its_fleet_within_five_seconds(fleet: Fleet) -> None:
    fleet.start("n1")
    first = fleet.start("gateway")
    until(lambda: fleet.healthy() == 1)
    assert fleet.ask(FRANCE).status_code == 200
    first.send_signal(signal.SIGKILL)
    first.wait()
    fleet.start("gateway")
    assert until(lambda: fleet.http.get("/v1/models/cortex-demo").json()["state"] == "loaded") < 5


def test_a_neuron_that_comes_back_serves_again(fleet: Fleet) -> None:
    """Row 24."""
    neuron = fleet.start("n1")
    fleet.start("gateway")
    until(lambda: fleet.healthy() == 1)
    assert fleet.ask(FRANCE).status_code == 200
    neuron.send_signal(signal.SIGKILL)
    neuron.wait()
    refused = fleet.ask(FRANCE)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    fleet.start("n1")
    until(lambda: fleet.healthy() == 1)
    assert fleet.ask(FRANCE).status_code == 200


@pytest.mark.parametrize("name", ["gateway", "n1"])
def test_a_terminated_role_lets_its_streams_finish_and_exits_cleanly(fleet: Fleet, name: str) -> None:
    """Row 87."""
    roles = {"n1": fleet.start("n1"), "gateway": fleet.start("gateway")}
    until(lambda: fleet.healthy() == 1)
    fleet.ask(FRANCE)
    body = {"model": "cortex-demo", "messages": STORY, "stream": True}
    with fleet.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        roles[name].send_signal(signal.SIGTERM)
        rest = first + b"".join(pieces)
    assert rest.endswith(b"data: [DONE]\n\n")
    assert roles[name].wait(timeout=20) == 0
