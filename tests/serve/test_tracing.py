"""A span a request, as OpenTelemetry's variables say; without them, none."""

from __future__ import annotations

import pytest

from reflective.serve.tracing import Tracing

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")


def test_nothing_is_traced_unless_it_is_configured():
    assert Tracing.find({}) is None


def test_a_span_has_the_clients_trace_and_the_log_lines_fields():
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    span = tracing.begin("POST", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    tracing.end(span, {"method": "POST", "route": "/v1/score", "status": 200, "id": "x"})
    (found,) = exporter.get_finished_spans()
    assert found.name == "POST /v1/score" and found.attributes["http.response.status_code"] == 200
    assert f"{found.context.trace_id:x}" == "af7651916cd43dd8448eb211c80319c"
    tracing.close()
