"""The items of the sources that a caller names: folders, archives, lists and tables.

`open_sources` finds the kind of each source that a caller names. Files are read by
`cnclip.sources`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .._text import first_line, hide_secrets, is_blank, is_utf8, printable, value_text
from ..errors import (
    CnclipError,
    DatasetError,
    ImageError,
    InvalidInputError,
    Where,
)
from ..preprocessors.formats import format_of, is_image_suffix
from ..preprocessors.image import is_foreign_url, is_url, located, not_found
from ..sources.exclusions import Exclusions
from ..sources.image_names import ImageNames
from ..sources.images import (
    ImageRef,
    expand,
    image_file,
    is_pattern,
    read_head,
    spelled,
    walk,
)
from ..sources.names import find_path
from ..sources.parquet_files import PARQUET_SUFFIX
from ..sources.rows import (
    Columns,
    Problem,
    ProblemKind,
    Problems,
    Row,
    with_problems,
)
from ..sources.tables import (
    AS_FOUND,
    TABLE_SUFFIXES,
    TextFormat,
    checked_encoding,
    read_list,
    read_table,
)
from ..sources.tar_files import (
    TAR_SUFFIX,
    has_compressed_content,
    is_compressed,
)
from ..sources.tsv_files import TSV_SUFFIX
from ..sources.zip_files import ZIP_SUFFIX
from .archives import compressed_tar_items, tar_items, tsv_items, zip_items
from .outcomes import Container, Item, ItemKind, file_item, spelled_id

IdForm = Literal["relative", "absolute"]
STDIN = "-"
# One path, or several.
SourcePaths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


# Yields the items of a source, the same ones at each call.
_Reader = Callable[[], Iterator[Item]]


@dataclass
class OpenedSources:
    """Sources, in order: a reader for each, by the name that is recorded.

    `image_names` decides which files of folders and archives are images, and counts the others;
    `exclusions`, which files and folders are left out before.
    `remarks` has what is to be known of sources that are read, such as their encoding, once each.
    """

    kind: ItemKind
    columns: Columns
    format: TextFormat = AS_FOUND
    readers: dict[str, _Reader] = field(default_factory=dict)
    image_names: ImageNames = field(default_factory=ImageNames)
    relative: bool = False  # ids of files in folders are relative to the folder
    remarks: dict[Problem, None] = field(default_factory=dict)

    @property
    def exclusions(self) -> Exclusions:
        """The files and folders that are left out."""
        return self.image_names.exclusions

    @property
    def names(self) -> list[str]:
        """The sources' names."""
        return list(self.readers)

    def check_output(self, output: str | os.PathLike[str]) -> None:
        """Refuse an output folder that is one of the sources; leave out one that is inside of them.

        Raises:
            InvalidInputError: it is a source.
        """
        self.exclusions.output = place = os.path.realpath(output)
        for name in self.readers:
            if os.path.isdir(name) and os.path.realpath(name) == place:
                reason = "is a source as well; write the embeddings to another folder"
                raise InvalidInputError(reason, file=name)

    def items(self) -> Iterator[Item]:
        """All items. A path that is repeated is left out; another item with the same id fails.

        If one of several files cannot be read, it is an item with an error.

        Raises:
            DatasetError: the only source cannot be read; or it has no items, or a folder has none.
                That is more likely a mistake than intended, and would drop all its embeddings.
        """
        self.image_names.left_out.clear()
        self.exclusions.counts.clear()
        seen: set[int] = set()
        for name, read in self.readers.items():
            for item in self._items_of(name, read):
                # 64 bits: ten million items take 650 MB here already.
                key = hash(item.id)
                if key in seen:
                    if item.id == item.path:
                        continue
                    reason = "another item has this id"
                    if self.relative:
                        reason += "; --ids absolute makes ids of files different"
                    item = item._replace(error=item.error or reason)
                seen.add(key)
                yield item

    def _items_of(self, name: str, read: _Reader) -> Iterator[Item]:
        found = False
        try:
            for item in read():
                found = True
                yield item
            if not found:
                reason = f"holds no {self.kind}{_hint(name)}"
                raise DatasetError(reason, file=name)
        except (DatasetError, OSError) as error:
            alone = not found and len(self.readers) == 1
            if alone or os.path.isdir(name):
                raise
            reason = error.reason if isinstance(error, CnclipError) else first_line(error)
            yield Item(name, name, error=printable(reason))


def _hint(name: str) -> str:
    """The archives in a folder without images."""
    for suffix in (TSV_SUFFIX, TAR_SUFFIX, PARQUET_SUFFIX, ZIP_SUFFIX):
        if os.path.isdir(name) and list(Path(name).glob(f"*{suffix}")):
            return f"; to embed its *{suffix} files, name them"
    return ""


def open_sources(
    sources: SourcePaths,
    kind: ItemKind = "images",
    *,
    column: str | None = None,
    id_column: str | None = None,
    encoding: str | None = None,
    null: bool = False,
    exclusions: Exclusions | None = None,
    ids: IdForm | None = None,
    all_files: bool = False,
    formats: str = "all",
) -> OpenedSources:
    """Find the kind of each source.

    Args:
        sources: One path, or several. Of images: a folder, which is read with its subfolders; an
            image or its URL; a list (.txt) of paths or URLs, or `-` for stdin; a .jsonl, .json,
            .csv, .tsv or Parquet file with a column of them; Chinese-CLIP's `SPLIT_imgs.tsv`; a tar
            file as WebDataset makes them, also compressed; a zip. Of texts: .txt, `-`, .jsonl,
            .json, .csv, .tsv or Parquet.
            A pattern names several: `shards/*.tar` or `shards/{000..012}.tar`.
        kind: The kind of the items.
        column: The tables' column; by default the first with a usual name.
        id_column: The tables' column of ids; by default `id`, `image_id` or `text_id`.
        encoding: The encoding of text files, and of names in archives that do not record theirs; by
            default UTF-8, UTF-16, UTF-32 or GB18030, as each file is.
        null: Entries of lists end in NUL bytes.
        exclusions: Files and folders that are left out of folders; by default the default ones.
        ids: 'relative' or 'absolute': the ids of files in folders are their paths relative to the
            folder, or absolute; by default relative if the only source is a folder.
        all_files: Of folders and archives: look at the content of every file to find images, not
            only at the content of those without a suffix.
        formats: Of folders and archives: images in formats that this list lacks are left
            out, see `ImageOptions`.

    Raises:
        DatasetError: there is no such file, or it is of unknown kind.
        InvalidInputError: no source, or an unknown encoding or format.
    """
    format = TextFormat(checked_encoding(encoding), null)
    columns = Columns.of(kind, column, id_column)
    names = ImageNames(all_files=all_files, formats=formats, exclusions=exclusions)
    found = OpenedSources(kind, columns, format, image_names=names)
    for one in [sources] if isinstance(sources, str | os.PathLike) else sources:
        path = os.fspath(one)
        if path == STDIN:
            content = sys.stdin.buffer.read()
            found.readers.setdefault(STDIN, partial(_stdin_items, content, found))
        elif kind == "images" and is_url(path):
            found.readers.setdefault(image_item(path).path, partial(map, image_item, [path]))
        else:
            path = os.path.expanduser(path)
            pattern = is_pattern(path) and not os.path.exists(path)
            for file in expand(path) if pattern else [path]:
                absolute = os.path.abspath(file)
                if not os.path.lexists(absolute):
                    if is_foreign_url(path):
                        raise DatasetError(not_found(path), file=path)
                    absolute = find_path(absolute) or absolute
                found.readers.setdefault(spelled(absolute), _reader(absolute, found))
    if not found.readers:
        raise InvalidInputError("expected at least one", item="sources")
    one_folder = len(found.readers) == 1 and os.path.isdir(found.names[0])
    found.relative = ids == "relative" or (ids is None and one_folder and kind == "images")
    return found


def _reader(path: str, found: OpenedSources) -> _Reader:
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.lexists(path):
        raise DatasetError("no such file or folder", file=spelled(path))
    is_table = suffix in TABLE_SUFFIXES and os.path.isfile(path)
    is_list = found.format.nul and os.path.isfile(path)  # whatever its name
    if found.kind == "texts":
        if is_table or is_list:
            return partial(_table_items, path, found)
        reason = f"expected a file of texts: {_joined(TABLE_SUFFIXES)}"
        raise DatasetError(reason, file=spelled(path))
    if os.path.isdir(path):
        return partial(_folder_items, path, found)
    if is_image_suffix(suffix) or not os.path.isfile(path):
        return lambda: iter([file_item(image_file(path))])
    if os.path.basename(path).endswith(TSV_SUFFIX):
        return partial(tsv_items, path)
    if is_compressed(path) or (suffix == TAR_SUFFIX and has_compressed_content(path)):
        return partial(compressed_tar_items, path, found.format.encoding, found.image_names)
    if suffix in _ARCHIVES:
        return partial(_ARCHIVES[suffix], path, found.format.encoding, found.image_names)
    if is_table:
        return partial(_table_items, path, found)
    if format_of(read_head(path)) is not None:
        return lambda: iter([file_item(image_file(path))])
    if is_list:
        return partial(_table_items, path, found)
    suffixes = _joined({*TABLE_SUFFIXES, *_ARCHIVES})
    reason = f"unknown kind of file; expected an image, a folder, SPLIT_imgs.tsv, {suffixes}"
    raise DatasetError(reason, file=spelled(path))


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _folder_items(path: str, found: OpenedSources) -> Iterator[Item]:
    """The image files in a folder."""
    for file in walk(path, found.image_names):
        item = file_item(file)
        if found.relative:
            root = path if item.path.startswith("/") else Path(path).as_uri()
            item = item._replace(id=item.path.removeprefix(root.rstrip("/") + "/"))
        yield item._replace(found=True)


def image_item(value: str, id: str | None = None, folder: str = "") -> Item:
    """The item of a path, relative to a folder, or of a URL, which is also the default id.

    A URL is recorded without its secrets.
    """
    if not is_url(value):
        file = image_file(os.path.join(folder, value))
        if not os.path.lexists(file.path):
            file = file._replace(error=not_found(value))
            if is_foreign_url(value):
                file = file._replace(path=spelled_id(hide_secrets(value.strip())))
        return file_item(file, id)
    value = value.strip()
    name = spelled_id(hide_secrets(value))
    try:
        place = located(value)
    except ImageError as error:
        return Item(name if id is None else id, name, error=error.reason)
    if isinstance(place, Path):
        return file_item(image_file(place), id)
    return Item(name if id is None else id, name, image=ImageRef(place))


_ARCHIVES = {TAR_SUFFIX: tar_items, ZIP_SUFFIX: zip_items}


def _table_items(path: str, sources: OpenedSources) -> Iterator[Item]:
    """The items of a list or table. The default id is an image's path or URL, or `PATH:ROW`."""
    container = Container.of(path)

    def read(problems: Problems) -> Iterator[Row]:
        columns, format = sources.columns, sources.format
        return read_table(Path(path), container.path, columns, problems, format)

    return _row_items(read, container, os.path.dirname(path), sources)


def _stdin_items(content: bytes, sources: OpenedSources) -> Iterator[Item]:
    """The items of a list from stdin; paths are relative to the current folder."""

    def read(problems: Problems) -> Iterator[Row]:
        columns, format = sources.columns, sources.format
        return read_list(io.BytesIO(content), "stdin", columns, problems, format)

    return _row_items(read, Container("stdin", 0, 0), "", sources)


def _row_items(
    read: Callable[[Problems], Iterator[Row]],
    container: Container,
    folder: str,
    sources: OpenedSources,
) -> Iterator[Item]:
    for row in with_problems(read):
        if isinstance(row, Problem):
            if row.kind is ProblemKind.ENCODING:
                sources.remarks[row] = None
            yield from container.skipped([row])
            continue
        # A value that cannot be read is an exception.
        nameless = row.id is None or row.id == "" or isinstance(row.id, Exception)
        id = None if nameless else spelled_id(hide_secrets(str(row.id)))
        listed = Where(file=container.path, line=row.number)
        place = f"{container.path}:{row.number}"
        value = row.image if sources.columns.image else row.text
        caption = _caption_of(row.text) if sources.columns.image else None
        if isinstance(value, list) and len(value) < 2:
            value = value[0] if value else None
        if not isinstance(value, list):
            item = _value_item(value, row, id, place, container, folder)
            yield item._replace(listed=listed, caption=caption)
            continue
        for number, one in enumerate(value, 1):
            inner = None if id is None else f"{id}:{number}"
            item = _value_item(one, row, inner, f"{place}:{number}", container, folder)
            yield item._replace(listed=listed, caption=caption)


def _caption_of(value: Any) -> str | None:
    """The text of a row with an image, or the first of several; None for what is no text."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) and is_utf8(value) and not is_blank(value) else None


def _value_item(
    value: Any, row: Row, id: str | None, place: str, container: Container, folder: str
) -> Item:
    name = place if id is None else id
    if isinstance(value, ImageRef):
        return container.image(name, value)
    if isinstance(value, Exception):
        return container.failed(name, "the text is not UTF-8")
    if not isinstance(value, str) or is_blank(value):
        found = "nothing" if isinstance(value, str) else value_text(value)
        return container.failed(name, f"expected a string, found {found}")
    if row.image is not None:
        return image_item(value, id, folder)
    if not is_utf8(value):
        return Item(name, container.path, error="the text is not UTF-8")
    return Item(name, container.path, text=value)
