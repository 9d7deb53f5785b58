"""What the doctor finds on a host: each verdict with its remedy, and no check that hides another."""

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from cortex.cli.doctor import _port
from cortex.config.hub import HubConfig
from cortex.config.network import Address
from cortex.config.neuron import Devices, NeuronConfig
from cortex.harness.base import Unavailable
from cortex.neuron import doctor
from cortex.neuron.devices import Cpu, Reading
from cortex.neuron.doctor import examine
from cortex.neuron.findings import Finding
from tests.fake_terminal import told

OLD_CPU = Unavailable("unsupported_cpu", "no AVX2", "use another host")
NO_GPU = Unavailable("no_driver", "no driver", "install it")


class Engine:
    version = "1.2"

    def __init__(self, why: Unavailable | None) -> None:
        self._why = why

    def unavailable(self) -> Unavailable | None:
        return self._why


def verdicts(found: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.subject, finding.verdict) for finding in found]


async def test_a_check_that_breaks_or_hangs_hides_no_other() -> None:
    hung = threading.Event()

    def breaks() -> Iterator[Finding]:
        yield Finding("broken", "ok", "half")
        raise OSError("the disk is gone")

    def hangs() -> list[Finding]:
        hung.wait(20)
        return []

    checks = {"broken": breaks, "hung": hangs, "well": lambda: [Finding("well", "ok", "here")]}
    try:
        found = await examine(checks, within_s=0.5)
    finally:
        hung.set()
    assert [(each.subject, each.verdict) for each in found] == [
        ("broken", "fail"),
        ("hung", "fail"),
        ("well", "ok"),
    ]
    assert "the disk is gone" in found[0].what and "no answer" in found[1].what


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ({"a": None, "b": None}, ["ok", "ok"]),
        ({"a": None, "b": OLD_CPU}, ["ok", "warn"]),
        ({"a": OLD_CPU, "b": OLD_CPU}, ["fail", "fail"]),
        ({"a": OLD_CPU, "b": NO_GPU}, ["fail", "fail"]),
    ],
)
def test_one_engine_that_runs_is_enough(why: dict[str, Unavailable | None], told: list[str]) -> None:
    found = list(doctor.engines({name: Engine(reason) for name, reason in why.items()}))
    assert [each.verdict for each in found] == told
    assert [each.remedy for each in found] == [reason.remedy if reason else "" for reason in why.values()]


def test_roots_of_weights_must_be_there_and_readable(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0)
    found = list(doctor.weights([tmp_path, tmp_path / "gone", shut]))
    # To root nothing is shut.
    assert [each.verdict for each in found] == ["ok", "fail", "ok" if os.geteuid() == 0 else "fail"]
    assert str(tmp_path / "gone") in found[1].what


def test_state_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "here").mkdir()
    for folder, verdict in (("here", "ok"), ("new/deep", "ok"), ("file", "fail")):
        found = list(doctor.state(NeuronConfig(state_dir=tmp_path / folder)))
        assert verdicts(found) == [("state", verdict)], folder
    assert not list((tmp_path / "here").iterdir())
    assert not (tmp_path / "new").exists()


def test_a_host_without_memory_for_models_is_warned_of() -> None:
    assert verdicts(doctor.memory(NeuronConfig(devices=Devices(memory_headroom=0)))) == [("memory", "ok")]
    (found,) = doctor.memory(NeuronConfig(devices=Devices(memory_limit=2**20)))
    assert found.verdict == "warn" and "1MiB" in found.what and "memory_limit" in found.remedy


def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cpu, "look", lambda self: Reading(3 * 2**30, 2 * 2**30))
    (found,) = doctor.memory(NeuronConfig(devices=Devices(memory_headroom=2**30)))
    assert (found.verdict, found.what) == ("warn", "1GiB for models on the CPU, of 3GiB in all")


def test_a_low_limit_of_open_files_is_warned_of() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        low = list(doctor.host())[-1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (low.verdict, "LimitNOFILE" in low.remedy) == ("warn", True)


class Hub(BaseHTTPRequestHandler):
    """Knows one token."""

    def do_GET(self) -> None:
        known = self.headers["authorization"] == "Bearer good"
        self.send_response({"ill": 503, "other": 404}.get(self.path.split("/")[1], 200 if known else 401))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("endpoint", "token", "verdict", "said"),
    [
        ("", "good", "ok", "takes the token"),
        ("", "bad", "warn", "refuses the token"),
        ("", "", "ok", "without a token"),
        ("/ill", "", "warn", "503"),
        ("/other", "good", "warn", "404"),
        ("gone", "", "warn", "not reached: Connection refused"),
    ],
)
def test_the_hub_is_asked_once_whether_it_would_serve(
    endpoint: str, token: str, verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", token)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = (
            "http://127.0.0.1:9" if endpoint == "gone" else f"http://127.0.0.1:{server.server_port}{endpoint}"
        )
        config = HubConfig(endpoint=url, token_env="A_TOKEN", cache_dir=tmp_path / "cache")
        found = list(doctor.hub(NeuronConfig(hub=config)))
        server.shutdown()
        thread.join()
    assert verdicts(found) == [("hub", verdict), ("hub cache", "ok")]
    assert said in found[0].what
    assert bool(found[0].remedy) == (verdict != "ok")
    assert not found[0].remedy or found[0].remedy.split()[0] in ("see", "put", "try")
    assert "good" not in repr(found) and "bad" not in repr(found)


@pytest.mark.parametrize(
    ("variable", "value"), [("ALL_PROXY", "socks4://127.0.0.1:1"), ("SSL_CERT_FILE", "/nowhere/at/all")]
)
def test_an_environment_that_no_hub_can_be_reached_with_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    config = HubConfig(endpoint="http://127.0.0.1:9", cache_dir=tmp_path)
    found = next(iter(doctor.hub(NeuronConfig(hub=config))))
    assert (found.verdict, variable in found.remedy) == ("warn", True)


def test_a_hub_that_is_not_to_be_used_is_not_asked(tmp_path: Path) -> None:
    config = HubConfig(endpoint="http://127.0.0.1:9", offline=True, cache_dir=tmp_path)
    found = next(iter(doctor.hub(NeuronConfig(hub=config))))
    assert (found.verdict, "offline" in found.what) == ("ok", True)


def test_a_device_that_is_wanted_and_not_there_is_a_fault() -> None:
    """This machine may have one: then only the wanting is of no interest."""
    if next(iter(doctor.devices(NeuronConfig()))).subject != "devices":
        pytest.skip("there is a CUDA device here")
    assert verdicts(doctor.devices(NeuronConfig())) == [("devices", "ok")]
    (found,) = doctor.devices(NeuronConfig(devices=Devices(use=("cuda:0",))))
    assert found.verdict == "fail" and "cuda:0" in found.remedy


async def test_the_command_tells_a_taken_port_a_faulty_file_and_its_exit_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        good = tmp_path / "neuron.toml"
        listen = f'listen = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:0"\n'
        good.write_text(f'[neuron]\n{listen}state_dir = "{tmp_path}"\n')
        said = await told("doctor", "--config", str(good), "--json")
    found = {each["subject"]: each for each in msgspec.json.decode(said.stdout)}
    assert (said.returncode, found["port of listen"]["verdict"]) == (0, "warn")
    assert f"pid {os.getpid()}" in found["port of listen"]["what"]
    assert found["port of metrics_listen"]["verdict"] == "ok"
    assert found["port of listen"]["remedy"].startswith("stop it, or")
    bad = tmp_path / "bad.toml"
    bad.write_text('[neuron]\nlistn = "127.0.0.1:1"\n')
    said = await told("doctor", "--config", str(bad))
    shown = said.stdout.decode()
    assert (said.returncode, shown.startswith("fail  config")) == (1, True)
    assert "listn" in "".join(shown.split())
    assert any(line.startswith("ok    engine llamacpp") for line in shown.splitlines())


LISTENS = """
import socket
with socket.create_server(("127.0.0.1", 0)) as taken:
    print(taken.getsockname()[1], flush=True)
    input()
"""


@pytest.mark.parametrize(("command", "verdict"), [("cortex", "ok"), ("another", "warn")])
def test_a_port_that_a_cortex_has_already_is_well(tmp_path: Path, command: str, verdict: str) -> None:
    """Whoever asks the doctor about a neuron that runs is not told to stop it."""
    script = tmp_path / command
    script.write_text(LISTENS)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        (found,) = _port("listen", Address("127.0.0.1", port))()
        child.communicate("\n", timeout=20)
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict == "warn")
    assert f"pid {child.pid}" in found.what
