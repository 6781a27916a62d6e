"""`cnclip serve [MODEL|INDEX ...]`. Its help is ASCII, so that a C locale can print it."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import counted, printable
from ..errors import InvalidInputError
from ._arguments import (
    BUNDLED_MODEL,
    add_decode_argument,
    add_download_arguments,
    add_formats_argument,
    add_model_arguments,
    add_options,
    add_pixels_argument,
    add_resize_argument,
    add_root_argument,
    integer,
    open_browser,
    open_model_of,
    open_pipeline,
    options_of,
    print_message,
)

if TYPE_CHECKING:
    from ..pipelines import MultiModalEmbeddingPipeline
    from ..search import Collection
    from ..serve import Searchable

    Opened = tuple[Sequence[MultiModalEmbeddingPipeline], Sequence[Searchable]]

SUMMARY = "serve embeddings, search and classification over HTTP"
WORDS = "served"

HOST = "127.0.0.1"
PORT = 7860
# Files that show whether those of a collection are gone.
_FILES_TRIED = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from ..serve.options import MAX_PIXELS

    parser.description = (
        "Serve models and indexes: an HTTP API that OpenAI's clients understand, and the search "
        "application for browsers, in Chinese and English. By default only this machine can reach "
        "it. SIGTERM completes the requests in progress; Ctrl-C ends at once."
    )
    parser.add_argument(
        "served",
        metavar="MODEL|INDEX",
        nargs="*",
        help="a model (a directory, checkpoint, archive, or hub id), an index of `cnclip index`, "
        "or http://HOST:PORT of Milvus; the page opens with the first index (default: the bundled "
        "gallery)",
    )
    add_server_arguments(parser)
    add_model_arguments(parser, recorded=True)
    add_root_argument(parser)
    add_download_arguments(parser)
    add_decode_argument(parser)
    add_resize_argument(parser)
    add_formats_argument(parser)
    add_pixels_argument(parser, MAX_PIXELS)


def run(arguments: argparse.Namespace) -> int:
    """Open the models and collections, and serve them until a signal."""

    def opening() -> Opened:
        from ..search import Root
        from ..search.milvus import hide_logs
        from ..serve import open_gallery, open_indexes

        if not arguments.served:
            return [], [open_gallery(open_pipeline(arguments, model=BUNDLED_MODEL))]
        indexes = [one for one in arguments.served if _is_index(one)]
        models = [one for one in arguments.served if one not in indexes]
        hide_logs(*indexes)

        def open_model(collection: Collection) -> MultiModalEmbeddingPipeline:
            return open_model_of(collection, arguments)

        pipelines = [
            open_pipeline(argparse.Namespace(**{**vars(arguments), "model": one})) for one in models
        ]
        searchables = open_indexes(
            indexes,
            open_model,
            arguments.collection,
            token=arguments.token,
            database=arguments.database,
            root=None if arguments.root is None else Root(arguments.root),
        )
        return pipelines, searchables

    serve(arguments, opening)
    return 0


def _is_index(address: str) -> bool:
    from ..search.index_file import is_index_file
    from ..search.milvus import is_milvus

    return is_milvus(address) or address.endswith(".index") or is_index_file(Path(address))


def add_server_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the arguments of the server: address, access, limits."""
    from ..serve.options import ServerOptions

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
    parser.add_argument(
        "--api-keys",
        metavar="FILE",
        type=Path,
        help="a file with an API key on each line; clients send one as Authorization: Bearer KEY "
        "(default: those in $CNCLIP_API_KEYS)",
    )
    parser.add_argument(
        "--no-auth", action="store_true", help="without keys, let other machines in all the same"
    )
    parser.add_argument(
        "--root-path", default="", metavar="PATH", help="the path under which a proxy serves this"
    )
    parser.add_argument(
        "--proxy",
        default="127.0.0.1",
        metavar="ADDRESSES",
        help="proxies whose X-Forwarded-For and -Proto headers count (default: %(default)s)",
    )
    parser.add_argument("--tls-certificate", metavar="PEM", help="serve https with it")
    parser.add_argument("--tls-key", metavar="PEM", help="the key of the certificate")
    parser.add_argument("--access-log", action="store_true", help="log requests on stderr, as JSON")
    parser.add_argument(
        "--immich", action="store_true", help="also serve immich as its machine-learning service"
    )
    parser.add_argument(
        "--opentelemetry",
        action="store_true",
        help="send traces of requests to $OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    add_options(parser, ServerOptions)


def serve(arguments: argparse.Namespace, opening: Callable[[], Opened]) -> None:
    """Serve until a signal ends the process.

    Args:
        arguments: Those of `add_server_arguments`, and the command's name.
        opening: Opens models and collections, called after the port was opened.

    Raises:
        InvalidInputError: the address cannot be used, or other machines may ask without a key.
        CnclipError: what `opening` raises.
    """
    from ..serve.server import check_packages, is_loopback, listen, tls_settings

    check_packages()
    from ..search.vectors import import_faiss
    from ..serve import server
    from ..serve.application import build_app
    from ..serve.options import Keys, ServerOptions, limited_images
    from ..serve.served import Served
    from ..serve.tracing import trace

    import_faiss()
    options = options_of(arguments, ServerOptions)
    keys = Keys.read(arguments.api_keys)
    tls = tls_settings(arguments.tls_certificate, arguments.tls_key)
    if arguments.access_log:
        _log_requests()
    with limited_images(), listen(arguments.host, arguments.port) as listener:
        local = is_loopback(listener)
        if not (local or keys or arguments.no_auth):
            raise InvalidInputError(
                "other machines could ask without a key: pass --api-keys FILE, or --no-auth"
            )
        served = Served(options)
        application = build_app(
            served,
            keys,
            local=local,
            root_path=arguments.root_path,
            for_immich=arguments.immich,
            tracing=trace if arguments.opentelemetry else None,
        )

        def opened() -> Opened:
            pipelines, searchables = opening()
            _report(arguments.command, searchables)
            return pipelines, searchables

        def ready(url: str) -> None:
            print(url, flush=True)
            served.open(opened)
            if arguments.open:  # some browsers block until they are closed
                call = (arguments.command, url)
                threading.Thread(target=open_browser, args=call, daemon=True).start()

        server.serve(
            application, served, listener, ready, forwarded_allow_ips=arguments.proxy, **tls
        )


def _report(command: str, searchables: Sequence[Any]) -> None:
    from ..search.moved import gone_message

    for one in searchables:
        count = counted(len(one.collection), one.collection.contents)
        print_message(command, f"{printable(one.name)}: {count}")
        if gone := gone_message(hit.path for hit in one.placed(one.glimpse(_FILES_TRIED))):
            print_message(command, f"{printable(one.name)}: {gone}")


def _log_requests() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("cnclip.access")
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    access.propagate = False
