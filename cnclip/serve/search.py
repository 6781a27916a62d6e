"""`POST /v1/search`, and the collections that it searches."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ..errors import CnclipError
from ..pipelines import MultiModalEmbeddingPipeline
from ..pipelines.scores import probabilities
from ..preprocessors.decoding import image_header
from ..preprocessors.inputs import ImageInput
from ..search import Answer, Hit
from ..search.collection import query_text
from .calls import ERRORS, embedded, json_answer, on_decoder, opened_image, parts_of
from .collections import THUMBNAIL, Searchable
from .faults import Fault
from .inputs import Item
from .schemas import CollectionList, SearchAnswer, SearchRequest
from .texts import plain, text_notes

_QUALITY = 82
_MAX_SAMPLE = 60
_MAX_SIZE = 1024
_NO_IMAGE = "the item has no image that can be read"
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": SearchRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "An image"},
                    "text": {"type": "string", "minLength": 1},
                    "k": {"type": "integer", "minimum": 1},
                },
                "required": ["file"],
            }
        },
    },
}

router = APIRouter(tags=["search"])


async def _find(
    request: Request, call: SearchRequest, files: list[bytes], searchable: Searchable
) -> tuple[Answer, dict[str, Any] | None]:
    """The answer to a query of text, image or both, and notes on its text."""
    served, reader = parts_of(request)
    model = served.model_of(searchable)
    items: list[Item | ImageInput] = []
    names: list[str] = []
    text = None
    if call.text is not None:
        text = query_text(model.pipeline, call.text, call.normalize)
        items.append(reader.text(text))
        names.append("text")
    image = files[0] if files else None
    if call.image is not None:
        image = _bytes(await reader.image(call.image))
    if image is not None:
        open_image = partial(searchable.collection.open_image, searchable.pipeline)
        items.append(await opened_image(model, image, open_image))
        names.append("image")
    limit = served.options.request_timeout
    result = await embedded(request, model, items, limit, name_of=names.__getitem__)
    rows = dict(zip(names, result.vectors, strict=True))
    answer = await run_in_threadpool(
        searchable.collection.answer,
        rows.get("text"),
        rows.get("image"),
        k=call.offset + call.k,
        weight=call.weight,
        threshold=call.threshold,
        temperature=float(model.pipeline.model.temperature),
    )
    if text is None:
        return answer, None
    return answer, await run_in_threadpool(text_notes, model.pipeline.preprocessor, text)


@router.post(
    "/v1/search",
    response_model=SearchAnswer,
    responses=ERRORS,
    openapi_extra={"requestBody": _BODY},
    summary="Search a collection",
)
async def search(request: Request) -> Response:
    """Items that are most similar to a text, an image, both, or an item of the collection."""
    served, reader = parts_of(request)
    served.check_open()
    call, files = await reader.read(request, SearchRequest)
    searchable = served.collection(call.collection)
    _check_query(call, files, served.options.max_results)
    if call.like is not None:
        answer, notes = await run_in_threadpool(_like, searchable, call), None
    else:
        answer, notes = await _find(request, call, files, searchable)
    hits = _with_shares(answer.hits, call, searchable.pipeline)[call.offset :]
    shown = await run_in_threadpool(_results, searchable, hits)
    more = len(answer.hits) == call.offset + call.k < len(searchable.collection)
    return json_answer(
        {
            "collection": searchable.name,
            "results": shown,
            "more": more,
            "threshold": answer.suggested,
            "text": notes,
        }
    )


@router.get("/v1/collections", response_model=CollectionList, responses=ERRORS)
async def collections(request: Request) -> Response:
    """The collections, the first of which the application shows."""
    served, _ = parts_of(request)
    served.check_open()
    entries = await run_in_threadpool(
        lambda: [_described(one, served.model_of(one).name) for one in served.collections.values()]
    )
    return json_answer({"data": entries})


@router.get("/v1/sample", response_model=SearchAnswer, responses=ERRORS)
async def sample(
    request: Request,
    collection: str | None = None,
    count: Annotated[int, Query(ge=1, le=_MAX_SAMPLE)] = 12,
) -> Response:
    """Some items of a collection, always the same ones."""
    served, _ = parts_of(request)
    searchable = served.collection(collection)
    hits = await run_in_threadpool(searchable.glimpse, count)
    shown = await run_in_threadpool(_results, searchable, hits)
    for one in shown:
        one["score"] = one["probability"] = None
    answer = {"collection": searchable.name, "results": shown, "more": False}
    return json_answer({**answer, "threshold": None, "text": None})


@router.get(
    "/v1/thumbnail",
    responses={
        **ERRORS,
        200: {"content": {"image/webp": {}}},
        304: {"description": "As cached"},
    },
    response_class=Response,
)
async def thumbnail(
    request: Request,
    id: str,
    collection: str | None = None,
    size: Annotated[int, Query(ge=16, le=_MAX_SIZE)] = THUMBNAIL,
) -> Response:
    """A small image of an item. Only ids of the collection are known: no file can be named."""
    served, _ = parts_of(request)
    searchable = served.collection(collection)
    content = await on_decoder(_thumbnail, searchable, id, size)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=300"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="image/webp")


@router.get(
    "/v1/image",
    responses={
        **ERRORS,
        200: {"content": {"application/octet-stream": {}}},
    },
    response_class=Response,
)
async def image(request: Request, id: str, collection: str | None = None) -> Response:
    """The image file of an item, as it is stored. Only ids of the collection are known."""
    served, _ = parts_of(request)
    content, name = await on_decoder(_file, served.collection(collection), id)
    # Never shown by a browser as a page of this server, whatever is in the file.
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(content, headers=headers, media_type="application/octet-stream")


def _check_query(call: SearchRequest, files: list[bytes], max_results: int) -> None:
    if call.offset + call.k > max_results:
        reason = f"at most {max_results} results are allowed, those before offset included"
        raise Fault(400, reason, "too_many_results", param="k")
    images = len(files) + (call.image is not None)
    if images > 1:
        raise Fault(400, f"expected one image, got {images}", "invalid", param="image")
    if call.like is not None and (call.text is not None or images):
        reason = "expected a text and an image, or like, got both"
        raise Fault(400, reason, "invalid", param="like")
    if call.like is None and call.text is None and not images:
        raise Fault(400, "expected a text, an image, or like", "no_items", param="text")


def _like(searchable: Searchable, call: SearchRequest) -> Answer:
    """Items like one of the collection, without it."""
    item = searchable.collection.item(str(call.like))
    if item is None:
        raise Fault(404, "the collection has no item of this id", "item_not_found", param="like")
    of_text = item[1] if item[0].text is not None else None
    answer = searchable.collection.answer(
        of_text,
        item[1] if of_text is None else None,
        k=call.offset + call.k + 1,
        threshold=call.threshold,
    )
    hits = [hit for hit in answer.hits if hit.id != call.like]
    return Answer(hits[: call.offset + call.k], answer.suggested)


def _with_shares(
    hits: list[Hit], call: SearchRequest, pipeline: MultiModalEmbeddingPipeline
) -> list[Hit]:
    """Hits with their probabilities among the first k, so that they do not depend on the page."""
    temperature = float(pipeline.model.temperature)
    shares = probabilities([hit.score for hit in hits], temperature)
    shares /= shares[: call.k].sum()
    return [
        replace(hit, probability=share) for hit, share in zip(hits, shares.tolist(), strict=True)
    ]


def _bytes(image: bytes | CnclipError) -> bytes:
    if isinstance(image, CnclipError):
        raise image.at(item="image")
    return image


def _results(searchable: Searchable, hits: list[Hit]) -> list[dict[str, Any]]:
    name = quote(searchable.name, safe="")
    return [
        {
            "id": plain(hit.id),
            "path": plain(placed.path),
            "caption": plain(searchable.caption(placed)),
            "text": hit.text,
            "score": hit.score,
            "probability": hit.probability,
            "thumbnail": None if hit.text is not None else f"v1/thumbnail?{_query(name, hit)}",
            "image": f"v1/image?{_query(name, hit)}" if placed.has_file else None,
        }
        for hit, placed in zip(hits, searchable.placed(hits), strict=True)
    ]


def _query(name: str, hit: Hit) -> str:
    return f"collection={name}&id={quote(plain(hit.id), safe='')}"


def _described(searchable: Searchable, model: str) -> dict[str, Any]:
    example = searchable.example
    return {
        "name": searchable.name,
        "contents": searchable.collection.contents,
        "count": len(searchable.collection),
        "model": model,
        "examples": {
            "queries": example.queries,
            "image": example.image,
            "labels": example.labels,
        },
    }


def _item(searchable: Searchable, id: str) -> Hit:
    """An item of a collection, with the place of its file."""
    item = searchable.collection.item(id)
    if item is None:
        raise Fault(404, "the collection has no item of this id", "item_not_found", param="id")
    return searchable.placed([item[0]])[0]


def _file(searchable: Searchable, id: str) -> tuple[bytes, str]:
    """The image file of an item, and its name."""
    hit = _item(searchable, id)
    content = hit.content()
    if content is None:
        raise Fault(404, _NO_IMAGE, "no_image", param="id")
    return content, _file_name(hit, content)


def _file_name(hit: Hit, content: bytes) -> str:
    """A name for an image file; those in archives and tables may have none, or no suffix."""
    inner = hit.name.removeprefix(hit.path + ":") if hit.name != hit.path else hit.name
    name = os.path.basename(inner.rstrip("/")) or "image"
    header = None if os.path.splitext(name)[1] else image_header(content)
    return plain(name if header is None else f"{name}.{str(header.format).lower()}")


def _thumbnail(searchable: Searchable, id: str, size: int) -> bytes:
    image = _item(searchable, id).thumbnail(size, size)
    if image is None:
        raise Fault(404, _NO_IMAGE, "no_image", param="id")
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=_QUALITY)
    return stream.getvalue()
