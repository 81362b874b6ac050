"""The dashboard and the alert rules, against the metrics that the code exports."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.telemetry.names import METRICS, Metric, exported

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana" / "raykd.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
OURS: dict[str, Metric] = {exported(metric): metric for metric in METRICS.values()}
NAME = re.compile(r"\bray_\w+")
SUMMED = re.compile(r"\b(?:rate|increase)\((\w+)")
SELECTOR = re.compile(r"(ray_raykd_\w+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPED = re.compile(r"\bby \(([^)]*)\)")
FROM_RAY = {"instance", "replica", "application", "dataset"}
"""Labels of Ray's own metrics that are grouped by."""
DURATION = re.compile(r"\d+[smhd]")


def charts() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def shown() -> list[str]:
    return [target["expr"] for panel in charts() for target in panel["targets"]]


def alerting() -> list[str]:
    return [rule["expr"] for rule in RULES]


def rays_own() -> str:
    """The text of the dashboards that Ray brings along, and of Serve's and Data's metrics."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    metrics = Path(spec.origin).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    return "".join(file.read_text() for file in metrics.glob("*_panels.py"))


def test_names_are_as_prometheus_wants_them() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"raykd_[a-z0-9_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert metric.description.endswith(".")
        assert metric.labels[0] == "run"
        of_unit = {"s": "_seconds", "bytes": "_bytes", "tokens/s": "_per_second"}.get(metric.unit)
        assert of_unit is None or of_unit in name


@pytest.mark.parametrize("expr", [*shown(), *alerting()])
def test_every_expression_asks_for_what_is_exported(expr: str) -> None:
    names = set(NAME.findall(expr))
    assert names
    ours = {name for name in names if name.startswith("ray_raykd_")}
    assert ours <= OURS.keys()
    theirs = rays_own()
    assert [name for name in names - ours if f"{name}{{" not in theirs] == []
    for name, selector in SELECTOR.findall(expr):
        assert set(LABEL.findall(selector)) <= set(OURS[name].labels)
    allowed = FROM_RAY.union(*(OURS[name].labels for name in ours))
    for group in GROUPED.findall(expr):
        assert {label.strip() for label in group.split(",")} <= allowed
    # A gauge has no rate, and a counter's own value says nothing.
    assert {OURS[name].kind for name in SUMMED.findall(expr) if name in OURS} <= {"counter"}
    assert expr.count("(") == expr.count(")")


def test_the_dashboard_shows_every_metric() -> None:
    on_it = {name for expr in shown() for name in NAME.findall(expr)}
    assert OURS.keys() - on_it == set()


def test_counters_are_shown_as_rates() -> None:
    for expr in shown():
        counters = [n for n in NAME.findall(expr) if n in OURS and OURS[n].kind == "counter"]
        assert SUMMED.findall(expr) == counters, expr


def test_the_dashboard_has_the_shape_that_grafana_imports() -> None:
    assert DASHBOARD["uid"] == "raykd"
    assert "id" not in DASHBOARD, "Grafana gives it one"
    assert {"title", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in charts():
        assert panel["type"] in ("timeseries", "stat")
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_lie_beside_each_other() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        across = range(place["x"], place["x"] + place["w"])
        assert across.stop <= 24
        for cell in itertools.product(across, range(place["y"], place["y"] + place["h"])):
            assert cell not in cells, (panel["title"], cells.get(cell))
            cells[cell] = panel["title"]


def test_variables_that_are_used_are_there() -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used == variables.keys()
    assert variables["run"]["allValue"] == ".*"
    current = variables["window"]["current"]["value"]
    assert current in variables["window"]["query"].split(",")


def test_every_expression_of_a_run_is_of_the_chosen_one() -> None:
    for expr in shown():
        for name in NAME.findall(expr):
            if name in OURS:
                assert f'{name}{{run=~"$run"' in expr, expr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("Raykd")
    assert DURATION.fullmatch(rule.get("for", "0s"))
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
    operations = (DOCS / "operations.md").read_text()
    for heading in re.findall(r'Runbook "([^"]+)"', rule["annotations"]["description"]):
        assert f"### {heading}\n" in operations
    assert rule["alert"] in operations, "its runbook"


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)


def test_the_document_has_every_metric() -> None:
    text = (DOCS / "operations.md").read_text()
    section = text[text.index("### Metrics") : text.index("### JSON logs")]
    told: set[str] = set()
    for line in section.splitlines():
        names = re.findall(r"`(\w+)`", line.split("|")[1]) if line.startswith("| `") else []
        for name in names:
            # `_wanted` after `teacher_replicas_running` shares its beginning.
            told.add(name if not name.startswith("_") else names[0].rpartition("_")[0] + name)
    assert {f"ray_raykd_{name}" for name in told} == OURS.keys()
