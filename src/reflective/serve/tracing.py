"""OpenTelemetry traces, where they are configured: a span a request.

They are configured by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT and its like). A `traceparent` of the
client's is taken up. Spans hold no prompt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from reflective.errors import DependencyError

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """Starts spans; `find` is None where nothing is configured."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("reflective.serve")

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> Tracing | None:
        """As the environment says."""
        if not any(environment.get(name) for name in VARIABLES):
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise DependencyError(
                "traces need OpenTelemetry: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
            ) from error
        name = environment.get("OTEL_SERVICE_NAME", "reflective")
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def begin(self, method: str, traceparent: str | None) -> Any:
        """The span of a request."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": traceparent}) if traceparent else None
        return self._tracer.start_span(method, context=context, kind=trace.SpanKind.SERVER)

    def end(self, span: Any, fields: Mapping[str, Any]) -> None:
        """The request is over; `fields` are those of its log line."""
        span.update_name(f"{fields['method']} {fields['route']}")
        for name, value in fields.items():
            span.set_attribute(f"reflective.{name}", value)
        span.set_attribute("http.response.status_code", fields["status"])
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
