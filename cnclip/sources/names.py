"""Names of files: other spellings of a path, and the names of members of archives.

Lists and archives are written on other systems: Windows separates folders by backslashes, macOS
decomposes accents (NFD), and old Chinese software encodes names in GB18030.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


def find_path(path: str) -> str | None:
    """The path of a file that exists, which another path may mean; None if there is none.

    Each part of the path is looked for as it is; then composed (NFC), decomposed (NFD) and in
    GB18030; then split at backslashes.
    """
    found = "/" if path.startswith("/") else ""
    waiting = path.split("/")[::-1]
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        names = (os.path.join(found, name) for name in (part, *_spellings(part)))
        existing = next((name for name in names if os.path.lexists(name)), None)
        if existing is not None:
            found = existing
        elif "\\" in part:
            waiting += part.split("\\")[::-1]
        else:
            return None
    return found


def find_name(names: Mapping[str, T], wanted: str) -> T | None:
    """The value of a name, or of one that differs in separators, or in composed characters."""
    if wanted in names:
        return names[wanted]
    simple = _simplified(wanted)
    return next((value for name, value in names.items() if _simplified(name) == simple), None)


def with_slashes(name: str) -> str:
    """The name of a member of an archive, with slashes between folders."""
    return name.replace("\\", "/")


def _simplified(name: str) -> str:
    return unicodedata.normalize("NFC", with_slashes(name))


def _spellings(part: str) -> Iterator[str]:
    """Other spellings of a name that is not ASCII."""
    if part.isascii():
        return
    yield unicodedata.normalize("NFC", part)
    yield unicodedata.normalize("NFD", part)
    try:
        yield os.fsdecode(part.encode("gb18030"))
    except UnicodeEncodeError:  # it has bytes that are not UTF-8
        return
