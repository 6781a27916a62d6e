"""Traces of requests by OpenTelemetry, sent where the variables OTEL_... say."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from ..errors import MissingExtraError

# Requests of monitors, which would fill the traces.
_NOT_TRACED = "livez,readyz,metrics"


def trace(app: FastAPI, exporter: Any = None) -> None:
    """Send a span of each request to a collector.

    Args:
        app: The application.
        exporter: Gets the spans; by default that of OTLP over HTTP, whose address is in
            OTEL_EXPORTER_OTLP_ENDPOINT.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError("otel", "opentelemetry") from error

    name = os.environ.get("OTEL_SERVICE_NAME") or "cnclip"
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=_NOT_TRACED, exclude_spans=["receive", "send"]
    )
    app.state.tracer_provider = provider
