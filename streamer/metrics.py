"""What is counted, for Prometheus. One registry per process face, so that tests and embedders never collide."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


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
        self.leases = Gauge("streamer_leases", "Leases of mounts that are held.", registry=self.registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
