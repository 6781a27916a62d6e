"""The ASGI application: the API, and the static files of the search application."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from inspect import signature
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from .. import __version__
from .._locale import LANGUAGES
from ..errors import CnclipError
from . import classify, describe, embeddings, immich, search
from .calls import json_answer
from .faults import Fault, fault_of
from .fetch import Fetcher
from .guard import Application, Guard, Receive, Scope, Send
from .inputs import RequestReader
from .metrics import Metrics
from .options import Keys
from .served import Served
from .words import WORDS, choose_language

logger = logging.getLogger("cnclip")

# The application's files by their type. No other file is served.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# The parameters of routes that are called without FastAPI.
_REQUEST = ["request"]
_CODES = {404: "not_found", 405: "method_not_allowed"}


def build_app(
    served: Served,
    keys: Keys,
    *,
    local: bool,
    root_path: str = "",
    for_immich: bool = False,
    tracing: Callable[[FastAPI], None] | None = None,
) -> Application:
    """Build the ASGI application.

    Args:
        served: The models and collections, with the server's options.
        keys: The API keys.
        local: Whether the server listens on this machine only: see `Guard`.
        root_path: The path under which a proxy serves it, such as `/search`.
        for_immich: Whether to answer requests of immich as its machine-learning service.
        tracing: Adds what traces requests.
    """
    fetcher = Fetcher(served.options)
    metrics = Metrics(served)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await fetcher.close()

    app = FastAPI(
        title="cnclip",
        version=__version__,
        summary="Chinese-CLIP: embeddings of images and Chinese texts, search, classification",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    app.state.served, app.state.metrics = served, metrics
    app.state.reader = RequestReader(served.options, fetcher)
    parts = (embeddings, search, classify, describe, *([immich] if for_immich else []))
    for part in parts:
        app.include_router(part.router)
    _add_pages(app)
    _add_errors(app)
    inner: Application = app
    if tracing is None:
        inner = _Direct(app, [route for part in parts for route in part.router.routes])
    else:
        tracing(app)
    return Guard(inner, served.options, keys, metrics, local=local, root_path=root_path)


class _Direct:
    """Calls the routes that take nothing but the request; FastAPI has the others and its errors.

    FastAPI's way to a route takes as long as all else that is done for a short text.
    """

    def __init__(self, app: FastAPI, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {
            (method, route.path): route
            for route in routes
            if isinstance(route, APIRoute) and [*signature(route.endpoint).parameters] == _REQUEST
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        route = self._routes.get((scope.get("method", ""), scope.get("path", "")))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["app"], scope["route"] = self._app, route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            handlers: Mapping[Any, Any] = self._app.exception_handlers
            kind = next(kind for kind in type(error).__mro__ if kind in handlers)
            response = await handlers[kind](request, error)
        await response(scope, receive, send)


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        fault = fault_of(error)
        if fault.status == 500:
            logger.error("%s %s", request.method, request.url.path, exc_info=error)
        response = json_answer(fault.content, fault.status)
        response.headers.update(fault.headers)
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = str(first["loc"][-1]) if first["loc"] else None
        return await answer(request, Fault(422, first["msg"], "invalid", param=place))

    async def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "invalid")
        fault = Fault(error.status_code, str(error.detail).lower(), code)
        response = await answer(request, fault)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, missing)
    for kind in (Fault, CnclipError, MemoryError, Exception):
        app.add_exception_handler(kind, answer)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def first(request: Request) -> Response:
        language = choose_language(request.headers.get("accept-language", ""))
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{language}/{query}", 307)

    for language in LANGUAGES:
        page = _page("index.html", language)

        async def show(request: Request, page: bytes = page) -> Response:
            return _cached(request, page, "text/html; charset=utf-8")

        app.get(f"/{language}/", include_in_schema=False)(show)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return _cached(request, _page("docs.html", "en"), "text/html; charset=utf-8")

    @app.get("/static/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        suffix = name[name.rfind(".") :]
        content = _files().get(name)
        if content is None or suffix not in _TYPES:
            raise Fault(404, "not found", "not_found")
        return _cached(request, content, f"{_TYPES[suffix]}; charset=utf-8")


@cache
def _files() -> dict[str, bytes]:
    """The static files by name."""
    folder = files(__package__) / "static"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    words = {language: vars(texts) for language, texts in WORDS.items()}
    found["words.js"] = f"export default {json.dumps(words, ensure_ascii=False)};\n".encode()
    return found


def _page(name: str, language: Any) -> bytes:
    """A page with its language and title filled in, so that they are right before scripts run."""
    words = WORDS[language]
    text = _files()[name].decode("utf-8")
    return text.replace("{lang}", words.tag).replace("{title}", words.title).encode()


def _cached(request: Request, content: bytes, kind: str) -> Response:
    """A file that browsers may keep, if they ask each time whether it has changed."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Type": kind}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)
