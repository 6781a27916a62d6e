"""The interface of immich's machine-learning service: `POST /predict` and `GET /ping`.

immich then searches photos by Chinese texts. The shape is that of immich_ml/main.py in the
repository immich-app/immich: a form with `entries`, JSON of tasks, and `image` or `text`; the
answer has the embedding as a string of JSON.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..preprocessors.image import load_image
from ..search.collection import query_text
from .calls import ERRORS, embedded, json_answer, opened_image, parts_of
from .faults import Fault

logger = logging.getLogger("cnclip")

_TASK = "clip"
_KINDS = ("visual", "textual")
_MAX_ENTRIES = 1 << 16  # characters

router = APIRouter(tags=["immich"])


@router.get("/ping", response_class=PlainTextResponse)
async def ping() -> Response:
    """Whether the service runs."""
    return PlainTextResponse("pong")


@router.post("/predict", responses=ERRORS)
async def predict(request: Request) -> Response:
    """The embedding of an image or a text, in immich's shape."""
    served, reader = parts_of(request)
    model = served.model(None)
    upload = await reader.form(request)
    fields, content = upload.fields, next(iter(upload.files), None)
    _log_once(_model_name(fields.get("entries")), model.name)
    answer: dict[str, Any] = {}
    if content is not None:
        options = model.pipeline.preprocessor.image_options
        item: Any = await opened_image(model, content, partial(load_image, options=options))
        answer["imageHeight"], answer["imageWidth"] = item.height, item.width
    elif isinstance(fields.get("text"), str):
        item = reader.text(query_text(model.pipeline, fields["text"]))
    else:
        raise Fault(400, "expected one image or one text", "no_items")
    kind = "text" if content is None else "image"
    result = await embedded(
        request, model, [item], served.options.request_timeout, name_of=lambda index: kind
    )
    row = orjson.dumps(result.vectors[0], option=orjson.OPT_SERIALIZE_NUMPY)
    return json_answer({_TASK: row.decode("ascii"), **answer})


@lru_cache(100)
def _log_once(asked: str, served: str) -> None:
    logger.info("immich asks for the model %.80s and gets %s", asked, served)


def _model_name(entries: Any) -> str:
    """The name of the model in immich's settings.

    Raises:
        Fault: `entries` is malformed, or asks for something else than CLIP.
    """
    try:
        if not isinstance(entries, str) or len(entries) > _MAX_ENTRIES:
            raise TypeError("no text, or a long one")
        tasks = orjson.loads(entries)
        found = [
            (task, kind, str(entry["modelName"]))
            for task, kinds in tasks.items()
            for kind, entry in kinds.items()
        ]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise Fault(422, "expected JSON of tasks", "invalid", param="entries") from error
    if [task for task, *_ in found] != [_TASK] or found[0][1] not in _KINDS:
        reason = "this server has CLIP only: turn off immich's other machine-learning features"
        raise Fault(400, reason, "unknown_task", param="entries")
    return found[0][2]
