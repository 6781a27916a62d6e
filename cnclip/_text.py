"""Text that is safe to print and to store. Imports nothing of the package."""

from __future__ import annotations

import re
import unicodedata

MAX_REASON = 300
_WIDE_SPACE = "\u3000"  # the space of Chinese texts
# Categories of characters that BERT's tokenizer drops or splits at.
_INVISIBLE = frozenset({"Cc", "Cf", "Mn", "Zl", "Zp", "Zs"})
_TERMINAL_CODES = re.compile(r"\x1b\[[\d;]*m")


def printable(text: str) -> str:
    r"""A text with control characters and lone surrogates escaped, as in `\x1b` and `\ud800`."""
    return "".join(c if c.isprintable() or c == _WIDE_SPACE else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, for a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException) -> str:
    """The first line of a foreign exception's message, printable, at most MAX_REASON characters.

    An OSError gives its reason without the path. An exception without a message gives its type.
    For exceptions of cnclip use `error.reason`.
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in _TERMINAL_CODES.sub("", str(text)).splitlines()]
    return printable(next(filter(None, lines), type(error).__name__))[:MAX_REASON]


def type_and_line(error: BaseException) -> str:
    """The type and the first line of a foreign exception, as in `KeyError: 'name'`."""
    return f"{type(error).__name__}: {first_line(error)}"


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
