"""Finds the layout of a data set, and its splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..assets import asset_path
from ..errors import DatasetError
from ..sources.folder import is_pattern
from ..sources.tar_files import TAR_SUFFIX, refuse_compressed
from . import captions, chinese_clip
from .retrieval import RetrievalData

_Reader = Callable[[Path, str, str], RetrievalData]
_Layout = tuple[Callable[[Path], list[str]], _Reader]

_TSV: _Layout = (chinese_clip.tsv_splits, chinese_clip.TsvData)
_LMDB: _Layout = (chinese_clip.lmdb_splits, chinese_clip.LmdbData)
_FOLDER: _Layout = (captions.folder_splits, captions.FolderData)
_TAR: _Layout = (captions.tar_splits, captions.TarData)
_PARQUET: _Layout = (captions.parquet_splits, captions.ParquetData)
# Of a folder in several layouts, the first is used.
_OF_FOLDERS = (_TSV, _LMDB, _FOLDER, _TAR, _PARQUET)
_OF_FILES = {
    ".jsonl": _FOLDER,
    ".csv": _FOLDER,
    ".tsv": _FOLDER,
    TAR_SUFFIX: _TAR,
    captions.PARQUET_SUFFIX: _PARQUET,
}


@dataclass(frozen=True)
class Found:
    """A data set that was found.

    Attributes:
        path: The path that was passed.
        place: The folder, file or pattern.
        name: The data set's name.
        splits: Its splits; an empty name if it is not split.
        reader: Opens a split.
    """

    path: str
    place: Path
    name: str
    splits: Sequence[str]
    reader: _Reader

    def open(self, split: str | None, preferred: Sequence[str] = ()) -> RetrievalData:
        """Open a split.

        Args:
            split: Its name; optional if there is only one.
            preferred: Names to look for, the best first, if no name is passed.

        Raises:
            DatasetError: there is no such split, or one must be chosen.
        """
        names = ", ".join(sorted(self.splits))
        if split is None:
            found = [name for name in preferred if name in self.splits]
            if len(self.splits) > 1 and not found:
                raise DatasetError(f"has the splits {names}: choose one", file=self.path)
            split = self.splits[0] if len(self.splits) == 1 else found[0]
        if split not in self.splits and "" not in self.splits:
            raise DatasetError(f"has no split {split!r}; it has {names}", file=self.path)
        # A data set that is not split may be opened by any name.
        return self.reader(self.place, self.name, split)


def find(path: str | Path) -> Found:
    """Find a data set in any layout.

    Raises:
        DatasetError: there is no data set.
    """
    shipped = str(path) == "emoji-cn"
    place = asset_path("gallery") if shipped else Path(path).expanduser()
    pattern = not place.exists()
    if pattern and not is_pattern(str(place)):
        raise DatasetError("no such data set", file=path)
    layouts: tuple[_Layout, ...] = _OF_FOLDERS
    if not place.is_dir():
        refuse_compressed(place)
        if chinese_clip.is_half(place):
            raise DatasetError("one of a split's two files; pass their folder", file=path)
        known = _OF_FILES.get(place.suffix.lower())
        layouts = (known,) if known else () if pattern else (_TSV,)
    for splits, reader in layouts:
        if found := splits(place):
            name = "emoji-cn" if shipped else _name_of(place)
            return Found(str(path), place, name, found, reader)
    raise DatasetError(
        "of no known layout: neither SPLIT_imgs.tsv with SPLIT_texts.jsonl (also in a zip), nor "
        "lmdb/SPLIT/imgs, nor images with a metadata.jsonl or metadata.csv, nor .tar or .parquet "
        "files",
        file=path,
    )


def _name_of(place: Path) -> str:
    """The name of a data set: that of its folder, or of its file without the suffix."""
    resolved = Path(os.path.abspath(place))
    if not place.exists():  # a pattern
        return resolved.parent.name
    if resolved.parent.name == "lmdb" and chinese_clip.is_lmdb_split(resolved):
        resolved = resolved.parent
    if resolved.name == "lmdb":
        resolved = resolved.parent
    if place.is_dir():
        return resolved.name
    return resolved.parent.name if resolved.name in captions.METADATA else resolved.stem


def open_retrieval(path: str | Path, split: str | None = None) -> RetrievalData:
    """Open a split of a data set in any layout.

    Args:
        path: A folder with Chinese-CLIP's `{split}_imgs.tsv` and `{split}_texts.jsonl`, or with the
            LMDB made from them, `lmdb/{split}/imgs` (or `lmdb/{split}` itself, as in cn_clip's
            options); a zip of the former, as the data sets are published; a folder of images with
            a JSON Lines or CSV file that has `file_name` and `text` (`metadata.jsonl`, as Hugging
            Face's imagefolder), in it or in `{split}/`; such a file itself; tar files as WebDataset
            makes them, or Parquet files: one, a folder of them, or a pattern (`shards/*.tar`,
            `shards/{000..012}.tar`); or `'emoji-cn'`, the bundled images.
        split: Its name; optional if there is only one.

    Raises:
        DatasetError: there is no such data set or split.
        MissingExtraError: lmdb or pyarrow is not installed; raised when it is first used.
    """
    return find(path).open(split)
