"""The texts of the page, and the choice of its language."""

from __future__ import annotations

import string

import pytest

from cnclip.serve.words import WORDS, ZH, choose_language


def test_languages_say_the_same() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for name in vars(ZH):
        said = [getattr(words, name) for words in WORDS.values()]
        assert all(said), name
        assert len({frozenset(fields(text)) for text in said}) == 1, name
        assert name == "tag" or len(set(said)) == len(said), name


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9", "en"),
        ("en;q=0.7, zh-TW;q=0.9", "zh"),
        ("fr, en-GB;q=0.5", "en"),
        ("fr", "zh"),
        ("EN", "en"),
        ("en;q=nonsense, zh;q=0.1", "zh"),
        (",;=,en-;q=", "en"),
        ("*", "zh"),
    ],
)
def test_language_is_the_one_asked_for(header: str, language: str) -> None:
    assert choose_language(header) == language
