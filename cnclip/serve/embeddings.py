"""`POST /v1/embeddings`: OpenAI's request and answer, for images as well."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ..errors import CnclipError
from ..search.collection import query_text
from .batching import Embedded
from .calls import ERRORS, embedded, json_answer, parts_of
from .faults import Fault, fault_of
from .schemas import EmbeddingsAnswer, EmbeddingsRequest
from .served import ServedModel

_RAW = "application/octet-stream"
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
# Answers with more numbers are written on a thread.
_INLINE_NUMBERS = 1 << 14
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": EmbeddingsRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "Image files",
                    },
                    "model": {"type": "string"},
                },
                "required": ["file"],
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}
_ANSWER: dict[str, Any] = {
    "description": "Embeddings; with `Accept: application/octet-stream` their bytes, "
    "little-endian, with their shape and dtype in the headers X-Shape and X-Dtype",
    "content": {_RAW: {"schema": {"type": "string", "format": "binary"}}},
}

router = APIRouter(tags=["embeddings"])


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsAnswer,
    responses={**ERRORS, 200: _ANSWER},
    openapi_extra={"requestBody": _BODY},
    summary="Embed texts and images",
)
async def embeddings(request: Request) -> Response:
    """Rows of unit length, in the order of the items.

    The body is JSON, a form with image files, or one image file. A text with more tokens than
    the model reads is marked as truncated. One bad item fails the request with 400 and its
    index, or with `on_error: item` has an error in its place.
    """
    served, reader = parts_of(request)
    served.check_open()
    call, files = await reader.read(request, EmbeddingsRequest)
    model = served.model(call.model)
    columns = model.pipeline.model.info.embed_dim
    if call.dimensions not in (None, columns):
        reason = f"the model has {columns} dimensions, and no others"
        raise Fault(400, reason, "invalid", param="dimensions")
    dtype = _raw_dtype(request)
    given = await reader.items(call, files)
    items = [
        query_text(model.pipeline, one, call.normalize) if isinstance(one, str) else one
        for one in given
    ]
    result = await embedded(
        request, model, items, served.options.request_timeout, on_error=call.on_error
    )
    if dtype is not None:
        return _raw_answer(result, dtype)

    def answer() -> Response:
        return json_answer(_answer(model, result, call.encoding_format))

    small = result.vectors.size <= _INLINE_NUMBERS
    return answer() if small else await run_in_threadpool(answer)


def _answer(model: ServedModel, result: Embedded, encoding: str) -> dict[str, Any]:
    limit = model.pipeline.model.info.context_length
    data = []
    for index, (row, error, tokens) in enumerate(
        zip(result.vectors, result.errors, result.tokens.tolist(), strict=True)
    ):
        entry: dict[str, Any] = {"object": "embedding", "index": index, "embedding": None}
        if error is not None:
            entry["error"] = _item_error(error)
        elif encoding == "base64":
            entry["embedding"] = base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
        else:
            entry["embedding"] = row
        if tokens > limit:
            entry["truncated"] = True
        data.append(entry)
    used = int(np.minimum(result.tokens, limit).sum())
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": data, "model": model.name, "usage": usage}


def _item_error(error: CnclipError) -> dict[str, Any]:
    fault = fault_of(error)
    return {"message": fault.message, "code": fault.code}


def _raw_dtype(request: Request) -> np.dtype[Any] | None:
    """The dtype of an answer in bytes; None for JSON.

    Raises:
        Fault: another dtype is asked for.
    """
    accepted = _accepted(request.headers.get("accept", ""))
    wish, name = accepted.get(_RAW, (0.0, ""))
    if wish <= 0 or wish < accepted.get("application/json", (0.0, ""))[0]:
        return None
    if name not in _DTYPES:
        raise Fault(400, "expected dtype=float32 or float16", "invalid", param="Accept")
    return _DTYPES[name]


def _accepted(header: str) -> dict[str, tuple[float, str]]:
    """The quality and the dtype of each type in an Accept header."""
    found: dict[str, tuple[float, str]] = {}
    for part in header.split(","):
        kind, *parameters = (one.strip().lower() for one in part.split(";"))
        given = {"q": "1", "dtype": "float32"}
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            given[key.strip()] = value.strip().strip('"')
        try:
            quality = float(given["q"])
        except ValueError:
            quality = 1.0
        found.setdefault(kind, (quality, given["dtype"]))
    return found


def _raw_answer(result: Embedded, dtype: np.dtype[Any]) -> Response:
    rows, columns = result.vectors.shape
    headers = {"X-Shape": f"{rows},{columns}", "X-Dtype": dtype.name}
    failed = [str(index) for index, error in enumerate(result.errors) if error is not None]
    if failed:  # their rows are NaN
        headers["X-Failed"] = ",".join(failed)
    content = np.ascontiguousarray(result.vectors, dtype).tobytes()
    return Response(content, headers=headers, media_type=_RAW)
