"""Every example of the documentation runs: see tests/support/pages.py for the comments of pages."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.support.pages import ROOT, SETUPS, blocks_of, check, in_folder, run_page, set_up

PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
# Made from parsers and from notebooks, which run elsewhere.
GENERATED = ("docs/en/notebooks/", "docs/en/reference/commands.md")
# Pages whose examples take long; `make test-slow` runs them.
SLOW = {
    "README.zh-CN.md": "trains, evaluates and measures",
    "docs/en/about/benchmarks.md": "measures",
    "docs/en/guide/training.md": "trains twice",
}
# It has the code of README.zh-CN.md and runs with the wheel: tests/package/test_packaging.py.
RUNS_WITH_WHEEL = "README.md"
# Blocks with `not run`, by page. Each names its reason on the page.
NOT_RUN = {
    "docs/en/about/benchmarks.md": 5,
    "docs/en/about/how-it-is-tested.md": 1,
    "docs/en/guide/embedding.md": 1,
    "docs/en/guide/models.md": 1,
    "docs/en/guide/search.md": 1,
    "docs/en/guide/training.md": 1,
    "docs/en/howto/modelscope.md": 1,
    "docs/en/howto/plug-ins.md": 3,
    "docs/en/howto/search-photos.md": 1,
    "docs/en/howto/serve.md": 7,
    "docs/en/installation.md": 1,
    "docs/zh/about/how-it-is-tested.md": 1,
    "docs/zh/bulk.md": 1,
    "docs/zh/deployment.md": 5,
    "docs/zh/faq.md": 1,
    "docs/zh/fine-tuning.md": 1,
    "docs/zh/installation.md": 4,
    "docs/zh/plug-ins.md": 3,
    "docs/zh/search.md": 2,
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WRITTEN = [page for page in PAGES if not name_of(page).startswith(GENERATED)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that pages ask for, made once."""
    folder = tmp_path_factory.mktemp("files")
    with in_folder(folder):
        set_up(" ".join(SETUPS), folder)
    return folder


def copy_setups(page: Path, files: Path, folder: Path) -> None:
    """Copy the files that a page asks for, with those that they were made from."""
    names = {name for block in blocks_of(page) for name in block.comments.get("setup", "").split()}
    while more := {needed for name in names for needed in SETUPS[name][0]} - names:
        names |= more
    for name in names:
        source, copy = files / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copy2(source, copy)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] * (name_of(page) in SLOW))
        for page in WRITTEN
        if name_of(page) != RUNS_WITH_WHEEL and any(b.is_example for b in blocks_of(page))
    ],
)
def test_examples_run(page: Path, files: Path, tmp_path: Path) -> None:
    environment = dict(os.environ)
    # A model that is not set up is an error, and not a download.
    os.environ |= {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    copy_setups(page, files, tmp_path)
    try:
        assert run_page(page, tmp_path) > 0
    finally:
        os.environ.clear()
        os.environ.update(environment)


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_examples_are_valid(page: Path) -> None:
    """Also those of slow pages, and those that do not run."""
    for block in blocks_of(page, name_of(page)):
        if block.is_example:
            check(block)


# Packages whose modules have other names.
PACKAGES = {
    "llama_index.core": "llama_index_core",
    "pymilvus.model": "pymilvus",
    "sklearn": "scikit_learn",
}


def test_what_examples_require_is_installed_in_ci() -> None:
    """So that they run there."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        group = tomllib.load(file)["dependency-groups"]["test"]
    installed = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in group} | {"torch"}
    for page in WRITTEN:
        for block in blocks_of(page, name_of(page)):
            for name in block.comments.get("requires", "").split():
                package = PACKAGES.get(name, name)
                assert package in installed or f"python_{package}" in installed, block.place


def test_few_examples_do_not_run() -> None:
    counted = {
        name_of(page): sum("not run" in block.comments for block in blocks_of(page))
        for page in WRITTEN
    }
    assert {name: count for name, count in counted.items() if count} == NOT_RUN
    reasons = [
        block.comments["not run"]
        for page in WRITTEN
        for block in blocks_of(page)
        if "not run" in block.comments
    ]
    assert all(len(reason) > 5 for reason in reasons)
