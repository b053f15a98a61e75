"""The table, and what a process has counted."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.metrics import ANSWERS, INTER_TOKEN_LATENCY, METRICS, MODEL_METRICS, RUNNING, Metrics, Names


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and labels, the model first."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = sorted(sample.labels.items(), key=lambda label: label[0] != "model")
            found[sample.name, tuple(value for _, value in labels)] = sample.value
    return found


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_prometheus_own_way(metric) -> None:
    assert metric.name.startswith("llm_serve_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets)) and all(bound > 0 for bound in metric.buckets)
    assert metric.says.endswith(".") and not {"le", "quantile"} & set(metric.labels)


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_counter_adds_a_gauge_is_set_and_a_histogram_collects() -> None:
    metrics = Metrics(MODEL_METRICS)
    for value in (1, 2):
        metrics.record(ANSWERS, value, "acme/model", "stop")
        metrics.record(RUNNING, value, "acme/model")
        metrics.record(INTER_TOKEN_LATENCY, value / 100, "acme/model")
    found = samples(metrics)
    assert found["llm_serve_answers_total", ("acme/model", "stop")] == 3
    assert found["llm_serve_requests_running", ("acme/model",)] == 2
    assert found["llm_serve_inter_token_latency_seconds_count", ("acme/model",)] == 2
    assert found["llm_serve_inter_token_latency_seconds_sum", ("acme/model",)] == pytest.approx(0.03)
    assert found["llm_serve_inter_token_latency_seconds_bucket", ("acme/model", "0.01")] == 1


def test_another_reader_hears_of_every_number() -> None:
    heard: list[object] = []
    metrics = Metrics(MODEL_METRICS, lambda *number: heard.append(number))
    metrics.record(ANSWERS, 1, "acme/model", "stop")
    metrics.record(RUNNING, 0, "acme/model")
    assert heard == [(ANSWERS, 1, ("acme/model", "stop")), (RUNNING, 0, ("acme/model",))]


def test_so_many_names_are_kept_and_the_rest_is_other() -> None:
    names = Names(2)
    asked = ["user", "x y", "ü", "a" * 41, "store", "third", "user", ""]
    assert [names.label(name) for name in asked] == ["user", *["other"] * 3, "store", "other", "user", "other"]
