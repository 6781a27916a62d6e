"""Results of a search in notebooks and pages."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.html import HOSTILE, ParsedHtml, selectors

from cnclip import bulk, pipeline
from cnclip.assets import asset_path
from cnclip.search import Answer, Hit
from cnclip.search.page import MAX_IN_NOTEBOOK, write_page

GALLERY = asset_path("gallery")
CAT = str(GALLERY / "1f431.png")


def shown(*hits: Hit, suggested: float | None = None) -> ParsedHtml:
    return ParsedHtml(Answer(list(hits), suggested)._repr_html_())


def hit(path: str, score: float = 0.5, text: str | None = None) -> Hit:
    return Hit(path, score, path, text, 0.25)


def test_answer_shows_its_images() -> None:
    seen = shown(hit(CAT, 0.71), hit(CAT, 0.42), suggested=0.6)
    sources = [str(one["src"]) for one in seen.all("img")]
    assert len(sources) == 2
    for source in sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.size == (96, 96)
    assert [one["href"] for one in seen.all("a")] == [Path(CAT).as_uri()] * 2
    assert [one.get("class") for one in seen.all("article")] == [None, "faint"]
    text = "|".join(seen.text)
    assert "1f431.png" in text and "cosine 0.710 · 25.0%" in text and "0.600" in text


def test_find_answers_with_images(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
    from cnclip.search import Index

    p = pipeline(model="emoji-cn", device="cpu")
    photos = [CAT, str(GALLERY / "1f697.png"), str(GALLERY / "1f34e.png")]
    rows = p.forward({"img": photos})["img_embedding"]
    index = Index.create(rows.shape[1], model=bulk.model_identity(p))
    index.add(rows, photos)
    answer = index.find(p, text="猫", k=2)
    seen = ParsedHtml(answer._repr_html_())
    assert len(seen.all("img")) == 2 and seen.all("img")[0]["alt"] == CAT
    assert repr(answer).startswith(f"Answer(2 hits, best {answer.hits[0].score:.3f} {CAT!r}")


def test_names_and_texts_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE.replace("/", "_")
    folder.mkdir()
    path = folder / HOSTILE.replace("/", "_")
    shutil.copy(CAT, path)
    seen = shown(hit(str(path)), hit("titles.jsonl", text=HOSTILE), hit(f"https://{HOSTILE}"))
    assert not seen.all("script") and HOSTILE in seen.text
    assert [one.get("onerror") for one in seen.all("img")] == [None]  # the image itself
    assert seen.all("img")[0]["alt"] == str(path)
    names = {"a", "article", "b", "img", "p", "section", "small", "span", "style"}
    assert {tag for tag, _ in seen.tags} <= names


@pytest.mark.parametrize(
    "path",
    ["https://127.0.0.1:9/a.png", "HTTP://127.0.0.1:9/a.png", "{damaged}", "{missing}", "a.tar:7"],
)
def test_images_that_cannot_be_read_have_a_tile(tmp_path: Path, path: str) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(Path(CAT).read_bytes()[:900])
    path = path.format(damaged=damaged, missing=tmp_path / "missing.png")
    seen = shown(hit(path), hit(CAT))
    assert seen.text.count("?") == 1 and len(seen.all("img")) == 1
    assert len(seen.all("article")) == 2


def test_texts_are_shown_as_texts() -> None:
    seen = shown(hit("titles.jsonl", text="戴眼镜的猫"), hit(CAT, text=""))
    assert "戴眼镜的猫" in seen.text and not seen.all("img") and not seen.all("a")


def test_empty_answer() -> None:
    for suggested in (None, 0.5):
        seen = shown(suggested=suggested)
        assert "".join(seen.text).strip() == "no results"
    assert repr(Answer([], 0.5)) == "Answer(no results)"


@pytest.mark.parametrize(("locale", "language"), [("zh_CN.UTF-8", "zh"), ("C.UTF-8", "en")])
def test_language_of_pages_is_that_of_the_locale(
    locale: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    shown_text = "".join(shown(hit(CAT), suggested=0.6).text)
    assert ("建议阈值 0.600" in shown_text) == (language == "zh")
    assert ("suggested threshold 0.600" in shown_text) == (language == "en")
    write_page(tmp_path / "found.html", "猫", [], "photos.index")
    page = (tmp_path / "found.html").read_text("utf-8")
    assert f'<html lang="{language}">' in page
    assert ("没有结果" if language == "zh" else "no results") in page


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff cat.png")
    shutil.copy(CAT, path)
    url = path.as_uri()
    assert url.endswith("/%FF%20cat.png")
    for one in (str(path), url):
        html = Answer([hit(one)], None)._repr_html_()
        html.encode()
        seen = ParsedHtml(html)
        assert seen.all("a")[0]["href"] == url and len(seen.all("img")) == 1
        assert repr(Answer([hit(one)], None)).encode()


def test_a_notebook_shows_so_many_at_most() -> None:
    seen = shown(*[hit("titles.jsonl", text=str(number)) for number in range(MAX_IN_NOTEBOOK + 7)])
    assert len(seen.all("article")) == MAX_IN_NOTEBOOK and "results not shown: 7" in "".join(
        seen.text
    )
    many = Answer([hit("/" + "x" * 5000)] * 1000, None)
    assert len(repr(many)) < 300 and "1000 hits" in repr(many)


def test_style_applies_to_the_results_only() -> None:
    html = Answer([hit(CAT)], 0.5)._repr_html_()
    found = selectors(html)
    assert len(found) > 4 and all(re.match(r"\.cnclip-found\b", one) for one in found)
    assert 'class="cnclip-found"' in html


def test_page_and_notebook_show_the_same(tmp_path: Path) -> None:
    hits = [hit(CAT, 0.7), hit("https://127.0.0.1:9/a.png", 0.2)]
    write_page(tmp_path / "found.html", "猫", hits, "photos.index · 2 images", 0.5)
    page = (tmp_path / "found.html").read_text("utf-8")
    section = re.search(r"<section.*</section>", page, re.DOTALL)
    assert section and section.group() in Answer(hits, 0.5)._repr_html_()
    assert "<!doctype html>" in page and ".cnclip-found img" in page and "{style}" not in page
