"""What Prometheus reads at /metrics. A registry a server, so that several may live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reflective.types import Solution

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TENTHS = tuple(i / 10 for i in range(1, 11))


class Metrics:
    """The figures of a server."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.requests = Counter("reflective_requests", "Requests", ["route", "status"], registry=r)
        self.waiting = Gauge("reflective_queue_requests", "Requests that wait for room", registry=r)
        self.active = Gauge("reflective_active_requests", "Requests that are being answered", registry=r)
        self.rows = Gauge("reflective_active_trajectories", "Trajectories of those requests", registry=r)
        self.queued_s = Histogram("reflective_queue_seconds", "Waiting for room", buckets=SECONDS, registry=r)
        self.first_s = Histogram("reflective_first_event_seconds", "To the first step", buckets=SECONDS, registry=r)
        self.answer_s = Histogram("reflective_answer_seconds", "To the answer", buckets=SECONDS, registry=r)
        self.tokens = Counter("reflective_tokens", "Tokens", ["kind"], registry=r)
        self.trajectories = Counter("reflective_trajectories", "Trajectories", ["fate"], registry=r)
        self.scores = Histogram("reflective_selected_score", "Of the selected", buckets=TENTHS, registry=r)
        self.cancelled = Counter(
            "reflective_cancelled_tokens", "Tokens of cancelled trajectories and requests", registry=r
        )
        self.cut = Counter("reflective_cut_requests", "Requests given up", ["why"], registry=r)

    def solved(self, solution: Solution) -> None:
        """An answer is there."""
        if solution.timing.first_step_s is not None:
            self.first_s.observe(solution.timing.first_step_s)
        self.answer_s.observe(solution.timing.total_s)
        self.tokens.labels("prompt").inc(solution.usage.prompt_tokens)
        self.tokens.labels("completion").inc(solution.usage.completion_tokens)
        for t in solution.trajectories:
            self.trajectories.labels(t.finish_reason).inc()
            if t.finish_reason == "cancelled":
                self.cancelled.inc(t.tokens)
        if solution.best is not None and solution.best.score is not None:
            self.scores.observe(solution.best.score)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
