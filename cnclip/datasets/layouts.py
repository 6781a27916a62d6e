"""Finds the layout of a data set, and its splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .._files import why_not_a_file
from ..assets import asset_path
from ..errors import DatasetError, UnknownLayoutError
from ..sources.images import is_pattern
from ..sources.tables import checked_encoding
from ..sources.tar_files import refuse_compressed
from .captions import METADATA, FolderData, ParquetData, TarData
from .chinese_clip import LmdbData, TsvData, is_half, is_lmdb_split
from .indexed import IndexedData
from .retrieval import RetrievalData

# Of a folder in several layouts, the first is used.
_OF_FOLDERS: tuple[type[RetrievalData], ...] = (
    *(TsvData, LmdbData, IndexedData, FolderData, TarData, ParquetData),
)
_OF_FILES: dict[str, type[RetrievalData]] = {
    ".jsonl": FolderData,
    ".json": FolderData,
    ".csv": FolderData,
    ".tsv": FolderData,
    TarData.suffix: TarData,
    ParquetData.suffix: ParquetData,
}


def open_retrieval(
    path: str | Path,
    split: str | None = None,
    *,
    preferred: Sequence[str] = (),
    encoding: str | None = None,
) -> RetrievalData:
    """Open a split of a data set in any layout.

    Args:
        path: A folder with Chinese-CLIP's `{split}_imgs.tsv` and `{split}_texts.jsonl`, or with the
            LMDB made from them, `lmdb/{split}/imgs` (or `lmdb/{split}` itself, as in cn_clip's
            options); a zip of the former, as the data sets are published; ModelScope's index
            `NAME.json`, CSV files and zips of images; a folder of images with
            a JSON Lines, JSON or CSV file that has `file_name` and `text` (`metadata.jsonl`, as
            Hugging Face's imagefolder; or COCO's captions), in it or in `{split}/`; such a file
            itself; tar files as WebDataset
            makes them, or Parquet files: one, a folder of them, or a pattern (`shards/*.tar`,
            `shards/{000..012}.tar`); or `'emoji-cn'`, the bundled images.
        split: Its name; optional if there is only one, or one of the preferred names.
        preferred: Names of splits, the best first.
        encoding: The encoding of text files, and of names in archives that do not record theirs; by
            default UTF-8, UTF-16, UTF-32 or GB18030, as each file is.

    Raises:
        DatasetError: there is no such data set or split, or a split must be chosen.
        InvalidInputError: the encoding is unknown.
        MissingExtraError: pyarrow is not installed; raised when it is first used.
    """
    bundled, place = _place_of(path)
    layout, splits = _find_layout(place, path)
    name = "emoji-cn" if bundled else _name_of(place)
    chosen = _choose(splits, split, preferred, path)
    return layout(place, name, chosen, checked_encoding(encoding))


def splits_of(path: str | Path) -> list[str]:
    """The names of a data set's splits; an empty name for a data set that is not split.

    Args:
        path: As for `open_retrieval`.

    Raises:
        DatasetError: there is no such data set.
    """
    return sorted(_find_layout(_place_of(path)[1], path)[1])


def _place_of(path: str | Path) -> tuple[bool, Path]:
    """Whether it is the bundled data set, and where it is."""
    bundled = str(path) == "emoji-cn"
    return bundled, asset_path("gallery") if bundled else Path(path).expanduser()


def _find_layout(place: Path, path: str | Path) -> tuple[type[RetrievalData], Sequence[str]]:
    """The layout of a data set, and its splits."""
    for layout in _possible_layouts(place, path):
        if splits := layout.splits(place):
            return layout, splits
    raise UnknownLayoutError(
        "of no known layout: neither SPLIT_imgs.tsv with SPLIT_texts.jsonl (also in a zip), nor "
        "lmdb/SPLIT/imgs, nor images with a metadata.jsonl or metadata.csv, nor ModelScope's "
        "NAME.json with CSV files and zips, nor .tar or .parquet files",
        file=path,
    )


def _possible_layouts(place: Path, path: str | Path) -> Sequence[type[RetrievalData]]:
    if not place.is_dir() and (reason := why_not_a_file(place)) is not None:
        raise DatasetError(reason, file=path)
    pattern = not place.exists()
    if pattern and not is_pattern(str(place)):
        raise DatasetError("no such data set", file=path)
    if place.is_dir():
        return _OF_FOLDERS
    refuse_compressed(place)
    if is_half(place):
        raise DatasetError("one of a split's two files; pass their folder", file=path)
    known = _OF_FILES.get(place.suffix.lower())
    if known is not None:
        return [known]
    return [] if pattern else [TsvData]


def _choose(
    splits: Sequence[str], split: str | None, preferred: Sequence[str], path: str | Path
) -> str:
    names = ", ".join(sorted(splits))
    if split is None:
        found = [name for name in preferred if name in splits]
        if len(splits) > 1 and not found:
            raise DatasetError(f"has the splits {names}: choose one", file=path)
        return splits[0] if len(splits) == 1 else found[0]
    # A data set that is not split may be opened by any name.
    if split not in splits and "" not in splits:
        raise DatasetError(f"has no split {split!r}; it has {names}", file=path)
    return split


def _name_of(place: Path) -> str:
    """The name of a data set: that of its folder, or of its file without the suffix."""
    resolved = Path(os.path.abspath(place))
    if not place.exists():  # a pattern
        return resolved.parent.name
    if resolved.parent.name == "lmdb" and is_lmdb_split(resolved):
        resolved = resolved.parent
    if resolved.name == "lmdb":
        resolved = resolved.parent
    if place.is_dir():
        return resolved.name
    return resolved.parent.name if resolved.name in METADATA else resolved.stem
