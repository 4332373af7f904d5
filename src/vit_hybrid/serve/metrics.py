"""What the server counts and measures, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

# Seconds: from what a small model takes for one picture to what somebody waits for at most.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All of them. The process that answers requests also keeps the queue and hears of every batch, so that they are
    sums over all workers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def seconds(name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"vit_hybrid_{name}_seconds", text, labels, buckets=SECONDS, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"vit_hybrid_{name}", text, labels, registry=registry)

        self.requests = seconds("request", "From a request's last header to the end of its answer", ("route", "status"))
        self.refusals = seconds("refusal", "From a request's last header to the answer's first byte, where it is shed")
        self.queue_wait = seconds("queue_wait", "What a picture waits, to be decoded and for its batch")
        self.decode = seconds("decode", "Decoding and preprocessing of a picture")
        self.batches = seconds("batch", "A batch on the engine")
        self.batch_pictures = Histogram(
            "vit_hybrid_batch_pictures", "Pictures a batch", buckets=PICTURES, registry=registry
        )
        self.shed = counter("shed", "Requests refused for want of room, time or quota", ("reason",))
        self.cancelled = counter("cancelled", "Requests whose client went away before the answer")
        self.restarts = counter("worker_restarts", "Workers that died and were replaced")
        self.reloads = counter("reloads", "Models loaded in place of the one before", ("outcome",))

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for whenever somebody reads the metrics."""
        Gauge(f"vit_hybrid_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> tuple[bytes, str]:
        """All of them, and their content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


__all__ = ["Metrics"]
