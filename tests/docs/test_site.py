"""The site's navigation names every page; `make docs` checks the links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.pages import ROOT


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml; tags of Python objects become None."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages_of(navigation: Any) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    else:
        parts = navigation.values() if isinstance(navigation, dict) else navigation
        for part in parts:
            yield from pages_of(part)


def navigation_of(locale: str) -> set[str]:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    (plugin,) = [p["i18n"] for p in settings["plugins"] if isinstance(p, dict) and "i18n" in p]
    (language,) = [one for one in plugin["languages"] if one["locale"] == locale]
    return set(pages_of(language["nav"]))


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_every_page_is_in_the_navigation(locale: str) -> None:
    folder = ROOT / "docs" / locale
    pages = {page.relative_to(folder).as_posix() for page in folder.rglob("*.md")}
    assert pages and pages <= navigation_of(locale)


def test_every_package_with_public_names_is_in_the_reference() -> None:
    listed = {page for page in navigation_of("en") if page.startswith("reference/api/")}
    for package in ("bulk", "search", "evaluate", "train", "datasets", "benchmark", "errors"):
        assert f"reference/api/{package}.md" in listed


def named_tests(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"`(\w+/(?:test|fuzz)_\w+\.\w+)`", text)


def test_the_threat_model_names_tests_that_exist() -> None:
    named = named_tests("docs/en/about/threat-model.md")
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_threat_model_is_the_same_in_both_languages() -> None:
    pages = [f"docs/{language}/about/threat-model.md" for language in ("en", "zh")]
    assert len({tuple(named_tests(page)) for page in pages}) == 1
    assert len({(ROOT / page).read_text(encoding="utf-8").count("\n| ") for page in pages}) == 1


def test_every_notebook_is_in_the_navigation() -> None:
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks and notebooks <= navigation_of("en")
