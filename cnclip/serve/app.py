"""The page in Gradio: its components and their events."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from PIL import Image

from .._locale import LANGUAGES, Language, Words
from ..errors import CnclipError
from . import answers, tiles
from .answers import MAX_RESULTS, MAX_WORDS, Refused
from .collections import Searchable
from .guard import Application, Guard
from .look import CSS, theme
from .words import WORDS

logger = logging.getLogger("cnclip")

_RESULTS = 12
_MAX_UPLOAD = "64mb"
# For all events of a page: four at a time, in each language.
_OPTIONS: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "minimal",
    "concurrency_id": "model",
    "concurrency_limit": 4,
}
# Seconds until an upload is deleted.
_KEEP_UPLOADS = 3600


def build_app(searchables: Sequence[Searchable], *, local: bool) -> Application:
    """Build the ASGI application.

    Args:
        searchables: The collections; the page opens with the first.
        local: Whether the server listens on this machine only: see `Guard`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Without this Gradio allows pages of some other origins to read this one.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    for language in LANGUAGES:
        page = build_page(searchables, language)
        _accept_only_uploads(page)
        gr.mount_gradio_app(
            app,
            page,
            f"/{language}",
            theme=theme(),
            css=CSS,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            show_error=False,
            max_file_size=_MAX_UPLOAD,
        )
    return Guard(app, local=local)


def build_page(searchables: Sequence[Searchable], language: Language) -> Any:
    """The page in one language, as Gradio's Blocks."""
    words = WORDS[language]
    by_name = {searchable.name: searchable for searchable in searchables}
    first = searchables[0]
    other = next(one for one in LANGUAGES if one != language)
    with gr.Blocks(
        title=f"cnclip · {words.title}",
        analytics_enabled=False,
        delete_cache=(_KEEP_UPLOADS, _KEEP_UPLOADS),
    ) as page:
        gr.HTML(tiles.header(words, f"../{other}/"))
        collection = gr.Dropdown(
            list(by_name),
            value=first.name,
            label=words.collection,
            visible=len(by_name) > 1,
            filterable=False,
            elem_id="collection",
        )
        with gr.Tab(words.search_tab):
            _search_tab(page, collection, by_name, words)
        with gr.Tab(words.labels_tab):
            _labels_tab(collection, by_name, words)
        gr.HTML(tiles.footer(words))
    page.queue()
    return page


def _search_tab(page: Any, collection: Any, by_name: dict[str, Searchable], words: Words) -> None:
    example = next(iter(by_name.values())).example
    with gr.Row(elem_id="ask"):
        query = gr.Textbox(
            label=words.query,
            show_label=False,
            container=False,
            placeholder=words.query_example,
            lines=1,
            max_lines=4,
            scale=8,
            min_width=120,
            elem_id="query",
        )
        button = gr.Button(words.search, variant="primary", scale=1, min_width=72, elem_id="search")
    gr.HTML(tiles.hint(words.query_hint.format(limit=MAX_WORDS)), elem_id="hint")
    chips = []
    if example.queries:
        with gr.Row(elem_id="examples"):
            chips = [gr.Button(text, size="sm") for text in example.queries]
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = _upload(words.image, "image")
            with gr.Accordion(words.options, open=False):
                weight = gr.Slider(0, 1, 0.5, step=0.05, label=words.weight, info=words.weight_hint)
                count = gr.Slider(1, MAX_RESULTS, _RESULTS, step=1, label=words.count)
        with gr.Column(scale=3, min_width=300, elem_id="results"):
            note = gr.HTML(elem_id="note")
            found = gr.HTML(elem_id="found")

    def search(
        name: str, text: str, file: Path | None, share: float, most: float
    ) -> tuple[str, str]:
        def answer() -> tuple[str, str]:
            results = answers.search(
                by_name[name], words, text or "", file, weight=share, count=int(most)
            )
            return tiles.notes(results), tiles.grid(results, words)

        return _answer_or_warning(answer, words)

    def try_example(text: str, name: str, share: float, most: float) -> tuple[str, None, str, str]:
        return text, None, *search(name, text, None, share, most)

    def glimpse(name: str) -> tuple[str, str]:
        def answer() -> tuple[str, str]:
            results = answers.glimpse(by_name[name], words, _RESULTS)
            return tiles.notes(results), tiles.grid(results, words)

        return _answer_or_warning(answer, words)

    asked = [collection, query, image, weight, count]
    shown = [note, found]
    for happens in (button.click, query.submit):
        happens(search, asked, shown, **_OPTIONS).then(None, js=_show("results"))
    for chip in chips:
        chip.click(
            try_example,
            [chip, collection, weight, count],
            [query, image, *shown],
            **_OPTIONS,
        ).then(None, js=_show("results"))
    collection.change(glimpse, [collection], shown, **_OPTIONS)
    page.load(glimpse, [collection], shown, **_OPTIONS)


def _labels_tab(collection: Any, by_name: dict[str, Searchable], words: Words) -> None:
    example = next(iter(by_name.values())).example
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image = _upload(words.label_image, "label-image")
            labels = gr.Textbox(
                label=words.labels,
                placeholder=words.labels_hint,
                lines=4,
                max_lines=12,
                elem_id="labels",
            )
            with gr.Row():
                button = gr.Button(words.compute, variant="primary", elem_id="compute")
                if example.image is not None:
                    show = gr.Button(words.example, elem_id="example")
        with gr.Column(scale=1, min_width=280, elem_id="shares"):
            note = gr.HTML(elem_id="label-note")
            shares = gr.HTML(elem_id="bars")

    def compute(name: str, file: Path | None, typed: str) -> tuple[str, str]:
        def answer() -> tuple[str, str]:
            found = answers.label(by_name[name], words, file, typed or "")
            return tiles.notes(found), tiles.bars(found)

        return _answer_or_warning(answer, words)

    def try_example(name: str) -> tuple[Image.Image, str, str, str]:
        assert example.image is not None
        typed = "\n".join(example.labels)
        return by_name[name].open(example.image), typed, *compute(name, example.image, typed)

    button.click(compute, [collection, image, labels], [note, shares], **_OPTIONS).then(
        None, js=_show("shares")
    )
    if example.image is not None:
        show.click(try_example, [collection], [image, labels, note, shares], **_OPTIONS)


def _upload(label: str, name: str) -> Any:
    """A component to upload an image, which passes the file on without opening it."""
    image = gr.Image(
        type="filepath",
        label=label,
        sources=["upload", "clipboard"],
        buttons=[],
        height=220,
        elem_id=name,
    )
    # Gradio's own method opens the file, and reports failures in English only. A subclass would
    # make Gradio write a stub file into the package.
    image.preprocess = _uploaded
    return image


def _uploaded(payload: Any) -> Path | None:
    if payload is None or not payload.path:
        return None
    _check_upload(payload.path)
    return Path(payload.path)


def _accept_only_uploads(page: Any) -> None:
    """Refuse requests that name another file, or a URL to fetch, instead of an upload.

    Gradio checks that a file is an upload only in pages that it serves itself. Otherwise it copies
    the file into a public folder, and fetches URLs.
    """
    page.has_launched = True
    for part in page.blocks.values():
        part.async_move_resource_to_block_cache = _checked(part.async_move_resource_to_block_cache)


def _checked(move: Callable[[Any], Awaitable[str | None]]) -> Callable[[Any], Awaitable[Any]]:
    async def checked(path: Any) -> str | None:
        if path is not None:
            _check_upload(path)
        return await move(path)

    return checked


def _check_upload(path: str | Path) -> None:
    uploads = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    if not Path(path).resolve().is_relative_to(uploads):
        raise gr.Error("This is not an upload.", print_exception=False)


def _show(part: str) -> str:
    """A script that scrolls a part of the page into view on a phone."""
    return f"() => {{ if (innerWidth < 768) document.getElementById('{part}').scrollIntoView() }}"


def _answer_or_warning(answer: Callable[[], tuple[str, str]], words: Words) -> tuple[str, str]:
    """The note and content of an answer, or a warning why there is none."""
    try:
        return answer()
    except Refused as refused:
        return tiles.warning(str(refused)), ""
    except (CnclipError, OSError) as error:
        logger.warning("%s", error)
        return tiles.warning(words.failed.format(error=error)), ""
