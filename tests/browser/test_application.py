"""The search application in headless Chromium, as people use it: real servers, real pages."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from cnclip import demo, pipeline
from cnclip.assets import asset_path
from cnclip.bulk import model_identity
from cnclip.serve.words import EN, ZH

for package in ("gradio", "faiss", "playwright"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: see `make test-ui`", allow_module_level=True)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# Time limits for the server's start and for a response: the machine may be busy.
START_SECONDS = 240
PATIENCE = 60_000
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
    """A `cnclip` command that serves, ended as Ctrl-C ends it."""

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
            raise AssertionError(self.said())

    def said(self) -> str:
        """What it printed to stderr; once."""
        with self.errors:
            self.errors.seek(0)
            return self.errors.read()

    def stop(self, number: int = signal.SIGINT, *, complains: bool = False) -> str:
        """End it, by default as Ctrl-C does; gives what was printed to stderr."""
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        errors = self.said()
        assert self.process.returncode == 128 + number, errors
        assert complains or "Traceback" not in errors, errors
        assert "CONNECTS" not in errors and "LOOKS UP" not in errors, errors
        return errors


@pytest.fixture(scope="module")
def gallery() -> Iterator[str]:
    server = Server("demo", "--ui")
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages, each in a new window; checks at the end that they contacted no other host."""
    contexts = []
    asked: list[str] = []
    complaints: list[str] = []

    def open_one(
        url: str, locale: str = "zh-CN", size: dict[str, int] = DESKTOP, scheme: str = "light"
    ) -> Page:
        context = browser.new_context(locale=locale, viewport=size, color_scheme=scheme)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda line: complaints.append(line.text))
        page.goto(url)
        page.locator("#found article").first.wait_for()
        return page

    yield open_one
    host = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert host <= {"127.0.0.1"}, asked
    # Nor did the policy have to keep it from asking.
    assert not [line for line in complaints if "Content Security Policy" in line]
    for context in contexts:
        context.close()


def captions(page: Page) -> list[str]:
    return page.locator("#found article b").all_inner_texts()


def scores(page: Page) -> list[float]:
    return [float(text) for text in page.locator("#found article em").all_inner_texts()]


def answered(page: Page, act: Callable[[], Any]) -> None:
    """Do what asks for an answer, and wait until it is there."""
    page.evaluate(
        "document.querySelectorAll('#note p, #label-note p, #bars ol, .tiles')"
        ".forEach(part => part.dataset.old = 1)"
    )
    act()
    page.wait_for_function(
        "() => [...document.querySelectorAll('#note > * p, #label-note p, #bars ol, .tiles')]"
        ".some(part => !part.dataset.old)"
        " && !document.querySelector('#found .wrap:not(.hide), #bars .wrap:not(.hide)')"
    )


def search(page: Page, text: str) -> None:
    page.fill("#query textarea", text)
    answered(page, lambda: page.press("#query textarea", "Enter"))


def upload(page: Page, file: Path, part: str = "image") -> None:
    page.set_input_files(f"#{part} input[type=file]", file)
    page.locator(f"#{part} img").wait_for(state="attached")


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def keep(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(300)  # until what fades has faded
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


# Searching


def test_opens_with_the_gallery(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    assert page.title() == f"cnclip · {ZH.title}"
    assert len(captions(page)) == 12
    assert set(captions(page)) <= {image.label for image in demo.load_gallery()}
    assert ZH.images.format(count=362) in page.inner_text("#note")
    assert page.locator("footer", has_text="Gradio").count() == 0
    keep(page, "opened")


def test_typed_cat_finds_cats_first(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫")
    assert captions(page)[0] == "猫"
    assert all("猫" in caption for caption in captions(page)[:3])
    assert scores(page) == sorted(scores(page), reverse=True)
    shares = re.findall(r"([\d.]+)%", page.inner_text("#found"))
    assert sum(map(float, shares)) == pytest.approx(100, abs=1)
    keep(page, "cats")


def test_button_and_examples_search_too(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.fill("#query textarea", "生日蛋糕")
    answered(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "生日蛋糕"
    answered(page, lambda: page.click("#examples button:has-text('下雨')"))
    assert captions(page)[0] == "下雨"
    assert page.input_value("#query textarea") == "下雨"


def test_uploaded_image_finds_itself_and_its_neighbours(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    upload(page, CAT)
    answered(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "猫"
    assert scores(page)[0] == pytest.approx(1, abs=2e-3)
    assert "黑猫" in captions(page)[1:6]
    assert 0.2 < scores(page)[1] < 0.99
    keep(page, "neighbours")


def test_text_and_image_together_and_their_weight(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    upload(page, CAT)
    search(page, "汽车")
    both = captions(page)
    page.get_by_text(ZH.options).click()
    slider = page.locator("input[type=range]").first
    slider.focus()
    slider.press("End")  # the text alone
    answered(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "汽车" and captions(page) != both
    page.locator("input[type=range]").first.press("Home")
    answered(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "猫"
    page.locator("input[type=range]").nth(1).press("Home")
    answered(page, lambda: page.click("button#search"))
    assert captions(page) == ["猫"]


def test_tap_enlarges_a_image(gallery: str, open_page: Open) -> None:
    page = open_page(gallery, size=PHONE)
    image = page.locator("#found img").first
    before = image.bounding_box()
    image.click()
    after = image.bounding_box()
    assert before is not None and after is not None
    assert before["width"] < 200 < 380 < after["width"]
    keep(page, "enlarged")
    image.click()
    assert image.bounding_box() == before


# What cannot be answered as asked


def test_cut_text_is_said_and_where(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫" * 49 + "狗狼鱼")  # 52 characters, 54 ids
    assert "54" in page.inner_text("#note .cut") and "52" in page.inner_text("#note .cut")
    assert "猫狗」" in page.inner_text("#note .cut")
    assert len(captions(page)) == 12
    keep(page, "cut")
    search(page, "猫" * 50)
    assert page.locator("#note .cut").count() == 0


def test_more_than_75_words_are_refused(gallery: str, open_page: Open) -> None:
    page = open_page(gallery, locale="en-GB")
    search(page, "猫" * 76)
    assert page.inner_text("#note .warning") == EN.too_many_words.format(words=76, limit=75)
    assert captions(page) == []
    keep(page, "too-many-words")
    search(page, "猫" * 75)
    assert page.locator("#note .warning").count() == 0
    assert len(captions(page)) == 12


def test_nothing_asked(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "  ")
    assert page.inner_text("#note .warning") == ZH.nothing_asked


def test_broken_upload_is_said_and_the_next_one_works(
    gallery: str, open_page: Open, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image", encoding="utf-8")
    page = open_page(gallery)
    upload(page, broken)
    answered(page, lambda: page.click("button#search"))
    assert page.inner_text("#note .warning") == ZH.bad_image
    keep(page, "broken-upload")
    answered(page, lambda: page.click("#examples button:has-text('猫')"))
    assert captions(page)[0] == "猫"
    upload(page, CAT)
    page.fill("#query textarea", "")
    answered(page, lambda: page.click("button#search"))
    assert scores(page)[0] == pytest.approx(1, abs=2e-3)


# Labels


def test_probabilities_of_own_labels(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.get_by_role("tab", name=ZH.labels_tab).click()
    answered(page, lambda: page.click("button#compute"))
    assert page.inner_text("#label-note .warning") == ZH.no_label_image
    upload(page, CAT, "label-image")
    page.fill("#labels textarea", "狗，猫、汽车\n猫, 树")
    answered(page, lambda: page.click("button#compute"))
    assert page.locator("#bars .name").first.inner_text() == "猫"
    assert sorted(page.locator("#bars .name").all_inner_texts()) == sorted("狗 猫 汽车 树".split())
    shares = [float(text[:-1]) for text in page.locator("#bars b").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.3) and shares == sorted(shares, reverse=True)
    assert ZH.dropped in page.inner_text("#label-note")
    answered(page, lambda: page.click("button#example"))
    assert page.locator("#bars .name").first.inner_text() == demo.EXAMPLE_TEXTS[0]
    assert page.input_value("#labels textarea").split() == list(demo.EXAMPLE_TEXTS)
    keep(page, "labels")


# Languages, sizes, windows


@pytest.mark.parametrize(
    ("locale", "words"), [("zh-CN", ZH), ("zh-TW", ZH), ("en-US", EN), ("fr-FR", ZH)]
)
def test_language_is_the_browsers(gallery: str, open_page: Open, locale: str, words: Any) -> None:
    page = open_page(gallery, locale=locale)
    assert page.inner_text("h1") == words.title
    assert page.get_attribute("html", "lang") == words.tag
    # Gradio's own words as well.
    assert ("点击上传" if words is ZH else "Click to Upload") in page.inner_text("#image")
    page.click("header a")
    page.locator("#found article").first.wait_for()
    assert page.inner_text("h1") == (EN if words is ZH else ZH).title


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("size", "name"), [(PHONE, "phone"), (DESKTOP, "desktop")])
def test_looks(
    gallery: str, open_page: Open, locale: str, scheme: str, size: dict[str, int], name: str
) -> None:
    page = open_page(gallery, locale, size, scheme)
    kept = f"{name}-{locale[:2]}-{scheme}"
    assert fits(page)
    keep(page, f"{kept}-opened")
    search(page, "生日蛋糕")
    assert fits(page)
    columns = {
        box["x"] for tile in page.locator("#found article").all() if (box := tile.bounding_box())
    }
    assert len(columns) == (2 if size is PHONE else 4)
    keep(page, f"{kept}-found")
    page.get_by_text((ZH if locale == "zh-CN" else EN).options).click()
    search(page, "strawberry" * 9 + "猫" * 60)  # one long word
    assert fits(page)
    page.get_by_role("tab").nth(1).click()
    answered(page, lambda: page.click("button#example"))
    assert fits(page)
    keep(page, f"{kept}-labels")
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")


def test_two_windows_at_once(gallery: str, open_page: Open) -> None:
    pages = [open_page(gallery), open_page(gallery, locale="en-US")]
    texts = ["猫", "生日蛋糕"]
    for _ in range(3):
        for page, text in zip(pages, texts, strict=True):
            page.fill("#query textarea", text)
            page.press("#query textarea", "Enter")
        for page, text in zip(pages, texts, strict=True):
            page.wait_for_function(f"document.querySelector('.tiles b').innerText === '{text}'")
        pages.reverse()


# Own collections


def make_index(path: Path, images: list[demo.GalleryImage]) -> Path:
    from cnclip.search import Index

    embedder = pipeline(model="emoji-cn", device="cpu")
    batch = demo.embed_images(embedder, images)
    index = Index.create(batch.vectors.shape[1], model=model_identity(embedder))
    index.add(batch.vectors, [str(image.path) for image in batch.embedded])
    index.prepare(embedder)
    index.save(path)
    return path


def test_choice_of_own_indexes(tmp_path: Path, open_page: Open) -> None:
    some = demo.load_gallery()
    by_label = {image.label: image for image in some}
    gone = tmp_path / "gone.png"
    Image.open(by_label["汽车"].path).save(gone)
    animals = [by_label[label] for label in ("猫", "狗", "马", "鱼", "老虎") if label in by_label]
    things = [by_label["生日蛋糕"], demo.GalleryImage(gone, "")]
    first = make_index(tmp_path / "animals.index", animals)
    second = make_index(tmp_path / "<b>things.index", things)
    gone.unlink()
    server = Server("serve", "--ui", str(first), str(second), "--device", "cpu")
    try:
        page = open_page(server.url, size=PHONE)
        assert page.locator("#examples").count() == 0
        search(page, "猫")
        assert captions(page)[0] == "1f408.png"
        assert len(captions(page)) == len(animals)
        page.click("#collection input")
        answered(page, lambda: page.get_by_role("option", name="<b>things").click())
        search(page, "汽车")
        assert captions(page) == ["gone.png", by_label["生日蛋糕"].path.name]
        # Its image is not there any more.
        assert page.locator("#found .none").inner_text() == ZH.no_image
        assert fits(page)
        keep(page, "own-indexes")
        # Files on the disk are not available through the server.
        for path in (first, CAT, "/etc/hostname"):
            answer = page.request.get(f"{server.url}/zh/gradio_api/file={path}")
            assert answer.status in (403, 404)
        for path in ("docs", "openapi.json", "zh/docs", "zh/monitoring"):
            assert page.request.get(f"{server.url}/{path}").status in (403, 404), path
        elsewhere = page.request.get(server.url, headers={"Host": "elsewhere.example"})
        assert elsewhere.status == 403
    finally:
        server.stop()


def test_own_folder_names_what_it_leaves_out(tmp_path: Path, open_page: Open) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("1f408.png", "1f692.png"):
        shutil.copy(GALLERY / name, folder)
    (folder / "bad.png").touch()
    server = Server("demo", "--ui", "--images", str(folder))
    try:
        page = open_page(server.url)
        search(page, "猫")
        assert captions(page) == ["1f408", "1f692"]
    finally:
        errors = server.stop()
    assert f"{folder / 'bad.png'}: " in errors


# What must not be had


def test_requests_name_no_other_file_or_url(browser: Browser, tmp_path: Path) -> None:
    """A request of one's own making, with a file of the disk in the place of an upload."""
    secret = tmp_path / "secret.png"
    shutil.copy(CAT, secret)
    (tmp_path / "temporary").mkdir()
    server = Server("demo", "--ui", temporary=tmp_path / "temporary")
    context = browser.new_context(base_url=server.url)
    calls = context.request
    tried = 0
    try:
        config = calls.get("/zh/config").json()
        parts = {part["id"]: part for part in config["components"]}

        def succeeds(dependency: Any, path: str, stream: bool = False) -> bool:
            nonlocal tried
            tried += 1
            file = {"path": path, "is_stream": stream, "meta": {"_type": "gradio.FileData"}}
            data = [
                file
                if parts[one]["type"] == "image"
                else parts[one]["props"].get("value") or "猫 狗"
                for one in dependency["inputs"]
            ]
            asked = {"data": data, "fn_index": dependency["id"], "session_hash": f"session{tried}"}
            calls.post("/zh/gradio_api/queue/join", data=asked)
            events = calls.get(f"/zh/gradio_api/queue/data?session_hash=session{tried}").text()
            done = [line for line in events.splitlines() if "process_completed" in line]
            assert len(done) == 1, events
            return '"success":true' in done[0]

        takes_images = [
            one
            for one in config["dependencies"]
            if any(parts[part]["type"] == "image" for part in one["inputs"])
        ]
        assert len(takes_images) >= 2
        for dependency in takes_images:
            for path in (str(secret), "/etc/passwd", "../secret.png", "http://127.0.0.1:9/a.png"):
                for stream in (False, True):
                    assert not succeeds(dependency, path, stream), (dependency, path, stream)
        copied = [file.name for file in (tmp_path / "temporary").rglob("*") if file.is_file()]
        assert copied == []
        # What was uploaded is taken.
        image = {"name": "cat.png", "mimeType": "image/png", "buffer": CAT.read_bytes()}
        uploaded = calls.post("/zh/gradio_api/upload", multipart={"files": image}).json()[0]
        assert all(succeeds(dependency, uploaded) for dependency in takes_images)
    finally:
        context.close()
        server.stop(complains=True)


def test_other_pages_and_urls(browser: Browser) -> None:
    server = Server("demo", "--ui")
    port = urlsplit(server.url).port
    context = browser.new_context(base_url=server.url)
    calls = context.request
    try:
        for host in ("localhost", "a.localhost", "127.0.0.1", "127.0.0.2", "[::1]"):
            headers = {"Origin": "https://elsewhere.example", "Host": f"{host}:{port}"}
            for path in ("/zh/", "/zh/config", "/zh/theme.css"):
                answer = calls.get(path, headers=headers)
                assert answer.ok, (host, path)
                assert "access-control-allow-origin" not in answer.headers, (host, path)
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        image = {"name": "cat.png", "mimeType": "image/png", "buffer": CAT.read_bytes()}
        for headers, status in (({}, 200), (foreign, 403)):
            answer = calls.post(
                "/zh/gradio_api/upload", multipart={"files": image}, headers=headers
            )
            assert answer.status == status
        # A link from elsewhere still leads here.
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert calls.get("/zh/", headers=link).ok
        for path in (
            "gradio_api/file=http://127.0.0.1:9/a.png",
            "gradio_api/file=HTTPS://127.0.0.1:9/a.png",
            "gradio_api/file%3Dhttp:%2F%2F127.0.0.1:9/a.png",
            "gradio_api/file/http://127.0.0.1:9/a.png",
            "gradio_api/proxy=http://127.0.0.1:9/a.png",
            "proxy=http://127.0.0.1:9/a.png",
            "monitoring",
            "gradio_api/openapi.json",
        ):
            assert calls.get(f"/zh/{path}").status == 403, path
        assert calls.post("/zh/gradio_api/process_recording").status == 403
    finally:
        context.close()
        server.stop()


# The command


def test_uploads_are_gone_once_the_server_ends(tmp_path: Path, open_page: Open) -> None:
    server = Server("demo", "--ui", temporary=tmp_path)
    try:
        page = open_page(server.url)
        upload(page, CAT)
        answered(page, lambda: page.click("button#search"))
        assert list(tmp_path.rglob("1f408.png"))
        assert all(folder.stat().st_mode & 0o077 == 0 for folder in tmp_path.iterdir())
    finally:
        server.stop(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_port_that_is_taken_is_named(gallery: str) -> None:
    port = str(urlsplit(gallery).port)
    command = [sys.executable, "-m", "cnclip", "serve", "--ui", "--port", port]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=START_SECONDS)
    assert done.returncode == 2
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line == f"cnclip serve: cannot listen at 127.0.0.1, port {port}: Address already in use"
