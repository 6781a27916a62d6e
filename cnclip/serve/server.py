"""Runs the server until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .._text import first_line
from ..errors import InvalidInputError, MissingExtraError
from .served import Served

if TYPE_CHECKING:
    from .guard import Application

logger = logging.getLogger("cnclip")

_WAITING = 512
# Longer than the 60 seconds for which nginx keeps a connection: it must not find a closed one.
_KEEP_ALIVE = 75
_PACKAGES = (
    "fastapi",
    "httptools",
    "httpx",
    "orjson",
    "prometheus_client",
    "python_multipart",
    "uvicorn",
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def check_packages() -> None:
    """Check that the extra `serve` is installed.

    Raises:
        MissingExtraError: a package is missing.
    """
    for package in _PACKAGES:
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError("serve", package) from error


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


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The URL of the server for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    application: Application,
    served: Served,
    listener: socket.socket,
    ready: Callable[[str], None],
    **settings: Any,
) -> None:
    """Serve until a signal ends the process.

    SIGTERM drains: `/readyz` fails, new requests get 503, those in progress are completed within
    `ServerOptions.drain_timeout` seconds. Ctrl-C, and a second signal, end at once.

    Args:
        application: The ASGI application.
        served: What it serves.
        listener: The socket, from `listen`.
        ready: Called with the URL once requests are accepted.
        settings: More options of `uvicorn.Config`, such as `ssl_certfile`.

    Raises:
        KeyboardInterrupt: Ctrl-C. SystemExit: another signal.
        CnclipError: what was raised while models and collections were opened.
    """
    import uvicorn

    from .protocol import BoundedProtocol

    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # of each malformed form
    # Shells start background processes with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scheme = "https" if settings.get("ssl_certfile") else "http"
    config = uvicorn.Config(
        application,
        http=BoundedProtocol,
        log_level="critical",
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(served.options.drain_timeout),
        **settings,
    )
    ended_by: list[int] = []

    class Server(uvicorn.Server):
        """uvicorn's server, with the signals that are described above."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                loop.add_signal_handler(number, self.end, number)
            yield

        def end(self, number: int) -> None:
            ended_by.append(number)
            if number == signal.SIGTERM and len(ended_by) == 1:
                served.is_draining = True
                logger.info("shutting down: requests in progress are completed")
            else:
                self.force_exit = True
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and not self.should_exit:
                ready(url_of(listener, scheme))

        async def on_tick(self, counter: int) -> bool:
            if served.failure is not None:
                self.force_exit = self.should_exit = True
            return await super().on_tick(counter)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(Server(config).serve([listener]))
    served.close()
    if served.failure is not None:
        raise served.failure
    if ended_by and ended_by[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if ended_by:
        sys.exit(128 + ended_by[0])


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where it is installed, which is faster; else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def tls_settings(certificate: str | None, key: str | None) -> Mapping[str, Any]:
    """The options of uvicorn for TLS.

    Raises:
        InvalidInputError: a key without a certificate.
    """
    if certificate is None:
        if key is not None:
            raise InvalidInputError("requires --tls-certificate", item="--tls-key")
        return {}
    return {"ssl_certfile": certificate, "ssl_keyfile": key}
