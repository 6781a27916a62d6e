"""Bulk embedding: to a folder that a second run brings up to date, or to an iterator."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._options import check_options, option
from ..archive import ArchiveInfo
from ..errors import DatasetError
from ..pipelines import Batch, MultiModalEmbeddingPipeline, embed_images, embed_texts
from ..preprocessors.decoding import DECODES, DEPTHS, FRAMES, Decode, ImageOptions
from ..preprocessors.formats import FORMATS_VARIABLE, RARE_FORMATS, formats_of_environment
from ..preprocessors.text import TextCounts, TextInput, normalize_text
from ..progress import progress
from ..sources import ProblemKind, Problems, pyarrow_modules
from ..sources.exclusions import Exclusions
from .folder import (
    DTYPES,
    LAYOUTS,
    MANIFEST,
    UNFINISHED,
    Manifest,
    model_identity,
    open_embeddings,
)
from .items import OpenedSources, SourcePaths, open_sources
from .outcomes import ITEM_KINDS, Item, ItemKind, Outcome
from .store import Store, locked
from .to_clip_retrieval import remove_clip_retrieval, write_clip_retrieval

logger = logging.getLogger("cnclip")

# Texts per yielded list: a few seconds' work, so that a run can commit between lists.
TEXTS_PER_LIST = 512
# Failed items that a report names; all are in the folder.
MAX_FAILED = 1000
MAX_SHARD_ITEMS = 1 << 20


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `embed`, `iter_embeddings` and `ray_embed`.

    `cnclip embed --help` describes each option.

    Raises:
        InputTypeError: a value of another type; names the option.
        InvalidInputError: a value is not allowed; names the option.
    """

    kind: Literal["images", "texts"] = option(
        "images", "kind of the items: images or texts", choices=ITEM_KINDS
    )
    dtype: Literal["float16", "float32"] = option(
        "float16", "type of the stored embeddings", choices=DTYPES
    )
    column: str | None = option(None, "of tables: the column of images or texts")
    id_column: str | None = option(None, "of tables: the column of ids")
    encoding: str | None = option(
        None,
        "encoding of text files and of names in zip and tar files; by default UTF-8, UTF-16 or "
        "GB18030, as found",
    )
    null: bool = option(
        False, "entries of lists end in NUL bytes, as find -print0 writes them", short="-0"
    )
    normalize: bool | None = option(
        None,
        "of texts: lower case and straight quotes, as Chinese-CLIP was trained; by default if the "
        "model's description says that it was trained so",
    )
    ids: Literal["relative", "absolute"] | None = option(
        None,
        "ids of files in folders: their paths relative to the folder, or absolute; by default as "
        "in the last run to OUT, else relative for one folder",
        choices=("relative", "absolute"),
    )
    exclude: tuple[str, ...] | None = option(
        None,
        "of folders: leave out files and folders whose name, or path where PATTERN has a slash, "
        "matches; repeat it for several; by default the patterns of the last run to OUT, '' for "
        "none",
        many=True,
        repeated=True,
    )
    default_excludes: bool | None = option(
        None,
        "of folders: leave out hidden files and folders, @eaDir, #recycle, $RECYCLE.BIN, "
        "lost+found, __MACOSX, node_modules and the like; by default as in the last run to OUT, "
        "else yes",
    )
    batch_size: int | None = option(
        None,
        "images that go through the model together, at most 32 on a CPU and 256 on a GPU "
        "(default: 8 on a CPU, 256 on a GPU)",
        min=1,
    )
    shard_items: int = option(8192, "items of a shard", min=1, max=MAX_SHARD_ITEMS)
    all_files: bool = option(
        False, "of folders and archives: find images by the content of files, not by their names"
    )
    background: str | None = option(
        None, "color below transparent pixels, such as white (default: the colors in the file)"
    )
    depth: Literal["clip", "scale"] = option(
        "clip",
        "of images with more than 8 bits per channel: clip at 255, as ModelScope, or scale",
        choices=DEPTHS,
    )
    frame: Literal["first", "middle"] = option("first", "of animations: the frame", choices=FRAMES)
    decode: Decode | None = option(
        None,
        "of JPEG files: exact, as ModelScope; or fast, scaled by 1/2, 1/4 or 1/8 while twice the "
        "model's resolution remains (default: as the pipeline was opened, else exact)",
        choices=DECODES,
    )
    formats: str | None = option(
        None,
        f"common leaves out images in formats that few need ({', '.join(RARE_FORMATS)}), all opens "
        f"them; or a list such as common,psd (default: ${FORMATS_VARIABLE}, else common)",
    )
    max_pixels: int | None = option(
        None,
        "images with more pixels are reduced (JPEG) or fail (default: $CNCLIP_MAX_PIXELS, else "
        "178956970)",
        min=1,
    )
    retry: bool = option(False, "try items again that failed in an earlier run")
    replace: bool = option(False, "drop embeddings of sources that are not listed")
    to: Literal["cnclip", "clip-retrieval"] | None = option(
        None,
        "layout of OUT: cnclip; or clip-retrieval, which adds img_emb or text_emb, and metadata, "
        "for clip-retrieval's index and front end; by default as in the last run to OUT, else "
        "cnclip",
        choices=LAYOUTS,
    )

    def __post_init__(self) -> None:
        """Check every value."""
        check_options(self)
        # Checks the background and the formats. Those of the environment are read by a run: options
        # are also made on import, as the defaults of functions.
        self._image_options(None, self.formats)

    def image_options(self, resolution: int | None = None) -> ImageOptions:
        """How image files are decoded, for a model of this resolution."""
        return self._image_options(resolution, self.chosen_formats)

    def _image_options(self, resolution: int | None, formats: str | None) -> ImageOptions:
        return ImageOptions(
            self.background,
            self.depth,
            self.frame,
            self.max_pixels,
            self.decode or "exact",
            resolution,
            formats,
        )

    @property
    def chosen_formats(self) -> str:
        """The list of formats that are opened."""
        return formats_of_environment("common") if self.formats is None else self.formats

    def open(self, sources: SourcePaths) -> OpenedSources:
        """Find the kind of each source, see `open_sources`."""
        return open_sources(
            sources,
            self.kind,
            column=self.column,
            id_column=self.id_column,
            encoding=self.encoding,
            null=self.null,
            all_files=self.all_files,
            formats=self.chosen_formats,
            exclusions=Exclusions(self.exclude or (), defaults=self.default_excludes is not False),
            ids=self.ids,
        )

    def for_folder(self, folder: Path) -> EmbedOptions:
        """These options; those that are not given are as in the last run to a folder.

        Raises:
            EmbeddingsError: its manifest is damaged.
            OSError: its manifest cannot be read.
        """
        earlier = None
        if folder.is_dir():
            earlier = Manifest.read(folder / MANIFEST) or Manifest.read(folder / UNFINISHED)
        if earlier is None:
            return self
        given = self.exclude
        return replace(
            self,
            ids=earlier.ids if self.ids is None and earlier.rows else self.ids,
            exclude=(earlier.exclude or None) if given is None else given,
            to=earlier.layout if self.to is None else self.to,
            default_excludes=(
                earlier.default_excludes if self.default_excludes is None else self.default_excludes
            ),
        )

    def for_model(self, info: ArchiveInfo, decode: Decode = "exact") -> EmbedOptions:
        """These options, with the defaults that depend on the model, and how it decodes."""
        normalize = self.normalize
        if normalize is None:
            normalize = self.kind == "texts" and info.normalizes_texts
        return replace(self, normalize=normalize, decode=self.decode or decode)

    def for_pipeline(self, pipeline: MultiModalEmbeddingPipeline) -> EmbedOptions:
        """These options, with the defaults that depend on an open pipeline."""
        decode = pipeline.preprocessor.image_options.decode
        return self.for_model(pipeline.model.info, decode)

    def manifest(
        self,
        model: dict[str, Any],
        precision: str,
        sources: list[str],
        *,
        relative: bool = False,
    ) -> Manifest:
        """The manifest of a run, without shards. The options must be those for the model."""
        normalized = bool(self.normalize) and self.kind == "texts"
        return Manifest(
            self.kind,
            model,
            precision,
            self.dtype,
            sources,
            self.shard_items,
            normalized,
            tuple(pattern for pattern in self.exclude or () if pattern),
            self.default_excludes is not False,
            "relative" if relative else "absolute",
            image_options=self.image_options().record() if self.kind == "images" else {},
            layout=self.to or "cnclip",
        )


@dataclass
class EmbedReport:
    """The result of a run.

    Items that could not be embedded are counted, including those of earlier runs; the place and the
    error of the first of them are in `first_failed`. `left_out` counts the files of folders
    and archives that are not images, by their suffixes, and images of formats that are off;
    `excluded` counts the files and folders
    that patterns left out, by the patterns, hidden ones not counted. `notes` has remarks on images
    that this run embedded, such as transparent ones, each with their number and the place of the
    first. `remarks` are messages on sources that were read in an unusual way. `texts` counts the
    texts of which the model sees only a part.
    """

    output: Path
    kind: ItemKind
    dim: int
    items: int = 0  # of the sources
    rows: int = 0  # embeddings in the folder
    embedded: int = 0  # embeddings that this run made
    kept: int = 0  # embeddings of earlier runs
    failed: int = 0
    first_failed: list[tuple[str, str]] = field(default_factory=list, repr=False)
    left_out: dict[str, int] = field(default_factory=dict, repr=False)
    excluded: dict[str, int] = field(default_factory=dict, repr=False)
    notes: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False)
    remarks: list[str] = field(default_factory=list, repr=False)
    texts: TextCounts = field(default_factory=TextCounts, repr=False)
    _off: Counter[str] = field(default_factory=Counter, repr=False)

    def describe(self, opened: OpenedSources) -> None:
        """Add what is known of the sources when all of them have been read."""
        for format, count in self._off.items():
            opened.image_names.leave_format(format, count)
        self.left_out = dict(opened.image_names.left_out)
        self.excluded = dict(opened.exclusions.counts)
        self.remarks = [f"{problem.where}: {problem.reason}" for problem in opened.remarks]

    def add(self, outcomes: list[Outcome]) -> None:
        """Count outcomes."""
        self.items += len(outcomes)
        for outcome in outcomes:
            if outcome.off is not None and outcome.item.found:
                self.items -= 1
                self._off[outcome.off] += 1
            elif outcome.error is not None:
                self.failed += 1
                if len(self.first_failed) < MAX_FAILED:
                    self.first_failed.append((str(outcome.item.where), outcome.error))
            elif outcome.restored:
                self.kept += 1
            else:
                self.embedded += 1
            for note in outcome.notes:
                count, first = self.notes.get(note, (0, str(outcome.item.where)))
                self.notes[note] = (count + 1, first)
        self.rows = self.embedded + self.kept


def embed(
    sources: SourcePaths,
    pipeline: MultiModalEmbeddingPipeline,
    output: str | os.PathLike[str],
    options: EmbedOptions = EmbedOptions(),
    *,
    show_progress: bool = False,
) -> EmbedReport:
    """Embed images or texts of any number to a folder, see docs/en/guide/embedding.md.

    Afterwards the folder holds the embeddings of what the sources hold now. An interrupted run
    resumes, and a later one embeds only what is new or changed. An image whose file has another
    size, time or path is read, and embedded unless its SHA-256 is that of an earlier image. Until a
    run ends, the folder stays as the last run left it.

    Args:
        sources: One path, or several, see `open_sources`.
        pipeline: An open pipeline.
        output: The folder; created if it does not exist.
        options: See `EmbedOptions`.
        show_progress: Print progress on stderr.

    Returns:
        A report. Items that failed are counted, named, and recorded in the folder.

    Raises:
        DatasetError: a source is missing, of unknown kind, or empty.
        InvalidInputError: the folder is a source.
        EmbeddingsError: the folder holds something else, or another run writes to it.
        OSError: the folder cannot be written, for example because the disk is full. Embeddings
            that were made are kept.
        MissingExtraError: pyarrow is not installed.
        KeyboardInterrupt: Ctrl-C, noticed between batches.
    """
    pyarrow_modules()  # raises before any work
    options = options.for_folder(Path(output)).for_pipeline(pipeline)
    opened = options.open(sources)
    opened.check_output(output)
    model, precision = model_identity(pipeline), pipeline.model.precision
    wanted = options.manifest(model, precision, opened.names, relative=opened.relative)
    with locked(Path(output)) as folder:
        store = Store(folder, wanted, retry=options.retry, replace_sources=options.replace)
        total = _count(opened) if show_progress else None
        outcomes = outcomes_of(opened.items(), store.earlier.restore)
        lists = embed_outcomes(pipeline, outcomes, options, store.earlier.restore_content)
        report = write_outcomes(
            store, lists, total, pipeline.preprocessor, show_progress=show_progress
        )
    report.describe(opened)
    return report


def iter_embeddings(
    sources: SourcePaths,
    pipeline: MultiModalEmbeddingPipeline,
    options: EmbedOptions = EmbedOptions(),
    *,
    problems: Problems | None = None,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Embed images or texts of any number, and write nothing.

    Args:
        sources: One path, or several, see `open_sources`.
        pipeline: An open pipeline.
        options: All but `dtype`, `retry`, `replace` and `to` are used. A batch ends after every
            `shard_items` items, as in `embed`. Ids of files are absolute paths by default.
        problems: Gets the items that cannot be embedded, which are left out. Without it, their
            number and the first reason are logged as a warning at the end.

    Returns:
        An iterator of (ids, vectors): the ids of a few items, and float32 [n, d], rows of unit
        length. A source that is empty or cannot be read raises a DatasetError when it is reached;
        so do sources of which nothing could be embedded, at the end, without `problems`.

    Raises:
        DatasetError: a source is missing or of unknown kind.
    """
    if options.ids is None:
        options = replace(options, ids="absolute")  # ids are all that the caller gets
    opened = options.open(sources)
    return _embeddings(opened, pipeline, options.for_pipeline(pipeline), problems)


def _embeddings(
    opened: OpenedSources,
    pipeline: MultiModalEmbeddingPipeline,
    options: EmbedOptions,
    problems: Problems | None,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    outcomes = outcomes_of(opened.items())
    failed, first, embedded = 0, "", False
    for some in embed_outcomes(pipeline, outcomes, options):
        ids, vectors = [], []
        for outcome in some:
            if outcome.vector is not None:
                ids.append(outcome.item.id)
                vectors.append(outcome.vector)
            elif problems is not None:
                images = options.kind == "images"
                kind = ProblemKind.UNREADABLE_IMAGE if images else ProblemKind.BAD_VALUE
                problems.add(kind, outcome.item.where, outcome.error or "")
            else:
                failed += 1
                first = first or f"{outcome.item.where}: {outcome.error}"
        if ids:
            embedded = True
            yield ids, np.stack(vectors)
    if failed:
        reason = f"{failed} {options.kind} could not be embedded, the first {first}"
        if not embedded:
            raise DatasetError(reason, item="sources")
        logger.warning("%s", reason)


def outcomes_of(
    items: Iterable[Item], restore: Callable[[Outcome], None] | None = None
) -> Iterator[Outcome]:
    """The outcomes of items before they are embedded; those without an error after `restore`."""
    for item in items:
        outcome = Outcome.of(item)
        if restore is not None and outcome.error is None:
            restore(outcome)
        yield outcome


def embed_outcomes(
    pipeline: MultiModalEmbeddingPipeline,
    outcomes: Iterable[Outcome],
    options: EmbedOptions,
    restore: Callable[[Outcome], None] | None = None,
) -> Generator[list[Outcome], None, None]:
    """Fill in the vector or the error of outcomes that have neither.

    A batch ends when it is full, and at the end of each shard. So a run that continues after the
    end of a list, with all outcomes before it restored, has the same batches from there on, and the
    same bits.

    Args:
        pipeline: The model.
        outcomes: The outcomes.
        options: The options.
        restore: May fill in the outcome of an image by its SHA-256; called on threads.

    Yields:
        Lists of outcomes, in order, drawn about a batch ahead. New vectors are float32 [d].
    """
    batches: Generator[Batch[Outcome], None, None]
    cut, size = options.shard_items, options.batch_size
    if options.kind == "texts":
        text_of = _normalized_text if options.normalize else _text
        batches = embed_texts(pipeline, outcomes, text_of, max_texts=TEXTS_PER_LIST, cut_every=cut)
    else:
        images = options.image_options(pipeline.preprocessor.image_resolution)
        opener = partial(_open, restore=restore, images=images)
        batches = embed_images(pipeline, outcomes, opener, batch_size=size, cut_every=cut)
    with contextlib.closing(batches):
        for batch in batches:
            for outcome, vector in zip(batch.embedded, batch.vectors, strict=True):
                outcome.vector = vector
            for outcome, error in batch.failed:
                outcome.fail(error)
            yield batch.items


def _text(outcome: Outcome) -> str | None:
    return None if outcome.done else outcome.item.text


def _normalized_text(outcome: Outcome) -> str | None:
    text = _text(outcome)
    return None if text is None else normalize_text(text)


def _open(
    outcome: Outcome, restore: Callable[[Outcome], None] | None, images: ImageOptions
) -> Image.Image | None:
    try:
        return None if outcome.done else outcome.open_image(restore, images)
    finally:
        outcome.release_image()


def write_outcomes(
    store: Store,
    lists: Generator[list[Outcome], None, None],
    total: int | None,
    preprocessor: TextInput,
    *,
    show_progress: bool,
) -> EmbedReport:
    """Write outcomes, all done, to a folder, and end the run. Closes `lists`.

    Args:
        store: The folder.
        lists: The outcomes. No list extends beyond the end of a shard.
        total: The number of items, if it is known.
        preprocessor: The model's, which counts texts that are too long.
        show_progress: Print progress on stderr.
    """
    wanted = store.wanted
    report = EmbedReport(store.folder, wanted.kind, wanted.model["embed_dim"])
    with (
        contextlib.closing(lists),
        _progress(wanted.kind, total, enabled=show_progress) as advance,
    ):
        try:
            for outcomes in lists:
                report.add(outcomes)
                if wanted.kind == "texts":
                    report.texts.add(preprocessor, _embedded_texts(outcomes, wanted))
                advance(outcomes)
                store.add(outcomes)
        except KeyboardInterrupt:
            store.commit()
            raise
    store.finish()
    if wanted.layout == "clip-retrieval":
        write_clip_retrieval(open_embeddings(store.folder))
    elif store.former_layout == "clip-retrieval":
        remove_clip_retrieval(store.folder)
    return report


def _embedded_texts(outcomes: list[Outcome], manifest: Manifest) -> list[str]:
    texts = [one.item.text for one in outcomes if one.error is None and one.item.text is not None]
    return [normalize_text(text) for text in texts] if manifest.normalized else texts


def _count(sources: OpenedSources) -> int:
    """The number of items, with progress: listing millions of files takes a while."""
    with progress(f"looking for {sources.kind}", unit="item") as advance:
        total = 0
        for total, _ in enumerate(sources.items(), 1):
            if total % 1000 == 0:
                advance(1000)
    return total


@contextlib.contextmanager
def _progress(
    kind: ItemKind, total: int | None, *, enabled: bool
) -> Iterator[Callable[[list[Outcome]], None]]:
    """Progress from the first new item on, so that the rate is that of embedding."""
    with contextlib.ExitStack() as stack:
        bar: Callable[[int], None] | None = None
        passed = 0

        def advance(outcomes: list[Outcome]) -> None:
            nonlocal bar, passed
            new = any(not outcome.restored for outcome in outcomes if outcome.error is None)
            if bar is None and new:
                bar = stack.enter_context(
                    progress(kind, total, kind[:-1], done=passed, enabled=enabled)
                )
            passed += len(outcomes)
            if bar is not None:
                bar(len(outcomes))

        yield advance
