"""From what a user names to items: which kind of source each is, and that no item comes twice."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..datasets import shards, tsv
from ..datasets.classification import SUFFIXES as IMAGE_SUFFIXES
from ..errors import DatasetError, InvalidInputError
from . import tables
from .archives import tar_items, tsv_items, zip_items
from .folders import walk
from .items import Item, Kind, file_item, printable, spelled
from .tables import Columns

STDIN = "-"
_ARCHIVES = {".tar": tar_items, ".zip": zip_items}
# What stands for one source, or the path of several.
Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Source:
    """Something that items come from, the same ones each time.

    Attributes:
        name: As it is recorded: the absolute path.
        items: Begins anew.
    """

    name: str
    items: Callable[[], Iterator[Item]]


@dataclass
class SourceList:
    """Sources, one after the other.

    Attributes:
        kind: What they hold.
        sources: The sources by their names.
        left_out: Files of folders that are no images by their names: how many of each ending.
    """

    kind: Kind
    sources: dict[str, Source] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, source: Source) -> None:
        """Put a source behind the others, unless it is among them."""
        self.sources.setdefault(source.name, source)

    @property
    def names(self) -> list[str]:
        """The sources' names."""
        return list(self.sources)

    def items(self) -> Iterator[Item]:
        """All items. A path that was there before is left out, another item of an id has its error.

        A file among several that cannot be read is an item with an error.

        Raises:
            DatasetError: the only source cannot be read.
                Or it holds nothing, or a folder does: rather a mistake than a wish, and all that
                was embedded of it before would go.
        """
        self.left_out.clear()
        seen: set[int] = set()
        for source in self.sources.values():
            for item in self._items_of(source):
                # 64 bits: ten million items take 650 MB here already.
                key = hash(item.id)
                if key in seen:
                    if item.id == item.path:
                        continue
                    item.error = item.error or "another item has this id"
                seen.add(key)
                yield item

    def _items_of(self, source: Source) -> Iterator[Item]:
        found = False
        try:
            for item in source.items():
                found = True
                yield item
            if not found:
                raise DatasetError(f"{source.name}: holds no {self.kind}{self._hint(source)}")
        except (DatasetError, OSError) as error:
            alone = not found and len(self.sources) == 1
            if alone or os.path.isdir(source.name):
                raise
            what = str(error).removeprefix(f"{source.name}: ")
            yield Item(source.name, source.name, error=printable(what))

    def count(self) -> int:
        """How many items there are, by going through them all without opening any."""
        return sum(1 for _ in self.items())

    def _hint(self, source: Source) -> str:
        """What a folder has in place of images."""
        for suffix in (tsv.IMAGES, ".tar", ".parquet", ".zip"):
            if os.path.isdir(source.name) and list(Path(source.name).glob(f"*{suffix}")):
                return f", but files *{suffix}: name those"
        return ""


def open_sources(
    sources: Sources,
    kind: Kind = "images",
    *,
    column: str | None = None,
    id_column: str | None = None,
) -> SourceList:
    """Find out what each source is.

    Args:
        sources: One path, or several. Of images: a folder, gone through with all in it; a
            image; a list (.txt) of paths or URLs, or `-`, which is stdin; a .jsonl, .csv, .tsv or
            Parquet file with a column of them; Chinese-CLIP's `SPLIT_imgs.tsv`; a tar file as
            WebDataset makes them; a zip. Of texts: .txt, `-`, .jsonl, .csv, .tsv or Parquet.
            What is no file may be a pattern, `shards/*.tar` or `shards/{000..012}.tar`.
        kind: What they hold.
        column: The tables' column; by default the first of a usual name.
        id_column: The tables' column of ids; by default `id`, `image_id` or `text_id`.

    Raises:
        DatasetError: there is no such file, or it is of no known kind.
        InvalidInputError: no source.
    """
    columns = Columns.of(kind, column, id_column)
    found = SourceList(kind)
    for one in [sources] if isinstance(sources, str | os.PathLike) else sources:
        path = os.fspath(one)
        if path == STDIN:
            content = sys.stdin.buffer.read()
            found.add(Source(STDIN, partial(tables.stream_items, content, kind)))
        elif kind == "images" and tables.is_url(path):
            name = tables.image_item(path).path
            found.add(Source(name, partial(_alone, tables.image_item, path)))
        else:
            for name in _files(os.path.expanduser(path)):
                found.add(_source(os.path.abspath(name), found, columns))
    if not found.sources:
        raise InvalidInputError("sources: expected one at least")
    return found


def _files(path: str) -> Sequence[str]:
    if os.path.exists(path) or not shards.is_pattern(path):
        return [path]
    return [str(one) for one in shards.expand(path)]


def _source(path: str, found: SourceList, columns: Columns) -> Source:
    name = spelled(path)
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.lexists(path):
        raise DatasetError(f"{name}: no such file or folder")
    if columns.kind == "texts":
        if suffix in tables.SUFFIXES and os.path.isfile(path):
            return Source(name, partial(tables.table_items, path, columns))
        raise DatasetError(f"{name}: texts come from {_listed(tables.SUFFIXES)} files")
    if os.path.isdir(path):
        return Source(name, partial(walk, path, found.left_out))
    if suffix in IMAGE_SUFFIXES or not os.path.isfile(path):
        return Source(name, partial(_alone, file_item, path))
    if os.path.basename(path).endswith(tsv.IMAGES):
        return Source(name, partial(tsv_items, path))
    if suffix in _ARCHIVES:
        return Source(name, partial(_ARCHIVES[suffix], path))
    if suffix in tables.SUFFIXES:
        return Source(name, partial(tables.table_items, path, columns))
    raise DatasetError(
        f"{name}: of no known kind: images, {_listed({*tables.SUFFIXES, *_ARCHIVES})}"
    )


def _alone(item_of: Callable[[str], Item], path: str) -> Iterator[Item]:
    """The one item of a path."""
    yield item_of(path)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
