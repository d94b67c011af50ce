"""The one registry of metrics, and what registers one with all its series.

Every label has its closed set of values: their series exist from the start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # the package omits the annotation

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


_M = TypeVar("_M", Counter, Gauge, Histogram)


def closed(metric: _M, *values: Iterable[str]) -> _M:
    """Create the series of all combinations of label values, in the order of the labels."""
    for combination in product(*values):
        metric.labels(*combination)
    return metric


def counter(name: str, about: str, **labels: Iterable[str]) -> Counter:
    """Register a counter; each label has its closed set of values."""
    metric = Counter(name, about, list(labels), registry=REGISTRY)
    return closed(metric, *labels.values()) if labels else metric


def histogram(
    name: str, about: str, buckets: Sequence[float], **labels: Iterable[str]
) -> Histogram:
    metric = Histogram(name, about, list(labels), buckets=buckets, registry=REGISTRY)
    return closed(metric, *labels.values()) if labels else metric


def gauge(name: str, about: str, *labels: str) -> Gauge:
    """Register a gauge; a lane or a root has a series while it is here."""
    return Gauge(name, about, labels, registry=REGISTRY)


def by_label(metric: Gauge | Counter) -> dict[str, float]:
    """Return the values of a metric that has one label, or of one without under ``""``."""
    return {
        next(iter(sample.labels.values()), ""): sample.value
        for family in metric.collect()
        for sample in family.samples
    }


class Ages(Collector):
    """A gauge of seconds since a moment, computed when read: the age of what is stuck grows.

    ``since(moment)`` takes Unix seconds; ``settled()`` means nothing waits (0); a label that
    was never set, or was dropped, has no series.  ``label`` names the one label, if any.
    """

    def __init__(self, name: str, documentation: str, label: str | None = None) -> None:
        self._family = (name, documentation, None, [label] if label else [])
        self._moments: dict[str, float | None] = {}
        REGISTRY.register(self)

    def since(self, moment: float, label: object = "") -> None:
        """Let the age count from ``moment``."""
        self._moments[str(label)] = moment

    def settled(self, label: object = "") -> None:
        """Hold the age at 0."""
        self._moments[str(label)] = None

    def drop(self, label: object = "") -> None:
        """Remove the series: another process measures it now."""
        self._moments.pop(str(label), None)

    def read(self, now: float) -> dict[str, float]:
        """Return the age by label value, never negative (clocks differ)."""
        return {
            label: 0.0 if moment is None else max(0.0, now - moment)
            for label, moment in self._moments.copy().items()
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the family for the registry."""
        name, documentation, value, labels = self._family
        family = GaugeMetricFamily(name, documentation, value, labels)
        for label, age in self.read(time.time()).items():
            family.add_metric([label] if labels else [], age)
        yield family
