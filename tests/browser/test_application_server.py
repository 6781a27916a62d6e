"""The server of the search application: indexes, folders, refused requests, its end."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from PIL import Image

from cnclip import demo, pipeline
from cnclip.bulk import model_identity
from cnclip.serve.words import EN, ZH
from tests.support.browser import (
    CAT,
    GALLERY,
    PHONE,
    Server,
    captions,
    fits,
    save_screenshot,
    search,
    skip_without_browser,
    upload,
    wait_for_answer,
    wait_for_new_answer,
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
    server = Server("serve", str(first), str(second), "--device", "cpu")
    try:
        page = open_page(server.url, size=PHONE)
        assert page.locator("#examples button").count() == 0
        search(page, "猫")
        assert captions(page)[0] == "1f408.png"
        assert len(captions(page)) == len(animals)
        wait_for_answer(page, lambda: page.select_option("#collection select", "<b>things"))
        search(page, "汽车")
        assert captions(page) == ["gone.png", by_label["生日蛋糕"].path.name]
        # The image file was deleted.
        assert page.locator("#found .none").inner_text() == ZH.no_image
        assert fits(page)
        save_screenshot(page, "own-indexes")
        # Files on the disk are not available through the server.
        for path in (first, GALLERY / "1f34e.png", "/etc/hostname"):
            answer = page.request.get(f"{server.url}/v1/thumbnail", params={"id": str(path)})
            assert answer.status == 404
            assert page.request.get(f"{server.url}/static/..{path}").status == 404
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


# Other sites, and what the page loads


def test_other_sites(gallery: str, browser: Browser) -> None:
    port = urlsplit(gallery).port
    context = browser.new_context(base_url=gallery)
    calls = context.request
    try:
        for host in ("localhost", "a.localhost", "127.0.0.1", "127.0.0.2", "[::1]"):
            headers = {"Origin": "https://elsewhere.example", "Host": f"{host}:{port}"}
            for path in ("/zh/", "/v1/collections", "/static/app.js"):
                answer = calls.get(path, headers=headers)
                assert answer.ok, (host, path)
                assert "access-control-allow-origin" not in answer.headers, (host, path)
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        for headers, status in (({}, 200), (foreign, 403)):
            answer = calls.post("/v1/search", data={"text": "猫"}, headers=headers)
            assert answer.status == status
        # A link on another site opens the page.
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert calls.get("/zh/", headers=link).ok
    finally:
        context.close()


def test_description_of_the_api(gallery: str, browser: Browser) -> None:
    """It is drawn from the server's own description, without another host."""
    context = browser.new_context()
    requested: list[str] = []
    context.on("request", lambda request: requested.append(request.url))
    try:
        page = context.new_page()
        page.goto(f"{gallery}/docs")
        page.locator("section h2", has_text="/v1/embeddings").wait_for()
        assert "curl http://127.0.0.1" in page.inner_text("main")
        assert {urlsplit(url).hostname for url in requested} == {"127.0.0.1"}
        save_screenshot(page, "docs")
    finally:
        context.close()


def test_under_a_path_of_a_proxy_with_a_key(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNCLIP_API_KEYS", "secret")
    server = Server("demo", "--ui", "--root-path", "/find")
    context = browser.new_context(locale="zh-CN")
    try:
        page = context.new_page()
        page.goto(f"{server.url}/find/zh/")
        page.fill("#key", "wrong")
        with page.expect_response(lambda response: response.status == 401):
            page.press("#key", "Enter")
        page.locator("#key-dialog[open]").wait_for()
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        wait_for_new_answer(page, 0)
        search(page, "猫")
        assert captions(page)[0] == "猫"
        page.wait_for_function("() => document.querySelector('#found img')?.naturalWidth > 0")
    finally:
        context.close()
        server.stop()


def test_the_page_is_there_before_the_model(browser: Browser) -> None:
    """It is drawn while the model opens, and then shows the collection."""
    server = Server("demo", "--ui")
    context = browser.new_context(locale="en-US")
    try:
        page = context.new_page()
        page.goto(server.url, wait_until="commit")
        page.locator("h1", has_text=EN.title).wait_for()
        wait_for_new_answer(page, 0)
        assert captions(page)
    finally:
        context.close()
        server.stop()


# The command


def test_uploads_touch_no_disk(tmp_path: Path, open_page: Open) -> None:
    server = Server("demo", "--ui", temporary=tmp_path)
    try:
        page = open_page(server.url)
        upload(page, CAT)
        wait_for_answer(page, lambda: page.click("button#search"))
        assert captions(page)[0] == "猫"
        assert list(tmp_path.iterdir()) == []
    finally:
        server.stop(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
