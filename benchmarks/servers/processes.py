"""Servers in separate processes, each with the requests that its clients send."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PLAIN = Path(__file__).parent / "plain.py"
# Seconds in which a server has to open its model.
_OPENING = 300.0


class Server:
    """A server at a free port of this machine, and its clients, one per thread.

    Args:
        command: The command, in which `{port}` is replaced.
        health: A path that responds with 200 when the model is open.
    """

    texts, images = "/v1/embeddings", "/v1/embeddings"

    def __init__(self, command: Sequence[str], health: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the server
        self._process = subprocess.Popen(
            [part.replace("{port}", str(self._port)) for part in command],
            stdout=self._log,
            stderr=self._log,
        )
        self._local = threading.local()
        end = time.monotonic() + _OPENING
        while not self._responds(health):
            if self._process.poll() is not None or time.monotonic() > end:
                self._log.seek(0)
                lines = self._log.read().splitlines()
                raise RuntimeError(f"{command[0]} serves nothing: {lines[-1:]}")
            time.sleep(0.2)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def processor_seconds(self) -> float:
        """Processor time of the server and its child processes until now."""
        process = psutil.Process(self._process.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    def memory(self) -> int:
        """Resident bytes of the server and its child processes."""
        process = psutil.Process(self._process.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))

    def text(self, text: str) -> bytes:
        """Embed a text; returns the answer's body."""
        return self._post(self.texts, json.dumps(self.text_body(text)).encode())

    def image(self, content: bytes) -> bytes:
        """Embed an image file."""
        raise NotImplementedError

    def text_body(self, text: str) -> dict[str, object]:
        """The JSON of a request of one text."""
        return {"input": text}

    def _post(self, path: str, body: bytes, kind: str = "application/json") -> bytes:
        try:
            response, content = self._exchange(path, body, kind)
        except (ConnectionError, http.client.RemoteDisconnected):  # an idle connection was closed
            del self._local.connection
            response, content = self._exchange(path, body, kind)
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {content[:300]!r}")
        return content

    def _exchange(
        self, path: str, body: bytes, kind: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._connection()
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response, response.read()

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection, which stays open."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=300
            )
        connection: http.client.HTTPConnection = self._local.connection
        return connection

    def _responds(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class CnclipServer(Server):
    """`cnclip serve`."""

    def __init__(self, model: str | Path, device: str, precision: str) -> None:
        command = [sys.executable, "-m", "cnclip", "serve", str(model), "--port", "{port}"]
        super().__init__([*command, "--device", device, "--precision", precision], "/readyz")

    def image(self, content: bytes) -> bytes:
        """Embed an image file, which is the body."""
        return self._post(self.images, content, "image/jpeg")


class PlainServer(Server):
    """FastAPI and transformers, as in plain.py; an interpreter that has them."""

    texts, images = "/text", "/image"

    def __init__(self, model: Path, interpreter: str) -> None:
        super().__init__([interpreter, str(PLAIN), str(model), "{port}"], "/health")

    def text_body(self, text: str) -> dict[str, object]:
        """The JSON of a request of one text."""
        return {"text": text}

    def image(self, content: bytes) -> bytes:
        """Embed an image file, which is the file of a form."""
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        head += b"Content-Type: image/jpeg\r\n\r\n"
        body = head + content + b"\r\n--edge--\r\n"
        return self._post(self.images, body, "multipart/form-data; boundary=edge")


class InfinityServer(Server):
    """infinity, of a Hugging Face directory; an interpreter that has `infinity-emb[server]`."""

    texts, images = "/embeddings", "/embeddings"

    def __init__(self, model: Path, interpreter: str, *options: str) -> None:
        command = [str(Path(interpreter).parent / "infinity_emb"), "v2", "--port", "{port}"]
        command += ["--model-id", str(model), "--served-model-name", "clip", "--device", "cpu"]
        super().__init__([*command, "--engine", "torch", *options], "/health")

    def text_body(self, text: str) -> dict[str, object]:
        """The JSON of a request of one text."""
        return {"input": text, "model": "clip"}

    def image(self, content: bytes) -> bytes:
        """Embed an image file, in a data URL."""
        url = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
        body = {"input": url, "model": "clip", "modality": "image"}
        return self._post(self.images, json.dumps(body).encode())
