"""Arrays of NumPy's format, read into memory."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip import _files
from cnclip.bulk.folder import read_npy

ROWS = np.arange(60_000, dtype=np.float32).reshape(-1, 6)


@pytest.mark.parametrize(
    "array",
    [
        ROWS,
        np.asfortranarray(ROWS),
        ROWS[:0],
        ROWS.astype(np.float16),
        ROWS.astype(">f4"),
        np.array(3.0),
        np.zeros(3, [("a", "i1"), ("b", "f8")]),
        np.zeros((2, 3), "S0"),
    ],
)
def test_arrays_are_those_of_numpy(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    found, wanted = read_npy(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert found.flags.f_contiguous == wanted.flags.f_contiguous
    np.testing.assert_array_equal(found, wanted)
    assert found.flags.writeable


def test_rows_that_cannot_be_read_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", ROWS)

    def readinto(file: io.FileIO, buffer: Any) -> int:
        with _files.names_file(file.name):
            if file.tell() > 0:  # the header was read
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return io.FileIO.readinto(file, buffer)

    monkeypatch.setattr(_files._NamedFile, "readinto", readinto)
    with pytest.raises(OSError, match=r"Input/output error: .*a\.npy"):
        read_npy(tmp_path / "a.npy")
