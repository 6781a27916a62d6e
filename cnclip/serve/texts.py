"""What the model cannot see of a text."""

from __future__ import annotations

import re
from typing import Any

from ..preprocessors.multi_modal import CLIPPreprocessor
from ..preprocessors.text import flags_of

# Each character is a separate word: Han, kana, and the characters between these blocks.
_CJK = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK += "\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")


def text_notes(preprocessor: CLIPPreprocessor, text: str) -> dict[str, Any]:
    """The number of tokens of a text, and what the model cannot see of it: `TextNotes`."""
    ids, lengths = preprocessor.tokenize([text], return_lengths=True)
    flags = flags_of(preprocessor, ids, lengths)
    return {
        "tokens": int(lengths[0]),
        "limit": preprocessor.context_length,
        "kept": kept_part(preprocessor, text) if flags["cut"][0] else None,
        "unknown": bool(flags["unknown"][0]),
    }


def kept_part(preprocessor: CLIPPreprocessor, text: str) -> str:
    """The beginning of a text that the model reads, up to the end of a word."""
    limit = preprocessor.context_length
    # A prefix that ends within a word may have other tokens than the text.
    inside = {at for word in _WORD.finditer(text) for at in range(word.start() + 1, word.end())}
    ends = [at for at in range(1, len(text)) if at not in inside]
    low, high = 0, len(ends)
    while low < high:  # longer prefixes never have fewer tokens
        middle = (low + high) // 2
        length = int(preprocessor.tokenize(text[: ends[middle]], return_lengths=True)[1][0])
        low, high = (middle + 1, high) if length <= limit else (low, middle)
    return text[: ends[low - 1]].rstrip() if low else ""


def plain(text: str) -> str:
    """A text that JSON can have: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
