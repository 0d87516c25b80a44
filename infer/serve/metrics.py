"""Figures of the server for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; no label comes from a client, so their number is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "cgan_requests", "Answers by status; 499 is a client that went away.", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "cgan_request_seconds",
            "From the head of a request to the end of its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("cgan_waiting_photos", "Photos that wait for a worker.", registry=self.registry)
        self.held = Gauge("cgan_held_bytes", "Bodies and outputs in memory.", registry=self.registry)
        self.batch = Histogram("cgan_batch_photos", "Photos in a batch.", buckets=BATCHES, registry=self.registry)
        self.pixels = Counter("cgan_pixels", "Pixels of coloured photos.", registry=self.registry)
        self.halved = Counter("cgan_batches_halved", "Times that memory was short.", registry=self.registry)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)
