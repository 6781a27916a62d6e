"""Traces of requests by OpenTelemetry."""

from __future__ import annotations

import sys

import pytest

from cnclip.errors import MissingExtraError
from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
import fastapi

from cnclip.serve.tracing import trace
from tests.support.api import served_by


def test_each_request_has_a_span(embedder: MultiModalEmbeddingPipeline) -> None:
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    with served_by(embedder, tracing=lambda app: trace(app, spans)) as (client, _):
        app = client.app._application
        assert client.post("/v1/embeddings", json={"input": "猫"}).status_code == 200
        assert client.post("/v1/embeddings", json={"input": []}).status_code == 400
        client.get("/livez")
        app.state.tracer_provider.force_flush()
    found = [(span.name, span.attributes) for span in spans.get_finished_spans()]
    assert [name for name, _ in found] == ["POST /v1/embeddings"] * 2
    assert spans.get_finished_spans()[0].resource.attributes["service.name"] == "cnclip"
    codes = [one.get("http.status_code", one.get("http.response.status_code")) for _, one in found]
    assert codes == [200, 400]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match=r"cnclip\[otel\]"):
        trace(fastapi.FastAPI())
