"""The owner's metrics, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})

Gauges = Callable[[], dict[str, tuple[str, float]]]
"""Returns the description and the current value of each gauge, by name."""


class Meter:
    """One per app. `gauges` is called at every scrape."""

    def __init__(self, gauges: Gauges) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(gauges))
        self._calls = Counter(
            "virtualmle_tool_calls", "Calls of MCP tools.", ("tool", "outcome"), registry=self._registry
        )
        self._seconds = Histogram(
            "virtualmle_tool_seconds", "How long they took, waiting included.", ("tool",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._requests = Counter(
            "virtualmle_http_requests", "HTTP requests.", ("method", "status"), registry=self._registry
        )

    def count_call(self, tool: str, outcome: str, seconds: float) -> None:
        """Counts a call of a tool. `outcome`: ok, refused (the model was told why), or failed."""
        self._calls.labels(tool, outcome).inc()
        self._seconds.labels(tool).observe(seconds)

    def count_request(self, method: str, status: int) -> None:
        """Counts a request. All methods of a client's own invention are counted as one."""
        self._requests.labels(method if method in _METHODS else "other", str(status)).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Any]:
        for name, (description, value) in self._gauges().items():
            yield GaugeMetricFamily(f"virtualmle_{name}", description, value=value)
