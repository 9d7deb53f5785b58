"""Every example loads without a warning, and shows every key that does something."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cortex.config.files import check
from cortex.config.gateway import read_gateway
from cortex.config.models import CUDA_KEYS, merge_aliases, read_models
from cortex.config.neuron import read_neuron
from cortex.config.reading import Known, Table
from cortex.config.tables import GATEWAY_FILE, MODELS_FILE, NEURON_FILE
from cortex.neuron.upstreams import address_of

EXAMPLES = Path(__file__).parent.parent / "examples"
CPU = EXAMPLES / "cpu-only"
CUDA = EXAMPLES / "cuda"
UPSTREAM = EXAMPLES / "upstream"
FAKE = EXAMPLES / "fake-fleet"
TABLES = {"gateway": GATEWAY_FILE, "neuron": NEURON_FILE, "models": MODELS_FILE}


def files():
    return sorted(EXAMPLES.glob("*/*.toml"))


def test_there_are_examples():
    assert {file.name for file in CPU.glob("*.toml")} == {"cortex.toml", "models.toml", "neuron.toml"}


@pytest.mark.parametrize("file", files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_an_example_loads_without_a_warning(file):
    report = check(file)
    assert report.kind and file.name.startswith({"gateway": "cortex"}.get(report.kind, report.kind))
    assert (report.faults, report.warnings) == ((), ())


def live(table):
    """Names of keys that this version acts on, on a host without a GPU: no group is made of a CPU."""
    elsewhere = ("default_models", "alias_sampling", "upstream", "exllamav2", "groups", *CUDA_KEYS)
    for name, node in table.keys.items():
        if isinstance(node, Table) and not node.idle and name not in elsewhere:
            yield from live(node)
        elif isinstance(node, Known) and not (node.idle or node.old or name in elsewhere):
            yield name


@pytest.mark.parametrize("file", sorted(CPU.glob("*.toml")), ids=lambda file: file.name)
def test_an_example_shows_every_key_that_has_an_effect(file):
    shown = set(re.findall(r"^(?:# )?\[?\[?([a-z0-9_]+)(?: =|\])", file.read_text(), flags=re.M))
    assert set(live(TABLES[check(file).kind])) - shown == set()
    assert "alias_sampling" not in TABLES[check(file).kind].keys or "\n[alias_sampling." in file.read_text()


def test_the_example_of_upstreams_shows_every_key_about_them():
    shown = set(re.findall(r"^(?:# )?([a-z_]+) = ", (UPSTREAM / "neuron.toml").read_text(), flags=re.M))
    assert set(NEURON_FILE.keys["harness"].keys["upstream"].keys) - shown == set()
    neuron, _ = read_neuron(UPSTREAM / "neuron.toml", {})
    catalogue, _ = read_models(UPSTREAM / "models.toml")
    assert len(neuron.upstream.endpoints) == 2
    assert all(address_of(spec) for spec in catalogue)


def test_the_example_of_a_gpu_shows_every_key_about_it():
    texts = {name: (CUDA / f"{name}.toml").read_text() for name in ("neuron", "models")}
    shown = {
        name: set(re.findall(r"^(?:# )?([a-z0-9_]+) = ", text, flags=re.M)) for name, text in texts.items()
    }
    cuda = NEURON_FILE.keys["harness"].keys["exllamav2"].keys
    assert {*cuda, "groups"} - shown["neuron"] == set()
    assert set(CUDA_KEYS) - shown["models"] == set()
    neuron, _ = read_neuron(CUDA / "neuron.toml", {})
    catalogue, _ = read_models(CUDA / "models.toml")
    assert neuron.exllamav2.cache == "q8"
    assert {spec.harness_name for spec in catalogue} == {"exllamav2"}
    assert [spec.id for spec in catalogue if spec.draft and catalogue.find(spec.draft)]


@pytest.mark.parametrize("folder", [CPU, CUDA], ids=lambda folder: folder.name)
def test_the_three_files_fit_together(folder):
    gateway, _ = read_gateway(folder / "cortex.toml", {})
    neuron, _ = read_neuron(folder / "neuron.toml", {})
    assert gateway.models_config == neuron.models_config == folder / "models.toml"
    assert [(ref.name, ref.endpoint) for ref in gateway.neurons] == [(neuron.name, f"http://{neuron.listen}")]
    catalogue = merge_aliases(read_models(gateway.models_config)[0], gateway.aliases)
    for name in gateway.aliases:
        assert catalogue.find(name), f"the alias {name} stands for nothing"
    for spec in catalogue:
        assert spec.source, f"{spec.id} has no weights"
        if spec.source.startswith("hf:"):
            continue
        for path in (spec.source.removeprefix("path:"), *spec.lora):
            assert any(Path(path).is_relative_to(root) for root in neuron.model_roots)


@pytest.mark.parametrize("folder", [CPU, CUDA], ids=lambda folder: folder.name)
def test_what_an_example_shows_in_comments_is_valid_too(tmp_path, folder):
    """Each commented key of cortex.toml and neuron.toml, put in force, is read without a fault."""
    (tmp_path / "neuron.token").write_text("x" * 32)
    (tmp_path / "neuron.token").chmod(0o600)
    for name in ("models.toml", "cortex.toml", "neuron.toml"):
        text = (folder / name).read_text().replace("64 hex digits", "0" * 64)
        uncommented = re.sub(r"^# (?=[a-z0-9_]+ = |\[)", "", text, flags=re.M)
        assert uncommented != text
        (tmp_path / name).write_text(uncommented)
        assert check(tmp_path / name).faults == ()


def test_the_fake_fleet_is_the_one_that_its_gateway_looks_for():
    gateway, _ = read_gateway(FAKE / "cortex.toml", {})
    catalogue = merge_aliases(read_models(gateway.models_config)[0], gateway.aliases)
    started = re.findall(r"neuron\.py --name (\w+) --port (\d+)", (FAKE / "README.md").read_text())
    assert [(ref.name, ref.endpoint) for ref in gateway.neurons] == [
        (name, f"http://127.0.0.1:{port}") for name, port in started
    ]
    assert len(list(catalogue)) == 4 and catalogue.find("chat")


def test_the_fake_fleet_tells_of_each_switch_that_there_is():
    code = "import switches; print(*sorted({do for dos in switches.KNOWN.values() for do in dos}))"
    known = subprocess.run([sys.executable, "-c", code], cwd=FAKE, capture_output=True, text=True, check=True)
    table = (FAKE / "README.md").read_text().partition("| `on` |")[2]
    told = re.findall(r"`([a-z0-9-]+)`", table.partition("`--faults`")[0])
    others = {"on", "at", "do", "request", "load", "report", "head", "asked", "tokens", "after", "seconds"}
    assert set(told) - others - {"status", "name"} == set(known.stdout.split()) - {"status"}
