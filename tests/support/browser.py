"""Running the application's server, and using its page in a browser."""

from __future__ import annotations

import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cnclip.assets import asset_path

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# Time limit for the server's start: the machine may be busy.
START_SECONDS = 240
# Prints every connection that the server makes, and every name that it looks up.
WATCHED = """
import sys
def hook(event, arguments):
    if event == "socket.connect":
        print("CONNECTS", arguments[1], file=sys.stderr, flush=True)
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost"):
        print("LOOKS UP", arguments[0], file=sys.stderr, flush=True)
sys.addaudithook(hook)
from cnclip.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Server:
    """A `cnclip` command that serves the application, in a separate process."""

    def __init__(self, *arguments: str, temporary: Path | None = None) -> None:
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        environment = {} if temporary is None else {"TMPDIR": str(temporary)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        )
        lines: queue.Queue[str] = queue.Queue()
        stdout = self.process.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            self.url = lines.get(timeout=START_SECONDS).strip()
        except queue.Empty:
            self.url = ""
        if not self.url:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(self.read_errors())

    def wait_until_open(self) -> None:
        """Wait until the models are open. The address is printed before."""
        deadline = time.monotonic() + START_SECONDS
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                with direct.open(f"{self.url}/readyz"):
                    return
            except urllib.error.HTTPError as error:
                assert error.code == 503 and time.monotonic() < deadline, error
                time.sleep(0.1)

    def read_errors(self) -> str:
        """Read what the process printed to stderr, and delete it."""
        with self.errors:
            self.errors.seek(0)
            return self.errors.read()

    def stop(self, number: int = signal.SIGINT, *, traceback: bool = False) -> str:
        """End the process with a signal, and check that it contacted no other machine.

        Args:
            number: The signal; the default is that of Ctrl-C.
            traceback: Whether its stderr may have a traceback.

        Returns:
            What it printed to stderr.
        """
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        errors = self.read_errors()
        assert self.process.returncode == 128 + number, errors
        assert traceback or "Traceback" not in errors, errors
        assert "CONNECTS" not in errors and "LOOKS UP" not in errors, errors
        return errors


def skip_without_browser() -> None:
    """Skip the module that calls this where a package or the browser is not installed."""
    for package in ("fastapi", "uvicorn", "faiss", "playwright"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see `make test-ui`", allow_module_level=True)
    if CHROMIUM is None:
        pytest.skip("there is no Chromium", allow_module_level=True)


# Scrolling loads further results, and so does a tall window: the page has at least the first
# results, and may have more at the next call.


def captions(page: Page) -> list[str]:
    return page.locator("#found article b").all_inner_texts()


def scores(page: Page) -> list[float]:
    return [float(text) for text in page.locator("#found article em").all_inner_texts()]


def count_requests(page: Page) -> int:
    """Count the requests that the page's two tabs have begun."""
    return int(
        page.evaluate(
            "[...document.querySelectorAll('[data-request]')]"
            ".reduce((sum, place) => sum + Number(place.dataset.request), 0)"
        )
    )


def wait_for_new_answer(page: Page, before: int) -> None:
    """Wait until there are more than `before` requests, and each one's answer is on the page.

    The page marks a place whose answer is drawn. The response on the network is earlier.
    """
    page.wait_for_function(
        """before => {
          const places = [...document.querySelectorAll('[data-request]')];
          const number = places.reduce((sum, place) => sum + Number(place.dataset.request), 0);
          return number > before
            && places.every(({ dataset }) => dataset.answered === dataset.request);
        }""",
        arg=before,
    )


def wait_for_answer(page: Page, act: Callable[[], Any]) -> None:
    """Call a function that sends a request, and wait until its answer is on the page."""
    before = count_requests(page)
    act()
    wait_for_new_answer(page, before)


def search(page: Page, text: str) -> None:
    page.fill("#query", text)
    wait_for_answer(page, lambda: page.press("#query", "Enter"))


def upload(page: Page, file: Path, part: str = "image") -> None:
    page.set_input_files(f"#{part} input[type=file]", file)
    page.locator(f"#{part} img[src]").wait_for(state="attached")


def move(page: Page, slider: str, value: float) -> None:
    """Move a slider."""
    page.locator(slider).evaluate(
        "(part, value) => { part.value = value; part.dispatchEvent(new Event('input')); }", value
    )


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def save_screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(300)  # until fading elements are gone
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
