"""Items: images and texts to embed, the outcome of each, and the sources that they come from.

`open_sources` finds the kind of each source that a caller names. Files are read by
`cnclip.sources`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from numpy.typing import NDArray
from PIL import Image

from .._files import open_file
from .._text import MAX_REASON, first_line, hide_secrets, is_blank, is_utf8, printable, value_text
from ..datasets.captions import sample_texts
from ..datasets.chinese_clip import TsvData
from ..errors import (
    CnclipError,
    DatasetError,
    FormatOffError,
    ImageError,
    InvalidInputError,
    Where,
)
from ..preprocessors.decoding import DEFAULTS, ImageOptions, decode_image
from ..preprocessors.formats import format_of, is_image_suffix
from ..preprocessors.image import is_foreign_url, is_url, located, not_found
from ..sources.exclusions import Exclusions
from ..sources.image_names import ImageNames
from ..sources.images import (
    ImageFile,
    ImageRef,
    ImageStore,
    Slices,
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
    Sample,
    has_compressed_content,
    is_compressed,
    read_images,
    read_tar,
)
from ..sources.tsv_files import TSV_SUFFIX, TsvImages
from ..sources.zip_files import ZIP_SUFFIX, ZipImages

ItemKind = Literal["images", "texts"]
IdForm = Literal["relative", "absolute"]
ITEM_KINDS = ("images", "texts")
STDIN = "-"
# One path, or several.
SourcePaths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Item(NamedTuple):
    """An image or a text to embed, or the reason why it cannot be embedded."""

    id: str  # unique among all items
    path: str  # its file or URL; of an image in an archive or table, that file
    size: int | None = None  # of the file, in bytes
    mtime_ns: int | None = None  # of the file; with the size, it shows whether the file has changed
    image: ImageRef | None = None
    turned: bool = True  # turn the image upright, as its EXIF orientation says
    text: str | None = None
    error: str | None = None
    listed: Where | None = None  # the row of a list or table that has it
    caption: str | None = None  # of an image in a table or tar file
    # Found in a folder or archive, not named: left out if its content is of a format that is off.
    found: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the id is that of a whole file or URL: its path, or the end of it."""
        return is_path_of(self.id, self.path)

    @property
    def where(self) -> Where:
        """Its place, for messages: the row that lists it, and its file or its place in a file."""
        if self.listed is not None:
            if self.listed.file == self.path:
                return self.listed
            return Where(item=str(self.listed), file=self.path)
        if self.is_file:
            return Where(file=self.path)
        return Where(file=self.path, member=self.id.removeprefix(f"{self.path}:"))


def is_path_of(id: str, path: str) -> bool:
    """Whether an id is its item's path, or the path relative to a folder."""
    return id == path or path.endswith(f"/{id}")


@dataclass(slots=True, eq=False)
class Outcome:
    """An item and, once it is embedded, its vector or its error.

    The vector is [d], float32, or as it is stored if it is from an earlier run.
    """

    item: Item
    error: str | None = None
    width: int | None = None  # pixels of the image as it is embedded
    height: int | None = None
    bytes: int | None = None  # the size of the image file
    sha256: str | None = None  # of the image file
    vector: NDArray[Any] | None = field(default=None, repr=False)
    restored: bool = False  # the vector or the error is from an earlier run
    notes: tuple[str, ...] = ()  # remarks on the image, which was embedded nonetheless
    off: str | None = None  # the format for which the image is left out

    @classmethod
    def of(cls, item: Item) -> Self:
        """The outcome of an item that has not been embedded; it has the item's error."""
        return cls(item, item.error)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to embed."""
        return self.restored or self.error is not None or self.vector is not None

    def open_image(
        self,
        restore: Callable[[Outcome], None] | None = None,
        options: ImageOptions = DEFAULTS,
    ) -> Image.Image | None:
        """Read and decode the image; sets width, height, bytes, sha256 and notes.

        Args:
            restore: May fill in the outcome of an earlier image with the same SHA-256.
            options: How it is decoded.

        Returns:
            The image; None if the outcome was restored.

        Raises:
            ImageError: it cannot be read. The error has a reason and no place.
        """
        assert self.item.image is not None
        content = self.item.image.read()
        self.bytes, self.sha256 = len(content), sha256(content).hexdigest()
        if restore is not None and self.item.turned:
            restore(self)
            if self.restored:
                return None
        notes: list[str] = []
        image = decode_image(content, turned=self.item.turned, options=options, notes=notes)
        self.width, self.height = image.size
        self.notes = tuple(notes)
        return image

    def fail(self, error: CnclipError) -> None:
        """Set the error of an image that could not be read."""
        self.error = printable(error.reason)[:MAX_REASON]
        if self.item.found and isinstance(error, FormatOffError):
            self.off = error.format
        self.release_image()

    def release_image(self) -> None:
        """Drop the reference to the image, which may hold its bytes or keep a whole row group."""
        if self.item.image is not None:
            self.item = self.item._replace(image=None)


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
        return lambda: iter([_file_item(image_file(path))])
    if os.path.basename(path).endswith(TSV_SUFFIX):
        return partial(_tsv_items, path)
    if is_compressed(path) or (suffix == TAR_SUFFIX and has_compressed_content(path)):
        return partial(_compressed_tar_items, path, found)
    if suffix in _ARCHIVES:
        return partial(_ARCHIVES[suffix], path, found)
    if is_table:
        return partial(_table_items, path, found)
    if format_of(read_head(path)) is not None:
        return lambda: iter([_file_item(image_file(path))])
    if is_list:
        return partial(_table_items, path, found)
    suffixes = _joined({*TABLE_SUFFIXES, *_ARCHIVES})
    reason = f"unknown kind of file; expected an image, a folder, SPLIT_imgs.tsv, {suffixes}"
    raise DatasetError(reason, file=spelled(path))


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def spelled_id(id: int | str) -> str:
    """An id as it is recorded: characters that cannot be encoded are escaped."""
    return str(id).encode("utf-8", "backslashreplace").decode()


class Container(NamedTuple):
    """A file with several items. When it is written again, all its images count as new."""

    path: str  # as it is recorded
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Container:
        """The container at a path, which must exist."""
        state = os.stat(path)
        return cls(spelled(os.path.abspath(path)), state.st_size, state.st_mtime_ns)

    def image(self, id: str, image: ImageRef) -> Item:
        """An image in it."""
        return Item(id, *self, image=image)

    def images(self, store: ImageStore, *, named: bool) -> Iterator[Item]:
        """The images of a store. Their ids are those of the store, after the path if `named`."""
        prefix = f"{self.path}:" if named else ""
        for number, id in enumerate(store.ids):
            yield self.image(prefix + spelled_id(id), ImageRef(store, number))

    def failed(self, id: str, reason: str) -> Item:
        """A row that cannot be used."""
        return Item(id, *self, error=printable(reason))

    def skipped(self, problems: Iterable[Problem]) -> Iterator[Item]:
        """The rows that were left out."""
        for problem in problems:
            if problem.skipped:
                inner = (problem.where.member, problem.where.line)
                id = ":".join([self.path, *(spelled_id(one) for one in inner if one is not None)])
                yield self.failed(id, problem.reason)._replace(listed=problem.where)


def _file_item(file: ImageFile, id: str | None = None) -> Item:
    """The item of an image file; the default id is the absolute path."""
    shown = spelled(file.path)
    image = ImageRef(file.path) if file.error is None else None
    name = shown if id is None else id
    return Item(name, shown, file.size, file.mtime_ns, image, error=file.error)


def _folder_items(path: str, found: OpenedSources) -> Iterator[Item]:
    """The image files in a folder."""
    for file in walk(path, found.image_names):
        item = _file_item(file)
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
        return _file_item(file, id)
    value = value.strip()
    name = spelled_id(hide_secrets(value))
    try:
        place = located(value)
    except ImageError as error:
        return Item(name if id is None else id, name, error=error.reason)
    if isinstance(place, Path):
        return _file_item(image_file(place), id)
    return Item(name if id is None else id, name, image=ImageRef(place))


def _tar_items(path: str, opened: OpenedSources) -> Iterator[Item]:
    """The images of a tar file, as WebDataset makes them. Ids are `PATH:SAMPLE`."""
    container, problems = Container.of(path), Problems()
    images = Slices([Path(path)], [container.path])
    samples = read_tar(
        Path(path),
        container.path,
        problems,
        texts=False,
        captions=True,
        encoding=opened.format.encoding,
        names=opened.image_names,
    )
    captions = []
    for key, sample in samples.items():
        if sample.image is not None:
            images.add(key, *sample.image)
            captions.append(_caption_in_tar(sample, key, opened))
        else:
            opened.image_names.leave_texts(sample.texts or ())
    for item, caption in zip(container.images(images, named=True), captions, strict=True):
        yield item._replace(caption=caption, found=True)
    yield from container.skipped(problems.found)


def _caption_in_tar(sample: Sample, key: str, opened: OpenedSources) -> str | None:
    """The first text of a sample."""
    texts = sample_texts(sample, key, Where(member=key), Problems(), opened.format.encoding)
    return next(texts, None)


def _compressed_tar_items(path: str, opened: OpenedSources) -> Iterator[Item]:
    """The images of a compressed tar file, which is read from its beginning. Ids as of others."""
    container = Container.of(path)
    read = partial(
        read_images,
        Path(path),
        container.path,
        encoding=opened.format.encoding,
        names=opened.image_names,
    )
    for image in with_problems(read):
        if isinstance(image, Problem):
            yield from container.skipped([image])
        else:
            key, content, sample = image
            item = container.image(f"{container.path}:{spelled_id(key)}", ImageRef(content))
            yield item._replace(caption=_caption_in_tar(sample, key, opened), found=True)


def _tsv_items(path: str) -> Iterator[Item]:
    """The images of a `SPLIT_imgs.tsv`, by their ids there."""
    container, problems = Container.of(path), Problems()
    with open_file(path, 1 << 20) as file:
        store = TsvImages.of(file, container.path, problems, Path(path))
    yield from container.images(store, named=False)
    yield from container.skipped(problems.found)


def _zip_items(path: str, opened: OpenedSources) -> Iterator[Item]:
    """The images of a zip, `PATH:NAME`; of Chinese-CLIP's TSV files in one, by their ids."""
    container, encoding = Container.of(path), opened.format.encoding
    splits = TsvData.splits(Path(path))
    for split in splits:
        for row in with_problems(TsvData(Path(path), split, split, encoding).images):
            if isinstance(row, Problem):
                place = Where(file=container.path, member=row.where.file, line=row.where.line)
                yield from container.skipped([replace(row, where=place)])
            else:
                yield container.image(spelled_id(row.image_id), row.image)
    if not splits:
        images = ZipImages.of(Path(path), container.path, encoding, opened.image_names)
        for item in container.images(images, named=True):
            yield item._replace(found=True)


_ARCHIVES = {TAR_SUFFIX: _tar_items, ZIP_SUFFIX: _zip_items}


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
