"""`cnclip serve --ui [INDEX ...]`. Its help is ASCII, so that a C locale can print it."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._text import counted, printable
from ..errors import InvalidInputError
from ._arguments import (
    BUNDLED_MODEL,
    add_download_arguments,
    add_model_arguments,
    add_pixels_argument,
    add_root_argument,
    integer,
    open_browser,
    open_model_of,
    open_pipeline,
    print_message,
)

if TYPE_CHECKING:
    from ..pipelines import MultiModalEmbeddingPipeline
    from ..search import Collection
    from ..serve import Searchable

SUMMARY = "serve the search application to browsers"
WORDS = "indexes"

HOST = "127.0.0.1"
PORT = 7860
# Files that show whether those of a collection are gone.
_FILES_TRIED = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Serve the search application, in Chinese and English, until Ctrl-C. Anyone who can reach "
        "the port can search; by default only this machine can."
    )
    parser.add_argument(
        "indexes",
        metavar="INDEX",
        nargs="*",
        help="an index of `cnclip index`, or http://HOST:PORT of Milvus; the page opens with the "
        "first (default: the bundled gallery)",
    )
    parser.add_argument("--ui", action="store_true", help="serve the application (required)")
    add_server_arguments(parser)
    add_model_arguments(parser, recorded=True)
    add_root_argument(parser)
    add_download_arguments(parser)
    add_pixels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Open the collections, and serve them until Ctrl-C."""
    if not arguments.ui:
        raise InvalidInputError("expected --ui")

    def collections() -> Sequence[Searchable]:
        from ..search import Root
        from ..serve import open_gallery, open_indexes

        if not arguments.indexes:
            return [open_gallery(open_pipeline(arguments, model=BUNDLED_MODEL))]

        def open_model(collection: Collection) -> MultiModalEmbeddingPipeline:
            return open_model_of(collection, arguments)

        return open_indexes(
            arguments.indexes,
            open_model,
            arguments.collection,
            token=arguments.token,
            database=arguments.database,
            root=None if arguments.root is None else Root(arguments.root),
        )

    serve_collections(arguments, collections)
    return 0


def add_server_arguments(parser: argparse._ActionsContainer) -> None:
    """Add --host, --port and --open."""
    parser.add_argument(
        "--host", default=HOST, help="address to listen on; 0.0.0.0 for all (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=integer(0, 65535),
        default=PORT,
        help="0 for any free port (default: %(default)s)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def serve_collections(
    arguments: argparse.Namespace, collections: Callable[[], Sequence[Searchable]]
) -> None:
    """Serve the application until a signal ends the process.

    Args:
        arguments: Those of `add_server_arguments`, and the command's name.
        collections: Opens the collections, called after the port was opened.
    """
    from ..search.moved import gone_message
    from ..search.vectors import import_faiss
    from ..serve.server import check_gradio, listen, serve

    check_gradio()
    import_faiss()
    with listen(arguments.host, arguments.port) as listener:
        opened = collections()
        for one in opened:
            count = counted(len(one.collection), one.collection.contents)
            print_message(arguments.command, f"{printable(one.name)}: {count}")
            if gone := gone_message(hit.path for hit in one.glimpse(_FILES_TRIED)):
                print_message(arguments.command, f"{printable(one.name)}: {gone}")

        def ready(url: str) -> None:
            print(url, flush=True)
            if arguments.open:  # some browsers block until they are closed
                call = (arguments.command, url)
                threading.Thread(target=open_browser, args=call, daemon=True).start()

        serve(opened, listener, ready)
