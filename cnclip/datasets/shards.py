"""Data sets of one or several files of a kind: which files belong to which split."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..sources.folder import expand

# Hugging Face's `train-00000-of-00004`, or a usual name at the beginning of the file's name.
_NUMBERED = re.compile(r"(.+?)-\d{5}-of-\d{5}")
_NAMED = re.compile(
    r"(train|training|val|valid|validation|dev|eval|test|testing)(?![a-z])", re.IGNORECASE
)


def splits(place: Path, suffix: str) -> dict[str, list[Path]]:
    """The files by their splits; an empty name for files that are not split.

    Args:
        place: A file; a folder with files, in it, in `data/` or in a folder for each split; or a
            pattern, `shards/*.tar` or `shards/{000..012}.tar`.
        suffix: The suffix of the files.

    Raises:
        DatasetError: a file that a pattern names does not exist.
    """
    if not place.is_dir():
        return _by_split([place] if place.exists() else expand(str(place)))
    for folder in (place, place / "data"):
        if files := _files(folder, suffix):
            return _by_split(files)
    folders = (path for path in place.iterdir() if path.is_dir())
    return {path.name: files for path in sorted(folders) if (files := _files(path, suffix))}


def files_of(place: Path, suffix: str, split: str) -> list[Path]:
    """The files of a split; of all files, if they are not split."""
    found = splits(place, suffix)
    return found[split if split in found else ""]


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    names = [_NUMBERED.match(path.name) or _NAMED.match(path.name) for path in files]
    if not any(names):
        return {"": files}
    found: dict[str, list[Path]] = {}
    for path, name in zip(files, names, strict=True):
        found.setdefault(name[1] if name else path.stem, []).append(path)
    return found


def short_names(files: list[Path]) -> list[str]:
    """The names of files in messages: their paths from the folder that they share."""
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in files])
    return [os.path.relpath(path, folder) for path in files]
