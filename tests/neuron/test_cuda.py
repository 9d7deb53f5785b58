"""What the doctor and `cortex engines` say of CUDA, on hosts of many kinds."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from cortex.cli import surveying
from cortex.config.neuron import Devices, NeuronConfig
from cortex.harness.base import Unavailable
from cortex.harness.exllamav2 import extension, toolchain
from cortex.neuron import cuda, doctor, harnesses
from cortex.neuron.cards import cards_of
from cortex.neuron.devices import Driver, find
from cortex.neuron.findings import Finding
from tests.fake_cuda import Host
from tests.fake_nvml import NO_DRIVER, Card, FakeNvml
from tests.fake_terminal import told

ADA, HOPPER, PASCAL = (
    Card("GPU-1"),
    Card("GPU-2", "NVIDIA H200", compute=(9, 0)),
    Card("GPU-3", compute=(6, 1)),
)


def driver(*cards: Card) -> Driver:
    return find({}, FakeNvml(list(cards), init=None if cards else NO_DRIVER))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path, monkeypatch)
    for name, value in host.tools(nvcc="12.8").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(toolchain, "_ROOTS", ())
    # As the driver of the made-up library, which runs CUDA 12.8.
    host.install(torch="2.8.0+cu128", cuda="12.8")
    plug(monkeypatch, ADA)
    return host


def plug(monkeypatch: pytest.MonkeyPatch, *cards: Card, bus: int | None = None) -> None:
    """The host has these, and a driver for them; on the bus are as many, or `bus`."""
    monkeypatch.setattr(cuda, "find", lambda env: driver(*cards))
    monkeypatch.setattr(cuda, "plugged", lambda: len(cards) if bus is None else bus)


def cached(host: Host, *names: str) -> Path:
    home = extension.home()
    assert home is not None
    return host.put(home / ",".join(names), names, torch="2.8.0+cu128", cuda="12.8")


def found(config: NeuronConfig = NeuronConfig()) -> dict[str, Finding]:
    return {finding.subject: finding for finding in cuda.devices(config)}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    return {subject: finding.verdict for subject, finding in findings.items()}


def test_a_host_without_nvidia_gets_one_calm_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch)
    (finding,) = cuda.devices(NeuronConfig())
    assert (finding.verdict, finding.remedy) == ("ok", "")
    monkeypatch.setattr(doctor, "plugged", lambda: 0)
    ready, absent = Engine(None), Engine(Unavailable("no_driver", "no driver", "install it"))
    lines = list(doctor.engines({"llamacpp": ready, "exllamav2": absent}))
    assert [line.verdict for line in lines] == ["ok", "ok"]
    monkeypatch.setattr(doctor, "plugged", lambda: 1)
    lines = list(doctor.engines({"llamacpp": ready, "exllamav2": absent}))
    assert [line.verdict for line in lines] == ["ok", "warn"]


def test_gpus_that_are_not_to_be_used_are_no_concern(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remedy for an engine that the neuron's file leaves out would be work for nothing."""
    plug(monkeypatch, PASCAL, ADA)
    monkeypatch.setattr(doctor, "plugged", lambda: 2)
    config = NeuronConfig(devices=Devices(use=("cpu",)))
    (finding,) = cuda.devices(config)
    assert (finding.subject, finding.verdict, finding.remedy) == ("devices", "ok", "")
    kinds = {
        "llamacpp": Engine(None),
        "exllamav2": Engine(Unavailable("no_driver", "none is used", "use it")),
    }
    told = list(doctor.checks(config, kinds)["engines"]())
    assert [(line.verdict, line.remedy) for line in told] == [("ok", ""), ("ok", "")]
    assert set(found()) >= {"device cuda:0", "device cuda:1"}
    one = found(NeuronConfig(devices=Devices(use=("cuda:1", "cpu"))))
    assert "device cuda:1" in one and "device cuda:0" not in one


def test_a_gpu_without_a_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, bus=2)
    (finding,) = cuda.devices(NeuronConfig())
    assert (finding.subject, finding.verdict) == ("driver", "warn")
    assert "2 NVIDIA GPUs" in finding.what and "install NVIDIA's driver" in finding.remedy
    (finding,) = cuda.devices(NeuronConfig(devices=Devices(use=("cuda:0",))))
    assert (finding.verdict, "cuda:0" in finding.remedy) == ("fail", True)


def test_a_host_that_has_everything_has_a_line_for_each(host: Host) -> None:
    folder = cached(host, "8.9")
    lines = found()
    assert verdicts(lines) == {"device cuda:0": "ok", "torch": "ok", "extension": "ok", "compiler": "ok"}
    assert "compute capability 8.9" in lines["device cuda:0"].what
    assert "CUDA up to 12.8" in lines["device cuda:0"].what
    assert lines["torch"].what == "2.8.0+cu128, built for CUDA 12.8"
    assert str(folder) in lines["extension"].what


def test_each_thing_that_is_missing_has_its_remedy(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = found()
    assert lines["extension"].verdict == "warn"
    assert lines["extension"].remedy == "cortex engines build exllamav2"
    host.install("torch", torch="2.8.0+cpu", cuda=None)
    lines = found()
    assert (lines["torch"].verdict, "extension" in lines) == ("warn", False)
    assert "[cuda]" in lines["torch"].remedy
    plug(monkeypatch, ADA, PASCAL)
    assert verdicts(found()) == {
        "device cuda:0": "ok",
        "device cuda:1": "warn",
        "torch": "warn",
        "compiler": "ok",
    }


def test_a_compiler_is_missed_only_while_there_is_something_to_compile(host: Host) -> None:
    (host.bin / "nvcc").unlink()
    assert found()["compiler"].verdict == "warn"
    cached(host, "8.9")
    assert found()["compiler"].verdict == "ok"


def test_a_gpu_that_the_extension_is_not_for_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(host, "8.9")
    plug(monkeypatch, ADA, HOPPER)
    line = found()["extension"]
    assert (line.verdict, line.remedy) == ("warn", "cortex engines build exllamav2")
    assert "not for 9.0" in line.what


@pytest.mark.parametrize(
    ("vendor", "kind", "count"),
    [("0x10de", "0x030000", 1), ("0x10de", "0x040300", 0), ("0x1002", "0x030000", 0)],
)
def test_gpus_are_counted_on_the_bus(tmp_path: Path, vendor: str, kind: str, count: int) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:01:00.0" / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:02:00.0").mkdir()
    assert cuda.plugged(tmp_path, tmp_path / "dxg") == count


def test_the_harness_hears_of_the_devices_that_are_used() -> None:
    both = driver(ADA, HOPPER)
    assert cards_of(both).capabilities == ((8, 9), (9, 0))
    assert cards_of(both, ("cpu", "cuda:1")).capabilities == ((9, 0),)
    none = cards_of(both, ("cpu",))
    assert (none.capabilities, none.why_not) == ((), "devices.use names no CUDA device")
    assert (cards_of(both).cuda, cards_of(driver()).why_not is None) == ("12.8", False)


def test_every_engine_is_listed_with_code_reason_and_remedy(host: Host) -> None:
    by_name = {each.name: each for each in harnesses.survey(driver(ADA))}
    assert list(by_name) == ["exllamav2", "llamacpp", "upstream"]
    cuda_engine = by_name["exllamav2"]
    assert (cuda_engine.available, cuda_engine.code) == (False, "extension_missing")
    assert cuda_engine.remedy == "cortex engines build exllamav2"
    folder = cached(host, "8.9")
    (ready,) = [each for each in harnesses.survey(driver(ADA)) if each.name == "exllamav2"]
    assert (ready.available, ready.version, ready.code) == (True, "0.3.2", None)
    assert (ready.extension, ready.archs) == (str(folder), "8.9")


async def test_the_command_lists_them_and_leaves_well_whatever_is_missing() -> None:
    plain = await told("engines")
    assert plain.returncode == 0
    assert [word in plain.stdout for word in (b"exllamav2", b"llamacpp", b"upstream")] == [True] * 3
    as_json = json.loads((await told("engines", "--json")).stdout)
    assert [each["name"] for each in as_json] == ["exllamav2", "llamacpp", "upstream"]
    assert set(as_json[0]) == {
        "name", "available", "version", "code", "why_not", "remedy", "extension", "archs",
    }  # fmt: skip


def test_a_narrow_terminal_shows_every_word(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cached(host, "8.9")
    console = Console(width=80)
    with console.capture() as shown:
        console.print(surveying._table(harnesses.survey(driver(ADA))))
    text = shown.get()
    assert max(len(line) for line in text.splitlines()) <= 80 and "…" not in text
    assert str(folder) in "".join(line[37:].strip() for line in text.splitlines() if line.strip())


class Engine:
    version = None

    def __init__(self, why: Unavailable | None) -> None:
        self._why = why

    def unavailable(self) -> Unavailable | None:
        return self._why
