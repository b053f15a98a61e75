"""Write monitoring/grafana.json, the Grafana dashboard of the metrics in `runtime/metrics.py`.

`$prefix` is what stands before each name: `ray_` where Prometheus scrapes Ray's nodes, nothing where it scrapes the
applications' own /metrics.
"""

import json
from pathlib import Path
from typing import Any

from runtime import metrics
from runtime.metrics import Metric

TARGET = Path(__file__).resolve().parents[1] / "monitoring" / "grafana.json"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_OF_MODEL = 'model=~"$model"'


def _rate(metric: Metric, *by: str) -> str:
    where = _OF_MODEL if "model" in metric.labels else ""
    return f"sum by ({', '.join(by)}) (rate($prefix{metric.name}{{{where}}}[$__rate_interval]))"


def _quantiles(metric: Metric) -> dict[str, str]:
    buckets = f"sum by (le, model) (rate($prefix{metric.name}_bucket{{{_OF_MODEL}}}[$__rate_interval]))"
    return {f"{name} {{{{model}}}}": f"histogram_quantile({share}, {buckets})" for name, share in _QUANTILES.items()}


def _now(metric: Metric, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ($prefix{metric.name}{{{_OF_MODEL if by else ''}}})"


PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Time to first token", "s", _quantiles(metrics.TIME_TO_FIRST_TOKEN)),
    ("Between two tokens", "s", _quantiles(metrics.INTER_TOKEN_LATENCY)),
    ("Whole request", "s", _quantiles(metrics.REQUEST_DURATION)),
    ("Wait for a slot", "s", _quantiles(metrics.QUEUE_TIME)),
    (
        "Answers running and waiting",
        "short",
        {
            "running {{model}}": _now(metrics.RUNNING, "model"),
            "waiting {{model}}": _now(metrics.WAITING, "model"),
        },
    ),
    (
        "KV cache, fullest replica",
        "percentunit",
        {"{{model}}": f"max by (model) ($prefix{metrics.CACHE_USE.name}{{{_OF_MODEL}}})"},
    ),
    (
        "Tokens",
        "short",
        {
            "in {{model}}": _rate(metrics.PROMPT_TOKENS, "model"),
            "out {{model}}": _rate(metrics.ANSWER_TOKENS, "model"),
        },
    ),
    ("Answers by what ended them", "reqps", {"{{reason}} {{model}}": _rate(metrics.ANSWERS, "model", "reason")}),
    ("Valid requests that failed", "reqps", {"{{code}} {{model}}": _rate(metrics.ERRORS, "model", "code")}),
    ("Responses of the models", "reqps", {"{{status}} {{model}}": _rate(metrics.RESPONSES, "model", "status")}),
    (
        "Responses of the gateway",
        "reqps",
        {"{{status}} {{model}}": _rate(metrics.GATEWAY_RESPONSES, "model", "status")},
    ),
    ("Gateway: to the first byte", "s", _quantiles(metrics.GATEWAY_FIRST_BYTE)),
    ("Gateway: requests that wait for a model", "short", {"waiting": _now(metrics.GATEWAY_WAITING)}),
    (
        "Slowest start of a replica",
        "s",
        {"{{phase}} {{model}}": f"max by (model, phase) ($prefix{metrics.START_SECONDS.name}{{{_OF_MODEL}}})"},
    ),
    ("Unknown request fields", "reqps", {"{{field}} {{model}}": _rate(metrics.IGNORED_FIELDS, "model", "field")}),
)
"""Title, unit, and legend -> query of each."""


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    return {
        "uid": "llm-serve",
        "title": "llm-serve",
        "tags": ["llm-serve"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _prefix(), _model()]},
        "panels": [_panel(index, *panel) for index, panel in enumerate(PANELS)],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _prefix() -> dict[str, Any]:
    options = [
        {"text": "Ray's nodes", "value": "ray_", "selected": True},
        {"text": "the applications", "value": "", "selected": False},
    ]
    query = ",".join(f"{each['text']} : {each['value']}" for each in options)
    return {"name": "prefix", "label": "scraped", "type": "custom", "query": query, "options": options,
            "current": options[0]}  # fmt: skip


def _model() -> dict[str, Any]:
    query = f"label_values($prefix{metrics.RUNNING.name}, model)"
    every = {"text": "All", "value": "$__all", "selected": True}
    return {"name": "model", "type": "query", "datasource": _DATASOURCE, "query": query, "refresh": 2,
            "includeAll": True, "multi": True, "current": every}  # fmt: skip


def _panel(index: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(queries.items())
        ],
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
