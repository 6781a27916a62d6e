"""`cnclip embed` and `cnclip.bulk.embed`: sources, and the items of each."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image

from cnclip import bulk, cli
from cnclip.datasets import Problems
from cnclip.errors import DatasetError, InvalidInputError, Where
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.formats import format_of
from tests.support.bulk import (
    GALLERY,
    TEXTS,
    Embed,
    content_of,
    expected,
    failed_of,
    text_file,
    vectors_of,
    write_list,
    write_objects,
    write_parquet,
    write_table,
    write_tar,
    write_tsv,
    write_zip,
)


def test_a_folder(embed: Embed, photos: Path, model: MultiModalEmbeddingPipeline) -> None:
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.png").write_bytes(b"")
    report = embed(photos, dtype="float32")
    assert (report.rows, report.embedded, report.kept, report.failed) == (20, 20, 0, 0)
    assert report.left_out == {".txt": 1}
    opened = bulk.open_embeddings(report.output)
    assert (opened.kind, opened.precision, opened.dtype) == ("images", "fp32", "float32")
    assert opened.model == bulk.model_identity(model)
    assert opened.dim == 128
    assert [shard.items for shard in opened.manifest.shards] == [8, 8, 4]
    found = vectors_of(report.output)
    assert opened.paths == [str(photos / id) for id in opened.ids] == sorted(opened.paths)
    np.testing.assert_allclose(
        list(found.values()), expected(model, opened.paths), atol=2e-6, rtol=0
    )
    block = next(opened.blocks())
    assert block.vectors.shape == (8, opened.dim)
    with Image.open(opened.paths[0]) as image:
        assert (block.lines["width"][0].as_py(), block.lines["height"][0].as_py()) == image.size
    assert block.lines["bytes"][0].as_py() == os.path.getsize(opened.paths[0])


def test_float16_is_half_of_it(embed: Embed, photos: Path, tmp_path: Path) -> None:
    embed(photos)
    embed(photos, dtype="float32", output=tmp_path / "other")
    half, full = vectors_of(tmp_path / "out"), vectors_of(tmp_path / "other")
    assert half.keys() == full.keys()
    np.testing.assert_allclose(list(half.values()), list(full.values()), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "write", "first"),
    [
        ("a.tar", write_tar, "{}/a.tar:0000"),
        ("a.zip", write_zip, "{}/a.zip:inner/1f305.png"),
        ("a.parquet", write_parquet, "{}/a.parquet:1"),
        ("b.parquet", lambda *of: write_parquet(*of, paths=True), str(GALLERY / "1f305.png")),
        ("valid_imgs.tsv", write_tsv, "100"),
        ("a.txt", write_list, str(GALLERY / "1f305.png")),
        ("a.jsonl", write_objects, "1f305"),
        ("a.csv", write_table, str(GALLERY / "1f305.png")),
    ],
)
def test_sources(
    embed: Embed,
    some: list[Path],
    tmp_path: Path,
    name: str,
    write: Callable[[Path, list[Path]], None],
    first: str,
    model: MultiModalEmbeddingPipeline,
) -> None:
    write(tmp_path / name, some)
    report = embed(tmp_path / name)
    assert (report.rows, report.failed) == (20, 0), report.first_failed
    found = vectors_of(report.output)
    assert next(iter(found)) == first.format(tmp_path)
    np.testing.assert_allclose(list(found.values()), expected(model, list(some)), atol=3e-4, rtol=0)
    before = content_of(report.output)
    again = embed(str(tmp_path / name))
    assert (again.embedded, again.kept) == (0, 20)
    assert content_of(report.output) == before


def test_a_zip_of_chinese_clip(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    write_tsv(tmp_path / "valid_imgs.tsv", some)
    with zipfile.ZipFile(tmp_path / "MUGE.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in tmp_path.glob("valid_*"):
            archive.write(path, f"MUGE/{path.name}")
    assert list(vectors_of(embed(tmp_path / "MUGE.zip").output)) == [
        f"{100 + n}" for n in range(20)
    ]


def test_several_sources_and_patterns(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    write_tar(tmp_path / "a-000.tar", some[:5])
    write_tar(tmp_path / "a-001.tar", some[5:])
    report = embed([some[0], str(tmp_path / "a-{000..001}.tar"), GALLERY])
    assert report.rows == 20 + len(list(GALLERY.glob("*.png")))  # the first one comes once


def test_urls(embed: Embed, some: list[Path], tmp_path: Path, serve: Any) -> None:
    def respond(request: BaseHTTPRequestHandler) -> None:
        found = request.path == "/1.png"
        request.send_response(200 if found else 404)
        request.end_headers()
        request.wfile.write(some[0].read_bytes() if found else b"")

    url = serve(respond)
    (tmp_path / "list.txt").write_text(f"{url}/1.png\n{url}/2.png\n")
    report = embed(tmp_path / "list.txt")
    assert (report.rows, report.failed) == (1, 1)
    assert list(vectors_of(report.output)) == [f"{url}/1.png"]
    assert "404" in failed_of(report.output)["2.png"]
    assert embed(tmp_path / "list.txt").kept == 1
    (tmp_path / "list.txt").write_text(f"{url}/1.png\n")
    assert embed(tmp_path / "list.txt", retry=True).failed == 0


def test_images_are_turned_upright(embed: Embed, tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    line = next(bulk.open_embeddings(embed(tmp_path / "a.jpg").output).blocks()).lines
    assert (line["width"][0].as_py(), line["height"][0].as_py()) == (20, 40)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_texts(embed: Embed, tmp_path: Path, kind: str, model: MultiModalEmbeddingPipeline) -> None:
    path = text_file(tmp_path, kind)
    report = embed(path, kind="texts")
    opened = bulk.open_embeddings(report.output)
    assert opened.kind == "texts"
    wanted = [f"{path}:{n}" for n in range(1, 5)] if kind == "txt" else ["7", "8", "9", "10"]
    assert opened.ids == wanted
    (block,) = opened.blocks()
    assert block.lines["text"].to_pylist() == TEXTS
    rows = model.forward({"text": TEXTS})["text_embedding"]
    np.testing.assert_allclose(block.vectors, rows, atol=3e-4, rtol=0)


def test_texts_are_known_by_their_words(embed: Embed, tmp_path: Path) -> None:
    path = text_file(tmp_path, "txt")
    embed(path, kind="texts")
    path.write_text("新的\n" + path.read_text() + "\n")
    report = embed(path, kind="texts")
    assert (report.embedded, report.kept) == (1, 4)


def test_columns(embed: Embed, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("动物,code\n猫,k1\n狗,k2\n")
    with pytest.raises(
        DatasetError, match=r"no column of texts \(text, .*; found 动物, code; name"
    ):
        embed(path, kind="texts")
    with pytest.raises(DatasetError, match=r"no column of ids \(number\); found"):
        embed(path, kind="texts", column="动物", id_column="number")
    assert list(vectors_of(embed(path, kind="texts", column="动物", id_column="code").output)) == [
        "k1",
        "k2",
    ]


def test_stdin(
    tmp_path: Path, some: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    content = "\n".join(map(str, some)).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert cli.main(["embed", "-", "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert list(vectors_of(tmp_path / "out")) == list(map(str, some))
    assert "20 images of 128 columns: 20 embedded, 0 kept, 0 failed" in capsys.readouterr().out


def test_the_iterator(model: MultiModalEmbeddingPipeline, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    problems = Problems()
    found = dict[str, np.ndarray]()
    for ids, vectors in bulk.iter_embeddings(photos, model, problems=problems):
        assert vectors.dtype == np.float32
        found |= zip(ids, vectors, strict=True)
    assert len(found) == 20
    assert [str(problem.where) for problem in problems.found] == [str(photos / "bad.png")]
    np.testing.assert_allclose(list(found.values()), expected(model, list(found)), atol=2e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_iterator_yields_the_ids_that_are_asked_for(
    model: MultiModalEmbeddingPipeline, photos: Path
) -> None:
    paths = list(photos.rglob("*.png"))
    for ids in ("relative", "absolute", None):
        options = bulk.EmbedOptions(ids=ids)  # type: ignore[arg-type]
        found = {id for some, _ in bulk.iter_embeddings(photos, model, options) for id in some}
        assert found == {
            str(path.relative_to(photos) if ids == "relative" else path) for path in paths
        }


def test_thousands_of_items_are_counted_for_the_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many.txt").write_text("".join(f"{number}\n" for number in range(2001)))
    opened = bulk.EmbedOptions(kind="texts").open(tmp_path / "many.txt")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr("cnclip.progress.SECONDS_BETWEEN_LINES", 0.0)
    assert sys.modules["cnclip.bulk.embed"]._count(opened) == 2001
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "looking for texts: 1000",
        "looking for texts: 2000",
    ]


def test_the_iterator_names_rows_by_file_and_member(
    model: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    table, lines = tmp_path / "some.csv", tmp_path / "some.txt"
    table.write_text("id,text\n7,\n8,cat\n")
    lines.write_bytes(b"dog\n\xff\n")
    problems, options = Problems(), bulk.EmbedOptions(kind="texts")
    found = bulk.iter_embeddings([table, lines], model, options, problems=problems)
    assert [id for ids, _ in found for id in ids] == ["8", f"{lines}:1"]
    assert [problem.where for problem in problems.found] == [
        Where(file=str(table), line=2),
        Where(file=str(lines), line=2),
    ]


def test_the_iterator_checks_its_arguments_when_it_is_called(
    model: MultiModalEmbeddingPipeline, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="encoding"):
        bulk.iter_embeddings(tmp_path / "nowhere", model, bulk.EmbedOptions(encoding="nothing"))
    with pytest.raises(DatasetError, match="no such file"):
        bulk.iter_embeddings(tmp_path / "nowhere", model)


@pytest.mark.parametrize("name", ["a.tar.zst", "a.tzst", "zstd.tar", "gzip.tar"])
def test_compressed_tars_are_found_by_their_content(
    embed: Embed, some: list[Path], tmp_path: Path, name: str
) -> None:
    write_tar(tmp_path / "plain.tar", some[:3])
    content = (tmp_path / "plain.tar").read_bytes()
    path = tmp_path / name
    if name == "gzip.tar":
        path.write_bytes(gzip.compress(content))
    else:
        path.write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    report = embed(path)
    assert (report.rows, report.failed) == (3, 0)
    assert vectors_of(report.output).keys() == {f"{path}:000{number}" for number in range(3)}
    path.write_bytes(path.read_bytes()[:3000])
    report = embed(path, output=tmp_path / "cut", replace=True)
    assert report.failed == 1 and report.first_failed[0][0] == str(path)
    assert report.first_failed[0][1].startswith("damaged: ")


def test_other_files_with_an_image_inside_are_no_images(some: list[Path]) -> None:
    image = some[0].read_bytes()
    assert format_of(b"\xef\xbb\xbf\r\nHTTP/1.1 200 OK\r\n\r\n" + image) == "PNG"
    assert format_of(b"\0\1\2\3" + image) is None
    assert format_of(b"\x28\xb5\x2f\xfd" + image) is None
