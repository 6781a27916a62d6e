"""Which layout a data set is in, and which of its splits is meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..assets import asset_path
from ..errors import DatasetError
from . import folder, lmdb_files, parquet_files, shards, tsv, webdataset_tar
from .retrieval import RetrievalData

_Reader = Callable[[Path, str, str], RetrievalData]
_Layout = tuple[Callable[[Path], list[str]], _Reader]

_TSV: _Layout = (tsv.splits, tsv.TsvData)
_LMDB: _Layout = (lmdb_files.splits, lmdb_files.LmdbData)
_FOLDER: _Layout = (folder.splits, folder.FolderData)
_TAR: _Layout = (webdataset_tar.splits, webdataset_tar.TarData)
_PARQUET: _Layout = (parquet_files.splits, parquet_files.ParquetData)
# The first that a folder holds is taken.
_OF_FOLDERS = (_TSV, _LMDB, _FOLDER, _TAR, _PARQUET)
_OF_FILES = {
    ".jsonl": _FOLDER,
    ".csv": _FOLDER,
    ".tsv": _FOLDER,
    webdataset_tar.SUFFIX: _TAR,
    parquet_files.SUFFIX: _PARQUET,
}


@dataclass(frozen=True)
class Found:
    """A data set that was found.

    Attributes:
        path: As it was given.
        place: Where it lies.
        name: Its name.
        splits: Its splits; an empty name for what is not split.
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
            split: Its name; may be left out where there is but one.
            preferred: Names to look for, the best first, where it is left out.

        Raises:
            DatasetError: there is no such split, or it must be chosen.
        """
        names = ", ".join(sorted(self.splits))
        if split is None:
            found = [name for name in preferred if name in self.splits]
            if len(self.splits) > 1 and not found:
                raise DatasetError(f"{self.path}: has the splits {names}: choose one")
            split = self.splits[0] if len(self.splits) == 1 else found[0]
        if split not in self.splits and "" not in self.splits:
            raise DatasetError(f"{self.path}: has no split {split!r}; it has {names}")
        # What is not split is what its owner calls it.
        return self.reader(self.place, self.name, split)


def find(path: str | Path) -> Found:
    """Find a data set, in whatever layout it is.

    Raises:
        DatasetError: there is none.
    """
    shipped = str(path) == "emoji-cn"
    place = asset_path("gallery") if shipped else Path(path).expanduser()
    pattern = not place.exists()
    if pattern and not shards.is_pattern(str(place)):
        raise DatasetError(f"{path}: no such data set")
    layouts: tuple[_Layout, ...] = _OF_FOLDERS
    if not place.is_dir():
        webdataset_tar.refuse_compressed(place)
        if tsv.is_half(place):
            raise DatasetError(f"{path}: one of a split's two files; give their folder")
        known = _OF_FILES.get(place.suffix.lower())
        layouts = (known,) if known else () if pattern else (_TSV,)
    for splits, reader in layouts:
        if found := splits(place):
            return Found(
                str(path), place, "emoji-cn" if shipped else _name_of(place), found, reader
            )
    raise DatasetError(
        f"{path}: of no known layout: neither SPLIT_imgs.tsv with SPLIT_texts.jsonl (also in a "
        "zip), nor lmdb/SPLIT/imgs, nor images with a metadata.jsonl or metadata.csv, nor .tar "
        "or .parquet files"
    )


def _name_of(place: Path) -> str:
    """What a data set is called: as its folder, or as its file without the ending."""
    resolved = Path(os.path.abspath(place))
    if not place.exists():  # a pattern
        return resolved.parent.name
    if resolved.parent.name == "lmdb" and lmdb_files.is_split(resolved):
        resolved = resolved.parent
    if resolved.name == "lmdb":
        resolved = resolved.parent
    if place.is_dir():
        return resolved.name
    return resolved.parent.name if resolved.name in folder.METADATA else resolved.stem


def open_retrieval(path: str | Path, split: str | None = None) -> RetrievalData:
    """Open a split of a data set, in whatever layout it is.

    Args:
        path: A folder with Chinese-CLIP's `{split}_imgs.tsv` and `{split}_texts.jsonl`, or with the
            LMDB made from them, `lmdb/{split}/imgs` (or `lmdb/{split}` itself, as in cn_clip's
            options); a zip of the former, as the data sets are published; a folder of images with
            a JSON Lines or CSV file that has `file_name` and `text` (`metadata.jsonl`, as Hugging
            Face's imagefolder), in it or in `{split}/`; such a file itself; tar files as WebDataset
            makes them, or Parquet files: one, a folder of them, or a pattern (`shards/*.tar`,
            `shards/{000..012}.tar`); or `'emoji-cn'`, the images that ship.
        split: Its name; may be left out where there is but one.

    Raises:
        DatasetError: there is no such data set or split.
        MissingExtraError: lmdb or pyarrow is not installed; raised when it is first needed.
    """
    return find(path).open(split)
