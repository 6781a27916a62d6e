"""`cnclip eval retrieval`: layouts, recall, broken rows, what is kept, the page."""

from __future__ import annotations

import base64
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnclip
from cnclip import cli, pipeline
from cnclip.assets import asset_path
from cnclip.bulk import open_embeddings
from cnclip.datasets import Problems, open_retrieval, write_split
from cnclip.errors import DatasetError, MissingExtraError
from cnclip.evaluate import embeddings, recall_at_k, retrieval
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.text import normalize_text

Text = tuple[int, str, list[int]]


@pytest.fixture(scope="module")
def model() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture(scope="module")
def images() -> list[tuple[int, bytes]]:
    return [(100 + i, path.read_bytes()) for i, path in enumerate(gallery_files())]


def gallery_files() -> list[Path]:
    return [asset_path("gallery") / row["file"] for row in gallery_rows()]


def gallery_rows() -> list[dict[str, Any]]:
    lines = (asset_path("gallery") / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:40]]


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    """Two texts for each image, and one for several images.

    All differ: equal ones have equal scores, which layouts with another order rank otherwise.
    """
    found: list[Text] = []
    words = {"脸"}
    for i, row in enumerate(gallery_rows()):
        tag = next((t for t in row["tags"] if t not in words), row["label"] + "图").upper()
        for text in (row["label"], tag):
            assert text not in words
            words.add(text)
            found.append((len(found), text, [100 + i]))
    found.append((len(found), "脸", [100, 101, 102]))
    return found


@pytest.fixture
def data(tmp_path: Path, images: list[tuple[int, bytes]], texts: list[Text]) -> Path:
    write_split(tmp_path / "data", "valid", images, texts)
    return tmp_path / "data"


def to_zip(data: Path) -> Path:
    path = data.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in data.iterdir():
            archive.write(file, f"data/{file.name}")
            archive.writestr(f"__MACOSX/data/._{file.name}", b"junk")
    return path


def to_lmdb(data: Path, keep_texts: bool = False) -> Path:
    """As cn_clip's build_lmdb_dataset.py writes it."""
    lmdb = pytest.importorskip("lmdb")
    for name in ("imgs", "pairs"):
        (data / "lmdb" / "valid" / name).mkdir(parents=True)
    with (
        lmdb.open(str(data / "lmdb/valid/imgs"), map_size=1 << 26) as env,
        env.begin(write=True) as put,
    ):
        lines = (data / "valid_imgs.tsv").read_text().splitlines()
        for line in lines:
            key, content = line.split("\t")
            put.put(key.encode(), content.encode())
        put.put(b"num_images", str(len(lines)).encode())
    with (
        lmdb.open(str(data / "lmdb/valid/pairs"), map_size=1 << 26) as env,
        env.begin(write=True) as put,
    ):
        number = 0
        for line in (data / "valid_texts.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for image_id in row["image_ids"]:
                pair = (image_id, row["text_id"], row["text"])
                put.put(str(number).encode(), pickle.dumps(pair))
                number += 1
        put.put(b"num_samples", str(number).encode())
    (data / "valid_imgs.tsv").unlink()
    if not keep_texts:
        (data / "valid_texts.jsonl").unlink()
    return data


def to_folder(data: Path) -> Path:
    folder = data.with_name("folder")
    texts: dict[int, list[str]] = {}
    for line in (data / "valid_texts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for image_id in row["image_ids"][:1]:
            texts.setdefault(image_id, []).append(row["text"])
    (folder / "valid").mkdir(parents=True)
    with (folder / "valid" / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for line in (data / "valid_imgs.tsv").read_text().splitlines():
            key, content = line.split("\t")
            (folder / "valid" / f"{key}.png").write_bytes(base64.b64decode(content))
            row = {"file_name": f"{key}.png", "text": texts.get(int(key), [])}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def expected_recall(
    model: MultiModalEmbeddingPipeline, images: list[tuple[int, bytes]], texts: list[Text]
) -> tuple[dict[str, float], dict[str, float]]:
    """By sorting all scores."""
    vectors = model.forward({"img": [content for _, content in images]})["img_embedding"]
    words = model.forward({"text": [normalize_text(text) for _, text, _ in texts]})
    scores = words["text_embedding"] @ vectors.T
    ids = [key for key, _ in images]
    forth = [[ids[i] for i in row] for row in np.argsort(-scores, axis=1)[:, :10]]
    back = [[texts[i][0] for i in row] for row in np.argsort(-scores.T, axis=1)[:, :10]]
    return (
        recall_at_k(forth, [right for _, _, right in texts]),
        recall_at_k(back, [[t for t, _, right in texts if key in right] for key in ids]),
    )


@pytest.mark.parametrize(
    "layout",
    [lambda data: data, to_zip, to_lmdb, lambda data: to_lmdb(data, keep_texts=True)],
    ids=["TSV", "zip", "LMDB", "LMDB with texts"],
)
def test_every_layout_gives_the_recall_by_definition(
    layout: Callable[[Path], Path],
    model: MultiModalEmbeddingPipeline,
    data: Path,
    images: list[tuple[int, bytes]],
    texts: list[Text],
) -> None:
    report = retrieval(layout(data), model, split="valid")
    forth, back = expected_recall(model, images, texts)
    assert report.text_to_image == forth
    assert report.image_to_text == back
    assert (report.texts, report.images, report.skipped) == (len(texts), len(images), 0)
    assert report.dataset == "data"
    assert report.split == "valid"
    assert 0 < forth["R@1"] < 100


def test_folders(
    model: MultiModalEmbeddingPipeline,
    data: Path,
    images: list[tuple[int, bytes]],
    texts: list[Text],
) -> None:
    report = retrieval(to_folder(data), model)
    one_each = [(number, text, right[:1]) for number, text, right in texts]
    assert report.text_to_image == expected_recall(model, images, one_each)[0]
    assert report.split == "valid"
    assert report.predictions_of_images[0][0] == "100.png"


def test_bundled_data_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: MultiModalEmbeddingPipeline
) -> None:
    output = tmp_path / "out"
    arguments = ["eval", "retrieval", "emoji-cn", "--split", "test", "--model", "emoji-cn"]
    assert cli.main([*arguments, "-o", str(output)]) == 0
    captured = capsys.readouterr()
    saved = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert saved["text_to_image"]["R@10"] > 90
    assert f"{saved['text_to_image']['R@1']:.2f}" in captured.out
    assert "lower case" in captured.out
    assert saved["dataset"] == "emoji-cn"
    assert saved["split"] == "test"
    assert saved["texts"] == saved["images"] == 362
    assert saved["skipped"] == 0
    for name, query, found in (
        ("text_to_image.jsonl", "text_id", "image_ids"),
        ("image_to_text.jsonl", "image_id", "text_ids"),
    ):
        rows = [json.loads(line) for line in (output / name).read_text("utf-8").splitlines()]
        assert len(rows) == 362
        assert all(len(row[found]) == len(set(row[found])) == 10 for row in rows)
        assert len({row[query] for row in rows}) == 362
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 48
    assert page.count("data:image/webp;base64,") > 48
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert 'src=""' not in page


def test_texts_are_normalized(model: MultiModalEmbeddingPipeline, data: Path) -> None:
    assert normalize_text("“Ab”‘’") == '"ab"‘’'
    assert retrieval(data, model).normalized
    raw = retrieval(data, model, normalize=False)
    assert not raw.normalized


def test_images_without_texts_and_texts_without_images(
    model: MultiModalEmbeddingPipeline, tmp_path: Path, images: list[tuple[int, bytes]]
) -> None:
    write_split(tmp_path, "test", images[:12], [(1, "猫", []), (2, "狗", [])])
    report = retrieval(tmp_path, model, output=tmp_path / "out")
    assert report.text_to_image is None
    assert report.image_to_text is None
    assert [len(found) for _, found in report.predictions] == [10, 10]
    assert report.skipped == 0


BROKEN = {
    "valid_imgs.tsv": {
        2: lambda line: line.split(b"\t")[0] + b"\t*no base64*",
        3: lambda line: line.split(b"\t")[0] + b"\t" + base64.b64encode(b"no image"),
        4: lambda line: line.replace(b"\t", b" "),
        5: lambda line: b"100\t" + line.split(b"\t")[1],
        6: lambda line: line + b"\r",
        7: lambda line: line[:-61],
    },
    "valid_texts.jsonl": {
        1: lambda line: b"\xef\xbb\xbf" + line,
        21: lambda line: line[:-9],
        22: lambda line: json.dumps({"text_id": 0, "text": "又", "image_ids": [110]}).encode(),
        23: lambda line: json.dumps({"text_id": 22, "text": " ", "image_ids": [111]}).encode(),
        24: lambda line: json.dumps({"text_id": 23, "text": "x", "image_ids": [999]}).encode(),
        25: lambda line: json.dumps({"text_id": 24, "text": "y", "image_ids": [112, 998]}).encode(),
        26: lambda line: json.dumps({"text_id": True, "text": "y", "image_ids": [112]}).encode(),
        27: lambda line: json.dumps({"text_id": 26, "text": 5, "image_ids": [112]}).encode(),
        28: lambda line: json.dumps({"text_id": 27, "text": "y"}).encode(),
        29: lambda line: b"[1, 2]",
        30: lambda line: line + b"\r",
        31: lambda line: b'{"text_id": 30, "text": "\xff", "image_ids": [115]}',
    },
}


def break_rows(data: Path) -> None:
    for name, changes in BROKEN.items():
        lines = (data / name).read_bytes().split(b"\n")
        for number, change in changes.items():
            lines[number - 1] = change(lines[number - 1])
        (data / name).write_bytes(b"\n".join(lines))


def problem_lines(printed: str) -> list[str]:
    """Without the progress that a slow machine prints."""
    lines = sorted(line for line in printed.splitlines() if line.startswith(tuple(BROKEN)))
    assert len(lines) > 10
    return lines


def test_broken_rows_are_named_and_skipped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: list[Text]
) -> None:
    break_rows(data)
    arguments = ["eval", "retrieval", str(data), "--split", "valid", "--model", "emoji-cn"]
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    for name, changes in BROKEN.items():
        for number in changes:
            assert re.search(rf"^{name}:{number}: ", captured.err, re.MULTILINE), (name, number)
    saved = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert saved["images"] == 40 - 5
    # Skipped: ten broken ones, and two for each of the four other images that are gone.
    gone = {101, 102, 103, 104, 106}
    left = [
        t for t in texts if set(t[2]) - gone and t[0] not in (20, 21, 22, 23, 25, 26, 27, 28, 30)
    ]
    assert saved["texts"] == len(left)
    assert saved["text_to_image"]["R@10"] > 50
    # A second run, with the embeddings of the first, reports the same.
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert problem_lines(capsys.readouterr().err) == problem_lines(captured.err)


def test_strict_stops_at_the_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_rows(data)
    arguments = ["eval", "retrieval", str(data), "--model", "emoji-cn", "--strict"]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cnclip eval: valid_texts.jsonl:1: begins with a byte order")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "no such data set"),
        (lambda path: path, "of no known layout"),
        (lambda path: touch(path / "a.zip"), "not a zip, or damaged"),
        (lambda path: touch(path / "valid_imgs.tsv", path / "valid_texts.jsonl"), "no text"),
        (
            lambda path: touch(
                path / "a_imgs.tsv",
                path / "a_texts.jsonl",
                path / "b_imgs.tsv",
                path / "b_texts.jsonl",
            ),
            "has the splits a, b: choose one",
        ),
    ],
)
def test_no_data_sets(
    make: Callable[[Path], Path], message: str, tmp_path: Path, model: MultiModalEmbeddingPipeline
) -> None:
    with pytest.raises(DatasetError, match=message):
        retrieval(make(tmp_path), model)


def touch(*paths: Path) -> Path:
    for path in paths:
        path.touch()
    return paths[0] if len(paths) == 1 else paths[0].parent


def test_an_open_data_set(model: MultiModalEmbeddingPipeline, data: Path) -> None:
    opened = open_retrieval(data, "valid")
    assert retrieval(opened, model).to_dict() == retrieval(data, model).to_dict()


@pytest.mark.parametrize("output", [None, "out"])
def test_no_text_or_image_that_can_be_used(
    output: str | None, model: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    folder = None if output is None else tmp_path / output
    image = asset_path("gallery") / gallery_rows()[0]["file"]
    write_split(tmp_path / "images", "valid", [(1, b"no image")], [(1, "猫", [1])])
    with pytest.raises(DatasetError, match=r"valid_imgs\.tsv:1"):
        retrieval(tmp_path / "images", model, output=folder)
    write_split(tmp_path / "texts", "valid", [(1, image.read_bytes())], [(1, "猫", [2])])
    with pytest.raises(DatasetError, match=r"no text .*valid_texts\.jsonl:1"):
        retrieval(tmp_path / "texts", model, output=folder)


def test_a_data_set_that_is_gone_when_it_is_read(
    model: MultiModalEmbeddingPipeline, data: Path, tmp_path: Path
) -> None:
    opened = open_retrieval(data, "valid")
    list(opened.texts(Problems()))
    (data / "valid_imgs.tsv").unlink()
    with pytest.raises(DatasetError, match=r"valid_imgs\.tsv"):
        retrieval(opened, model, output=tmp_path / "out")


def test_a_split_that_is_not_there(data: Path) -> None:
    with pytest.raises(DatasetError, match="has no split 'test'; it has valid"):
        open_retrieval(data, "test")


def test_pickles_in_a_database_run_nothing(data: Path, tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    to_lmdb(data)

    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'ran'}",)

    with (
        lmdb.open(str(data / "lmdb/valid/pairs"), map_size=1 << 26) as env,
        env.begin(write=True) as put,
    ):
        put.put(b"0", pickle.dumps((100, 0, Hostile())))
    problems = Problems()
    list(open_retrieval(data, "valid").texts(problems))
    assert not (tmp_path / "ran").exists()
    assert [str(problem.where) for problem in problems.found] == ["valid/pairs:0"]


def test_embeddings_are_kept(
    model: MultiModalEmbeddingPipeline, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "SHARD_ITEMS", 7)
    expected = retrieval(data, model).to_dict()
    output = tmp_path / "out"
    images = output / "embeddings" / "images"
    embedded: list[int] = []
    embed = embeddings.embed_outcomes

    def stopping(pipeline: Any, items: Any, options: Any, **more: Any) -> Any:
        for outcomes in embed(pipeline, items, options, **more):
            if options.kind == "images":
                embedded.append(sum(not outcome.restored for outcome in outcomes))
                if embedded == [7, 7, 7]:
                    raise KeyboardInterrupt
            yield outcomes

    monkeypatch.setattr(embeddings, "embed_outcomes", stopping)
    with pytest.raises(KeyboardInterrupt):
        retrieval(data, model, output=output)
    assert retrieval(data, model, output=output).to_dict() == expected
    assert sum(embedded) == 40 + 7  # the shard that was interrupted is embedded again
    assert retrieval(data, model, output=output).to_dict() == expected
    assert sum(embedded) == 47
    assert open_embeddings(images).rows == 40
    # A damaged shard is embedded again, as is everything when the data set or the manifest changed.
    next(images.glob("00004-*.npy")).write_bytes(b"damaged")
    assert retrieval(data, model, output=output).to_dict() == expected
    assert sum(embedded) == 47 + 7
    with (data / "valid_texts.jsonl").open("a") as file:
        file.write('{"text_id": 900, "text": "猫", "image_ids": [100]}\n')
    assert retrieval(data, model, output=output).texts == expected["texts"] + 1
    assert sum(embedded) == 54 + 40
    (images / "manifest.json").write_bytes(b"damaged")
    assert retrieval(data, model, output=output).texts == expected["texts"] + 1
    assert sum(embedded) == 94 + 40
    assert len(list(images.glob("*.npy"))) == 6


def test_without_pyarrow_embeddings_are_not_kept(
    model: MultiModalEmbeddingPipeline,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise MissingExtraError("bulk", "pyarrow")

    monkeypatch.setattr(embeddings, "pyarrow_modules", fail)
    assert retrieval(data, model, output=tmp_path / "out").images == 40
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "embeddings").exists()
    assert "the embeddings are not kept: pyarrow is not installed" in caplog.text


def test_page_is_in_the_language_of_the_locale(
    model: MultiModalEmbeddingPipeline, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for locale, title, other in (
        ("zh_CN.UTF-8", "最难检索的图片", "hardest"),
        ("en_US.UTF-8", "Images that are hardest to find", "最"),
    ):
        monkeypatch.setenv("LC_ALL", locale)
        retrieval(data, model, output=tmp_path)
        page = (tmp_path / "report.html").read_text("utf-8")
        assert f'<html lang="{locale[:2]}">' in page
        assert title in page and other not in page.partition("<section>")[0]


def test_published_figures_are_shown(
    model: MultiModalEmbeddingPipeline,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert retrieval(data, model).published is None
    renamed = data.rename(tmp_path / "MUGE")
    monkeypatch.setattr("cnclip.evaluate.published.model_of_size", lambda info: "ViT-B-16")
    arguments = ["eval", "retrieval", str(renamed), "--model", "emoji-cn"]
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 0
    assert "published by the authors, zero-shot" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert saved["published"]["data_set"] == "MUGE (valid)"
    assert saved["published"]["text_to_image"]["zero_shot"]["R@1"] == 52.1
    assert "published by the authors" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_models_are_known_by_their_sizes(tmp_path: Path) -> None:
    from dataclasses import asdict

    from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
    from cnclip.evaluate.published import model_of_size, published_results

    info = cnclip.archive.read_archive(pipeline(model="emoji-cn").model.info.path)
    assert model_of_size(info) is None
    for name, config in PUBLISHED_SIZES.items():
        info.metadata["architecture"] = json.loads(json.dumps(asdict(config)))
        assert model_of_size(info) == name
        for data_set, split in (("muge", "valid"), ("Flickr30k-CN", "test"), ("coco-cn", "test")):
            assert published_results(data_set, split, info) is not None
        assert published_results("MUGE", "test", info) is None


def test_a_text_that_is_not_utf8_is_skipped(
    model: MultiModalEmbeddingPipeline, data: Path, tmp_path: Path
) -> None:
    row = {"text_id": 999, "text": "\ud800x", "image_ids": [100]}
    with (data / "valid_texts.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    kept = retrieval(data, model, output=tmp_path / "out")
    found = [problem for problem in kept.problems if problem.skipped]
    assert [problem.reason for problem in found] == ["the text is not UTF-8"]
    assert retrieval(data, model).to_dict() == kept.to_dict()


def test_ids_that_are_not_utf8_are_written_as_escapes(
    model: MultiModalEmbeddingPipeline, data: Path, tmp_path: Path
) -> None:
    row = {"text_id": "\udcff", "text": "一句话", "image_ids": [100]}
    with (data / "valid_texts.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    retrieval(data, model, output=tmp_path / "out")
    lines = (tmp_path / "out" / "text_to_image.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["text_id"] == "\udcff"


def test_texts_in_another_encoding_and_unknown_texts(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = data / "valid_texts.jsonl"
    lines = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    lines[0]["text"], lines[1]["text"] = "🐶", "猫" * 60
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    texts.write_bytes(content.encode("gb18030"))
    arguments = ["eval", "retrieval", str(data), "--device", "cpu"]
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert ", 1 truncated, 1 of unknown characters only" in out
    assert "valid_texts.jsonl: not UTF-8; read as GB18030; --encoding names another" in err
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (report["truncated_texts"], report["unknown_texts"]) == (1, 1)
    assert cli.main([*arguments, "--encoding", "gb18030"]) == 0
    assert "GB18030" not in capsys.readouterr().err
