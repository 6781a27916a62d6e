"""`cnclip.serve` and its command, as far as they go without Gradio and a browser."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import socket
import string
import threading
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import (
    IndexFileError,
    IndexNotFoundError,
    InvalidInputError,
    ModelMismatchError,
    ModelNotFoundError,
    demo,
    pipeline,
)
from cnclip.assets import asset_path
from cnclip.bulk import model_identity
from cnclip.cli import main
from cnclip.cli._arguments import open_model_of
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Collection, Index
from cnclip.serve import Searchable, answers, open_folder, open_gallery, open_indexes, tiles
from cnclip.serve.answers import Refused, count_words, find_cut, split_labels
from cnclip.serve.guard import POLICY, Guard, is_local, rewrite
from cnclip.serve.server import is_loopback, listen, url_of
from cnclip.serve.words import EN, WORDS, ZH, choose_language

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `ui`")
pytest.importorskip("pyarrow", reason="pyarrow is not installed, cnclip's extra `ui`")

GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"


@pytest.fixture(scope="module")
def gallery() -> Searchable:
    return open_gallery(pipeline(model="emoji-cn", device="cpu"))


@pytest.fixture(scope="module")
def embedder() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


def open_model(collection: Collection) -> MultiModalEmbeddingPipeline:
    arguments = Namespace(model=None, precision=None, device="cpu", threads=None)
    return open_model_of(collection, arguments)


def make_index(
    path: Path, embedder: MultiModalEmbeddingPipeline, files: list[Path], **model: Any
) -> Path:
    rows = embedder.forward({"img": [str(file) for file in files]})["img_embedding"]
    index = Index.create(rows.shape[1], model={**model_identity(embedder), **model})
    index.add(rows, [str(file) for file in files])
    index.save(path)
    return path


# Words


def test_languages_say_the_same() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for field in dataclasses.fields(ZH):
        said = [getattr(words, field.name) for words in WORDS.values()]
        assert all(said), field.name
        assert len({frozenset(fields(text)) for text in said}) == 1, field.name
        assert field.name == "tag" or len(set(said)) == len(said), field.name


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9", "en"),
        ("en;q=0.7, zh-TW;q=0.9", "zh"),
        ("fr, en-GB;q=0.5", "en"),
        ("fr", "zh"),
        ("EN", "en"),
        ("en;q=nonsense, zh;q=0.1", "zh"),
        (",;=,en-;q=", "en"),
        ("*", "zh"),
    ],
)
def test_language_is_the_one_asked_for(header: str, language: str) -> None:
    assert choose_language(header) == language


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("猫", 1),
        ("戴眼镜的猫。", 5),
        ("a cat, 戴眼镜", 5),
        ("iPhone15手机", 3),
        ("ネコ", 2),
        ("𠮷野家", 3),
        ("，。！ \n", 0),
        ("don't", 2),
    ],
)
def test_words_are_characters_and_runs_of_others(text: str, count: int) -> None:
    assert count_words(text) == count


# Search


def test_text_finds_what_the_collection_finds(gallery: Searchable) -> None:
    results = answers.search(gallery, ZH, " 猫 ", count=5)
    hits = gallery.collection.find(gallery.pipeline, "猫", k=5).hits
    assert [tile.score for tile in results.tiles] == [hit.score for hit in hits]
    assert [tile.share for tile in results.tiles] == [hit.probability for hit in hits]
    assert results.tiles[0].caption == "猫"
    assert all("猫" in tile.caption for tile in results.tiles[:3])
    assert all(tile.image is not None and tile.image.mode == "RGB" for tile in results.tiles)
    threshold = gallery.collection.thresholds["text"]
    above = sum(hit.score >= threshold for hit in hits)
    assert results.notes == [ZH.reach.format(count=5, above=above, threshold=threshold)]
    assert sum(tile.reaches for tile in results.tiles) == above
    assert results.cuts == []


def test_image_finds_itself_first(gallery: Searchable) -> None:
    results = answers.search(gallery, EN, "", CAT, count=4)
    assert results.tiles[0].caption == "猫"
    assert results.tiles[0].score == pytest.approx(1, abs=1e-5)
    assert len(results.tiles) == 4


def test_weight_goes_from_the_image_to_the_text(gallery: Searchable) -> None:
    def first(weight: float) -> str:
        return answers.search(gallery, ZH, "汽车", CAT, weight=weight).tiles[0].caption

    assert first(0) == first(-3) == "猫"
    assert first(1) == first(9) == "汽车"
    assert answers.search(gallery, ZH, "汽车", CAT).notes == []  # no threshold of both


@pytest.mark.parametrize(("count", "tiles"), [(0, 1), (-1, 1), (7.0, 7), (10**9, 60)])
def test_count_stays_in_its_range(gallery: Searchable, count: int, tiles: int) -> None:
    assert len(answers.search(gallery, ZH, "猫", count=count).tiles) == tiles


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_what_cannot_be_answered_is_refused_in_the_pages_language(
    gallery: Searchable, tmp_path: Path, words: Any
) -> None:
    broken = tmp_path / "broken.png"
    whole = CAT.read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        for refused in (
            lambda: answers.search(gallery, words, "猫", broken),
            lambda: answers.label(gallery, words, broken, "猫,狗"),
        ):
            with pytest.raises(Refused) as error:
                refused()
            assert str(error.value) == words.bad_image
    for text, message in (
        (" \n", words.nothing_asked),
        ("猫" * 76, words.too_many_words.format(words=76, limit=75)),
        ("x" * 1001, words.too_many_characters.format(characters="1,001", limit="1,000")),
    ):
        with pytest.raises(Refused) as error:
            answers.search(gallery, words, text)
        assert str(error.value) == message


def test_halves_of_characters_do_no_harm(gallery: Searchable) -> None:
    results = answers.search(gallery, ZH, "猫\ud83d")
    tiles.grid(results, ZH).encode()
    answers.label(gallery, ZH, CAT, "猫\udc00、狗")


def test_cut_is_where_the_models_tokens_end(embedder: MultiModalEmbeddingPipeline) -> None:
    preprocessor = embedder.preprocessor
    assert find_cut(preprocessor, "猫" * 50) is None
    cut = find_cut(preprocessor, "猫" * 49 + "狗鱼")
    assert cut is not None
    assert (cut.ids, cut.limit, cut.kept) == (53, 52, "猫" * 49 + "狗")
    assert cut.end == "…" + "猫" * 11 + "狗"
    # What was kept has the ids that the model sees; a word is not cut in two.
    text = "戴眼镜的猫, playing with a ball of yarn " * 4
    cut = find_cut(preprocessor, text)
    assert cut is not None and text.startswith(cut.kept) and not cut.kept[-1].isspace()
    seen = preprocessor.tokenize(text)[0]
    kept, length = preprocessor.tokenize(cut.kept, return_lengths=True)
    assert kept[0, : length[0] - 1].tolist() == seen[: length[0] - 1].tolist()
    assert text[len(cut.kept)] in " ," or not text[len(cut.kept)].isascii()
    endless = find_cut(preprocessor, "猫 " + "abcdefghij" * 9 + "".join("0123456789!" * 8))
    assert endless is not None and endless.kept.startswith("猫")


def test_search_says_that_the_text_was_cut(gallery: Searchable) -> None:
    results = answers.search(gallery, ZH, "猫" * 60)
    assert results.cuts == [ZH.cut.format(ids=62, limit=52, kept="…" + "猫" * 12)]
    assert len(results.tiles) == 12


def test_threads_may_search_at_once(gallery: Searchable) -> None:
    texts = list(demo.QUERIES) * 3
    alone = [answers.search(gallery, ZH, text, count=3) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda text: answers.search(gallery, ZH, text, count=3), texts))
    for one, other in zip(alone, together, strict=True):
        assert [tile.caption for tile in one.tiles] == [tile.caption for tile in other.tiles]


# Labels


def test_labels_are_split_at_what_people_type_between_them() -> None:
    assert split_labels(" 猫, 狗，鱼、马\n\n鸟;虫；\r\n a b ,") == "猫 狗 鱼 马 鸟 虫".split() + [
        "a b"
    ]
    assert split_labels(" ,、\n") == []


def test_probabilities_are_the_model_cards(gallery: Searchable) -> None:
    labels = list(demo.EXAMPLE_TEXTS)
    image = GALLERY / "1f34e.png"
    found = answers.label(gallery, ZH, image, "、".join(labels))
    embedder = gallery.pipeline
    answer = embedder.forward({"img": str(image), "text": labels})
    logits = answer["img_embedding"] @ answer["text_embedding"].T / embedder.model.temperature
    expected = np.exp(logits - logits.max())[0]
    expected /= expected.sum()
    assert list(found.shares) == [labels[index] for index in np.argsort(-expected)]
    for name, share in found.shares.items():
        assert share == pytest.approx(expected[labels.index(name)], abs=1e-5)
    assert next(iter(found.shares)) == "红苹果"
    assert found.notes == found.cuts == []


def test_labels_that_cannot_be_taken(gallery: Searchable) -> None:
    for image, labels, message in (
        (None, "猫,狗", ZH.no_label_image),
        (CAT, "", ZH.too_few_labels),
        (CAT, "猫, 猫、", ZH.too_few_labels),
        (CAT, ",".join(map(str, range(101))), ZH.too_many_labels.format(labels=101, limit=100)),
        (CAT, "猫," + "狗" * 80, ZH.too_many_words.format(words=80, limit=75)),
    ):
        with pytest.raises(Refused) as error:
            answers.label(gallery, ZH, image, labels)
        assert str(error.value) == message
    found = answers.label(gallery, ZH, CAT, "猫,狗,猫," + "鱼" * 60)
    assert found.notes == [ZH.dropped]
    (cut,) = found.cuts
    assert cut == ZH.cut_label.format(label="鱼" * 12 + "…", limit=52, kept="…" + "鱼" * 12)
    assert len(answers.label(gallery, ZH, CAT, ",".join(map(str, range(100)))).shares) == 100


# What can be searched


def test_gallery_has_its_labels_and_thresholds(gallery: Searchable) -> None:
    assert len(gallery.collection) == 362
    assert set(gallery.collection.thresholds) == {"text", "image"}
    assert gallery.example.queries == demo.QUERIES
    hits = gallery.glimpse(12)
    assert len({hit.id for hit in hits}) == 12
    assert [hit.id for hit in gallery.glimpse(12)] == [hit.id for hit in hits]
    results = answers.glimpse(gallery, EN)
    assert results.notes == [f"{EN.glimpse} · 362 images"]
    assert all(tile.score is None and tile.share is None for tile in results.tiles)
    assert {tile.caption for tile in results.tiles} <= {p.label for p in demo.load_gallery()}


def test_folder_is_embedded_and_names_what_it_leaves_out(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    with pytest.raises(InvalidInputError, match="has no images"):
        open_folder(tmp_path, embedder)
    (tmp_path / "bad.png").touch()
    with pytest.raises(InvalidInputError, match="none of its images can be read"):
        open_folder(tmp_path, embedder)
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "猫.png").write_bytes(CAT.read_bytes())
    searchable, unreadable = open_folder(tmp_path, embedder)
    assert searchable.name == tmp_path.name
    assert [item.image.label for item in unreadable] == ["bad"]
    # An upload is opened as the folder's images were: transparent ones stand on white.
    for name in ("clear", "猫"):
        tile = answers.search(searchable, ZH, "", tmp_path / f"{name}.png").tiles[0]
        assert tile.caption == name
        assert tile.score == pytest.approx(1, abs=1e-5)


def test_name_that_is_not_utf_8_is_searched(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    try:
        (tmp_path / "\udcff.png").write_bytes(CAT.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    searchable, _ = open_folder(tmp_path, embedder)
    (tile,) = answers.search(searchable, ZH, "猫").tiles
    assert tile.image is not None
    tiles.grid(answers.search(searchable, ZH, "猫"), ZH).encode()


def test_indexes_of_one_model_share_it(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    files = sorted(GALLERY.glob("1f4*.png"))[:6]
    paths = [make_index(tmp_path / f"{name}.index", embedder, files) for name in "ab"]
    first, second = open_indexes([str(path) for path in paths], open_model)
    assert [first.name, second.name] == ["a", "b"]
    assert first.pipeline is second.pipeline
    assert "text" in first.collection.thresholds
    assert answers.search(first, ZH, "", files[2]).tiles[0].caption == files[2].name


def test_indexes_that_cannot_be_served_are_named(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline, vit: MultiModalEmbeddingPipeline
) -> None:
    good = make_index(tmp_path / "good.index", embedder, [CAT])
    gone = make_index(tmp_path / "gone.index", embedder, [CAT], name="no/such-model.pt")
    other = make_index(tmp_path / "other.index", embedder, [CAT], digest="0" * 64)
    nameless = make_index(tmp_path / "nameless.index", embedder, [CAT], name="")
    damaged = tmp_path / "damaged.index"
    damaged.write_bytes(good.read_bytes()[:-20])
    for path, error, said in (
        (tmp_path / "nowhere.index", IndexNotFoundError, "nowhere.index"),
        (damaged, IndexFileError, "damaged.index"),
        (
            gone,
            ModelNotFoundError,
            "gone.index: was made with the model .*which was not found",
        ),
        (other, ModelMismatchError, "other.index"),
        (nameless, InvalidInputError, "nameless.index: does not record a model; pass --model"),
    ):
        with pytest.raises(error, match=said):
            open_indexes([str(good), str(path)], open_model)
    with pytest.raises(ModelMismatchError, match=r"good.index.*tiny-vit"):
        open_indexes([str(good)], lambda collection: vit)
    with pytest.raises(InvalidInputError, match="good.index: is given twice"):
        open_indexes([str(good), str(good)], open_model)
    (tmp_path / "sub").mkdir()
    same = make_index(tmp_path / "sub" / "good.index", embedder, [CAT])
    both = open_indexes([str(good), str(same)], open_model)
    assert [one.name for one in both] == [str(good), str(same)]


def test_hits_without_a_image_have_a_tile(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    rows = np.repeat(embedder.forward({"img": str(CAT)})["img_embedding"], 4, axis=0)
    index = Index.create(rows.shape[1], model=model_identity(embedder))
    paths = [str(tmp_path / "some.zip"), str(tmp_path / "gone.png"), "https://127.0.0.1:9/a.png"]
    ids = [f"{paths[0]}/inner/cat.png", "gone", "net", "slash"]
    index.add(rows, ids, [*paths, "/"])
    searchable = Searchable("some", index, embedder)
    results = answers.search(searchable, EN, "猫")
    assert [tile.caption for tile in results.tiles] == ["cat.png", "gone.png", "a.png", "/"]
    assert all(tile.image is None for tile in results.tiles)
    assert tiles.grid(results, EN).count(EN.no_image) == 4


def test_texts_are_shown_as_texts(embedder: MultiModalEmbeddingPipeline) -> None:
    texts = ["一只猫", "<b>汽车</b>", "树"]
    rows = demo.embed_texts(embedder, texts)
    index = Index.create(rows.shape[1], model=model_identity(embedder), contents="texts")
    index.add(rows, list("abc"), ["texts.tsv"] * 3, texts)
    searchable = Searchable("texts", index, embedder)
    results = answers.search(searchable, ZH, texts[1])
    assert results.tiles[0].caption == texts[1] and results.tiles[0].is_text
    shown = tiles.grid(results, ZH)
    assert "<q>&lt;b&gt;汽车&lt;/b&gt;</q>" in shown and "<img" not in shown
    assert answers.glimpse(searchable, ZH).notes == [f"{ZH.glimpse} · {ZH.texts.format(count=3)}"]


# Tiles


def test_everything_in_the_page_is_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    image = Image.new("RGB", (4, 4))
    some = [answers.Tile(evil, evil, image, False, 0.5, 0.5, True)]
    some += [answers.Tile(evil, evil, None, False), answers.Tile(evil, evil, None, True)]
    results = answers.Results(some, [evil], [evil])
    shares = answers.Probabilities({evil: 1.0}, [evil], [evil])
    for shown in (
        tiles.grid(results, ZH),
        tiles.notes(results),
        tiles.notes(shares),
        tiles.bars(shares),
        tiles.warning(evil),
    ):
        assert "<script" not in shown and '"">' not in shown


# The guard


def ask(guard: Guard, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """One request's status, headers and body."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **headers}
    pairs = [(key.replace("_", "-").encode(), value.encode()) for key, value in given.items()]
    asyncio.run(guard({"type": "http", "path": path, "headers": pairs}, receive, send))
    start, *rest = sent
    body = b"".join(message.get("body", b"") for message in rest)
    found = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], found, body.decode()


PAGE = """<!doctype html><html
    lang="en" style=""><head><meta charset="utf-8" />
    <meta property="og:url" content="https://gradio.app/" />
    <meta
      name="twitter:image" content="https://elsewhere.example/a.jpg"
    />
    <link rel="preconnect" href="https://fonts.elsewhere.example" crossorigin>
    <script src="https://cdn.elsewhere.example/a.js" async></script>
    <link rel="manifest" href="/manifest.json" />
    <script src="./assets/a.js"></script></head><body>猫</body></html>"""


async def page(scope: Any, receive: Any, send: Any) -> None:
    names = [key for key, _ in scope["headers"]]
    kind = b"text/html; charset=utf-8" if scope["path"].endswith("/") else b"text/plain"
    headers = [(b"content-type", kind), (b"content-length", str(len(PAGE.encode())).encode())]
    assert b"accept-encoding" not in names or not scope["path"].endswith("/")
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    content = PAGE.encode()
    await send({"type": "http.response.body", "body": content[:100], "more_body": True})
    await send({"type": "http.response.body", "body": content[100:]})


def test_root_leads_to_the_browsers_language() -> None:
    guard = Guard(page, local=True)
    for accepted, path in (("en", "/en/"), ("zh", "/zh/"), ("fr", "/zh/")):
        status, headers, _ = ask(guard, "/", accept_language=accepted)
        assert (status, headers["location"]) == (307, path)
    assert ask(guard, "/")[1]["location"] == "/zh/"
    assert ask(guard, "/en")[1]["location"] == "/en/"


def test_page_loads_nothing_from_elsewhere() -> None:
    status, headers, body = ask(Guard(page, local=True), "/zh/", accept_encoding="br")
    assert status == 200
    assert headers["content-security-policy"] == POLICY
    assert int(headers["content-length"]) == len(body.encode())
    assert "elsewhere.example" not in body and "gradio.app" not in body and "manifest" not in body
    assert '<script src="./assets/a.js">' in body and "猫" in body
    assert 'lang="zh-CN"' in body and '["language", "zh-CN"]' in body
    assert 'lang="en"' in rewrite(PAGE, "en")


def test_policy_names_no_other_host() -> None:
    assert "http" not in POLICY and "*" not in POLICY
    assert POLICY.startswith("default-src 'self' data: blob:;")


def test_other_answers_go_through_with_the_policy() -> None:
    status, headers, body = ask(Guard(page, local=True), "/zh/config", accept_encoding="br")
    assert (status, body) == (200, PAGE)
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"


def test_other_host_names_are_refused_where_only_this_machine_listens() -> None:
    assert ask(Guard(page, local=True), "/zh/", host="elsewhere.example:7860")[0] == 403
    assert ask(Guard(page, local=True), "/zh/", host="")[0] == 403
    assert ask(Guard(page, local=False), "/zh/", host="elsewhere.example")[0] == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("a.localhost", True),
        ("[::1]:7860", True),
        ("[::1]", True),
        ("192.168.0.2:7860", False),
        ("localhost.elsewhere.example", False),
        ("127.0.0.1.elsewhere.example", False),
        ("", False),
    ],
)
def test_local_host_names(host: str, local: bool) -> None:
    assert is_local(host) == local


# The server and its command


def test_free_port_is_taken_and_a_taken_one_named() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        assert is_loopback(listener)
        with pytest.raises(InvalidInputError, match=f"127.0.0.1, port {port}: "):
            listen("127.0.0.1", port)
    with listen("0.0.0.0", 0) as listener:
        assert url_of(listener).startswith("http://127.0.0.1:")
        assert not is_loopback(listener)
    for host in ("no-such-host.invalid", "203.0.113.1", "x" * 70, "a..b"):
        with pytest.raises(InvalidInputError, match="cannot listen at"):
            listen(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ipv6_has_its_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except InvalidInputError:
        pytest.skip("there is no IPv6")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def test_serve_asks_for_ui(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 2
    assert last_line(capsys) == "cnclip serve: expected --ui"


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_missing_gradio_is_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name)
    )
    assert main([command, "--ui"]) == 2
    assert last_line(capsys) == (
        f"cnclip {command}: gradio is not installed: pip install 'cnclip[ui]'"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "many", "٣"])
def test_ports_that_cannot_be(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--ui", f"--port={port}"])
    assert stopped.value.code == 2
    assert "--port" in last_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--ui", "nowhere.index"], "nowhere.index"),
        (["serve", "--ui", "--model", "nowhere"], "nowhere"),
        (["demo", "--ui", "--images", "nowhere"], "nowhere"),
        (["demo", "--ui", "猫"], "TEXT"),
    ],
)
def test_bad_usage_is_named_before_anything_is_served(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cnclip.serve.server.check_gradio", lambda: None)
    assert main([*arguments, "--port", "0"]) == 2
    assert named in last_line(capsys)


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_is_ascii(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.isascii()


def test_url_is_printed_and_the_first_index_comes_first(
    tmp_path: Path,
    embedder: MultiModalEmbeddingPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(make_index(tmp_path / f"{name}.index", embedder, [CAT])) for name in "ba"]
    served: list[list[str]] = []

    def serve(searchables: Any, listener: socket.socket, ready: Any) -> None:
        served.append([one.name for one in searchables])
        ready(url_of(listener))
        raise KeyboardInterrupt

    monkeypatch.setattr("cnclip.serve.server.check_gradio", lambda: None)
    monkeypatch.setattr("cnclip.serve.server.serve", serve)
    assert main(["serve", "--ui", *paths, "--port", "0", "--device", "cpu"]) == 130
    printed = capsys.readouterr()
    assert printed.out.startswith("http://127.0.0.1:") and printed.out.count("\n") == 1
    assert served == [["b", "a"]]
    assert threading.active_count() < 50
