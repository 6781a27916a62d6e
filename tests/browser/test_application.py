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
    count_requests,
    fits,
    move,
    save_screenshot,
    scores,
    search,
    skip_without_browser,
    upload,
    wait_for_answer,
    wait_for_new_answer,
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
    save_screenshot(page, "opened")


def test_typed_cat_finds_cats_first(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫")
    assert captions(page)[0] == "猫"
    assert all("猫" in caption for caption in captions(page)[:3])
    shown = scores(page)
    assert shown == sorted(shown, reverse=True)
    shares = re.findall(r"([\d.]+)%", page.inner_text("#found"))
    assert sum(map(float, shares[:12])) == pytest.approx(100, abs=1)
    save_screenshot(page, "cats")


def test_button_and_examples_search_too(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.fill("#query", "生日蛋糕")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "生日蛋糕"
    wait_for_answer(page, lambda: page.click("#examples button:has-text('下雨')"))
    assert captions(page)[0] == "下雨"
    assert page.input_value("#query") == "下雨"


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
    page.click("#options summary")
    page.focus("#weight")
    page.press("#weight", "End")  # the text alone
    assert page.inner_text("output[for=weight]") == "1"
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "汽车" and captions(page)[:12] != both[:12]
    page.press("#weight", "Home")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "猫"
    move(page, "#count", 3)
    wait_for_answer(page, lambda: page.click("button#search"))
    assert captions(page)[0] == "猫" and len(captions(page)) % 3 == 0


def test_tap_enlarges_an_image(gallery: str, open_page: Open) -> None:
    page = open_page(gallery, size=PHONE)
    image = page.locator("#found img").first
    before = image.bounding_box()
    page.locator("#found .open").first.click()
    large = page.locator("#enlarged img")
    large.wait_for()
    after = large.bounding_box()
    assert before is not None and after is not None
    assert before["width"] < 200 < 340 < after["width"]
    save_screenshot(page, "enlarged")
    large.click()
    large.wait_for(state="hidden")
    # By keyboard too: Enter opens, Escape closes, and the focus is where it was.
    page.locator("#found .open").nth(1).focus()
    page.keyboard.press("Enter")
    large.wait_for()
    page.keyboard.press("Escape")
    large.wait_for(state="hidden")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.open')[1]")


def test_further_results_come_by_scrolling(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫")
    first = captions(page)
    for number in (24, 36, 48):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_function(
            f"() => document.querySelectorAll('#found article').length >= {number}"
        )
    assert captions(page)[: len(first)] == first
    shown = scores(page)
    assert shown == sorted(shown, reverse=True)


def test_a_tall_window_is_filled_without_scrolling(gallery: str, open_page: Open) -> None:
    page = open_page(gallery, size={"width": 1280, "height": 3000})
    move(page, "#count", 4)  # one row
    search(page, "猫")
    page.wait_for_function(
        """() => { const { bottom } = document.querySelector('#found').getBoundingClientRect();
                   return bottom > innerHeight; }"""
    )
    shown = captions(page)
    assert len(shown) % 4 == 0 and len(set(shown)) == len(shown)


def test_address_and_way_back(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫")
    cats = captions(page)[:3]
    search(page, "汽车")
    cars = captions(page)[:3]
    link = page.url
    wait_for_answer(page, lambda: page.go_back())
    assert page.input_value("#query") == "猫" and captions(page)[:3] == cats
    wait_for_answer(page, lambda: page.go_forward())
    assert captions(page)[:3] == cars
    other = open_page(link)
    assert captions(other)[:3] == cars and other.input_value("#query") == "汽车"
    # The page in the other language shows the same query.
    other.click("#other")
    other.wait_for_url("**/en/*")
    wait_for_new_answer(other, 0)
    assert captions(other)[:3] == cars and other.input_value("#query") == "汽车"


def test_more_like_a_result_and_its_path(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    search(page, "猫")
    page.locator(".copy").first.click()
    page.locator("#status", has_text=ZH.copied).wait_for()
    assert page.evaluate("navigator.clipboard.readText()").endswith(CAT.name)
    wait_for_answer(page, lambda: page.locator(".like").first.click())
    assert "猫" not in captions(page) and ZH.similar in page.inner_text("#note")
    assert "like=" in page.url


def test_a_path_is_copied_without_https(gallery: str, open_page: Open) -> None:
    """There, browsers have no `navigator.clipboard`."""
    page = open_page(gallery)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    search(page, "猫")
    page.evaluate("window.clipboard = navigator.clipboard")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.locator(".copy").first.click()
    page.locator("#status", has_text=ZH.copied).wait_for()
    assert page.evaluate("window.clipboard.readText()").endswith(CAT.name)
    assert page.evaluate("document.activeElement === document.querySelector('.copy')")


def test_the_file_of_a_result_is_downloaded(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫")
    with page.expect_download() as download:
        page.locator(".download").first.click()
    assert download.value.suggested_filename == CAT.name
    assert download.value.path().read_bytes() == CAT.read_bytes()


def test_images_are_dropped_and_pasted(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    content = list(CAT.read_bytes())
    for kind, target, data in (
        ("drop", "document.querySelector('#image')", "dataTransfer"),
        ("paste", "document", "clipboardData"),
    ):
        page.evaluate(
            f"""bytes => {{
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", {{type: "image/png"}}));
            const event = new {"DragEvent" if kind == "drop" else "ClipboardEvent"}(
              "{kind}", {{{data}: data, bubbles: true, cancelable: true}});
            {target}.dispatchEvent(event);
            }}""",
            content,
        )
        page.locator("#image img[src]").wait_for(state="attached")
        wait_for_answer(page, lambda: page.click("button#search"))
        assert captions(page)[0] == "猫", kind
        page.click("#image .remove")
        assert page.locator("#image img[src]").count() == 0


# Requests without a full answer


def test_a_new_query_while_an_answer_is_read(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    # The time between the headers of an answer and its content, on a slow network.
    page.evaluate(
        """() => {
          const json = Response.prototype.json;
          Response.prototype.json = async function () {
            await new Promise((resolve) => setTimeout(resolve, 300));
            return json.call(this);
          };
        }"""
    )

    def ask(text: str) -> None:
        page.fill("#query", text)
        with page.expect_response("**/v1/search"):
            page.press("#query", "Enter")

    ask("猫")
    search(page, "汽车")
    assert captions(page)[0] == "汽车" and page.locator("#note .warning").count() == 0
    ask("猫")
    wait_for_answer(page, lambda: page.go_back())
    assert captions(page)[0] == "汽车" and page.locator("#note .warning").count() == 0
    ask("猫")
    search(page, " ")
    page.wait_for_timeout(600)
    assert page.inner_text("#note .warning") == ZH.nothing_asked and captions(page) == []
    assert page.locator("[aria-busy]").count() == 0


def test_cut_text_is_shown_with_its_end(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    search(page, "猫" * 49 + "狗狼鱼")  # 52 characters, 54 ids
    assert "54" in page.inner_text("#note .cut") and "52" in page.inner_text("#note .cut")
    assert "猫狗」" in page.inner_text("#note .cut")
    assert "猫" in captions(page)
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
    assert "猫" in captions(page)


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
    page.fill("#query", "")
    wait_for_answer(page, lambda: page.click("button#search"))
    assert scores(page)[0] == pytest.approx(1, abs=2e-3)


# Labels


def test_probabilities_of_own_labels(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.get_by_role("tab", name=ZH.labels_tab).click()
    wait_for_answer(page, lambda: page.click("button#compute"))
    assert page.inner_text("#label-note .warning") == ZH.no_label_image
    upload(page, CAT, "label-image")
    page.fill("#labels", "狗，猫、汽车\n猫, 树")
    wait_for_answer(page, lambda: page.click("button#compute"))
    assert page.locator("#bars .name").first.inner_text() == "猫"
    assert sorted(page.locator("#bars .name").all_inner_texts()) == sorted("狗 猫 汽车 树".split())
    shares = [float(text[:-1]) for text in page.locator("#bars b").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.3) and shares == sorted(shares, reverse=True)
    assert ZH.dropped in page.inner_text("#label-note")
    wait_for_answer(page, lambda: page.click("button#example"))
    assert page.locator("#bars .name").first.inner_text() == demo.EXAMPLE_TEXTS[0]
    assert page.input_value("#labels").split() == list(demo.EXAMPLE_TEXTS)
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
    assert words.upload_how in page.inner_text("#image")
    assert page.get_attribute("#query", "placeholder") == words.query_example
    other = EN if words is ZH else ZH
    page.click("header a")
    page.wait_for_url(f"**/{'en' if other is EN else 'zh'}/")
    wait_for_new_answer(page, 0)
    assert page.inner_text("h1") == other.title


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
    columns = page.evaluate(
        "[...document.querySelectorAll('#found article')].map(one => one.getBoundingClientRect().x)"
    )
    assert len(set(columns)) == (2 if size is PHONE else 4)
    save_screenshot(page, f"{shot}-found")
    page.click("#options summary")
    search(page, "strawberry" * 9 + "猫" * 60)  # one long word
    assert fits(page)
    page.get_by_role("tab").nth(1).click()
    wait_for_answer(page, lambda: page.click("button#example"))
    assert fits(page)
    save_screenshot(page, f"{shot}-labels")
    color = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", color))) < 200) == (scheme == "dark")


def test_two_windows_at_once(gallery: str, open_page: Open) -> None:
    pages = [open_page(gallery), open_page(gallery, locale="en-US")]
    texts = ["猫", "生日蛋糕"]
    for _ in range(3):
        before = [count_requests(page) for page in pages]
        for page, text in zip(pages, texts, strict=True):
            page.fill("#query", text)
            page.press("#query", "Enter")
        for page, text, number in zip(pages, texts, before, strict=True):
            wait_for_new_answer(page, number)
            assert captions(page)[0] == text
        pages.reverse()


# People who do not use a mouse, or do not see


def test_keyboard_alone(gallery: str, open_page: Open) -> None:
    page = open_page(gallery)
    page.focus("#search-tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("#labels-panel").is_visible()
    assert page.get_attribute("#labels-tab", "aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    page.focus("#query")
    page.keyboard.type("猫")
    wait_for_answer(page, lambda: page.keyboard.press("Enter"))
    assert page.get_attribute("#note", "aria-live") == "polite" and page.inner_text("#note")
    reached = page.locator("#found article.reaches .mark")
    assert reached.count() and reached.first.get_attribute("aria-label") == ZH.reaches


AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: see `make test-ui`")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_axe_finds_no_violation(
    gallery: str, open_page: Open, scheme: str, size: dict[str, int]
) -> None:
    page = open_page(gallery, "zh-CN", size, scheme)

    def check(state: str) -> None:
        page.wait_for_timeout(300)
        # Evaluated by the debugger, which the page's policy does not bind.
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run().then(result => result.violations)")
        assert not found, (state, [(one["id"], one["nodes"][0]["html"]) for one in found])

    check("opened")
    search(page, "猫" * 53)
    check("found")
    page.locator("#found .open").first.click()
    page.locator("#enlarged img").wait_for()
    check("enlarged")
    page.keyboard.press("Escape")
    page.click("#options summary")
    page.get_by_role("tab").nth(1).click()
    wait_for_answer(page, lambda: page.click("button#example"))
    check("labels")
