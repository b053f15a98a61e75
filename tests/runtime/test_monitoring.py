"""The dashboard and the alerts name what is measured, all of it, and nothing else."""

import json
import re
from pathlib import Path

import pytest
import yaml

from runtime.metrics import METRICS, Metric
from scripts import grafana_dashboard

REPO = Path(__file__).resolve().parents[2]
TABLE = {metric.name: metric for metric in METRICS}
EXPRESSIONS = [target["expr"] for panel in grafana_dashboard.dashboard()["panels"] for target in panel["targets"]]
RULES = yaml.safe_load((REPO / "monitoring/alerts.yaml").read_text())["groups"][0]["rules"]
WRITTEN = re.compile(r"(?:\$prefix|ray_)(llm_serve_\w+?)(_bucket)?(?:\{([^}]*)\})?(?=[\s\[)])")
"""A metric, whether its buckets are meant, and what its labels must be."""


def metrics_in(expression: str) -> list[tuple[Metric, bool, set[str]]]:
    found = WRITTEN.findall(expression)
    assert len(found) == expression.count("llm_serve_")
    return [(TABLE[name], bool(bucket), set(re.findall(r"(\w+)=", labels))) for name, bucket, labels in found]


def test_the_dashboard_is_what_the_script_writes() -> None:
    assert grafana_dashboard.TARGET.read_text() == grafana_dashboard.text()


@pytest.mark.parametrize("expression", [*EXPRESSIONS, *(rule["expr"] for rule in RULES)])
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    by = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
    for metric, buckets, labels in metrics_in(expression):
        assert buckets == (metric.kind == "histogram")
        assert labels <= set(metric.labels)
        assert by - {"le"} <= set(metric.labels) and ("le" in by) == buckets
        assert ("rate(" in expression) == (metric.kind != "gauge")


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {metric.name for expression in EXPRESSIONS for metric, _, _ in metrics_in(expression)}
    assert shown == set(TABLE)


def test_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads(grafana_dashboard.text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)


def test_every_metric_is_documented() -> None:
    page = (REPO / "docs/operations.md").read_text()
    rows = re.findall(r"^\| `(llm_serve_\w+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE)
    labels = {name: ", ".join(f"`{label}`" for label in metric.labels) for name, metric in TABLE.items()}
    assert rows == [(name, metric.kind, labels[name]) for name, metric in TABLE.items()]
