"""`cnclip demo [TEXT ...]` or `--ui`. Its help is ASCII, so that a C locale can print it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import demo
from .._files import replaced_atomically
from .._tables import format_table
from .._text import counted, is_blank
from ..errors import CnclipError, FormatOffError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..pipelines.scores import probabilities
from ..preprocessors.text import count_texts
from ..sources.exclusions import describe_excluded
from ..sources.image_names import ImageNames, describe_left_out
from ._arguments import (
    BUNDLED_MODEL,
    add_decode_argument,
    add_formats_argument,
    add_model_arguments,
    add_pixels_argument,
    check_output_file,
    integer,
    open_pipeline,
    print_message,
)
from .serve import add_server_arguments, serve

if TYPE_CHECKING:
    from .serve import Opened

TABLE_COUNT = 5
SHEET_COUNT = 8
MAX_COUNT = 24

SUMMARY = "run the example on the images that ship"
WORDS = "queries"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "queries",
        metavar="TEXT",
        nargs="*",
        help=f"Chinese texts to find images for (default: {len(demo.QUERIES)} examples)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PNG",
        type=Path,
        default=Path("cnclip-demo.png"),
        help="the contact sheet to write (default: %(default)s)",
    )
    parser.add_argument(
        "-k",
        metavar="N",
        type=integer(1, MAX_COUNT),
        help=f"images to show for a text (default: {TABLE_COUNT} in the table, "
        f"{SHEET_COUNT} on the sheet)",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        type=Path,
        help="search this folder of images, not the bundled gallery",
    )
    add_model_arguments(parser, recorded=False)
    add_decode_argument(parser)
    add_formats_argument(parser)
    add_pixels_argument(parser)
    application = parser.add_argument_group("the search application, in the browser")
    application.add_argument(
        "--ui", action="store_true", help="serve it until Ctrl-C, and draw no contact sheet"
    )
    add_server_arguments(application)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables and write the sheet; return 1 if an image could not be read."""
    if arguments.ui:
        return _serve(arguments)
    from ..demo.contact_sheet import draw_contact_sheet

    queries: list[str] = arguments.queries or list(demo.QUERIES)
    if any(is_blank(query) for query in queries):
        raise InvalidInputError("TEXT: expected a text, got an empty one")
    output: Path = arguments.output
    check_output_file(output)
    gallery = demo.load_gallery()
    names = ImageNames()
    images = gallery
    if arguments.images is not None:
        images = demo.find_images(arguments.images, [output], names)
    if not images:
        _print_left_out(names)
        raise InvalidInputError("has no images", file=arguments.images)

    embedder = open_pipeline(arguments, model=BUNDLED_MODEL)
    if arguments.images is None:
        _print_example(embedder, gallery)
    batch = demo.embed_images(embedder, images, show_progress=True)
    failed = _print_failed(batch.failed, names)
    count = len(batch.embedded)
    if count == 0:
        raise InvalidInputError("none of its images can be read", file=arguments.images)
    for message in count_texts(embedder.preprocessor, queries).messages():
        print_message("demo", message)
    texts = embedder.forward({"text": queries})["text_embedding"]
    answers = demo.find_matches(texts, batch.embedded, batch.vectors, arguments.k or SHEET_COUNT)
    _print_matches(queries, answers, count, arguments.k or TABLE_COUNT)
    name = Path(arguments.model or BUNDLED_MODEL).name
    subtitle = f"{name} · {counted(count, 'images')} · cosine similarity"
    sheet = draw_contact_sheet(queries, answers, subtitle)
    with replaced_atomically(output) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    print(f"\nContact sheet: {output}")
    return 1 if failed else 0


def _serve(arguments: argparse.Namespace) -> int:
    """Serve the gallery or a folder until Ctrl-C."""
    from ..serve import open_folder, open_gallery

    if arguments.queries:
        raise InvalidInputError("--ui takes no TEXT: queries are typed in the browser")
    folder: Path | None = arguments.images

    def opening() -> Opened:
        embedder = open_pipeline(arguments, model=BUNDLED_MODEL)
        if folder is None:
            return [], [open_gallery(embedder)]
        names = ImageNames()
        try:
            searchable, failed = open_folder(folder, embedder, names=names, show_progress=True)
        except InvalidInputError:  # it has no images: what was left out says why
            _print_left_out(names)
            raise
        _print_failed(failed, names)
        return [], [searchable]

    serve(arguments, opening)
    return 0


def _print_failed(
    failed: Sequence[tuple[demo.GalleryImage, CnclipError]], names: ImageNames
) -> int:
    """Print the images that failed, and what was left out; return the number that failed."""
    errors = [error for _, error in failed if not isinstance(error, FormatOffError)]
    for _, error in failed:
        if isinstance(error, FormatOffError):
            names.leave_format(error.format)
    _print_left_out(names)
    for error in errors:
        print_message("demo", error)
    return len(errors)


def _print_left_out(names: ImageNames) -> None:
    excluded = describe_excluded(names.exclusions.counts)
    for line in [*describe_left_out(names.left_out), *excluded]:
        print_message("demo", line)


def _print_example(
    embedder: MultiModalEmbeddingPipeline, gallery: Sequence[demo.GalleryImage]
) -> None:
    """The model card's example: which of some texts belongs to which of some images."""
    by_emoji = {image.emoji: image for image in gallery}
    batch = demo.embed_images(embedder, [by_emoji[emoji] for emoji in demo.EXAMPLE_EMOJI])
    texts = embedder.forward({"text": demo.EXAMPLE_TEXTS})["text_embedding"]
    shares = probabilities(batch.vectors @ texts.T, float(embedder.model.temperature))
    rows = [["image", *demo.EXAMPLE_TEXTS]]
    for image, row in zip(batch.embedded, shares.tolist(), strict=True):
        rows.append([f"{image.path.name}  {image.label}", *(f"{value:.1%}" for value in row)])
    print("How likely each text is to belong to each image (图文匹配概率)\n")
    print(format_table(rows, [False] + [True] * len(demo.EXAMPLE_TEXTS)), end="\n\n")


def _print_matches(
    queries: Sequence[str], answers: Sequence[Sequence[demo.Match]], total: int, count: int
) -> None:
    """Print one line per text: the best images, each with its cosine."""
    columns = min(count, total)
    rows = [["text", *(str(rank + 1) for rank in range(columns))]]
    for query, matches in zip(queries, answers, strict=True):
        cells = [f"{match.score:.3f} {match.image.label}" for match in matches[:columns]]
        rows.append([query, *cells])
    print(f"The best of {counted(total, 'images')} for each text, with their cosine\n")
    print(format_table(rows, [False] * (columns + 1)))
