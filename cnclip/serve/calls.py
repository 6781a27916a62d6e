"""What every route does: its time limit, its answer, and its items' way through the batcher."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, TypeVar

import orjson
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response

from ..errors import CnclipError, ImageError
from ..preprocessors.inputs import ImageInput
from .batching import Embedded
from .faults import Fault
from .inputs import Item, RequestReader
from .schemas import ErrorAnswer
from .served import Served, ServedModel

T = TypeVar("T")

# Threads that decode images outside of the batcher. So few limit their memory, and leave threads to
# other routes.
_DECODERS = CapacityLimiter(4)

# The statuses of errors that any route of the interface may answer with.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "A bad item or value"),
        (401, "A key is missing or wrong"),
        (403, "The host name, or a page of another site, is not allowed"),
        (404, "No such model, collection or item"),
        (408, "The body did not arrive in time"),
        (413, "The body is too large"),
        (415, "The body has an unknown type or charset"),
        (422, "A field has a wrong type or is out of range"),
        (429, "The server has too much work; see Retry-After"),
        (500, "The server failed"),
        (503, "The server opens or ends, or has no memory"),
        (504, "The request's time is over"),
    )
}


def parts_of(request: Request) -> tuple[Served, RequestReader]:
    """What the application serves, and its reader of requests."""
    state = request.app.state
    return state.served, state.reader


def json_answer(content: Any, status: int = 200) -> Response:
    """An answer of JSON; NumPy arrays become lists, float32 with as few digits as it needs."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json")


async def on_decoder(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a function that decodes an image, on one of a few threads."""
    return await to_thread.run_sync(function, *arguments, limiter=_DECODERS)


async def opened_image(model: ServedModel, content: bytes, open: Callable[[bytes], T]) -> T:
    """Open a request's image file outside of the batcher, which has to have memory for it.

    Args:
        model: The model that embeds the image.
        content: The file.
        open: Opens it.

    Raises:
        ImageError: it cannot be read, or had to wait too long.
    """

    def run() -> T:
        with model.batcher.decoding(content):
            return open(content)

    try:
        return await on_decoder(run)
    except ImageError as error:
        raise error.at(item="image") from error


def seconds_left(request: Request, limit: float) -> float:
    """Seconds until the request's time is over: X-Request-Timeout, at most the server's limit.

    Raises:
        Fault: the header is not a positive number, or the time is over.
    """
    given = request.headers.get("x-request-timeout")
    if given is not None:
        try:
            seconds = float(given)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            reason = "expected a positive number of seconds"
            raise Fault(400, reason, "invalid", param="X-Request-Timeout")
        limit = min(limit, seconds)
    begun: float = request.scope.get("cnclip.begun", time.monotonic())
    left = limit - (time.monotonic() - begun)
    if left <= 0:
        raise Fault(504, f"no answer within {limit:g} s", "timeout")
    return left


async def embedded(
    request: Request,
    model: ServedModel,
    items: Sequence[Item | ImageInput],
    limit: float,
    *,
    name_of: Callable[[int], str] = "input[{}]".format,
    on_error: Literal["request", "item"] = "request",
) -> Embedded:
    """The embeddings of a request's items.

    Args:
        request: The request: its items are dropped when its client goes away.
        model: The model.
        items: Texts, bytes of image files, opened images, and errors.
        limit: Seconds of the request.
        name_of: The name of an item in messages.
        on_error: Whether the first bad item fails the request, or its error is in the result.
    """
    given: list[dict[str, Any] | CnclipError] = [
        {"text": item}
        if isinstance(item, str)
        else item
        if isinstance(item, CnclipError)
        else {"img": item}
        for item in items
    ]
    future = model.batcher.submit(
        given,
        timeout=seconds_left(request, limit),
        on_error="raise" if on_error == "request" else "item",
    )
    try:
        result = await unless_gone(request, future)
    except CnclipError as error:
        raise _named(error, name_of) from error
    for index, bad in enumerate(result.errors):
        if bad is not None:
            result.errors[index] = _named(bad, name_of)
    return result


def _named(error: CnclipError, name_of: Callable[[int], str]) -> CnclipError:
    """The error of an item, with the item's name in the request."""
    if error.where is None or error.where.index is None:
        return error
    named = copy.copy(error)
    named.where = replace(error.where, item=name_of(error.where.index))
    return named


async def unless_gone(request: Request, future: Future[T]) -> T:
    """The result of a future, which is cancelled when the request's client goes away."""
    result = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_gone(request))
    gone.add_done_callback(lambda _: result.cancel())
    try:
        return await result
    except asyncio.CancelledError as error:
        if not gone.done():  # the server ends
            raise
        raise Fault(499, "the client closed the connection", "closed") from error
    finally:
        gone.cancel()
        result.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
