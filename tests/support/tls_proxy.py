"""A proxy that answers for any HTTPS server itself, with a certificate that clients may trust."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.http_server import LocalServer


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Write a certificate of a host and its key with openssl."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    subprocess.run(
        ["openssl", "req", *options, "-addext", f"subjectAltName=DNS:{host}"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextmanager
def serve_https(host: str, content: bytes, folder: Path) -> Iterator[dict[str, str]]:
    """Serve bytes at every address of a host; yields the environment in which clients find it."""
    certificate, key = make_certificate(folder, host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            with context.wrap_socket(self.connection, server_side=True) as secure:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += secure.recv(4096)
                is_host = self.path == f"{host}:443"
                status = b"200 OK" if is_host and request.startswith(b"GET ") else b"404 Not Found"
                head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                secure.sendall(head % (status, len(content)) + content)

    server = LocalServer(Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        proxy = f"http://127.0.0.1:{server.server_port}"
        yield {"https_proxy": proxy, "SSL_CERT_FILE": str(certificate)}
    finally:
        server.shutdown()
        server.server_close()
