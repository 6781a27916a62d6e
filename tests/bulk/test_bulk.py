"""`cnclip embed` and `cnclip.bulk`: sources, second runs, kills, full disks, odd files."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cnclip import DatasetError, EmbeddingsError, InvalidInputError, bulk, cli, load_image, pipeline
from cnclip.assets import asset_path
from cnclip.bulk import run
from cnclip.datasets import Problems, write_split
from cnclip.pipelines import MultiModalEmbeddingPipeline

GALLERY = asset_path("gallery")
Embed = Callable[..., bulk.Report]


@pytest.fixture(scope="module")
def model() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture
def some() -> list[Path]:
    """A few images."""
    return sorted(GALLERY.glob("*.png"))[:20]


@pytest.fixture
def photos(tmp_path: Path, some: list[Path]) -> Path:
    """A folder with them, five in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for number, path in enumerate(some):
        shutil.copy2(path, folder / ("inner" if number < 5 else "") / path.name)
    return folder


@pytest.fixture
def embed(model: MultiModalEmbeddingPipeline, tmp_path: Path) -> Embed:
    """Embeds to `out`, in small shards."""

    def embed(sources: Any, **options: Any) -> bulk.Report:
        options = {"output": tmp_path / "out", "shard_items": 8, "batch_size": 4, **options}
        return bulk.embed(sources, model, **options)

    return embed


def vectors_of(folder: Path) -> dict[str, np.ndarray]:
    """The embeddings by their ids."""
    opened = bulk.open_embeddings(folder, check=True)
    found = {}
    for first, vectors, lines in opened.blocks():
        assert first == len(found)
        found |= zip(lines["id"].to_pylist(), np.array(vectors, np.float32), strict=True)
    assert list(found) == opened.ids
    assert len(found) == opened.rows == len(opened)
    return found


def failed_of(folder: Path) -> dict[str, str]:
    return {Path(id).name: error for id, _, error in bulk.open_embeddings(folder).failed()}


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(model: MultiModalEmbeddingPipeline, images: list[Any]) -> np.ndarray:
    rows: np.ndarray = model.forward({"img": images})["img_embedding"]
    return rows


# What is embedded


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
    assert opened.ids == opened.paths == sorted(opened.ids)
    np.testing.assert_allclose(
        list(found.values()), expected(model, list(found)), atol=2e-6, rtol=0
    )
    block = next(opened.blocks())
    assert isinstance(block.vectors, np.memmap)
    with Image.open(opened.paths[0]) as image:
        assert (block.lines["width"][0].as_py(), block.lines["height"][0].as_py()) == image.size
    assert block.lines["bytes"][0].as_py() == os.path.getsize(opened.paths[0])


def test_float16_is_half_of_it(embed: Embed, photos: Path, tmp_path: Path) -> None:
    embed(photos)
    embed(photos, dtype="float32", output=tmp_path / "other")
    half, full = vectors_of(tmp_path / "out"), vectors_of(tmp_path / "other")
    assert half.keys() == full.keys()
    np.testing.assert_allclose(list(half.values()), list(full.values()), atol=2e-4, rtol=0)


def write_tar(path: Path, images: list[Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            tar.add(image, f"{number:04}.png")


def write_zip(path: Path, images: list[Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in images:
            archive.write(image, f"inner/{image.name}")
        archive.writestr("__MACOSX/._1.png", b"junk")
        archive.writestr("readme.txt", b"no image")


def write_parquet(path: Path, images: list[Path], *, paths: bool = False) -> None:
    if paths:
        values: list[Any] = [str(image) for image in images]
    else:
        values = [{"bytes": image.read_bytes(), "path": None} for image in images]
    pyarrow.parquet.write_table(pyarrow.table({"image": values}), path, row_group_size=7)


def write_tsv(path: Path, images: list[Path]) -> None:
    contents = ((100 + n, image.read_bytes()) for n, image in enumerate(images))
    write_split(path.parent, path.name.removesuffix("_imgs.tsv"), contents, [(1, "猫", [100])])


def write_list(path: Path, images: list[Path]) -> None:
    lines = [os.path.relpath(image, path.parent) for image in images[:10]]
    lines += [image.as_uri() for image in images[10:]]
    path.write_text("\n".join(lines) + "\n\n" + lines[0] + "\n")


def write_objects(path: Path, images: list[Path]) -> None:
    rows = ({"file_name": str(image), "id": image.stem} for image in images)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_table(path: Path, images: list[Path]) -> None:
    path.write_text("name,path\n" + "".join(f"x,{image}\n" for image in images))


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


TEXTS = ["猫", "红色的车", "  一只狗 ", 'a, "b"']


def text_file(folder: Path, kind: str) -> Path:
    path = folder / f"texts.{kind}"
    if kind == "txt":
        path.write_text("\n".join(TEXTS) + "\n")
    elif kind == "jsonl":
        path.write_text(
            "".join(json.dumps({"text_id": 7 + i, "text": t}) + "\n" for i, t in enumerate(TEXTS))
        )
    elif kind == "csv":
        path.write_text(
            "caption,id\n"
            + "".join(f'"{t.replace(chr(34), chr(34) * 2)}",{7 + i}\n' for i, t in enumerate(TEXTS))
        )
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "id": range(7, 11)}), path)
    return path


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
    path.write_text("标题,code\n猫,k1\n狗,k2\n")
    with pytest.raises(DatasetError, match=r"no column of texts \(text, .*; found 标题, code"):
        embed(path, kind="texts")
    with pytest.raises(DatasetError, match=r"no column of ids \(number\); found"):
        embed(path, kind="texts", column="标题", id_column="number")
    assert list(vectors_of(embed(path, kind="texts", column="标题", id_column="code").output)) == [
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


# Bad items and odd files


def test_odd_files(embed: Embed, photos: Path, some: list[Path], monkeypatch: Any) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy(some[0], photos / odd)
    shutil.copy(some[0], photos / "行\n的.png")
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.png").write_bytes(b"no image")
    (photos / "cut.png").write_bytes(some[0].read_bytes()[:500])
    (photos / "broken.png").symlink_to("nowhere")
    (photos / "inner" / "loop").symlink_to("..")
    (photos / "own.png").symlink_to("own.png")
    os.mkfifo(photos / "fifo")
    monkeypatch.chdir(photos)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        report = embed(photos)
    assert (report.rows, report.failed) == (22, 7)
    failed = failed_of(report.output)
    assert failed.keys() == {
        "empty.png", "text.png", "cut.png", "broken.png", "own.png", "fifo", "socket",
    }  # fmt: skip
    assert failed["fifo"] == "a FIFO, not a file"
    assert failed["socket"] == "a socket, not a file"
    assert failed["empty.png"] == "an empty file"
    assert failed["broken.png"] == "no such file"
    assert failed["text.png"] == "cannot be read as an image: of no format that Pillow knows"
    url = (photos / odd).as_uri()
    assert url in bulk.open_embeddings(report.output).paths
    load_image(url)
    again = embed(photos)
    assert (again.embedded, again.kept, again.failed) == (0, 22, 7)


def test_the_command_names_what_failed(photos: Path, tmp_path: Path, capsys: Any) -> None:
    (photos / "bad\x1b[31m.png").write_bytes(b"no image")
    arguments = ["embed", str(photos), "-o", str(tmp_path / "out"), "--device", "cpu"]
    for _ in range(2):  # it has not changed, and is named again
        assert cli.main(arguments) == 1
        out, err = capsys.readouterr()
        assert "20 images" in out
        assert "1 failed" in out
        assert f"{photos}/bad\\x1b[31m.png: cannot be read as an image" in err
    assert (
        cli.main([*arguments[:1], str(photos / "bad\x1b[31m.png"), *arguments[2:], "--replace"])
        == 2
    )


def test_broken_rows(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    text = base64.b64encode(some[0].read_bytes()).decode()
    (tmp_path / "valid_imgs.tsv").write_text(f"1\t{text}\n1\t{text}\n2\t??\n3\n4\t{text}\n")
    report = embed(tmp_path / "valid_imgs.tsv")
    assert list(vectors_of(report.output)) == ["1", "4"]
    assert report.failed == 3

    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "\xe7\x8c\xab"}\n{"text": 3}\nnot json\n{"text": ""}\n{"text": "\\ud800"}\n[]\n'
    )
    report = embed(tmp_path / "a.jsonl", kind="texts", output=tmp_path / "texts")
    assert (report.rows, report.failed) == (1, 5)
    assert [error.partition(":")[0] for _, error in report.first_failed] == [
        "expected a string, found 3",
        "not JSON",
        "expected a string, found nothing",
        "the text is not UTF-8",
        "expected a JSON object, found list",
    ]


def test_damaged_archives(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", some)
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: len(content) // 2])
    report = embed(tmp_path / "a.tar")
    assert 5 < report.rows < 20
    assert report.failed >= 1

    write_zip(tmp_path / "a.zip", some)
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[300:310] = b"0123456789"
    (tmp_path / "a.zip").write_bytes(damaged)
    report = embed(tmp_path / "a.zip", output=tmp_path / "zip")
    assert (report.rows, report.failed) == (19, 1)
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(DatasetError, match="not a zip, or damaged"):
        embed(tmp_path / "b.zip", output=tmp_path / "b")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match="damaged, or not Parquet"):
        embed(tmp_path / "b.parquet", output=tmp_path / "b")
    report = embed([tmp_path / "b.zip", tmp_path / "b.parquet", some[0]], output=tmp_path / "b")
    assert (report.rows, report.failed) == (1, 2)


def test_nothing_to_embed(embed: Embed, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        embed(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="of no known kind"):
        embed(__file__)
    embed(photos)
    before = vectors_of(tmp_path / "out")
    for path in photos.rglob("*.png"):
        path.unlink()
    # A disk that is not mounted must not cost what was embedded of it.
    with pytest.raises(DatasetError, match="photos: holds no images"):
        embed(photos)
    assert vectors_of(tmp_path / "out").keys() == before.keys()
    (photos / "a.tar").touch()
    with pytest.raises(DatasetError, match=r"no images, but files \*.tar: name those"):
        embed(photos)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int8"},
        {"batch_size": 0},
        {"batch_size": 33},
        {"shard_items": 0},
        {"kind": "both"},
    ],
)
def test_bad_options(embed: Embed, photos: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        embed(photos, **options)


# A second run


def test_new_changed_and_removed_files(
    embed: Embed, photos: Path, some: list[Path], tmp_path: Path
) -> None:
    embed(photos)
    before = vectors_of(tmp_path / "out")
    names = sorted(photos.glob("*.png"))
    shutil.copy(some[0], names[0])  # changed
    names[1].unlink()
    shutil.copy(some[1], photos / "0.png")  # new, and the first of all
    report = embed(photos)
    assert (report.embedded, report.kept, report.rows) == (2, 18, 20)
    after = vectors_of(tmp_path / "out")
    assert after.keys() == before.keys() - {str(names[1])} | {str(photos / "0.png")}
    for name in after.keys() & before.keys() - {str(names[0])}:
        np.testing.assert_array_equal(after[name], before[name])
    assert not np.array_equal(after[str(names[0])], before[str(names[0])])
    # What is there is what a first run makes of the folder.
    embed(photos, output=tmp_path / "fresh")
    fresh = vectors_of(tmp_path / "fresh")
    assert list(fresh) == list(after)
    np.testing.assert_allclose(list(fresh.values()), list(after.values()), atol=1e-3)
    assert len(content_of(tmp_path / "out")) == len(content_of(tmp_path / "fresh"))


def test_other_sources_are_not_dropped_by_mistake(
    embed: Embed, photos: Path, tmp_path: Path
) -> None:
    embed(photos)
    with pytest.raises(EmbeddingsError, match=f"was made of {photos} as well; .*--replace"):
        embed(photos / "inner")
    assert embed([photos / "inner", photos]).embedded == 0
    assert embed(photos / "inner", replace=True).rows == 5


def test_another_model_or_kind_is_refused(
    embed: Embed, photos: Path, tmp_path: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    embed(photos)
    before = content_of(tmp_path / "out")
    with pytest.raises(EmbeddingsError, match=r"model: emoji-cn \(\w+\) and tiny-vit \(\w+\)"):
        bulk.embed(photos, vit, output=tmp_path / "out")
    with pytest.raises(EmbeddingsError, match="dtype: float16 and float32"):
        embed(photos, dtype="float32")
    with pytest.raises(EmbeddingsError, match="kind: images and texts"):
        embed(text_file(tmp_path, "txt"), kind="texts")
    assert content_of(tmp_path / "out") == before


def test_a_damaged_shard_is_made_anew(
    embed: Embed, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed(photos)
    before = content_of(tmp_path / "out")
    first, second = sorted((tmp_path / "out").glob("*.npy"))[:2]
    first.write_bytes(first.read_bytes()[:-1] + b"\0")
    second.unlink()
    with pytest.raises(EmbeddingsError, match=f"{second.name}: is missing"):
        bulk.open_embeddings(tmp_path / "out")
    report = embed(photos)
    assert (report.embedded, report.kept) == (16, 4)
    assert f"{first}: damaged" in caplog.text
    assert content_of(tmp_path / "out") == before


def test_what_is_no_folder_of_embeddings(embed: Embed, photos: Path, tmp_path: Path) -> None:
    for path in (photos, tmp_path / "nowhere"):
        with pytest.raises(
            EmbeddingsError, match=r"not a folder of embeddings: it has no manifest"
        ):
            bulk.open_embeddings(path)
    embed(photos)
    manifest = tmp_path / "out" / "manifest.json"
    content = json.loads(manifest.read_text())
    for damaged in (
        "{",
        "[]",
        '{"format": 7}',
        json.dumps(content | {"shards": [{"name": "../x"}]}),
    ):
        manifest.write_text(damaged)
        with pytest.raises(EmbeddingsError, match=r"manifest\.json"):
            bulk.open_embeddings(tmp_path / "out")
        with pytest.raises(EmbeddingsError, match=r"manifest\.json"):
            embed(photos)
        assert manifest.read_text() == damaged
    manifest.write_text(json.dumps(content))
    shard = next((tmp_path / "out").glob("*.npy"))
    np.save(shard, np.zeros((3, 3)))
    opened = bulk.open_embeddings(tmp_path / "out")
    with pytest.raises(EmbeddingsError, match=f"{shard.name}: damaged: holds float64"):
        list(opened.blocks())
    with pytest.raises(EmbeddingsError, match=f"{shard.name}: damaged"):
        opened.check()


def test_one_run_at_a_time(embed: Embed, photos: Path, tmp_path: Path) -> None:
    from cnclip.bulk.output import locked

    with locked(tmp_path / "out"), pytest.raises(EmbeddingsError, match="another run writes"):
        embed(photos)
    embed(photos)


def test_a_list_in_another_order(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    for seed in range(3):
        random.Random(seed).shuffle(some)
        write_list(tmp_path / "a.txt", some)
        report = embed(tmp_path / "a.txt")
        assert report.embedded == (20 if seed == 0 else 0)
        assert list(vectors_of(report.output)) == list(map(str, some))


# Runs that are cut off

COMMAND = """
import signal, sys
from cnclip import cli
from cnclip.bulk import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
run.SECONDS_BETWEEN_COMMITS = 0
print("ready", flush=True)
sys.exit(cli.main(["embed", *sys.argv[1:], "--device", "cpu", "--threads", "2"]))
"""


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A run that commits after each batch."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def committed(folder: Path) -> int:
    """Items that an unfinished run has noted."""
    try:
        return int(json.loads((folder / "unfinished.json").read_text())["items"])
    except FileNotFoundError:
        return 0


def kill_and_resume(source: Path, out: Path, times: int, *options: object) -> list[int]:
    """Kill runs at random moments, then let one end; the items that were noted at each kill."""
    reached = []
    begin = time.monotonic()
    with started(source, "-o", out.with_name("unbroken"), *options) as process:
        assert process.wait() in (0, 1), process.stderr
    duration = time.monotonic() - begin
    moments = random.Random(0)
    for number in range(times):
        with started(source, "-o", out, *options) as process:
            # One after the other, so that each has something left to do.
            share = moments.uniform(number, number + 1) / times
            wanted = share * 0.9 * sum(1 for _ in source.rglob("*.png"))
            limit = time.monotonic() + 10 * duration
            while committed(out) < wanted and time.monotonic() < limit:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            process.wait()
        reached.append(committed(out))
        with pytest.raises(EmbeddingsError, match="not finished|no manifest"):
            bulk.open_embeddings(out)
    with started(source, "-o", out, *options) as process:
        assert process.wait() in (0, 1)
    return reached


def test_killed_runs_end_as_an_unbroken_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    reached = kill_and_resume(GALLERY, out, 2, "--shard-items", 100)
    assert reached == sorted(reached)
    assert reached[-1] > 0
    assert content_of(out) == content_of(tmp_path / "unbroken")
    assert len(content_of(out)) == 2 * 4 + 1


@pytest.mark.slow
def test_killed_ten_times_in_2000_images(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    images = sorted(GALLERY.glob("*.png"))
    for number in range(2000):
        with Image.open(images[number % len(images)]) as image:
            image.rotate(number // len(images) * 60).save(source / f"{number:04}.png")
    (source / "0100.png").write_bytes(b"no image")
    reached = kill_and_resume(source, out, 10, "--shard-items", 300)
    assert reached == sorted(reached)
    assert content_of(out) == content_of(tmp_path / "unbroken")
    assert len(vectors_of(out)) == 1999


def test_a_killed_update_leaves_what_was_there(
    embed: Embed, photos: Path, tmp_path: Path, some: list[Path]
) -> None:
    out = tmp_path / "out"
    embed(photos, shard_items=50)
    before = vectors_of(out)
    for image in GALLERY.glob("*.png"):
        shutil.copy(image, photos / f"0{image.name}")
    with started(photos, "-o", out, "--shard-items", 50) as process:
        while committed(out) < 150:
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert vectors_of(out).keys() == before.keys()  # until a run ends
    report = embed(photos, shard_items=50)
    assert report.kept >= 150
    assert report.rows == 20 + len(list(GALLERY.glob("*.png")))
    assert len(content_of(out)) == 2 * 8 + 1


def test_ctrl_c(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(GALLERY, "-o", out) as process:
        while committed(out) < 50:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.wait() == 130
        assert time.monotonic() - begin < 5
        assert process.stderr is not None
        assert process.stderr.read().endswith("cnclip embed: interrupted\n")
    assert committed(out) >= 50
    with pytest.raises(EmbeddingsError, match="not finished: run the same `cnclip embed` again"):
        bulk.open_embeddings(out)
    with started(GALLERY, "-o", out) as process:
        assert process.wait() == 0
        assert process.stdout is not None
        assert ", 0 kept" not in process.stdout.read()


# Disks


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(embed: Embed, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(run, "SECONDS_BETWEEN_COMMITS", 0)
    embed(GALLERY, output=tmp_path / "unbroken", batch_size=8, shard_items=100)
    arguments = ["embed", str(GALLERY), "--device", "cpu", "--shard-items", "100", "-o"]
    with mounted(tmp_path / "disk", "size=100k") as disk:
        out = disk / "out"
        assert cli.main([*arguments, str(out)]) == 2
        assert f"No space left on device: '{out}" in capsys.readouterr().err
        assert 0 < committed(out) < 362
        assert not list(out.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert cli.main([*arguments, str(out)]) == 0
        assert " 0 kept" not in capsys.readouterr().out
        assert content_of(out) == content_of(tmp_path / "unbroken")


def test_a_read_only_folder(photos: Path, tmp_path: Path, capsys: Any) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        for out in (disk, disk / "out"):
            assert cli.main(["embed", str(photos), "-o", str(out), "--device", "cpu"]) == 2
            assert f"Read-only file system: '{out}" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main(["embed", str(photos), "-o", str(tmp_path / "file"), "--device", "cpu"]) == 2
    assert "File exists" in capsys.readouterr().err
