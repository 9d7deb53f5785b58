"""The alert rules and the dashboard that are shipped: whole, tested, and about metrics that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "packaging" / "monitoring"
RULES = (FOLDER / "alerts.yml").read_text()
CASES = (FOLDER / "alerts_test.yml").read_text()
BOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
DOCUMENTED = set(re.findall(r"^\| `([\w:]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.M))

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def alerts() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", RULES, re.M)


def expressions() -> Iterator[str]:
    for panel in BOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def named(text: str) -> set[str]:
    """Every metric that a text names, by what the documentation calls it."""
    found = set(re.findall(r"\b(?:cortex|process|vllm)[_:]\w+", text))
    parts = {name: re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
    return {parts[name] if parts[name] in DOCUMENTED else name for name in found}


@needs_promtool
@pytest.mark.parametrize(
    "order",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml")],
    ids=["rules", "configuration"],
)
def test_prometheus_takes_what_is_shipped(order: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *order], check=False, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.slow
def test_each_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    order = ["promtool", "test", "rules", "alerts_test.yml"]
    done = subprocess.run(order, check=False, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_has_a_test_of_either_kind_and_says_what_to_do(alert: str) -> None:
    cases = re.findall(
        rf'alertname="{alert}",alertstate="firing"}}\n +eval_time: \w+\n +exp_samples:(?: (\[\]))?', CASES
    )
    assert "" in cases and "[]" in cases
    [rule] = re.findall(rf"- alert: {alert}\n(?:(?! +- alert).*\n)+", RULES)
    assert re.search(r"severity: (critical|warning|info)\b", rule)
    assert re.search(r'summary: ".+"', rule) and re.search(r'runbook: ".{40,}"', rule)


def test_rules_name_metrics_that_are_documented() -> None:
    for expression in re.findall(r"expr: (?:>-\n)?((?:.+\n)+?) +(?:for|labels):", RULES):
        assert named(expression) <= DOCUMENTED, expression


def test_the_dashboard_names_metrics_that_are_documented() -> None:
    for expression in expressions():
        assert named(expression) and named(expression) <= DOCUMENTED, expression


def test_the_dashboard_leaves_the_source_the_jobs_and_the_selection_to_its_user() -> None:
    variables = {each["name"] for each in BOARD["templating"]["list"]}
    assert variables == {"datasource", "gateway_job", "neuron_job", "neuron", "model"}
    for panel in BOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            assert panel["targets"], panel["title"]
    for expression in expressions():
        used = set(re.findall(r"\$(\w+)", expression)) - {"__rate_interval"}
        assert used <= variables, expression
        assert used & {"gateway_job", "neuron_job"}, f"counts both roles at once: {expression}"


def test_no_two_panels_lie_on_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_what_the_issue_names_of_vllm_is_not_needed_by_our_own_dashboard() -> None:
    """A fleet whose engines are elsewhere has none of it."""
    assert not any("vllm:" in expression for expression in expressions())
