"""The collections that the application searches, and their HTML."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip import demo
from cnclip.assets import asset_path
from cnclip.bulk import model_identity
from cnclip.errors import (
    IndexFileError,
    IndexNotFoundError,
    InvalidInputError,
    ModelMismatchError,
    ModelNotFoundError,
)
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Index, Root
from cnclip.serve import Searchable, answers, open_folder, open_indexes, tiles
from cnclip.serve.words import EN, ZH
from tests.support.serve import make_index, open_model

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `ui`")
pytest.importorskip("pyarrow", reason="pyarrow is not installed, cnclip's extra `ui`")

GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"


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
    assert [image.label for image, _ in unreadable] == ["bad"]
    # An upload is opened as the folder's images were: transparent ones are on white.
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
    rows = embedder.forward({"text": texts})["text_embedding"]
    index = Index.create(rows.shape[1], model=model_identity(embedder), contents="texts")
    index.add(rows, list("abc"), ["texts.tsv"] * 3, texts)
    searchable = Searchable("texts", index, embedder)
    results = answers.search(searchable, ZH, texts[1])
    assert results.tiles[0].caption == texts[1] and results.tiles[0].is_text
    shown = tiles.grid(results, ZH)
    assert "<q>&lt;b&gt;汽车&lt;/b&gt;</q>" in shown and "<img" not in shown
    assert answers.glimpse(searchable, ZH).notes == [f"{ZH.glimpse} · {ZH.texts.format(count=3)}"]


def test_everything_in_the_page_is_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    image = Image.new("RGB", (4, 4))
    some = [answers.Tile(evil, evil, image, False, 0.5, 0.5, 0.5)]
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


def test_files_that_were_moved_are_shown(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    former, now = tmp_path / "former", tmp_path / "now"
    former.mkdir()
    files = [Path(shutil.copy(path, former)) for path in (CAT, GALLERY / "1f697.png")]
    index = make_index(tmp_path / "it.index", embedder, files)
    former.rename(now)
    (lost,) = open_indexes([str(index)], open_model)
    assert not any(tile.image for tile in answers.search(lost, EN, "猫").tiles)
    (found,) = open_indexes([str(index)], open_model, root=Root(now))
    for shown in (answers.search(found, EN, "猫"), answers.glimpse(found, EN)):
        assert {Path(tile.path).parent for tile in shown.tiles} == {now}
        assert all(tile.image for tile in shown.tiles)


def test_a_score_below_the_threshold_does_not_look_equal_to_it() -> None:
    below = answers.Tile("a", "a", None, False, 0.24999, threshold=0.25)
    equal = answers.Tile("b", "b", None, False, 0.25, threshold=0.25)
    assert (below.reaches, equal.reaches) == (False, True)
    assert not answers.Tile("c", "c", None, False, threshold=0.25).reaches
    shown = tiles.grid(answers.Results([below, equal], []), EN)
    assert "<em>0.249</em>" in shown and "<em>0.250</em>" in shown


def test_one_item_is_singular(tmp_path: Path, embedder: MultiModalEmbeddingPipeline) -> None:
    (one,) = open_indexes([str(make_index(tmp_path / "a.index", embedder, [CAT]))], open_model)
    assert answers.contents(one, EN) == "1 image"
    assert answers.contents(one, ZH) == "1 张图片"
