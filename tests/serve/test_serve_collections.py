"""The collections that the server searches."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from cnclip import bulk, demo
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
from cnclip.search import Index, Root, index_embeddings
from cnclip.serve import Searchable, open_folder, open_indexes

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `serve`")
pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from tests.support.api import as_base64, served_by
from tests.support.serve import make_index, open_model

GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"


def results(searchable: Searchable, **query: Any) -> list[Any]:
    """The results of a query, as the server answers it; each has its thumbnail, or None."""
    with served_by(searchable.pipeline, collections=(searchable,)) as (client, _):
        found: list[Any] = client.post("/v1/search", json=query).json()["results"]
        for one in found:
            if one["thumbnail"] is not None:
                answer = client.get("/" + one["thumbnail"])
                one["thumbnail"] = answer.content if answer.status_code == 200 else None
        return found


def test_gallery_has_its_labels_and_thresholds(gallery: Searchable) -> None:
    assert len(gallery.collection) == 362
    assert set(gallery.collection.thresholds) == {"text", "image"}
    assert gallery.example.queries == demo.QUERIES
    hits = gallery.glimpse(12)
    assert len({hit.id for hit in hits}) == 12
    assert [hit.id for hit in gallery.glimpse(12)] == [hit.id for hit in hits]
    assert {gallery.caption(hit) for hit in hits} <= {p.label for p in demo.load_gallery()}


def test_folder_is_embedded_and_names_what_it_leaves_out(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    with pytest.raises(InvalidInputError, match="has no images"):
        open_folder(tmp_path, embedder)
    (tmp_path / "bad.png").touch()
    reason = r"none of its images can be read; the first: .*bad\.png: an empty file"
    with pytest.raises(InvalidInputError, match=reason):
        open_folder(tmp_path, embedder)
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "猫.png").write_bytes(CAT.read_bytes())
    searchable, unreadable = open_folder(tmp_path, embedder)
    assert searchable.name == tmp_path.name
    assert [image.label for image, _ in unreadable] == ["bad"]
    # An upload is opened as the folder's images were: transparent ones are on white.
    for name in ("clear", "猫"):
        content = (tmp_path / f"{name}.png").read_bytes()
        first = results(searchable, image=as_base64(content))[0]
        assert first["caption"] == name
        assert first["score"] == pytest.approx(1, abs=1e-5)


def test_name_that_is_not_utf_8_is_searched(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    try:
        (tmp_path / "\udcff.png").write_bytes(CAT.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    searchable, _ = open_folder(tmp_path, embedder)
    (found,) = results(searchable, text="猫")
    assert found["thumbnail"] is not None and found["caption"]


def test_indexes_of_one_model_share_it(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    files = sorted(GALLERY.glob("1f4*.png"))[:6]
    paths = [make_index(tmp_path / f"{name}.index", embedder, files) for name in "ab"]
    first, second = open_indexes([str(path) for path in paths], open_model)
    assert [first.name, second.name] == ["a", "b"]
    assert first.pipeline is second.pipeline
    assert "text" in first.collection.thresholds
    image = as_base64(files[2].read_bytes())
    assert results(first, image=image)[0]["caption"] == files[2].name


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


def test_hits_without_an_image_have_no_thumbnail(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    rows = np.repeat(embedder.forward({"img": str(CAT)})["img_embedding"], 4, axis=0)
    index = Index.create(rows.shape[1], model=model_identity(embedder))
    paths = [str(tmp_path / "some.zip"), str(tmp_path / "gone.png"), "https://127.0.0.1:9/a.png"]
    ids = [f"{paths[0]}/inner/cat.png", "gone", "net", "slash"]
    index.add(rows, ids, [*paths, "/"])
    searchable = Searchable("some", index, embedder)
    found = results(searchable, text="猫")
    assert [one["caption"] for one in found] == ["cat.png", "gone.png", "a.png", "/"]
    assert all(one["thumbnail"] is None for one in found)


def test_files_in_archives_have_names(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(CAT, "猫.png")  # its id has no suffix
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(GALLERY / "1f697.png", "inner/car.png")
    sources = [tmp_path / "some.tar", tmp_path / "some.zip"]
    bulk.embed(sources, embedder, tmp_path / "out")
    searchable = Searchable("a", index_embeddings(tmp_path / "out"), embedder)
    with served_by(embedder, collections=(searchable,)) as (client, _):
        files = {}
        for one in client.post("/v1/search", json={"text": "猫"}).json()["results"]:
            answer = client.get("/" + one["image"])
            name = answer.headers["content-disposition"].partition("''")[2]
            files[unquote(name)] = answer.content
    assert files == {
        "猫.png": CAT.read_bytes(),
        "car.png": (GALLERY / "1f697.png").read_bytes(),
    }


def test_texts_are_shown_as_texts(embedder: MultiModalEmbeddingPipeline) -> None:
    texts = ["一只猫", "<b>汽车</b>", "树"]
    rows = embedder.forward({"text": texts})["text_embedding"]
    index = Index.create(rows.shape[1], model=model_identity(embedder), contents="texts")
    index.add(rows, list("abc"), ["texts.tsv"] * 3, texts)
    searchable = Searchable("texts", index, embedder)
    first = results(searchable, text=texts[1])[0]
    assert first["caption"] == first["text"] == texts[1] and first["thumbnail"] is None
    like = results(searchable, like="b")
    assert {one["text"] for one in like} == {texts[0], texts[2]}


def test_files_that_were_moved_are_shown(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    former, now = tmp_path / "former", tmp_path / "now"
    former.mkdir()
    files = [Path(shutil.copy(path, former)) for path in (CAT, GALLERY / "1f697.png")]
    index = make_index(tmp_path / "it.index", embedder, files)
    former.rename(now)
    (lost,) = open_indexes([str(index)], open_model)
    assert not any(one["thumbnail"] for one in results(lost, text="猫"))
    (found,) = open_indexes([str(index)], open_model, root=Root(now))
    shown = results(found, text="猫")
    assert {Path(one["path"]).parent for one in shown} == {now}
    assert all(one["thumbnail"] for one in shown)
