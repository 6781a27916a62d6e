"""An empty cache of prepared models for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip import cache, pipeline
from cnclip.convert import convert
from tests.support.prepared_models import Rows, open_and_check, rows


@pytest.fixture(autouse=True)
def folder(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of prepared models in an empty cache, which small models use as well."""
    assert archive.is_file()  # made in the cache of all tests
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CNCLIP_PREPARED", "always")
    monkeypatch.setattr(cache, "_CLOCK_TICK_SECONDS", -1.0)
    return tmp_path / "cache" / "prepared"


@pytest.fixture(scope="module")
def expected(archive: Path) -> Rows:
    """The rows of the archive without the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNCLIP_PREPARED", "never")
        return rows(pipeline(model=archive, device="cpu"))


@pytest.fixture(scope="module")
def resnet(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of another model."""
    return convert(golden / "tiny-rn", tmp_path_factory.mktemp("resnet") / "rn.cnclip.pt")


@pytest.fixture
def file(archive: Path, folder: Path, expected: Rows) -> Path:
    """The file of the archive, which one opening wrote."""
    return open_and_check(archive, folder, expected)
