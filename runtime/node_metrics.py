"""The numbers of a replica in Ray's own metrics export, which a Prometheus scrapes once for each node.

Ray adds the application, the deployment and the replica as labels, and `ray_` in front of each name.
"""

from collections.abc import Sequence
from typing import Any

from ray.serve import metrics as ray_metrics

from runtime.metrics import Metric


class NodeMetrics:
    """Hears of every number. To be made within a replica."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._instruments = {metric: _instrument(metric) for metric in metrics}
        self._gauges: dict[tuple[Metric, tuple[str, ...]], float] = {}

    def record(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        """As `runtime.metrics.Record`."""
        tags = dict(zip(metric.labels, labels, strict=True))
        instrument = self._instruments[metric]
        match metric.kind:
            case "counter":
                if value:  # Ray refuses to add nothing
                    instrument.inc(value, tags)
            case "gauge":
                self._gauges[metric, labels] = value
                instrument.set(value, tags)
            case "histogram":
                instrument.observe(value, tags)

    def refresh(self) -> None:
        """Say the gauges again: Ray forgets those that it has not heard of for some seconds."""
        for (metric, labels), value in list(self._gauges.items()):
            self.record(metric, value, labels)


def _instrument(metric: Metric) -> Any:
    if metric.kind == "histogram":
        return ray_metrics.Histogram(metric.name, metric.says, list(metric.buckets), metric.labels)
    kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return kind(metric.name, metric.says, metric.labels)
