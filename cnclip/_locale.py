"""The languages of reports and pages, and the one that the user's locale asks for."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Literal, get_args

Language = Literal["zh", "en"]
# The texts of a page in one language, as attributes.
Words = SimpleNamespace
LANGUAGES: tuple[Language, ...] = get_args(Language)


def translations(**texts: tuple[str, str]) -> dict[Language, Words]:
    """Return the words of each language, from the Chinese and the English text of each name."""
    return {
        language: Words(**{name: pair[number] for name, pair in texts.items()})
        for number, language in enumerate(LANGUAGES)
    }


def locale_language() -> Language:
    """Return the language of `LC_ALL`, `LC_MESSAGES` or `LANG`: Chinese for `zh...`, else English.

    The first of these variables that is set and not empty decides, as in POSIX.
    """
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    value = next(filter(None, (os.environ.get(name) for name in names)), "")
    return "zh" if value.lower().startswith("zh") else "en"
