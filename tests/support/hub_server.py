"""A local server that speaks both hubs' protocols, as far as their clients need it, and fails on
request.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.http_server import LocalServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCHES = {"main", "master", "v1.0", COMMIT}

# For a new process, before it imports the clients. They wait for seconds before they retry: here
# each wait is cut to 10 ms.
IMPATIENT = """
import threading, time
sleep, wait = time.sleep, threading.Event.wait
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
threading.Event.wait = lambda event, timeout=None: wait(event, timeout and min(timeout, 0.01))
"""


@dataclass
class Hub:
    """What is served, and how it fails.

    Attributes:
        models: Directories by the models' names.
        datasets: Directories by the names of data sets, which ModelScope's hub has.
        url: Where the server listens.
        cut: Files that break off after so many bytes, once each.
        wrong_digest: Files whose listed digest is another's.
        hidden: Files that are listed and not served.
        requests: Method, path and range of every request.
    """

    models: dict[str, Path]
    datasets: dict[str, Path] = field(default_factory=dict)
    url: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    wrong_digest: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, one for each request."""
        names = []
        for method, path, _ in self.requests:
            parts = urlsplit(path)
            query = parse_qs(parts.query)
            if method == "GET" and "/resolve/" in parts.path:
                names.append(parts.path.rpartition("/")[2])
            elif method == "GET" and "FilePath" in query:
                names.append(query["FilePath"][0])
        return names


@contextmanager
def serve(models: dict[str, Path], datasets: dict[str, Path] | None = None) -> Iterator[Hub]:
    """A hub of these models and data sets, until the block ends."""
    hub = Hub(models, datasets or {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            _answer(self, hub)

        def do_GET(self) -> None:
            _answer(self, hub)

    server = LocalServer(Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    hub.requests.append((request.command, request.path, request.headers.get("Range")))
    parts = urlsplit(request.path)
    path, query = unquote(parts.path), parse_qs(parts.query)
    for name, directory in hub.models.items():
        if path.startswith(f"/api/models/{name}/revision/"):
            known = path.rpartition("/")[2] in BRANCHES
            return (
                _json(request, _model_info(name, directory))
                if known
                else _missing_revision(request)
            )
        if path.startswith(f"/api/models/{name}/tree/"):
            if path.split("/tree/")[1].partition("/")[0] not in BRANCHES:
                return _missing_revision(request)
            return _json(request, [_tree_entry(hub, file) for file in sorted(directory.iterdir())])
        if path.startswith(f"/{name}/resolve/"):
            return _file(request, hub, directory / path.rpartition("/")[2])
        if path == f"/api/v1/models/{name}":
            content = {"Name": name.rpartition("/")[2], "Path": name.partition("/")[0]}
            return _json(request, {"Code": 200, "Success": True, "Data": content})
        if path == f"/api/v1/models/{name}/repo/files":
            if query["Revision"][0] not in BRANCHES:
                return _json(request, {"Code": 10010205001, "Success": False}, 404)
            files = [_entry(hub, file) for file in sorted(directory.iterdir())]
            return _json(request, {"Code": 200, "Success": True, "Data": {"Files": files}})
        if path == f"/api/v1/models/{name}/repo":
            return _file(request, hub, directory / query["FilePath"][0])
    for name, directory in hub.datasets.items():
        if path == f"/api/v1/datasets/{name}/repo/tree":
            if query["Revision"][0] not in BRANCHES:
                return _json(request, {"Code": 10010205001, "Success": False}, 404)
            files = [_dataset_entry(hub, directory, file) for file in sorted(directory.rglob("*"))]
            start = (int(query["PageNumber"][0]) - 1) * int(query["PageSize"][0])
            page = files[start : start + int(query["PageSize"][0])]
            return _json(request, {"Code": 200, "Success": True, "Data": {"Files": page}})
        if path == f"/api/v1/datasets/{name}/repo":
            return _file(request, hub, directory / query["FilePath"][0])
    return _json(request, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})


def _missing_revision(request: BaseHTTPRequestHandler) -> None:
    _json(request, {"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})


def _model_info(name: str, directory: Path) -> dict[str, object]:
    siblings = [{"rfilename": file.name} for file in sorted(directory.iterdir())]
    return {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}


def _digest(hub: Hub, file: Path) -> str:
    content = b"another" if file.name in hub.wrong_digest else file.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _entry(hub: Hub, file: Path) -> dict[str, object]:
    size = file.stat().st_size
    return {"Path": file.name, "Type": "blob", "Size": size, "Sha256": _digest(hub, file)}


def _dataset_entry(hub: Hub, directory: Path, file: Path) -> dict[str, object]:
    path = file.relative_to(directory).as_posix()
    if file.is_dir():
        return {"Path": path, "Type": "tree", "Size": 0}
    return _entry(hub, file) | {"Path": path}


def _tree_entry(hub: Hub, file: Path) -> dict[str, object]:
    size, digest = file.stat().st_size, _digest(hub, file)
    entry: dict[str, object] = {"type": "file", "path": file.name, "size": size, "oid": digest[:40]}
    if file.suffix in (".bin", ".safetensors"):
        entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
    return entry


def _json(
    request: BaseHTTPRequestHandler,
    content: object,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> None:
    body = json.dumps(content).encode()
    request.send_response(status)
    for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.send_header(key, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


def _file(request: BaseHTTPRequestHandler, hub: Hub, file: Path) -> None:
    if file.name in hub.hidden or not file.is_file():
        return _json(request, {"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
    content = file.read_bytes()
    total, first, status = len(content), 0, 200
    span = request.headers.get("Range")
    if span is not None:
        first, _, last = span.removeprefix("bytes=").partition("-")
        first = int(first)
        content = content[first : int(last) + 1 if last else None]
        status = 206
    request.send_response(status)
    request.send_header("Accept-Ranges", "bytes")
    request.send_header("ETag", f'"{_digest(hub, file)}"')
    request.send_header("X-Repo-Commit", COMMIT)
    request.send_header("Content-Length", str(len(content)))
    if status == 206:
        request.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{total}")
    request.end_headers()
    if request.command == "HEAD":
        return None
    until = hub.cut.pop(file.name, None)
    request.wfile.write(content[:until])
    if until is not None:
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
    return None
