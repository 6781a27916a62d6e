"""The functions of the page: search and labels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip import demo
from cnclip.assets import asset_path
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable, answers, tiles
from cnclip.serve.answers import Refused, find_cut, split_labels
from cnclip.serve.words import EN, WORDS, ZH

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `ui`")
pytest.importorskip("pyarrow", reason="pyarrow is not installed, cnclip's extra `ui`")

GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"


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


def test_texts_of_unknown_characters_are_reported(gallery: Searchable) -> None:
    results = answers.search(gallery, EN, "ｗｗｗ🐶")
    assert results.cuts == [EN.unknown]
    assert answers.search(gallery, ZH, "猫🐶").cuts == []
    found = answers.label(gallery, ZH, CAT, "猫\n🐶\n" + "🐶" * 20)
    assert found.cuts == [ZH.unknown_label.format(label=label) for label in ("🐶", "🐶" * 12 + "…")]
    assert ZH.unknown in tiles.notes(answers.search(gallery, ZH, "🐶"))
