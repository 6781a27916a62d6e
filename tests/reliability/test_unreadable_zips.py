"""A zip that the system cannot read is not called damaged, although zipfile does so."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnclip.archive import read_archive
from cnclip.checkpoints.file_kinds import check_zip
from cnclip.errors import CnclipError
from cnclip.sources.zip_files import open_zip


def open_source(path: Path) -> None:
    with open_zip(path):
        pass


@pytest.mark.parametrize("open_it", [read_archive, check_zip, open_source])
def test_an_unreadable_zip_is_not_called_damaged(
    open_it: Callable[[Path], Any],
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.cnclip.pt"
    shutil.copy(archive, path)

    def fails(file: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(zipfile, "_EndRecData", fails)
    with pytest.raises(CnclipError, match="cannot be read: Input/output error") as raised:
        open_it(path)
    assert raised.value.where is not None and raised.value.where.file == str(path)
