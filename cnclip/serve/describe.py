"""What is served, and whether it works: models, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from .calls import ERRORS, Context, json_answer
from .metrics import Metrics
from .schemas import Health, Model, ModelList
from .served import ServedModel


def router(context: Context, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["server"])
    served = context.served

    @routes.get("/v1/models", response_model=ModelList, responses=ERRORS)
    async def models() -> Response:
        """The models."""
        served.check_open()
        return json_answer(
            {"object": "list", "data": [_described(one) for one in served.models.values()]}
        )

    @routes.get("/v1/models/{name:path}", response_model=Model, responses=ERRORS)
    async def model(name: str) -> Response:
        """One model."""
        return json_answer(_described(served.model(name)))

    @routes.get("/livez", response_model=Health)
    async def live() -> Response:
        """Whether the process responds."""
        return json_answer({"status": "ok"})

    @routes.get(
        "/readyz",
        response_model=Health,
        responses={503: {"model": Health, "description": "Not ready"}},
    )
    async def ready() -> Response:
        """Whether requests are embedded: the models are open, and the last batches succeeded."""
        reason = served.not_ready()
        if reason is None:
            return json_answer({"status": "ok"})
        return json_answer({"status": "not ready", "reason": reason}, 503)

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def numbers() -> Response:
        """Numbers for Prometheus."""
        content, kind = await run_in_threadpool(metrics.written)
        return Response(content, headers={"Content-Type": kind})

    return routes


def _described(model: ServedModel) -> dict[str, Any]:
    info = model.pipeline.model.info
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "cnclip",
        "digest": model.digest,
        "precision": model.pipeline.model.precision,
        "device": model.pipeline.model.device,
        "dimensions": info.embed_dim,
        "resolution": info.resolution,
        "context_length": info.context_length,
    }
