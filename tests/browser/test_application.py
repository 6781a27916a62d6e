"""The search application in headless Chromium: searching, labels, languages and sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cnclip import demo
from cnclip.serve.words import EN, ZH
from tests.support.browser import (
    CAT,
    DESKTOP,
    PHONE,
    captions,
    fits,
    save_screenshot,
    scores,
    search,
    skip_without_browser,
    upload,
    wait_for_answer,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

skip_without_browser()

Open = Callable[..., "Page"]

# Searching


def test_opens_with_the_gallery(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    assert page.title() == f"cnclip · {ZH.title}"
    assert len(captions(page)) == 12
    assert set(captions(page)) <= {image.label for image in demo.load_gallery()}
    assert ZH.images.format(count=362) in page.inner_text("#note")
    assert page.locator("footer", has_text="Gradio").count() == 0
    save_screenshot(page, "opened")


def test_typed_cat_finds_cats_first(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫")
    assert captions(page)[0] == "猫"
    assert all("猫" in caption for caption in captions(page)[:3])
    assert scores(page) == sorted(scores(page), reverse=True)
    shares = re.findall(r"([\d.]+)%", page.inner_text("#found"))
    assert sum(map(float, shares)) == pytest.approx(100, abs=1)
    save_screenshot(page, "cats")


def test_button_and_examples_search_too(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.fill("#query textarea", "生日蛋糕")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "生日蛋糕"
    wait_for_answer(page, lambda: page.click("#examples button:has-text('下雨')"))
    assert captions(page)[0] == "下雨"
    assert page.input_value("#query textarea") == "下雨"


def test_uploaded_image_finds_itself_and_its_neighbours(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    upload(page, CAT)
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "猫"
    assert scores(page)[0] == pytest.approx(1, abs=2e-3)
    assert "黑猫" in captions(page)[1:6]
    assert 0.2 < scores(page)[1] < 0.99
    save_screenshot(page, "neighbours")


def test_text_and_image_together_and_their_weight(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    upload(page, CAT)
    search(page, "汽车")
    both = captions(page)
    page.get_by_text(ZH.options).click()
    slider = page.locator("input[type=range]").first
    slider.focus()
    slider.press("End")  # the text alone
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "汽车" and captions(page) != both
    page.locator("input[type=range]").first.press("Home")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "猫"
    page.locator("input[type=range]").nth(1).press("Home")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page) == ["猫"]


def test_tap_enlarges_an_image(gallery: str, open_page: Open) -> None:
    page = open_page(gallery, size=PHONE)
    image = page.locator("#found img").first
    before = image.bounding_box()
    image.click()
    after = image.bounding_box()
    assert before is not None and after is not None
    assert before["width"] < 200 < 380 < after["width"]
    save_screenshot(page, "enlarged")
    image.click()
    assert image.bounding_box() == before


# Requests without a full answer


def test_cut_text_is_shown_with_its_end(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫" * 49 + "狗狼鱼")  # 52 characters, 54 ids
    assert "54" in page.inner_text("#note .cut") and "52" in page.inner_text("#note .cut")
    assert "猫狗」" in page.inner_text("#note .cut")
    assert len(captions(page)) == 12
    save_screenshot(page, "cut")
    search(page, "猫" * 50)
    assert page.locator("#note .cut").count() == 0


def test_more_than_75_words_are_refused(gallery: str, open_page: Open) -> None:
    page = open_page(gallery, locale="en-GB")
    search(page, "猫" * 76)
    assert page.inner_text("#note .warning") == EN.too_many_words.format(words=76, limit=75)
    assert captions(page) == []
    save_screenshot(page, "too-many-words")
    search(page, "猫" * 75)
    assert page.locator("#note .warning").count() == 0
    assert len(captions(page)) == 12


def test_an_empty_query_is_refused(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "  ")
    assert page.inner_text("#note .warning") == ZH.nothing_asked


def test_broken_upload_is_named_and_the_next_one_works(
    gallery: str, open_page: Open, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image", encoding="utf-8")
    page = open_page(gallery)
    upload(page, broken)
    wait_for_answer(page, lambda: page.click("button#search"))
    assert page.inner_text("#note .warning") == ZH.bad_image
    save_screenshot(page, "broken-upload")
    wait_for_answer(page, lambda: page.click("#examples button:has-text('猫')"))
    assert captions(page)[0] == "猫"
    upload(page, CAT)
    page.fill("#query textarea", "")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert scores(page)[0] == pytest.approx(1, abs=2e-3)


# Labels


def test_probabilities_of_own_labels(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.get_by_role("tab", name=ZH.labels_tab).click()
    wait_for_answer(page, lambda: page.click("button#compute"))
    assert page.inner_text("#label-note .warning") == ZH.no_label_image
    upload(page, CAT, "label-image")
    page.fill("#labels textarea", "狗，猫、汽车\n猫, 树")
    wait_for_answer(page, lambda: page.click("button#compute"))
    assert page.locator("#bars .name").first.inner_text() == "猫"
    assert sorted(page.locator("#bars .name").all_inner_texts()) == sorted("狗 猫 汽车 树".split())
    shares = [float(text[:-1]) for text in page.locator("#bars b").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.3) and shares == sorted(shares, reverse=True)
    assert ZH.dropped in page.inner_text("#label-note")
    wait_for_answer(page, lambda: page.click("button#example"))
    assert page.locator("#bars .name").first.inner_text() == demo.EXAMPLE_TEXTS[0]
    assert page.input_value("#labels textarea").split() == list(demo.EXAMPLE_TEXTS)
    save_screenshot(page, "labels")


# Languages, sizes, windows


@pytest.mark.parametrize(
    ("locale", "words"), [("zh-CN", ZH), ("zh-TW", ZH), ("en-US", EN), ("fr-FR", ZH)]
)
def test_language_is_that_of_the_browser(
    gallery: str, open_page: Open, locale: str, words: Any
) -> None:
    page = open_page(gallery, locale=locale)
    assert page.inner_text("h1") == words.title
    assert page.get_attribute("html", "lang") == words.tag
    # The words of Gradio too.
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
    shot = f"{name}-{locale[:2]}-{scheme}"
    assert fits(page)
    save_screenshot(page, f"{shot}-opened")
    search(page, "生日蛋糕")
    assert fits(page)
    columns = {
        box["x"] for tile in page.locator("#found article").all() if (box := tile.bounding_box())
    }
    assert len(columns) == (2 if size is PHONE else 4)
    save_screenshot(page, f"{shot}-found")
    page.get_by_text((ZH if locale == "zh-CN" else EN).options).click()
    search(page, "strawberry" * 9 + "猫" * 60)  # one long word
    assert fits(page)
    page.get_by_role("tab").nth(1).click()
    wait_for_answer(page, lambda: page.click("button#example"))
    assert fits(page)
    save_screenshot(page, f"{shot}-labels")
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
