"""Reads requests: the items of an embeddings request, and images in each shape that clients send.

An item becomes a text, the bytes of an image file, or the error of that item. A path is never one
of them: a client cannot name a file of the server.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .._text import first_line, is_blank
from ..errors import CnclipError, ImageError, InvalidInputError
from .faults import Fault
from .fetch import Fetcher
from .options import ServerOptions
from .schemas import EmbeddingsRequest

Schema = TypeVar("Schema", bound=BaseModel)
Item = str | bytes | CnclipError

_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_WEB_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
# Encodings in which texts may come: UTF-8 and its subset.
_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii")
# Larger bodies are parsed on a thread, so that other requests do not wait.
_INLINE_BYTES = 1 << 16
# Values of a body's JSON. Each takes up to a hundred times the memory of its bytes.
_MAX_VALUES = 1_000_000
_MAX_SHOWN = 60
_TOKENS = (
    "expected texts, got token ids: set check_embedding_ctx_length=False in LangChain's "
    "OpenAIEmbeddings, or send texts in place of ids"
)


class _InMemory(MultiPartParser):
    """Parses a form without writing files to the disk."""

    spool_max_size = sys.maxsize


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


class ImageText(str):
    """A string of a request that is an image: a data URL, base64 or a URL."""


@dataclass
class Upload:
    """The images that came as files, and the fields next to them."""

    files: list[bytes] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


class RequestReader:
    """Reads bodies within the limits of the server."""

    def __init__(self, options: ServerOptions, fetcher: Fetcher) -> None:
        self._options = options
        self._fetcher = fetcher

    async def read(self, request: Request, schema: type[Schema]) -> tuple[Schema, list[bytes]]:
        """A request of JSON, of a form with files, or of one image.

        Returns:
            The request, with the fields of the form or of the query string, and the files.

        Raises:
            Fault: the body has another type or encoding, is malformed, or does not come within
                its time.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        _check_charset(request)
        if kind in ("", "application/json") or kind.endswith("+json"):
            async with self._in_time():
                body = await request.body()
            return await self._parse(schema, body), []
        if kind == "multipart/form-data":
            upload = await self.form(request)
        elif kind.startswith("image/") or kind == "application/octet-stream":
            async with self._in_time():
                upload = Upload([await request.body()], dict(request.query_params))
        else:
            reason = f"unknown type {kind}: send application/json, multipart/form-data or image/*"
            raise Fault(415, reason, "unsupported_media_type")
        return _validated(lambda: schema.model_validate(upload.fields)), upload.files

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Limits the time in which a body arrives."""
        try:
            async with asyncio.timeout(self._options.body_timeout):
                yield
        except TimeoutError as error:
            reason = f"the body did not arrive within {self._options.body_timeout:g} s"
            raise Fault(408, reason, "timeout") from error
        except ClientDisconnect as error:
            raise Fault(499, "the client closed the connection", "closed") from error

    async def _parse(self, schema: type[Schema], body: bytes) -> Schema:
        def parse() -> Schema:
            if body.count(b",") >= _MAX_VALUES:  # those of texts included
                reason = f"the JSON has {_MAX_VALUES} commas or more: send several requests"
                raise Fault(413, reason, "too_many_values")
            try:
                text = body.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                reason = f"the JSON is not UTF-8: byte {error.start}"
                raise Fault(400, reason, "malformed") from error
            return _validated(lambda: schema.model_validate_json(text, strict=True))

        return parse() if len(body) <= _INLINE_BYTES else await run_in_threadpool(parse)

    async def form(self, request: Request) -> Upload:
        """The files of a form in their order, and its fields; one that repeats is a list.

        Raises:
            Fault: as for `read`.
        """
        _check_charset(request)
        async with self._in_time():
            body = await request.body()
        upload = Upload()
        limit = self._options.max_items
        # The parser would guess the encoding of a text that is not UTF-8. As Latin-1 it gives the
        # bytes, which `_utf8` decodes.
        kind = f"{request.headers.get('content-type', '')}; charset=latin-1"
        parser = _InMemory(
            Headers({"content-type": kind}),
            _once(body),
            max_files=limit,
            max_fields=limit,
            max_part_size=len(body),
        )
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, UnicodeError) as error:
            reason = f"the form is malformed: {first_line(error)}"
            raise Fault(400, reason, "malformed") from error
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                upload.files.append(await value.read())
            else:
                name = _utf8(name, None).removesuffix("[]")
                upload.fields.setdefault(name, []).append(_utf8(value, name))
        await form.close()
        upload.fields = {
            name: values if len(values) > 1 else values[0] for name, values in upload.fields.items()
        }
        return upload

    async def items(self, call: EmbeddingsRequest, files: list[bytes]) -> list[Item]:
        """The items of an embeddings request, in order; files after the others.

        Raises:
            Fault: the request has no items, too many, or something that is no item.
        """
        given = _given_items(call, self._options.max_items)
        _check_count(len(given) + len(files), self._options.max_items, "input")
        if not given and not files:
            raise Fault(400, "expected at least one text or image", "no_items", param="input")
        images = [one for one in given if isinstance(one, ImageText)]
        opened = iter(await asyncio.gather(*map(self.image, images)))
        items: list[Item] = [
            next(opened) if isinstance(one, ImageText) else self.text(one) for one in given
        ]
        return [*items, *files]

    def text(self, text: str) -> str | CnclipError:
        """A text within the limits, or its error."""
        if len(text) > self._options.max_characters:
            limit = self._options.max_characters
            return InvalidInputError(f"{len(text)} characters; at most {limit} are allowed")
        return InvalidInputError("expected a text, got an empty one") if is_blank(text) else text

    async def image(self, text: str) -> bytes | CnclipError:
        """The bytes of an image that a string has, or the error."""
        try:
            if _WEB_URL.match(text):
                return await self._fetcher.fetch(text.strip())
            if len(text) > _INLINE_BYTES:
                return await run_in_threadpool(decoded_image, text)
            return decoded_image(text)
        except CnclipError as error:
            return error


def decoded_image(text: str) -> bytes:
    """The bytes of a data URL or of base64, of either alphabet, with or without padding.

    Raises:
        ImageError: it is neither.
    """
    header = _DATA_URL.match(text.lstrip())
    content = text.lstrip()[header.end() :] if header else text
    if header and "base64" not in header[2].lower().replace(" ", "").split(";"):
        return unquote_to_bytes(content)
    if header and "%" in content:
        content = unquote_to_bytes(content).decode("latin-1")
    content = _SPACES.sub("", content).replace("-", "+").replace("_", "/").rstrip("=")
    if not content:
        raise ImageError("expected an image, got an empty string")
    try:
        return base64.b64decode(content + "=" * (-len(content) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        reason = "neither a data URL nor base64 of an image file, nor an http(s) URL"
        raise ImageError(reason) from error


def _validated(validate: Callable[[], Schema]) -> Schema:
    try:
        return validate()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        ).lstrip(".")
        status, code = (400, "malformed") if first["type"] == "json_invalid" else (422, "invalid")
        raise Fault(status, first["msg"], code, param=place or None) from error
    except RecursionError as error:
        raise Fault(400, "the JSON is nested too deeply", "malformed") from error


def _check_charset(request: Request) -> None:
    """Refuse text that is declared to be in another encoding than UTF-8.

    Bytes of GB18030 may be valid UTF-8 as well, and would be other characters then.
    """
    header = request.headers.get("content-type", "")
    if "charset" not in header.lower():
        return
    charset = parse_options_header(header)[1].get(b"charset", b"").decode("latin-1")
    if charset.strip().lower() not in _CHARSETS:
        reason = f"unknown charset {charset[:40]}: send texts in UTF-8"
        raise Fault(415, reason, "unsupported_charset")


def _utf8(text: str, name: str | None) -> str:
    """A name or value of a form, from its bytes as Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"the text is not UTF-8: byte {error.start}"
        raise Fault(400, reason, "malformed", param=name) from error


def _given_items(call: EmbeddingsRequest, limit: int) -> list[str]:
    """The texts and images of `input` and `messages`, at most `limit`; images are ImageText.

    The number is checked first: to look at each of millions of items would take seconds, in which
    the server does nothing else.
    """
    if call.messages is not None:
        if call.input is not None:
            raise Fault(400, "expected input or messages, got both", "invalid", param="messages")
        return _message_items(call.messages, limit)
    given = call.input
    if given is None:
        return []
    if isinstance(given, list):
        if _are_token_ids(given, limit):
            raise Fault(400, _TOKENS, "token_ids", param="input")
        _check_count(len(given), limit, "input")
        return [_item(one, call.modality, f"input[{index}]") for index, one in enumerate(given)]
    return [_item(given, call.modality, "input")]


def _check_count(count: int, limit: int, param: str) -> None:
    if count > limit:
        reason = f"{count} items; at most {limit} are allowed"
        raise Fault(400, reason, "too_many_items", param=param)


def _are_token_ids(values: list[Any], limit: int) -> bool:
    """Whether the first of the values are token ids, or lists of them; False if there are none."""
    return bool(values) and all(
        _are_token_ids(one, limit) if isinstance(one, list) else type(one) is int
        for one in values[:limit]
    )


def _item(value: Any, modality: str, param: str) -> str:
    if isinstance(value, str):
        return ImageText(value) if modality == "image" else value
    if isinstance(value, dict):
        if "type" in value and value.get("type") in ("text", "image_url", "input_text", "image"):
            value = {key: one for key, one in value.items() if key != "type"}
        if len(value) == 1:
            ((name, content),) = value.items()
            if name == "text" and isinstance(content, str):
                return content
            if name in ("image", "image_url"):
                if isinstance(content, dict):
                    content = content.get("url")
                if isinstance(content, str):
                    return ImageText(content)
    reason = f'expected a text, {{"text": ...}} or {{"image": ...}}, got {_beginning(value)}'
    raise Fault(422, reason, "invalid", param=param)


def _beginning(value: Any) -> str:
    """The first 60 characters of a value as JSON, which may have a million values."""
    pieces, size = [], 0
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        pieces.append(piece)
        size += len(piece)
        if size >= _MAX_SHOWN:
            break
    return "".join(pieces)[:_MAX_SHOWN]


def _message_items(messages: list[dict[str, Any]], limit: int) -> list[str]:
    items: list[str] = []
    _check_count(len(messages), limit, "messages")
    for number, message in enumerate(messages):
        content = message.get("content")
        param = f"messages[{number}].content"
        if isinstance(content, str):
            items.append(content)
        elif isinstance(content, list):
            _check_count(len(items) + len(content), limit, param)
            parts = [_item(one, "text", f"{param}[{index}]") for index, one in enumerate(content)]
            # Clients send an empty text next to an image, which chats require.
            has_image = any(isinstance(part, ImageText) for part in parts)
            items += [
                one
                for one in parts
                if isinstance(one, ImageText) or not (has_image and is_blank(one))
            ]
        else:
            raise Fault(422, "expected a text or a list of parts", "invalid", param=param)
    return items
