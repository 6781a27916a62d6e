"""HTTP as uvicorn parses it with httptools, with a limit on what comes before a body."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes of a request line and its headers: as many as uvicorn allows with h11.
MAX_HEAD = 1 << 16


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers do not end: they are held in memory until they do."""

    _head = 0
    _is_in_head = True
    _begins = False

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        self._begins = False
        super().data_received(data)
        # The bytes in which a message begins may have all of those before it: they do not count.
        counts = self._is_in_head and not self._begins
        self._head = self._head + len(data) if counts else 0
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """Note that headers follow."""
        self._is_in_head = self._begins = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that they have ended."""
        self._is_in_head = False
        super().on_headers_complete()
