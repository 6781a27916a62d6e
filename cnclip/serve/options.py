"""`ServerOptions`: limits and access rules of the server."""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from .._encoding import read_text
from .._options import check_options, environment, option
from ..errors import InvalidInputError
from ..preprocessors.decoding import MAX_PIXELS_VARIABLE
from ..preprocessors.formats import FORMATS_VARIABLE

# Pixels of an image, unless --max-pixels or $CNCLIP_MAX_PIXELS allows more.
MAX_PIXELS = 50_000_000
_IMAGE_LIMITS = {MAX_PIXELS_VARIABLE: str(MAX_PIXELS), FORMATS_VARIABLE: "common"}
KEYS_VARIABLE = "CNCLIP_API_KEYS"
_MIB = 1 << 20


@dataclass(frozen=True)
class ServerOptions:
    """What requests may cost, and who may send them. Sizes are in bytes, times in seconds."""

    max_body: int = option(64 * _MIB, "bytes of a request's body", min=1)
    max_bytes: int = option(
        512 * _MIB,
        "bytes of all requests in progress, more are refused with 429; and again of the images "
        "that are being decoded, others wait",
        min=1,
    )
    max_items: int = option(2048, "texts and images of a request", min=1)
    max_labels: int = option(1000, "labels of a classification", min=2)
    max_texts: int = option(10_000, "texts of a classification: labels times templates", min=2)
    max_characters: int = option(100_000, "characters of a text", min=1)
    max_results: int = option(1000, "results of a search", min=1)
    request_timeout: float = option(
        30.0, "seconds of a request; a client may ask for less by X-Request-Timeout", above=0
    )
    body_timeout: float = option(60.0, "seconds in which a request's body has to arrive", above=0)
    drain_timeout: float = option(30.0, "seconds for requests in progress after SIGTERM", min=0)
    batch_timeout: float = option(
        60.0, "seconds of the model for a batch, after which /readyz reports a failure", above=0
    )
    allow_host: tuple[str, ...] | None = option(
        None,
        "a host name under which clients may ask, such as search.example.com; repeat it for "
        "several",
        many=True,
        repeated=True,
    )
    allow_urls: tuple[str, ...] | None = option(
        None,
        "fetch images from URLs of this host: a name, *.example.com, or * for all; by default no "
        "URL is fetched. Private addresses are never contacted",
        many=True,
        repeated=True,
    )
    url_timeout: float = option(10.0, "seconds to fetch an image", above=0)
    max_url_bytes: int = option(32 * _MIB, "bytes of an image that is fetched", min=1)

    def __post_init__(self) -> None:
        """Check the values."""
        check_options(self)


def limit_images() -> None:
    """Let this process decode images of up to MAX_PIXELS pixels, in common formats.

    Variables of the environment that are set already are kept.
    """
    for name, value in _IMAGE_LIMITS.items():
        os.environ.setdefault(name, value)


def limited_images() -> AbstractContextManager[None]:
    """`limit_images` in a context."""
    return environment({}, _IMAGE_LIMITS)


class Keys:
    """The API keys that are accepted; none: every request is."""

    def __init__(self, keys: list[str]) -> None:
        # Digests have one length, so that a comparison takes the same time for every key.
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, given: str) -> bool:
        """Whether a key is one of them; in constant time."""
        digest, found = _digest(given), False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found

    @classmethod
    def read(cls, file: Path | None) -> Keys:
        """The keys of a file, one per line; without a file, of the variable CNCLIP_API_KEYS.

        In the variable, blanks, commas or line ends separate keys. Lines of a file that begin with
        # are comments.

        Raises:
            InvalidInputError: the file cannot be read or has no key, or a key is not ASCII.
        """
        if file is None:
            keys = os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()
            place = KEYS_VARIABLE
        else:
            place = str(file)
            lines = map(str.strip, read_text(file)[0].splitlines())
            keys = [line for line in lines if line and not line.startswith("#")]
            if not keys:
                raise InvalidInputError("has no key", file=place)
        for number, key in enumerate(keys, 1):
            if not key.isascii() or not key.isprintable() or " " in key:
                reason = f"key {number} has characters that a header cannot have"
                raise InvalidInputError(reason, file=place)
        return cls(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
