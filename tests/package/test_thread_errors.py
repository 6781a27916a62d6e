"""An error in a thread, or in the handler of a test's server, fails the test or the soak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT
from tools.soak_calls import Soak

TESTS = """
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler

import pytest

from tests.support.http_server import LocalServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/good"
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def ask(path):
    with LocalServer(Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{path}").close()
        finally:
            server.shutdown()
            for thread in set(threading.enumerate()) - {threading.current_thread()}:
                thread.join(10)  # an error that comes later counts for the next test


def test_thread():
    thread = threading.Thread(target=pytest.fail, args=("in a thread",))
    thread.start()
    thread.join()


def test_handler():
    with pytest.raises(OSError):
        ask("bad")


def test_good():
    ask("good")
"""


def test_errors_in_threads_fail_tests(tmp_path: Path) -> None:
    (tmp_path / "test_threads.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--rootdir", "."]
    found = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-q", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    failed = [line.split(" - ")[0] for line in found.stdout.splitlines() if "FAILED" in line]
    assert [line.rpartition("::")[2] for line in failed] == ["test_thread", "test_handler"], (
        found.stdout + found.stderr
    )
    assert "2 failed, 1 passed" in found.stdout


def test_errors_in_threads_are_faults_of_the_soak() -> None:
    soak = Soak({"a call": lambda: {}["x"]})
    soak.run(2, 20)
    assert set(soak.faults) == {"KeyError: 'x'"}
