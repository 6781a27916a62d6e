"""The sources that a caller names: the kind of each, and their items, each once."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .._text import first_line, printable
from ..errors import CnclipError, DatasetError, InvalidInputError
from ..sources.columns import IMAGE_SUFFIXES, Columns
from ..sources.folder import expand, is_pattern, spelled
from ..sources.refs import is_url
from ..sources.tables import TABLE_SUFFIXES
from ..sources.tsv_files import TSV_SUFFIX
from .items import Item
from .options import Kind
from .rows import (
    file_item,
    folder_items,
    image_item,
    stdin_items,
    table_items,
    tar_items,
    tsv_items,
    zip_items,
)

STDIN = "-"
_ARCHIVES = {".tar": tar_items, ".zip": zip_items}
# One source, or several.
Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Source:
    """A file, folder or URL with items.

    Attributes:
        name: As it is recorded: the absolute path.
        items: Yields the items, the same ones at each call.
    """

    name: str
    items: Callable[[], Iterator[Item]]


@dataclass
class SourceList:
    """Sources, one after the other.

    Attributes:
        kind: The kind of their items.
        sources: The sources by their names.
        left_out: Files of folders without the suffix of an image: how many of each suffix.
    """

    kind: Kind
    sources: dict[str, Source] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, source: Source) -> None:
        """Append a source, unless it is in the list."""
        self.sources.setdefault(source.name, source)

    @property
    def names(self) -> list[str]:
        """The sources' names."""
        return list(self.sources)

    def items(self) -> Iterator[Item]:
        """All items. A path that is repeated is left out; another item with the same id fails.

        If one of several files cannot be read, it is an item with an error.

        Raises:
            DatasetError: the only source cannot be read; or it has no items, or a folder has none.
                That is more likely a mistake than intended, and would drop all its embeddings.
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
                    item = item._replace(error=item.error or "another item has this id")
                seen.add(key)
                yield item

    def _items_of(self, source: Source) -> Iterator[Item]:
        found = False
        try:
            for item in source.items():
                found = True
                yield item
            if not found:
                reason = f"holds no {self.kind}{self._hint(source)}"
                raise DatasetError(reason, file=source.name)
        except (DatasetError, OSError) as error:
            alone = not found and len(self.sources) == 1
            if alone or os.path.isdir(source.name):
                raise
            reason = error.reason if isinstance(error, CnclipError) else first_line(error)
            yield Item(source.name, source.name, error=printable(reason))

    def _hint(self, source: Source) -> str:
        """The archives in a folder without images."""
        for suffix in (TSV_SUFFIX, ".tar", ".parquet", ".zip"):
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
    """Find the kind of each source.

    Args:
        sources: One path, or several. Of images: a folder, which is read with its subfolders; an
            image; a list (.txt) of paths or URLs, or `-` for stdin; a .jsonl, .csv, .tsv or
            Parquet file with a column of them; Chinese-CLIP's `SPLIT_imgs.tsv`; a tar file as
            WebDataset makes them; a zip. Of texts: .txt, `-`, .jsonl, .csv, .tsv or Parquet.
            A pattern names several: `shards/*.tar` or `shards/{000..012}.tar`.
        kind: The kind of the items.
        column: The tables' column; by default the first with a usual name.
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
            found.add(Source(STDIN, partial(stdin_items, content, columns)))
        elif kind == "images" and is_url(path):
            found.add(Source(image_item(path).path, partial(_single, image_item, path)))
        else:
            for name in _files(os.path.expanduser(path)):
                found.add(_source(os.path.abspath(name), found, columns))
    if not found.sources:
        raise InvalidInputError("expected at least one", item="sources")
    return found


def _files(path: str) -> Sequence[str]:
    if os.path.exists(path) or not is_pattern(path):
        return [path]
    return [str(one) for one in expand(path)]


def _source(path: str, found: SourceList, columns: Columns) -> Source:
    name = spelled(path)
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.lexists(path):
        raise DatasetError("no such file or folder", file=name)
    is_table = suffix in TABLE_SUFFIXES and os.path.isfile(path)
    if found.kind == "texts":
        if is_table:
            return Source(name, partial(table_items, path, columns))
        raise DatasetError(f"texts come from {_joined(TABLE_SUFFIXES)} files", file=name)
    if os.path.isdir(path):
        return Source(name, partial(folder_items, path, found.left_out))
    if suffix in IMAGE_SUFFIXES or not os.path.isfile(path):
        return Source(name, partial(_single, file_item, path))
    if os.path.basename(path).endswith(TSV_SUFFIX):
        return Source(name, partial(tsv_items, path))
    if suffix in _ARCHIVES:
        return Source(name, partial(_ARCHIVES[suffix], path))
    if is_table:
        return Source(name, partial(table_items, path, columns))
    suffixes = _joined({*TABLE_SUFFIXES, *_ARCHIVES})
    raise DatasetError(f"of no known kind: images, {suffixes}", file=name)


def _single(item_of: Callable[[str], Item], path: str) -> Iterator[Item]:
    """The one item of a path."""
    yield item_of(path)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
