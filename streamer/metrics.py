"""What is counted, for Prometheus. One registry per process face, so that tests and embedders never collide."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class _Counted(Collector):
    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._text, self._value())


class Metrics:
    """The service's counters; names follow Prometheus' conventions (base units, `_total`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.exports = Counter(
            "streamer_exports", "Exports by kind and how they ended.", ["kind", "outcome"], registry=self.registry
        )
        self.bytes = Counter(
            "streamer_export_bytes", "Bytes of bodies sent, by kind.", ["kind"], registry=self.registry
        )
        self.seconds = Histogram(
            "streamer_export_seconds",
            "Duration of exports, by kind.",
            ["kind"],
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3600),
            registry=self.registry,
        )
        self.requests = Counter("streamer_requests", "Requests by status.", ["status"], registry=self.registry)
        self.open = Gauge("streamer_open_exports", "Exports that are open.", registry=self.registry)
        self.problems = Counter(
            "streamer_problems", "Requests answered by a problem, by its code.", ["code"], registry=self.registry
        )
        self.first_byte = Histogram(
            "streamer_first_byte_seconds",
            "Time from opening an export to its first byte, by kind.",
            ["kind"],
            buckets=(0.001, 0.01, 0.1, 1, 10, 60),
            registry=self.registry,
        )
        self.stores = Histogram(
            "streamer_store_seconds",
            "Time that a store took to answer a look-up or a listing.",
            ["store"],
            buckets=(0.001, 0.01, 0.1, 1, 10),
            registry=self.registry,
        )
        self.mounts = Histogram(
            "streamer_mount_seconds",
            "Time that mounting took.",
            buckets=(0.0001, 0.001, 0.01, 0.1, 1, 10),
            registry=self.registry,
        )
        self.lag = Histogram(
            "streamer_loop_lag_seconds",
            "How late timers of the event loop ran.",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            registry=self.registry,
        )
        self.connections = Gauge("streamer_connections", "Connections that are open.", registry=self.registry)
        self.abandoned = Gauge(
            "streamer_abandoned_exports", "Exports that hang and were left behind.", registry=self.registry
        )
        self.leases = Gauge("streamer_leases", "Leases of mounts that are held.", registry=self.registry)

        self.jobs = Gauge(
            "streamer_jobs", "Export jobs that have not ended, by state.", ["state"], registry=self.registry
        )
        self.jobs_ended = Counter(
            "streamer_jobs_ended", "Export jobs that ended, by how.", ["state"], registry=self.registry
        )
        self.job_bytes = Counter("streamer_job_bytes", "Bytes of objects that jobs made.", registry=self.registry)

    def count(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A counter that somebody else keeps: `value` tells it whenever the metrics are read."""
        self.registry.register(_Counted(name, text, value))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
