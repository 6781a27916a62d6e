"""What is served, and whether it works: models, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .calls import ERRORS, json_answer, parts_of
from .schemas import Health, Model, ModelList
from .served import ServedModel

router = APIRouter(tags=["server"])


@router.get("/v1/models", response_model=ModelList, responses=ERRORS)
async def models(request: Request) -> Response:
    """The models."""
    served, _ = parts_of(request)
    served.check_open()
    return json_answer(
        {"object": "list", "data": [_described(one) for one in served.models.values()]}
    )


@router.get("/v1/models/{name:path}", response_model=Model, responses=ERRORS)
async def model(request: Request, name: str) -> Response:
    """One model."""
    served, _ = parts_of(request)
    return json_answer(_described(served.model(name)))


@router.get("/livez", response_model=Health)
async def live() -> Response:
    """Whether the process responds."""
    return json_answer({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not ready"}},
)
async def ready(request: Request) -> Response:
    """Whether requests are embedded: the models are open, and the last batches succeeded."""
    served, _ = parts_of(request)
    reason = served.not_ready()
    if reason is None:
        return json_answer({"status": "ok"})
    return json_answer({"status": "not ready", "reason": reason}, 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def numbers(request: Request) -> Response:
    """Numbers for Prometheus."""
    content, kind = await run_in_threadpool(request.app.state.metrics.written)
    return Response(content, headers={"Content-Type": kind})


def _described(model: ServedModel) -> dict[str, Any]:
    info = model.pipeline.model.info
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "cnclip",
        "digest": model.digest,
        "precision": model.pipeline.model.precision,
        "decode": model.pipeline.preprocessor.image_options.decode,
        "device": model.pipeline.model.device,
        "dimensions": info.embed_dim,
        "resolution": info.resolution,
        "context_length": info.context_length,
    }
