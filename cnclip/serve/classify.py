"""`POST /v1/classify` and `POST /v1/tokenize`."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ..errors import CnclipError
from ..pipelines.scores import probabilities
from ..preprocessors.text import flags_of
from ..search.collection import query_text
from .calls import ERRORS, embedded, json_answer, parts_of
from .faults import Fault
from .inputs import Item
from .schemas import ClassifyAnswer, ClassifyRequest, TokenizeAnswer, TokenizeRequest
from .served import ServedModel
from .texts import text_notes

_PLACE = "{}"
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": ClassifyRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "The image"},
                    "labels": {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1},
                        "minItems": 2,
                    },
                },
                "required": ["file", "labels"],
            }
        },
    },
}
_TEXTS: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": TokenizeRequest.model_json_schema()}},
}

router = APIRouter(tags=["classification"])


@router.post(
    "/v1/classify",
    response_model=ClassifyAnswer,
    responses=ERRORS,
    openapi_extra={"requestBody": _BODY},
    summary="Compute the probabilities of labels",
)
async def classify(request: Request) -> Response:
    """Labels of an image, likeliest first.

    The vector of a label is the mean of the embeddings of its texts, one for each template, as
    in CLIP's zero-shot classification. Probabilities are the softmax of the cosine similarities
    divided by the model's temperature.
    """
    served, reader = parts_of(request)
    options = served.options
    served.check_open()
    call, files = await reader.read(request, ClassifyRequest)
    model = served.model(call.model)
    if len(files) + (call.image is not None) != 1:
        raise Fault(400, "expected one image", "no_items", param="image")
    labels = list(dict.fromkeys(call.labels))
    templates = call.templates or [_PLACE]
    _check_labels(labels, templates, options.max_labels, options.max_texts)
    image = files[0] if call.image is None else await reader.image(call.image)
    texts = [
        query_text(model.pipeline, template.replace(_PLACE, label), call.normalize)
        for label in labels
        for template in templates
    ]
    items: list[Item] = [image, *map(reader.text, texts)]
    result = await embedded(
        request,
        model,
        items,
        options.request_timeout,
        name_of=lambda index: _name(index, len(templates)),
    )
    means = result.vectors[1:].reshape(len(labels), len(templates), -1).mean(1)
    rows = means / np.linalg.norm(means, axis=1, keepdims=True)
    scores = rows @ result.vectors[0]
    shares = probabilities(scores, float(model.pipeline.model.temperature))
    notes = await run_in_threadpool(
        lambda: [text_notes(model.pipeline.preprocessor, one) for one in texts[:: len(templates)]]
    )
    found = [
        {
            "label": labels[index],
            "probability": float(shares[index]),
            "score": float(scores[index]),
            "text": notes[index],
        }
        for index in np.argsort(-scores, kind="stable").tolist()
    ]
    return json_answer({"model": model.name, "labels": found})


@router.post(
    "/v1/tokenize",
    response_model=TokenizeAnswer,
    responses=ERRORS,
    openapi_extra={"requestBody": _TEXTS},
    summary="Tokenize texts",
)
async def tokenize(request: Request) -> Response:
    """The ids of texts as the model reads them, [CLS] and [SEP] included."""
    served, reader = parts_of(request)
    served.check_open()
    call, _ = await reader.read(request, TokenizeRequest)
    model = served.model(call.model)
    given = call.input
    if len(given) > served.options.max_items:
        reason = f"{len(given)} texts; at most {served.options.max_items} are allowed"
        raise Fault(400, reason, "too_many_items", param="input")
    texts = [query_text(model.pipeline, one, call.normalize) for one in given]
    for index, text in enumerate(texts):
        if isinstance(checked := reader.text(text), CnclipError):
            raise checked.at(item=f"input[{index}]")
    data = await run_in_threadpool(_tokens, model, texts)
    return json_answer({"model": model.name, "data": data})


def _check_labels(labels: list[str], templates: list[str], most: int, most_texts: int) -> None:
    if len(labels) < 2:
        reason = f"expected at least two different labels, got {len(labels)}"
        raise Fault(400, reason, "invalid", param="labels")
    if len(labels) > most:
        reason = f"{len(labels)} labels; at most {most} are allowed"
        raise Fault(400, reason, "too_many_labels", param="labels")
    if len(labels) * len(templates) > most_texts:
        reason = f"{len(labels)} labels in {len(templates)} templates; at most {most_texts} texts"
        raise Fault(400, reason, "too_many_labels", param="templates")
    for index, template in enumerate(templates):
        if _PLACE not in template:
            reason = "expected {} in the place of the label"
            raise Fault(400, reason, "invalid", param=f"templates[{index}]")


def _name(index: int, templates: int) -> str:
    return "image" if index == 0 else f"labels[{(index - 1) // templates}]"


def _tokens(model: ServedModel, texts: list[str]) -> list[dict[str, Any]]:
    if not texts:
        return []
    preprocessor = model.pipeline.preprocessor
    ids, lengths = preprocessor.tokenize(texts, return_lengths=True)
    flags = flags_of(preprocessor, ids, lengths)
    return [
        {
            "index": index,
            "ids": row[:length],
            "length": length,
            "truncated": bool(flags["cut"][index]),
            "unknown": bool(flags["unknown"][index]),
        }
        for index, (row, length) in enumerate(zip(ids, lengths.tolist(), strict=True))
    ]
