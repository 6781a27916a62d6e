"""An HTTP server for tests, on a thread of this process."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LocalServer(ThreadingHTTPServer):
    """A server on a free port, whose handler's errors fail the test.

    `socketserver` would print them and go on.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: Any) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    def serve_forever(self, poll_interval: float = 0.02) -> None:
        """Answer requests until `shutdown`, which waits for up to `poll_interval` seconds."""
        super().serve_forever(poll_interval)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Raise the handler's error, in its thread; not that of a client that is gone."""
        if not isinstance(sys.exception(), ConnectionError):
            raise
