"""An index knows how its images were decoded, and decodes images of queries so."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import bulk, pipeline
from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.errors import InvalidInputError, ModelMismatchError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Index, add_embeddings, connect, index_embeddings, update_embeddings
from tests.support.photos import write_photos
from tests.support.search import DIM, MODEL, run_json, unit

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")

OPTIONS: list[dict[str, Any]] = [
    {"decode": "fast"},
    {"background": "#ff0000"},
    {"decode": "fast", "background": "white", "depth": "scale", "frame": "middle"},
]


@pytest.fixture
def photos(tmp_path: Path, embedder: MultiModalEmbeddingPipeline) -> Path:
    """Photos, and a transparent drawing whose colors below the transparency are black."""
    write_photos(tmp_path / "photos", 4, 5 * embedder.preprocessor.image_resolution)
    shutil.copy(asset_path("gallery") / "1f697.png", tmp_path / "photos" / "car.png")
    with Image.open(asset_path("gallery") / "1f697.png") as drawing:
        alpha = drawing.convert("RGBA").getchannel("A")
        clear = Image.new("RGBA", drawing.size)
        clear.putalpha(alpha.point(lambda value: 255 - value))
        clear.save(tmp_path / "photos" / "clear.png")
    return tmp_path / "photos"


def embedded(
    photos: Path, embedder: MultiModalEmbeddingPipeline, out: Path, **options: Any
) -> bulk.Embeddings:
    bulk.embed(photos, embedder, out, bulk.EmbedOptions(dtype="float32", **options))
    return bulk.open_embeddings(out)


@pytest.mark.parametrize("options", OPTIONS)
def test_an_image_is_found_as_it_was_embedded(
    photos: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path, options: dict[str, Any]
) -> None:
    index = index_embeddings(embedded(photos, embedder, tmp_path / "out", **options))
    assert index.image_options == options
    index.save(tmp_path / "some.index")
    loaded = Index.load(tmp_path / "some.index")
    assert loaded.image_options == options
    for path in sorted(photos.iterdir()):
        for image in (str(path), path, path.read_bytes()):
            best = loaded.find(embedder, image=image, k=1).hits[0]
            assert (Path(best.path).name, best.score) == (path.name, pytest.approx(1, abs=2e-6))
    # Decoded otherwise, it would be another image.
    exact = embedder.forward({"img": str(photos / "clear.png")})["img_embedding"]
    if "background" in options:
        assert loaded.search(exact, 1)[0][0].score < 0.9999


def test_an_open_image_is_taken_as_it_is(
    photos: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    index = index_embeddings(embedded(photos, embedder, tmp_path / "out", decode="fast"))
    with Image.open(sorted(photos.glob("*.jpg"))[0]) as image:
        image.load()
        score = index.find(embedder, image=image, k=1).hits[0].score
        want = index.search(embedder.forward({"img": image})["img_embedding"], 1)[0][0].score
    assert score == want < 1 - 1e-6


def test_a_folder_with_other_decoding_is_not_added(
    photos: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    exact = embedded(photos, embedder, tmp_path / "exact")
    fast = embedded(photos, embedder, tmp_path / "fast", decode="fast")
    for one, other, words in (
        (exact, fast, "decoded with decode exact, these with decode fast; embed these as"),
        (fast, exact, "decoded with decode fast, these with decode exact; embed these as"),
    ):
        index = index_embeddings(one)
        assert index.image_options == one.manifest.image_options
        with pytest.raises(ModelMismatchError, match=words):
            add_embeddings(index, other)
        with pytest.raises(ModelMismatchError, match=words):
            index.add(unit(1, index.dim), ["x"], image_options=other.manifest.image_options)
        assert len(index) == 6
        index.add(unit(1, index.dim), ["x"], image_options=one.manifest.image_options)


def test_milvus_keeps_the_options(
    photos: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    for package in ("pymilvus", "milvus_lite"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, cnclip's extra `milvus`")
    out = str(tmp_path / "milvus.db")
    fast = embedded(photos, embedder, tmp_path / "fast", decode="fast")
    assert main(["index", str(tmp_path / "fast"), "-o", out, "--device", "cpu"]) == 0
    with contextlib.closing(connect(out)) as found:
        assert found.image_options == fast.manifest.image_options == {"decode": "fast"}
        path = sorted(photos.glob("*.jpg"))[0]
        hit = found.find(embedder, image=str(path), k=1).hits[0]
        assert hit.score == pytest.approx(1, abs=2e-6)
        exact = embedded(photos, embedder, tmp_path / "exact")
        with pytest.raises(ModelMismatchError, match="decode fast, these with decode exact"):
            update_embeddings(found, exact)


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = str(tmp_path / "photos.index")
    made = ["index", str(photos), "-o", index, "--device", "cpu"]
    assert main([*made, "--decode", "fast"]) == 0
    assert Index.load(index).image_options == {"decode": "fast"}
    path = sorted(photos.glob("*.jpg"))[0]
    capsys.readouterr()
    hits = run_json(capsys, index, "--image", str(path))
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)  # stored as float16
    assert main(made) == 2  # the embeddings of the first run are kept
    assert "embed as before (--decode fast)" in capsys.readouterr().err
    folder = str(tmp_path / "photos.embeddings")
    assert main(["index", folder, "-o", index, "--device", "cpu", "--decode", "exact"]) == 2
    assert "--decode is for a folder of images" in capsys.readouterr().err


def test_an_index_of_a_later_version(
    photos: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    index = Index.create(
        embedder.model.info.embed_dim, model=None, image_options={"sharpen": "yes"}
    )
    index.add(unit(3, index.dim), ["a", "b", "c"])
    index.save(tmp_path / "later.index")
    loaded = Index.load(tmp_path / "later.index")
    path = str(sorted(photos.glob("*.jpg"))[0])
    with pytest.raises(InvalidInputError, match=r"later\.index.*sharpen=yes"):
        loaded.find(embedder, image=path)
    assert len(loaded.find(embedder, "猫").hits) == 3


def test_a_collection_of_texts_takes_the_pipelines_decoding(
    photos: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    fast = pipeline(model="emoji-cn", device="cpu", decode="fast")
    index = Index.create(DIM, model=MODEL, contents="texts")
    path = str(sorted(photos.glob("*.jpg"))[0])
    assert index.open_image(fast, path) == path
    rows = [one.forward({"img": path})["img_embedding"] for one in (fast, embedder)]
    assert not np.array_equal(*rows)
