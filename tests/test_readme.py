"""The README's commands do what it says, and its pages exist."""

import os
import re
import shutil
import signal
import subprocess
import urllib.request
from itertools import takewhile
from pathlib import Path

import pytest

from cortex.metrics import Metrics
from cortex.workers.exchange import own_page

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def line_with(words: str) -> str:
    """The one command line of the README that holds `words`."""
    found = [line for line in README.splitlines() if words in line and not line.startswith(("|", "#", "-"))]
    assert len(found) == 1, found
    return found[0]


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 200


def test_every_file_that_the_readme_points_to_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert not [target for target in targets if "://" not in target and not (ROOT / target).exists()]


def test_the_gate_runs_the_readmes_test_command_to_the_letter() -> None:
    assert line_with(".venv/bin/pytest") in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_page_of_metrics_names_all_of_them_and_no_others() -> None:
    listed = set(re.findall(r"^\| `([\w:]+)` \| (\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    page = (Metrics(lambda model: True, role="neuron").render() + own_page({0}, {0: 0})).decode()
    families = [line.split() for line in page.splitlines()]
    assert listed == {(words[2], words[3]) for words in families if words[:2] == ["#", "TYPE"]}


def test_a_gateway_has_every_metric_but_those_of_vllm() -> None:
    pages = [Metrics(lambda model: True, role=role).render().decode() for role in ("gateway", "neuron")]
    gateway, neuron = [set(re.findall(r"^# TYPE (\S+)", page, re.M)) for page in pages]
    assert gateway == {name for name in neuron if not name.startswith("vllm:")}


@pytest.mark.slow
def test_a_newcomers_line_installs_cortex_and_serves_the_demo_model(tmp_path: Path) -> None:
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    # On a free port, since the usual one may be taken on this host; all else is as printed.
    line = line_with(".venv/bin/cortex up") + " --port 0"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        ["bash", "-c", line],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        printed = "".join(takewhile("Ctrl-C stops.\n".__ne__, process.stdout))
        url = re.search(r"http://\S+/v1", printed)
        assert url is not None, printed + process.communicate()[1]
        with urllib.request.urlopen(f"{url[0]}/models", timeout=10) as answer:
            assert b"cortex-demo" in answer.read()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0
