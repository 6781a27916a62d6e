"""`cnclip search NAME.index 'query'`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .._tables import format_table
from .._text import counted, hide_secrets, printable
from ..errors import InvalidInputError
from ..pipelines.scores import format_score
from ..preprocessors.text import count_texts
from ._arguments import (
    add_download_arguments,
    add_model_arguments,
    add_pixels_argument,
    add_root_argument,
    integer,
    open_browser,
    open_model_of,
    print_message,
)

if TYPE_CHECKING:
    from ..search import Collection, Hit

SUMMARY = "find images or texts in an index"
WORDS = "query"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Find the images or texts nearest to a text, an image, or both. Terminals that draw "
        "images (kitty, iTerm2, sixel) show thumbnails."
    )
    parser.add_argument(
        "index",
        metavar="NAME.index",
        help="an index of `cnclip index`, http://HOST:PORT of Milvus, or NAME.db of Milvus Lite",
    )
    parser.add_argument(
        "query",
        metavar="TEXT",
        nargs="*",
        default=[],
        help="a query in Chinese; several words are one query",
    )
    parser.add_argument("--image", metavar="FILE", help="an image as query, alone or with TEXT")
    parser.add_argument(
        "--weight",
        type=float,
        metavar="W",
        default=0.5,
        help="weight of TEXT when both are given, from 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "-k",
        type=integer(1, 100_000),
        metavar="N",
        default=10,
        help="results (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="X",
        help="drop results below this cosine; auto: the suggested threshold",
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="put TEXT in lower case with straight quotes, as Chinese-CLIP was trained (default: "
        "if the model's description says that it was trained so)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help='print a list of {"path", "score"}, best first'
    )
    form.add_argument("--html", metavar="FILE", type=Path, help="write a page with thumbnails")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_root_argument(parser)
    add_model_arguments(parser, recorded=True)
    add_download_arguments(parser)
    add_pixels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, and print or show what was found."""
    from ..search import Index, Root, open_collection
    from ..search.collection import query_text
    from ..search.milvus import hide_logs
    from ..search.moved import gone_message

    words = " ".join(arguments.query) if arguments.query else None
    if words is None and arguments.image is None:
        raise InvalidInputError("expected TEXT, --image FILE, or both")
    if arguments.open and arguments.json:
        raise InvalidInputError("expected --open (a page) or --json, got both")
    root = None if arguments.root is None else Root(arguments.root)
    hide_logs(arguments.index)
    index = open_collection(
        arguments.index,
        arguments.collection,
        token=arguments.token,
        database=arguments.database,
    )
    embedder = open_model_of(index, arguments)
    if isinstance(index, Index) and words and "text" not in index.thresholds:
        index.prepare(embedder)
    answer = index.find(
        embedder,
        words,
        arguments.image,
        k=arguments.k,
        weight=arguments.weight,
        normalize=arguments.normalize,
    )
    if words is not None:
        text = query_text(embedder, words, arguments.normalize)
        for message in count_texts(embedder.preprocessor, [text]).messages():
            print_message("search", message)
    threshold = arguments.threshold
    if threshold == "auto":
        threshold = answer.suggested
        if threshold is None:
            reason = "auto: the index has no suggested threshold for this kind of query"
            raise InvalidInputError(reason, item="--threshold")
    hits = [hit for hit in answer.hits if threshold is None or hit.score >= threshold]
    if root is not None:
        hits = [root.moved(hit) for hit in hits]
    if (gone := gone_message(hit.path for hit in hits)) is not None:
        print_message("search", gone)
    if arguments.json:
        print(json.dumps([_as_json(hit) for hit in hits], indent=1))
    elif arguments.html or arguments.open:
        _page(arguments, index, hits, answer.suggested)
    else:
        _print(hits, answer.suggested, len(index))
    return 0


def _as_json(hit: Hit) -> dict[str, object]:
    """A hit for JSON, which is printed as ASCII, so that any path and any terminal are possible."""
    found: dict[str, object] = {"path": hit.path, "score": hit.score}
    if hit.text is not None:
        found["text"] = hit.text
    elif hit.name != hit.path:
        found["id"] = hit.id
    return found


def _page(
    arguments: argparse.Namespace, index: Collection, hits: list[Hit], suggested: float | None
) -> None:
    from ..search.page import write_page

    path: Path | None = arguments.html
    if path is None:
        with tempfile.NamedTemporaryFile(prefix="cnclip-", suffix=".html", delete=False) as file:
            path = Path(file.name)  # not removed, since the browser reads it later
    parts = (" ".join(arguments.query), hide_secrets(arguments.image or ""))
    query = " + ".join(map(printable, filter(None, parts)))
    subtitle = f"{printable(index.name)} · {counted(len(index), index.contents)}"
    write_page(path, query, hits, subtitle, suggested)
    print(path)
    if arguments.open:
        open_browser("search", path.absolute().as_uri())


def _print(hits: list[Hit], suggested: float | None, count: int) -> None:
    """A table, or a thumbnail above each line where the terminal draws images."""
    from ..search.terminal import HEIGHT, encode, protocol

    if not hits:
        print("nothing found: the index is empty" if count == 0 else "nothing reaches --threshold")
        return
    graphics = protocol(os.environ, sys.stdout.isatty())
    if graphics is None:
        rows = [["", "cosine", "share", "found"]]
        rows += [_cells(number, hit, suggested) for number, hit in enumerate(hits, 1)]
        print(format_table(rows, [True, True, True, False]))
    else:
        for number, hit in enumerate(hits, 1):
            image = hit.thumbnail(2 * HEIGHT, HEIGHT)
            if image is not None:
                print(encode(image, graphics))
            print("  ".join(_cells(number, hit, suggested)))
    if suggested is not None:
        above = sum(hit.score >= suggested for hit in hits)
        print(
            f"\n{above} of these {len(hits)} (of {count}) reach {suggested:.3f}, the threshold "
            "suggested by the collection's own scores"
        )


def _cells(number: int, hit: Hit, suggested: float | None) -> list[str]:
    share = "" if hit.probability is None else f"{hit.probability:.1%}"
    name = hit.name if hit.text is None else hit.text
    return [str(number), format_score(hit.score, suggested), share, printable(name)]


def _threshold(text: str) -> float | str:
    if text == "auto":
        return text
    with contextlib.suppress(ValueError):
        if -1 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected auto or a number from -1 to 1, got {text!r}")
