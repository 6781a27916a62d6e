"""Text that is safe to print and to store. Imports nothing of the package."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

MAX_REASON = 300
HIDDEN = "***"
_WIDE_SPACE = "\u3000"  # the space of Chinese texts
# Categories of characters that BERT's tokenizer drops or splits at.
_INVISIBLE = frozenset({"Cc", "Cf", "Mn", "Zl", "Zp", "Zs"})
_TERMINAL_CODES = re.compile(r"\x1b\[[\d;]*m")
# The user and password of a URL end at the last @ before the path. A password with an unescaped
# slash reaches beyond that: no number follows the colon, as it does in HOST:PORT.
USER_OF_URL = re.compile(
    r"(?<=://)(?:[^/?#\s]*|(?!\[)[^/?#:@\s]*:(?!\d*(?:[/?#\s]|$))[^@\s]*)(?=@)"
)
_SECRET_OF_URL = re.compile(
    r"""([?&;\#](?:
          [\w.-]*(?:token|secret|passw|signature|credential|api[_-]?key|access[_-]?key|auth[_-]?key)
          [\w.-]*
        | (?:[\w.-]*[_.-])?(?:auth|authorization|hmac|jwt|pass|pwd|session|sessionid|sig|sign)
        | key(?==[\w-]{20,}(?:[&\#\s]|$))
        )=)([^&\#\s"'<>]+)""",
    re.IGNORECASE | re.VERBOSE,
)
# Shorter secrets could be found from their digest by trying.
_MIN_DIGESTED = 16


def printable(text: str) -> str:
    r"""A text with control characters and lone surrogates escaped, as in `\x1b` and `\ud800`."""
    return "".join(c if c.isprintable() or c == _WIDE_SPACE else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, for a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def hide_secrets(text: str) -> str:
    """A URL, or a text with URLs, with `***` for users, passwords and the values of access keys.

    A long access key is followed by eight digits of its SHA-256, so that URLs which differ in it
    stay different.
    """
    if "://" not in text and "=" not in text:
        return text
    return _SECRET_OF_URL.sub(_hidden, USER_OF_URL.sub(HIDDEN, text))


def _hidden(match: re.Match[str]) -> str:
    value = match[2].encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(value).hexdigest()[:8] if len(value) >= _MIN_DIGESTED else ""
    # A text may be hidden a second time.
    return match[0] if match[2].startswith(HIDDEN) else f"{match[1]}{HIDDEN}{digest}"


def first_line(error: BaseException) -> str:
    """The first line of a foreign exception's message, printable, at most MAX_REASON characters.

    An OSError gives its reason without the path. An exception without a message gives its type.
    Secrets in URLs are hidden. For exceptions of cnclip use `error.reason`.
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in _TERMINAL_CODES.sub("", str(text)).splitlines()]
    return printable(hide_secrets(next(filter(None, lines), type(error).__name__)))[:MAX_REASON]


def type_and_line(error: BaseException) -> str:
    """The type and the first line of a foreign exception, as in `KeyError: 'name'`."""
    return f"{type(error).__name__}: {first_line(error)}"


def value_text(value: object, limit: int = 60) -> str:
    """A value of a user's file, for messages: a quoted text, or as JSON has it.

    The missing value is `nothing`. Longer texts are cut.
    """
    if value is None:
        return "nothing"
    if isinstance(value, str):
        text = f"'{value}'"
    else:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            text = type(value).__name__
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def counted(number: int, noun: str) -> str:
    """A number and a plural noun, which loses its s after 1: `1 image`, `2 images`."""
    return f"{number} {noun.removesuffix('s') if number == 1 else noun}"


def is_utf8(text: str) -> bool:
    """Whether a string can be encoded: it has no lone surrogates in place of other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_blank(text: str) -> bool:
    """Whether nothing of a text is left for a model: BERT drops all of its characters.

    These are spaces, control and format characters such as U+200B, combining marks and U+FFFD.
    """
    return all(
        character == "\ufffd" or unicodedata.category(character) in _INVISIBLE for character in text
    )
