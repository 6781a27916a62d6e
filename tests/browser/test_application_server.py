"""The server of the search application: indexes, folders, refused requests, its end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from cnclip import demo, pipeline
from cnclip.bulk import model_identity
from cnclip.serve.words import ZH
from tests.support.browser import (
    CAT,
    GALLERY,
    PHONE,
    START_SECONDS,
    Server,
    captions,
    fits,
    save_screenshot,
    search,
    skip_without_browser,
    upload,
    wait_for_answer,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

skip_without_browser()

Open = Callable[..., "Page"]

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
    by_label = {image.label: image for image in demo.load_gallery()}
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
        wait_for_answer(page, lambda: page.get_by_role("option", name="<b>things").click())
        search(page, "汽车")
        assert captions(page) == ["gone.png", by_label["生日蛋糕"].path.name]
        # The image file was deleted.
        assert page.locator("#found .none").inner_text() == ZH.no_image
        assert fits(page)
        save_screenshot(page, "own-indexes")
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


def test_a_folder_names_unreadable_images(tmp_path: Path, open_page: Open) -> None:
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


# Requests that are refused


def test_requests_name_no_other_file_or_url(browser: Browser, tmp_path: Path) -> None:
    """A forged request names a file on the disk in place of an upload."""
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
                if parts[part]["type"] == "image"
                else parts[part]["props"].get("value") or "猫 狗"
                for part in dependency["inputs"]
            ]
            request = {
                "data": data,
                "fn_index": dependency["id"],
                "session_hash": f"session{tried}",
            }
            calls.post("/zh/gradio_api/queue/join", data=request)
            events = calls.get(f"/zh/gradio_api/queue/data?session_hash=session{tried}").text()
            done = [line for line in events.splitlines() if "process_completed" in line]
            assert len(done) == 1, events
            return '"success":true' in done[0]

        with_images = [
            dependency
            for dependency in config["dependencies"]
            if any(parts[part]["type"] == "image" for part in dependency["inputs"])
        ]
        assert len(with_images) >= 2
        for dependency in with_images:
            for path in (str(secret), "/etc/passwd", "../secret.png", "http://127.0.0.1:9/a.png"):
                for stream in (False, True):
                    assert not succeeds(dependency, path, stream), (dependency, path, stream)
        copied = [file.name for file in (tmp_path / "temporary").rglob("*") if file.is_file()]
        assert copied == []
        # An uploaded file is accepted.
        image = {"name": "cat.png", "mimeType": "image/png", "buffer": CAT.read_bytes()}
        uploaded = calls.post("/zh/gradio_api/upload", multipart={"files": image}).json()[0]
        assert all(succeeds(dependency, uploaded) for dependency in with_images)
    finally:
        context.close()
        server.stop(traceback=True)


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
        # A link on another site opens the page.
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


def test_uploads_are_deleted_when_the_server_ends(tmp_path: Path, open_page: Open) -> None:
    server = Server("demo", "--ui", temporary=tmp_path)
    try:
        page = open_page(server.url)
        upload(page, CAT)
        wait_for_answer(page, lambda: page.click("button#search"))
        assert list(tmp_path.rglob("1f408.png"))
        assert all(folder.stat().st_mode & 0o077 == 0 for folder in tmp_path.iterdir())
    finally:
        server.stop(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_named(gallery: str) -> None:
    port = str(urlsplit(gallery).port)
    command = [sys.executable, "-m", "cnclip", "serve", "--ui", "--port", port]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=START_SECONDS)
    assert done.returncode == 2
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line == f"cnclip serve: cannot listen at 127.0.0.1, port {port}: Address already in use"
