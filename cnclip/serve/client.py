"""`Client` and `AsyncClient`: the pipeline's calls, answered by a server."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._files import open_file
from ..errors import (
    BusyError,
    ClosedError,
    CnclipError,
    DeadlineError,
    ImageError,
    InputTypeError,
    InvalidInputError,
    ModelRunError,
    ServerError,
)
from ..outputs import OutputKeys
from ..preprocessors.image import is_url
from ..preprocessors.inputs import InputImage, split_input

# Items and bytes of a request: a long list is sent in several.
_ITEMS = 256
_BYTES = 16 << 20
_RAW = {"Accept": "application/octet-stream; dtype=float32"}
_ERRORS: dict[str, type[CnclipError]] = {
    "invalid_item": ImageError,
    "busy": BusyError,
    "timeout": DeadlineError,
    "shutting_down": ClosedError,
    "out_of_memory": ModelRunError,
    "model_error": ModelRunError,
}


@dataclass(frozen=True)
class _Chunk:
    """Items that are sent together: the rows of the answer belong to these positions."""

    places: list[tuple[str, int]]
    items: list[dict[str, str]]


class _Requests:
    """What both clients have in common: requests, and the meaning of answers."""

    def __init__(self, model: str | None) -> None:
        self._model = model

    def _embeddings(self, input: Mapping[str, Any]) -> tuple[Iterator[_Chunk], _Rows]:
        images, texts = split_input(input)
        given = list(images) if images is not None else None
        texts = list(texts) if texts is not None else None
        rows = _Rows(None if given is None else len(given), None if texts is None else len(texts))
        return _chunks(given or [], texts or []), rows

    def _body(self, **fields: Any) -> dict[str, Any]:
        body = {name: value for name, value in fields.items() if value is not None}
        return body if self._model is None else {"model": self._model, **body}


class _Rows:
    """The rows of a call, as answers come in."""

    def __init__(self, images: int | None, texts: int | None) -> None:
        self._counts = {"img": images, "text": texts}
        self._parts: dict[str, NDArray[np.float32]] = {}

    def put(self, chunk: _Chunk, vectors: NDArray[np.float32]) -> None:
        """Take the rows of a chunk."""
        for (kind, index), row in zip(chunk.places, vectors, strict=True):
            if kind not in self._parts:
                shape = (self._counts[kind] or 0, vectors.shape[1])
                self._parts[kind] = np.empty(shape, np.float32)
            self._parts[kind][index] = row

    def output(self, columns: int) -> dict[str, NDArray[np.float32] | None]:
        """What `pipeline.forward` returns."""
        return {
            key: None
            if self._counts[kind] is None
            else self._parts.get(kind, np.empty((0, columns), np.float32))
            for key, kind in (
                (OutputKeys.IMG_EMBEDDING, "img"),
                (OutputKeys.TEXT_EMBEDDING, "text"),
            )
        }

    @property
    def columns(self) -> int | None:
        """The number of columns, once a row has come."""
        return next((part.shape[1] for part in self._parts.values()), None)


class Client(_Requests):
    """Calls a server of `cnclip serve`.

    Threads may use one client at the same time. It is a context manager.

    Example:
        with Client("http://127.0.0.1:7860") as client:
            rows = client.forward({"text": ["一只猫"]})["text_embedding"]
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Take the server's address; nothing is sent yet.

        Args:
            url: The address, such as `http://127.0.0.1:7860`.
            model: The name of the model; it may be left out where one is served.
            api_key: The key, if the server asks for one.
            timeout: Seconds of a request.
        """
        super().__init__(model)
        self._http = httpx.Client(**_settings(url, api_key, timeout))

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def forward(self, input: Mapping[str, Any]) -> dict[str, NDArray[np.float32] | None]:
        """Embed images, texts, or both, as `pipeline.forward` does.

        Args:
            input: As for `pipeline.forward`. Files are read here; URLs are fetched by the server,
                if it allows them.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None}.

        Raises:
            InputTypeError, InvalidInputError, ImageError: name the item.
            BusyError: the server has too much work. DeadlineError: no answer in time.
            ServerError: the server cannot be reached, or fails; also a ConnectionError.
        """
        chunks, rows = self._embeddings(input)
        for chunk in chunks:
            response = self._post("v1/embeddings", self._body(input=chunk.items), _RAW, chunk)
            rows.put(chunk, _vectors(response))
        columns = rows.columns
        return rows.output(self.models()[0]["dimensions"] if columns is None else columns)

    def search(
        self,
        text: str | None = None,
        image: Any = None,
        *,
        collection: str | None = None,
        k: int = 10,
        weight: float = 0.5,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Search a collection of the server, as `Collection.find` does.

        Returns:
            A dict for each result, best first: id, path, caption, text, score, probability.

        Raises:
            CnclipError: as for `forward`.
        """
        body = {
            "collection": collection,
            "text": text,
            "image": None if image is None else _sent(image, "image"),
            "k": k,
            "weight": weight,
            "threshold": threshold,
        }
        results: list[dict[str, Any]] = self._post("v1/search", self._body(**body)).json()[
            "results"
        ]
        return results

    def classify(
        self, image: Any, labels: Sequence[str], templates: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The probabilities of labels for an image, likeliest first.

        Raises:
            CnclipError: as for `forward`.
        """
        given = None if templates is None else list(templates)
        body = self._body(image=_sent(image, "image"), labels=list(labels), templates=given)
        answer = self._post("v1/classify", body).json()
        return {one["label"]: one["probability"] for one in answer["labels"]}

    def models(self) -> list[dict[str, Any]]:
        """The models that are served: id, digest, precision, dimensions, resolution."""
        with _connection_errors():
            data: list[dict[str, Any]] = _checked(self._http.get("v1/models")).json()["data"]
        return data

    def _post(
        self,
        path: str,
        body: dict[str, Any],
        headers: Mapping[str, str] | None = None,
        chunk: _Chunk | None = None,
    ) -> httpx.Response:
        with _connection_errors():
            return _checked(self._http.post(path, json=body, headers=headers), chunk)


class AsyncClient(_Requests):
    """`Client` for coroutines."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        """As for `Client`."""
        super().__init__(model)
        self._http = httpx.AsyncClient(**_settings(url, api_key, timeout))

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def forward(self, input: Mapping[str, Any]) -> dict[str, NDArray[np.float32] | None]:
        """As `Client.forward`."""
        chunks, rows = self._embeddings(input)
        for chunk in chunks:
            with _connection_errors():
                body = self._body(input=chunk.items)
                response = await self._http.post("v1/embeddings", json=body, headers=_RAW)
            rows.put(chunk, _vectors(_checked(response, chunk)))
        columns = rows.columns
        return rows.output((await self.models())[0]["dimensions"] if columns is None else columns)

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        with _connection_errors():
            data: list[dict[str, Any]] = _checked(await self._http.get("v1/models")).json()["data"]
        return data


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Turns the errors of httpx into ours."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise DeadlineError("the server did not answer in time") from error
    except httpx.HTTPError as error:
        raise ServerError(f"the server cannot be reached: {type(error).__name__}") from error


def _settings(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {"base_url": url.rstrip("/") + "/", "headers": headers, "timeout": timeout}


def _chunks(images: list[InputImage], texts: list[str]) -> Iterator[_Chunk]:
    """The items of a call, in parts that a server takes."""
    chunk, size = _Chunk([], []), 0
    given: list[tuple[str, int, InputImage | str]] = [
        *(("img", index, one) for index, one in enumerate(images)),
        *(("text", index, one) for index, one in enumerate(texts)),
    ]
    for kind, index, item in given:
        if isinstance(item, InputImage):
            sent = {"image": _sent(item.image, item.name)}
        else:
            sent = {"text": item}
        length = sum(map(len, sent.values()))
        if chunk.items and (len(chunk.items) == _ITEMS or size + length > _BYTES):
            yield chunk
            chunk, size = _Chunk([], []), 0
        chunk.places.append((kind, index))
        chunk.items.append(sent)
        size += length
    if chunk.items:
        yield chunk


def _sent(image: Any, name: str) -> str:
    """An image as a string of a request: base64 of its file, or its URL."""
    if isinstance(image, str) and is_url(image) and not image.lower().startswith("file:"):
        return image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        content = stream.getvalue()
    elif isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
    elif isinstance(image, str | Path):
        try:
            with open_file(image) as file:
                content = file.read()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}", item=name, file=image) from error
    else:
        reason = f"expected an image, a path, a URL or bytes, got {type(image).__name__}"
        raise InputTypeError(reason, item=name)
    return base64.b64encode(content).decode("ascii")


def _vectors(response: httpx.Response) -> NDArray[np.float32]:
    rows, columns = map(int, response.headers["X-Shape"].split(","))
    return np.frombuffer(response.content, "<f4").reshape(rows, columns)


def _checked(response: httpx.Response, chunk: _Chunk | None = None) -> httpx.Response:
    """The response, if it is no error."""
    if response.is_success:
        return response
    try:
        content = response.json()["error"]
        reason, code, param = content["reason"], content["code"], content["param"]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"the server answered with {response.status_code}") from error
    kind = _ERRORS.get(code, InvalidInputError if response.status_code < 500 else ServerError)
    item = _item_of(param, chunk)
    if kind is BusyError:
        seconds = float(response.headers.get("Retry-After", 1))
        raise BusyError(reason, retry_after=seconds, item=item)
    raise kind(reason, item=item)


def _item_of(param: str | None, chunk: _Chunk | None) -> str | None:
    """The name of an item in the caller's input."""
    if param is None or chunk is None or not param.startswith("input["):
        return param
    kind, index = chunk.places[int(param[len("input[") : param.index("]")])]
    return f"{kind}[{index}]"
