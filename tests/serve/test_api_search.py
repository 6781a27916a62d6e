"""`POST /v1/search`, collections and thumbnails; classification and tokens."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.bulk import model_identity
from cnclip.errors import ImageError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.pipelines.scores import probabilities
from cnclip.search import Index
from cnclip.serve import Searchable

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from tests.support.api import CAT, as_base64, served_by
from tests.support.serve import make_index

PNG = as_base64(CAT.read_bytes())


def found(api: Any, **body: Any) -> Any:
    answer = api.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# Search


def test_a_text_finds_as_the_collection_does(api: Any, gallery: Searchable) -> None:
    answer = found(api, text="猫", k=5)
    want = gallery.collection.find(gallery.pipeline, "猫", k=5)
    assert [one["id"] for one in answer["results"]] == [hit.id for hit in want.hits]
    scores = [one["score"] for one in answer["results"]]
    assert scores == pytest.approx([hit.score for hit in want.hits], abs=2e-6)
    assert sum(one["probability"] for one in answer["results"]) == pytest.approx(1, abs=1e-6)
    assert answer["threshold"] == pytest.approx(want.suggested)
    assert answer["results"][0]["caption"] == "猫"
    assert answer["text"] == {"tokens": 3, "limit": 52, "kept": None, "unknown": False}
    assert answer["more"] is True


def test_pages_of_results(api: Any) -> None:
    whole = found(api, text="汽车", k=20)["results"]
    parts = [found(api, text="汽车", k=8, offset=offset)["results"] for offset in (0, 8, 16)]
    assert [one["id"] for part in parts for one in part][:20] == [one["id"] for one in whole]
    last = found(api, text="汽车", k=100, offset=300)
    assert len(last["results"]) == 62 and last["more"] is False


def test_image_both_and_weight(api: Any, gallery: Searchable) -> None:
    image = found(api, image=PNG, k=3)
    assert image["results"][0]["caption"] == "猫"
    # The gallery's images are opened on white, and so is the query.
    assert image["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert image["text"] is None
    alone = found(api, text="汽车", k=3)["results"]
    both = found(api, text="汽车", image=PNG, weight=1, k=3)
    assert [one["id"] for one in both["results"]] == [one["id"] for one in alone]
    assert both["threshold"] is None
    none = found(api, text="汽车", image=PNG, weight=0, k=1)
    assert none["results"][0]["caption"] == "猫"
    form = api.post(
        "/v1/search",
        files={"file": CAT.read_bytes()},
        data={"text": "汽车", "weight": "0", "k": "1"},
    )
    assert form.json()["results"][0]["caption"] == "猫"


def test_more_like_a_result(api: Any) -> None:
    cat = found(api, text="猫", k=1)["results"][0]
    answer = found(api, like=cat["id"], k=5)
    assert cat["id"] not in [one["id"] for one in answer["results"]]
    assert len(answer["results"]) == 5
    by_image = found(api, image=PNG, k=6)["results"][1:]
    assert [one["id"] for one in answer["results"]] == [one["id"] for one in by_image]


def test_threshold_and_notes(api: Any) -> None:
    results = found(api, text="猫", k=50, threshold=0.5)["results"]
    assert 0 < len(results) < 50 and all(one["score"] >= 0.5 for one in results)
    cut = found(api, text="猫" * 49 + "狗狼鱼")["text"]
    assert cut == {"tokens": 54, "limit": 52, "kept": "猫" * 49 + "狗", "unknown": False}
    assert found(api, text="ꙮꙮ")["text"]["unknown"] is True
    assert found(api, text="猫", threshold=1)["results"] == []


def test_a_text_that_is_too_long_is_not_tokenized(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnclip.serve.search.text_notes", lambda *_: pytest.fail("tokenized"))
    answer = api.post("/v1/search", json={"text": "字" * 100_001})
    assert answer.status_code == 400 and "at most 100000" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "text"),
        ({"text": " "}, 400, "text"),
        ({"text": "猫", "collection": "nothing"}, 404, "collection"),
        ({"text": "猫", "k": 0}, 422, "k"),
        ({"text": "猫", "k": 1001}, 400, "k"),
        ({"text": "猫", "weight": 2}, 422, "weight"),
        ({"text": "猫", "like": "a"}, 400, "like"),
        ({"like": "nothing"}, 404, "like"),
        ({"image": "???"}, 400, "image"),
        ({"image": as_base64(b"no image")}, 400, "image"),
    ],
)
def test_bad_queries(api: Any, body: Any, status: int, param: str) -> None:
    answer = api.post("/v1/search", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_two_images_are_too_many(api: Any) -> None:
    content = CAT.read_bytes()
    files = [("file", ("a.png", content)), ("file", ("b.png", content))]
    answer = api.post("/v1/search", files=files)
    assert answer.status_code == 400, answer.text
    assert "expected one image, got 2" in answer.json()["error"]["message"]


# Collections


def test_collections_and_their_sample(api: Any, gallery: Searchable) -> None:
    (entry,) = api.get("/v1/collections").json()["data"]
    assert entry["name"] == gallery.name and entry["count"] == 362
    assert entry["contents"] == "images" and entry["model"] == "emoji-cn"
    assert entry["examples"]["queries"][0] == "猫"
    sample = api.get("/v1/sample?count=7").json()["results"]
    assert len({one["id"] for one in sample}) == 7 and all(one["score"] is None for one in sample)
    assert api.get("/v1/sample?count=7").json()["results"] == sample
    assert api.get("/v1/sample?count=0").status_code == 422


def test_thumbnails(api: Any) -> None:
    result = found(api, text="猫", k=1)["results"][0]
    answer = api.get("/" + result["thumbnail"])
    assert answer.headers["content-type"] == "image/webp"
    assert max(Image.open(io.BytesIO(answer.content)).size) <= 384
    again = api.get("/" + result["thumbnail"], headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    small = api.get("/" + result["thumbnail"] + "&size=16")
    assert max(Image.open(io.BytesIO(small.content)).size) <= 16
    for id in ("/etc/passwd", "../../etc/passwd", str(CAT) + "\x00", "nothing"):
        answer = api.get("/v1/thumbnail", params={"id": id})
        assert answer.status_code == 404, id


def test_the_file_of_an_image(api: Any) -> None:
    result = found(api, text="猫", k=1)["results"][0]
    answer = api.get("/" + result["image"])
    assert answer.content == CAT.read_bytes()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{CAT.name}"
    for id in ("/etc/passwd", "../../etc/passwd", str(CAT) + "\x00", "nothing"):
        answer = api.get("/v1/image", params={"id": id})
        assert answer.status_code == 404, id


@pytest.fixture
def folder(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> Iterator[tuple[Any, Path, Path]]:
    files = [tmp_path / name for name in ("kept.png", "gone.png", "damaged.png")]
    for index, file in enumerate(files):
        Image.new("RGB", (30, 30), (70 * index, 9, 9)).save(file)
    index_file = make_index(tmp_path / "a.index", embedder, files)
    searchable = Searchable("a", Index.load(index_file), embedder)
    with served_by(embedder, collections=(searchable,)) as (client, _):
        yield client, files[1], files[2]


def test_files_that_are_gone_or_damaged(folder: tuple[Any, Path, Path]) -> None:
    client, gone, damaged = folder
    gone.unlink()
    damaged.write_bytes(b"no image")
    results = {one["caption"]: one for one in found(client, text="猫", k=9)["results"]}
    assert results.keys() == {"kept.png", "gone.png", "damaged.png"}
    assert client.get("/" + results["kept.png"]["thumbnail"]).status_code == 200
    for name in ("gone.png", "damaged.png"):
        assert client.get("/" + results[name]["thumbnail"]).status_code == 404
    assert client.get("/" + results["gone.png"]["image"]).json()["error"]["code"] == "no_image"
    assert client.get("/" + results["damaged.png"]["image"]).content == b"no image"
    assert found(client, like=results["gone.png"]["id"])["results"][0]["caption"] != "gone.png"


# Classification and tokens


def test_classify_equals_the_pipeline(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    labels = ["狗", "猫", "汽车"]
    body = {"image": PNG, "labels": [*labels, "猫"]}
    answer = api.post("/v1/classify", json=body).json()
    output = embedder.forward({"img": CAT.read_bytes(), "text": labels})
    scores = output["img_embedding"] @ output["text_embedding"].T
    want = probabilities(scores, float(embedder.model.temperature))[0]
    shares = {one["label"]: one["probability"] for one in answer["labels"]}
    assert [shares[label] for label in labels] == pytest.approx(want.tolist(), abs=1e-4)
    assert answer["labels"][0]["label"] == "猫"
    values = [one["probability"] for one in answer["labels"]]
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-6)


def test_classify_with_templates(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    templates = ["一张{}的照片", "{}"]
    body = {"image": PNG, "labels": ["狗", "猫"], "templates": templates}
    answer = api.post("/v1/classify", json=body).json()
    texts = [one.replace("{}", label) for label in ("狗", "猫") for one in templates]
    output = embedder.forward({"img": CAT.read_bytes(), "text": texts})
    means = output["text_embedding"].reshape(2, 2, -1).mean(1)
    rows = means / np.linalg.norm(means, axis=1, keepdims=True)
    want = dict(zip(("狗", "猫"), (rows @ output["img_embedding"][0]).tolist(), strict=True))
    for one in answer["labels"]:
        assert one["score"] == pytest.approx(want[one["label"]], abs=2e-6)
    form = api.post("/v1/classify", files={"file": CAT.read_bytes()}, data={"labels": ["狗", "猫"]})
    assert form.json()["labels"][0]["label"] == "猫"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"labels": ["a", "b"]}, 400, "image"),
        ({"image": PNG, "labels": ["a", "a"]}, 400, "labels"),
        ({"image": PNG, "labels": ["a"]}, 422, "labels"),
        ({"image": PNG, "labels": ["a", ""]}, 422, "labels[1]"),
        ({"image": PNG, "labels": ["a", " "]}, 400, "labels[1]"),
        ({"image": PNG, "labels": list(map(str, range(1001)))}, 400, "labels"),
        ({"image": PNG, "labels": ["a", "b"], "templates": ["x"]}, 400, "templates[0]"),
        (
            {"image": PNG, "labels": list(map(str, range(999))), "templates": 99 * ["{}"]},
            400,
            "templates",
        ),
        ({"image": "!", "labels": ["a", "b"]}, 400, "image"),
    ],
)
def test_bad_classifications(api: Any, body: Any, status: int, param: str) -> None:
    answer = api.post("/v1/classify", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_tokens(api: Any, embedder: MultiModalEmbeddingPipeline) -> None:
    texts = ["一只猫", "猫" * 60, "ꙮ"]
    data = api.post("/v1/tokenize", json={"input": texts}).json()["data"]
    ids, lengths = embedder.preprocessor.tokenize(texts, return_lengths=True)
    for one, row, length in zip(data, ids, lengths.tolist(), strict=True):
        assert one["ids"] == row[: min(length, 52)].tolist() and one["length"] == length
    assert [one["truncated"] for one in data] == [False, True, False]
    assert [one["unknown"] for one in data] == [False, False, True]
    assert api.post("/v1/tokenize", json={"input": "猫"}).json()["data"][0]["length"] == 3
    assert api.post("/v1/tokenize", json={"input": ["猫", " "]}).status_code == 400
    assert api.post("/v1/tokenize", json={"input": []}).json()["data"] == []


def test_images_on_the_network_are_not_fetched(
    embedder: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise ImageError("fetched")

    monkeypatch.setattr("cnclip.search.hits.open_recorded", refuse)
    monkeypatch.setattr("cnclip.search.hits.read_recorded", refuse)
    rows = embedder.forward({"text": ["猫"]})["text_embedding"]
    index = Index.create(rows.shape[1], model=model_identity(embedder))
    index.add(rows, ["https://example.com/a.png"])
    with served_by(embedder, collections=(Searchable("web", index, embedder),)) as (client, _):
        result = found(client, text="猫")["results"][0]
        assert client.get("/" + result["thumbnail"]).json()["error"]["code"] == "no_image"
        assert result["image"] is None
        file = client.get("/" + result["thumbnail"].replace("thumbnail", "image"))
        assert file.json()["error"]["code"] == "no_image"
