"""Prometheus metrics of one server. Names follow OpenTelemetry's GenAI conventions where they have one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The server's own registry: nothing global, so that two servers in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mooring_requests", "Requests answered.", ("endpoint", "model", "status"), registry=self.registry
        )
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From request to the last byte.",
            ("endpoint", "model"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From request to the first byte of the answer.",
            ("endpoint", "model"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "mooring_queue_wait_seconds",
            "Time a request waited for a slot.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queued = Gauge("mooring_queue_length", "Requests waiting.", ("model",), registry=self.registry)
        self.active = Gauge(
            "mooring_requests_active", "Requests in workers.", ("model",), registry=self.registry
        )
        self.worker_memory = Gauge(
            "mooring_worker_memory_bytes",
            "Resident memory of a worker.",
            ("model", "worker"),
            registry=self.registry,
        )
        self.worker_starts = Counter(
            "mooring_worker_starts", "Workers started.", ("model",), registry=self.registry
        )
        self.worker_crashes = Counter(
            "mooring_worker_crashes", "Workers that ended unasked.", ("model",), registry=self.registry
        )

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
