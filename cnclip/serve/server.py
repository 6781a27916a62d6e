"""Runs the application until Ctrl-C."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._text import first_line
from ..errors import InvalidInputError, MissingExtraError
from .collections import Searchable

if TYPE_CHECKING:
    from .guard import Application, Message, Receive, Scope, Send

_WAITING = 128


def check_gradio() -> None:
    """Check that Gradio is installed, without importing it, which takes seconds.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("serve", "gradio")


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: A name or address of this machine; `'0.0.0.0'` and `'::'` are all of its addresses.
        port: The port; 0 chooses a free one.

    Raises:
        InvalidInputError: the address is invalid or in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_WAITING)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = f"cannot listen at {host}, port {port}: {first_line(error)}"
        raise InvalidInputError(reason) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of the application for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    searchables: Sequence[Searchable], listener: socket.socket, ready: Callable[[str], None]
) -> None:
    """Serve the application until a signal ends the process.

    Uploads are stored in a separate folder, which is removed at the end.

    Args:
        searchables: The collections; the page opens with the first.
        listener: The socket, from `listen`.
        ready: Called with the URL once the page can be opened.

    Raises:
        KeyboardInterrupt: Ctrl-C. SystemExit: SIGTERM.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, _end)
    # Shells start background processes with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="cnclip-", ignore_cleanup_errors=True) as folder:
        # Gradio reads these variables when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        from .app import build_app

        application = build_app(searchables, local=is_loopback(listener))
        _run(application, listener, lambda: ready(url_of(listener)))


def _run(application: Application, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    # Pages keep connections open: do not wait for them at the end.
    config = uvicorn.Config(
        _calling_ready(application, ready),
        log_level="critical",
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=0,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _calling_ready(application: Application, ready: Callable[[], None]) -> Application:
    """An application that calls `ready` once it has started."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_call(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                ready()

        await application(scope, receive, send_and_call if scope["type"] == "lifespan" else send)

    return wrapped


def _end(number: int, frame: Any) -> None:
    sys.exit(128 + number)
