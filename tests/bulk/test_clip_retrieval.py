"""clip-retrieval's folders: what `--to clip-retrieval` writes, and what others wrote."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import tarfile
import types
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cnclip import bulk, cli
from cnclip.bulk import to_clip_retrieval
from cnclip.errors import EmbeddingsError, ModelMismatchError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from tests.support.bulk import Embed, expected, text_file, vectors_of


def read(folder: Path, vectors: str = "img_emb") -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Rows and lines as clip-retrieval's tools read them: all files, in the order of names."""
    rows = [np.load(path) for path in sorted((folder / vectors).glob("*.npy"))]
    tables = [
        pyarrow.parquet.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"))
    ]
    assert [len(some) for some in rows] == [table.num_rows for table in tables]
    return np.concatenate(rows), pyarrow.concat_tables(tables).to_pylist()


def write(folder: Path, rows: np.ndarray, lines: list[dict[str, Any]], parts: int = 2) -> None:
    """Write rows as clip-retrieval's NumpyWriter does."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, numbers in enumerate(np.array_split(np.arange(len(rows)), parts)):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", rows[numbers])
        table = pyarrow.Table.from_pylist([lines[n] for n in numbers])
        pyarrow.parquet.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


@pytest.fixture
def foreign(tmp_path: Path, model: MultiModalEmbeddingPipeline, some: list[Path]) -> Path:
    """A folder of another program, which records no model."""
    rows = expected(model, some).astype(np.float16)
    lines = [{"image_path": str(path), "caption": path.stem} for path in some]
    write(tmp_path / "foreign", rows, lines)
    return tmp_path / "foreign"


def test_rows_and_lines_are_aligned(embed: Embed, photos: Path, tmp_path: Path) -> None:
    (photos / "a-bad-one.png").write_bytes(b"no image")
    report = embed(photos, to="clip-retrieval", shard_items=2)
    assert (report.rows, report.failed) == (20, 1)
    rows, lines = read(tmp_path / "out")
    known = vectors_of(tmp_path / "out")
    assert rows.dtype == np.float16
    assert [line["id"] for line in lines] == list(known)
    np.testing.assert_array_equal(rows.astype(np.float32), list(known.values()))
    for line in lines:
        assert line["image_path"] == str(photos / line["id"])
        assert line["url"] is None
        with Image.open(line["image_path"]) as image:
            assert (line["width"], line["height"]) == image.size
    # Ten or more files have numbers of two digits, so that the order of names is that of numbers.
    names = sorted(path.name for path in (tmp_path / "out" / "img_emb").iterdir())
    assert names[:2] == ["img_emb_00.npy", "img_emb_01.npy"]
    assert len(names) == 11


def test_vectors_take_no_more_space(embed: Embed, photos: Path, tmp_path: Path) -> None:
    embed(photos, to="clip-retrieval", shard_items=100)
    shard = next((tmp_path / "out").glob("*.npy"))
    assert os.path.samefile(shard, tmp_path / "out" / "img_emb" / "img_emb_0.npy")


def test_copied_where_the_file_system_has_no_links(
    embed: Embed, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, path: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    embed(photos, to="clip-retrieval")
    assert len(read(tmp_path / "out")[0]) == 20


def test_a_later_run_brings_it_up_to_date(embed: Embed, photos: Path, tmp_path: Path) -> None:
    embed(photos, to="clip-retrieval")
    out = tmp_path / "out"
    assert json.loads((out / "manifest.json").read_text())["layout"] == "clip-retrieval"
    for path in list(photos.glob("*.png"))[:9]:
        path.unlink()
    report = embed(photos)  # the layout is that of the last run
    assert (report.kept, report.embedded) == (11, 0)
    rows, lines = read(out)
    assert [line["id"] for line in lines] == list(vectors_of(out))
    assert len(rows) == 11
    # What a killed run leaves is repaired.
    for path in (out / "metadata").iterdir():
        path.unlink()
    (out / "metadata").rmdir()
    (out / ".metadata.0123abcd.tmp").mkdir()
    embed(photos)
    assert len(read(out)[0]) == 11
    assert not list(out.glob(".*.tmp"))
    # Given up, it leaves the folder of embeddings as without it.
    embed(photos, to="cnclip")
    assert not [path for path in out.iterdir() if path.is_dir()]
    assert "layout" not in json.loads((out / "manifest.json").read_text())


def test_a_failure_leaves_the_former_files(
    embed: Embed, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos, to="clip-retrieval")
    before = read(tmp_path / "out")
    next(photos.glob("*.png")).unlink()

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(to_clip_retrieval, "_metadata", full)
        embed(photos)
    after = read(tmp_path / "out")
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1] == before[1]
    embed(photos)
    assert len(read(tmp_path / "out")[0]) == 19


def test_no_lines_while_files_are_replaced(
    embed: Embed, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that is killed after the vectors were replaced must not leave lines of others.
    embed(photos, to="clip-retrieval")
    out = tmp_path / "out"
    rename, seen = Path.rename, []

    def watched(path: Path, target: Any) -> Path:
        done = rename(path, target)
        if Path(target) in (out / "img_emb", out / "metadata"):
            seen.append((Path(target).name, (out / "metadata").exists()))
        return done

    monkeypatch.setattr(Path, "rename", watched)
    embed(photos)
    assert seen == [("img_emb", False), ("metadata", True)]


def test_folders_of_others_are_not_replaced(embed: Embed, photos: Path, tmp_path: Path) -> None:
    embed(photos)
    (tmp_path / "out" / "metadata").mkdir()
    (tmp_path / "out" / "metadata" / "notes.txt").touch()
    with pytest.raises(EmbeddingsError, match=r"out/metadata: holds other files .*notes\.txt"):
        embed(photos, to="clip-retrieval")
    assert (tmp_path / "out" / "metadata" / "notes.txt").exists()


def test_texts(embed: Embed, tmp_path: Path) -> None:
    embed(text_file(tmp_path, "jsonl"), kind="texts", to="clip-retrieval")
    _, lines = read(tmp_path / "out", "text_emb")
    assert [line["id"] for line in lines] == list(vectors_of(tmp_path / "out"))
    assert lines[0]["caption"] == "猫"
    assert not (tmp_path / "out" / "img_emb").exists()
    opened = bulk.open_clip_retrieval(tmp_path / "out")
    assert opened.kind == "texts"
    assert next(opened.blocks()).lines["text"].to_pylist()[0] == "猫"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_captions_of_a_table(embed: Embed, some: list[Path], tmp_path: Path, suffix: str) -> None:
    captions = ["一只猫", "", "两棵树", "第四张图"]
    rows = [
        {"file_name": str(path), "caption": text}
        for path, text in zip(some, captions, strict=False)
    ]
    table = tmp_path / f"photos.{suffix}"
    if suffix == "csv":
        lines = ["file_name,caption", *(f"{row['file_name']},{row['caption']}" for row in rows)]
        table.write_text("\n".join(lines), encoding="utf-8")
    elif suffix == "jsonl":
        del rows[1]["caption"]
        rows[2]["caption"] = ["两棵树", "树"]  # type: ignore[assignment]
        table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    report = embed(table, to="clip-retrieval")
    assert (report.rows, report.failed) == (4, 0)
    _, lines_written = read(tmp_path / "out")
    expected_captions = [text or None for text in captions]
    assert [line["caption"] for line in lines_written] == expected_captions
    assert [line["image_path"] for line in lines_written] == [str(path) for path in some[:4]]
    opened = bulk.open_clip_retrieval(tmp_path / "out")
    assert next(opened.blocks()).lines["caption"].to_pylist() == expected_captions
    # Captions that change replace the former ones; the rows are not computed again.
    if suffix == "csv":
        table.write_text(
            table.read_text(encoding="utf-8").replace("一只猫", "一只黑猫"), encoding="utf-8"
        )
        assert embed(table).kept == 4
        assert read(tmp_path / "out")[1][0]["caption"] == "一只黑猫"


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_captions_in_a_tar(embed: Embed, some: list[Path], tmp_path: Path, suffix: str) -> None:
    image = some[0].read_bytes()
    members = {
        "1.png": image,
        "1.txt": "一只猫\n".encode(),
        "1.json": json.dumps({"caption": "not this one"}).encode(),
        # A text before its image, and a sample with a JSON file alone.
        "2.txt": b"a dog",
        "2.png": image,
        "3.json": json.dumps({"url": "http://h/3", "caption": ["两棵树", "树"]}).encode(),
        "3.png": image,
        # What is no text does not fail the image.
        "4.png": image,
        "4.txt": b"  ",
        "5.png": image,
        "5.json": b"[1",
        "6.png": image,
        "6.txt": b"\x81",
        "7.png": image,
        "7.txt": b"x" * ((1 << 20) + 1),
        "8.png": image,
        "8.cls": b"3",
        "9.txt": b"no image",
        "a.png": image,
        "a.b.png": image,
        "a.b.txt": "最后".encode(),
    }
    with tarfile.open(tmp_path / f"a{suffix}", "w:gz" if suffix == ".tar.gz" else "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    report = embed(tmp_path / f"a{suffix}", to="clip-retrieval")
    assert (report.rows, report.failed) == (10, 0), report.first_failed
    _, lines = read(tmp_path / "out")
    captions = {line["id"].rpartition(":")[2]: line["caption"] for line in lines}
    known = {"1": "一只猫", "2": "a dog", "3": "两棵树", "a.b": "最后"}
    assert captions == dict.fromkeys(["4", "5", "6", "7", "8", "a"]) | known


def test_archives_and_urls(
    embed: Embed, some: list[Path], tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # clip-back opens image_path where a file of this name exists, as an image.
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(some[0], "dog.png")

    def respond(request: BaseHTTPRequestHandler) -> None:
        content = some[1].read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    url = f"{serve(respond)}cat.png"
    embed([tmp_path / "photos.zip", url], to="clip-retrieval")
    _, lines = read(tmp_path / "out")
    assert [(line["image_path"], line["url"]) for line in lines] == [
        (f"{tmp_path}/photos.zip:dog.png", None),
        (url, url),
    ]


def test_the_model_is_recorded(
    embed: Embed,
    photos: Path,
    tmp_path: Path,
    model: MultiModalEmbeddingPipeline,
    vit: MultiModalEmbeddingPipeline,
) -> None:
    embed(photos, to="clip-retrieval")
    (tmp_path / "copy").mkdir()
    for name in ("img_emb", "metadata"):
        (tmp_path / "out" / name).rename(tmp_path / "copy" / name)
    original = bulk.open_embeddings(tmp_path / "out")
    copied = bulk.open_clip_retrieval(tmp_path / "copy")
    copied.check()
    assert (copied.model, copied.rows, copied.dtype) == (original.model, 20, "float16")
    assert list(copied.failed()) == []
    assert (copied.ids, copied.paths) == (original.ids, original.paths)
    assert bulk.open_clip_retrieval(tmp_path / "copy", pipeline=model).model == original.model
    with pytest.raises(ModelMismatchError, match=r"embeddings of emoji-cn, not of tiny-vit"):
        bulk.open_clip_retrieval(tmp_path / "copy", pipeline=vit)
    for path in (tmp_path / "copy" / "img_emb").iterdir():
        np.save(path, np.load(path)[:, :64])
    with pytest.raises(EmbeddingsError, match="records a model of 128 columns, not of the embed"):
        bulk.open_clip_retrieval(tmp_path / "copy")


def test_a_model_that_is_named_is_compared(
    foreign: Path, model: MultiModalEmbeddingPipeline, some: list[Path]
) -> None:
    opened = bulk.open_clip_retrieval(foreign)
    assert (opened.model, opened.kind, opened.dim, len(opened)) == (None, "images", 128, 20)
    assert opened.ids == opened.paths == [str(path) for path in some]
    assert "unknown" in repr(opened)
    assert bulk.open_clip_retrieval(foreign, pipeline=model).model == bulk.model_identity(model)


def test_embeddings_of_another_model_are_refused(
    foreign: Path, model: MultiModalEmbeddingPipeline, vit: MultiModalEmbeddingPipeline
) -> None:
    with pytest.raises(ModelMismatchError, match=r"has embeddings of 128 columns; those of tiny"):
        bulk.open_clip_retrieval(foreign, pipeline=vit)
    path = foreign / "img_emb" / "img_emb_0.npy"
    np.save(path, np.load(path)[:, ::-1])  # as many columns, and no longer those of this model
    with pytest.raises(ModelMismatchError, match="another model than emoji-cn: the cosine of 5"):
        bulk.open_clip_retrieval(foreign, pipeline=model)


def test_nothing_to_compare_is_logged(
    tmp_path: Path, model: MultiModalEmbeddingPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.eye(4, 128, dtype=np.float32)
    write(tmp_path / "far", rows, [{"key": f"{n:09}", "url": f"http://h/{n}"} for n in range(4)])
    opened = bulk.open_clip_retrieval(tmp_path / "far", pipeline=model)
    assert opened.model == bulk.model_identity(model)
    assert "none of its images could be embedded again" in caplog.text
    assert opened.ids == ["000000000", "000000001", "000000002", "000000003"]
    assert opened.paths[0] == "http://h/0"


def test_ids_are_made_distinct(tmp_path: Path) -> None:
    lines = [{"url": f"http://h/{n // 2}", "caption": "一"} for n in range(4)]
    write(tmp_path / "twice", np.eye(4, 8, dtype=np.float16), lines)
    opened = bulk.open_clip_retrieval(tmp_path / "twice")
    assert opened.ids == ["http://h/0", "http://h/0#1", "http://h/1", "http://h/1#3"]
    assert opened.paths == ["http://h/0", "http://h/0", "http://h/1", "http://h/1"]


def test_damaged_folders(foreign: Path) -> None:
    first = foreign / "img_emb" / "img_emb_0.npy"
    rows = np.load(first)
    np.save(first, rows[:-1])
    with pytest.raises(EmbeddingsError, match=r"metadata_0\.parquet: has 10 lines, but .* 9 rows"):
        bulk.open_clip_retrieval(foreign)
    np.save(first, rows.astype(np.float64))
    with pytest.raises(EmbeddingsError, match=r"_0\.npy: expected float16 or float32 \[n, d\]"):
        bulk.open_clip_retrieval(foreign)
    np.save(first, rows[:, :64])
    with pytest.raises(EmbeddingsError, match=r"has files of \[64, 128\] columns"):
        bulk.open_clip_retrieval(foreign)
    first.write_bytes(b"no array")
    with pytest.raises(EmbeddingsError, match=r"img_emb_0\.npy: damaged"):
        bulk.open_clip_retrieval(foreign)
    first.unlink()
    with pytest.raises(EmbeddingsError, match=r"metadata_0\.parquet: has no file of the same nu"):
        bulk.open_clip_retrieval(foreign)
    with pytest.raises(EmbeddingsError, match="has no text_emb"):
        bulk.open_clip_retrieval(foreign, "texts")
    (foreign / "img_emb" / "img_emb_1.npy").unlink()
    with pytest.raises(EmbeddingsError, match=r"img_emb: holds no img_emb_N\.npy"):
        bulk.open_clip_retrieval(foreign)


@pytest.mark.parametrize("name", ["img_emb/img_emb_1.npy", "metadata/metadata_1.parquet"])
def test_parts_that_are_damaged_or_cannot_be_read(foreign: Path, name: str) -> None:
    path = foreign / name
    opened = bulk.open_clip_retrieval(foreign)
    path.write_bytes(path.read_bytes()[:-9])
    for read in (lambda: bulk.open_clip_retrieval(foreign), lambda: list(opened.blocks())):
        with pytest.raises(EmbeddingsError, match=rf"{path.name}: damaged: "):
            read()
    path.unlink()
    path.mkdir()
    for read in (lambda: bulk.open_clip_retrieval(foreign), lambda: list(opened.blocks())):
        with pytest.raises(EmbeddingsError, match=rf"{path.name}: cannot be read: "):
            read()


def test_images_that_cannot_be_read_are_not_compared(
    foreign: Path, some: list[Path], tmp_path: Path, model: MultiModalEmbeddingPipeline
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    path = foreign / "metadata" / "metadata_0.parquet"
    lines = pyarrow.parquet.read_table(path).to_pylist()
    lines[0]["image_path"] = str(tmp_path / "bad.png")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), path)
    opened = bulk.open_clip_retrieval(foreign, pipeline=model)
    assert opened.model == bulk.model_identity(model)


def test_relative_paths_of_files_that_exist_become_absolute(
    some: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"image_path": some[0].name}, {"image_path": "gone.png"}]
    write(tmp_path / "some", np.eye(2, 8, dtype=np.float16), lines, parts=1)
    monkeypatch.chdir(some[0].parent)
    opened = bulk.open_clip_retrieval(tmp_path / "some")
    assert opened.paths == [str(some[0]), "gone.png"]
    assert opened.ids == [some[0].name, "gone.png"]


@pytest.mark.parametrize("value", [0.5, np.nan, 0.0])
def test_rows_that_are_not_of_unit_length(foreign: Path, value: float) -> None:
    second = foreign / "img_emb" / "img_emb_1.npy"
    rows = np.load(second)
    rows[3] *= value
    np.save(second, rows)
    opened = bulk.open_clip_retrieval(foreign)
    with pytest.raises(EmbeddingsError, match=r"img_emb_1\.npy:row 3: has the length .* expected"):
        opened.check()


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    arguments = ["embed", str(photos), "-o", out, "--model", "emoji-cn", "--device", "cpu"]
    assert cli.main([*arguments, "--to", "clip-retrieval"]) == 0
    assert len(read(tmp_path / "out")[0]) == 20


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """clip-retrieval without its `__init__`, which imports programs that embed and download."""
    for path in map(Path, sys.path):
        if (path / "clip_retrieval" / "clip_back.py").is_file():
            found = types.ModuleType("clip_retrieval")
            found.__path__ = [str(path / "clip_retrieval")]
            monkeypatch.setitem(sys.modules, "clip_retrieval", found)
            return found
    pytest.skip("clip-retrieval is not installed")


@pytest.mark.filterwarnings("ignore")
def test_clip_retrieval_itself(
    package: types.ModuleType, embed: Embed, photos: Path, tmp_path: Path
) -> None:
    # `clip-retrieval index` reads with this; autofaiss itself requires NumPy 1.
    reader = pytest.importorskip("embedding_reader", reason="embedding_reader is not installed")
    faiss = pytest.importorskip("faiss")
    back = importlib.import_module("clip_retrieval.clip_back")
    embed(photos, to="clip-retrieval")
    out = str(tmp_path / "out")
    vectors, lines = read(tmp_path / "out")
    opened = reader.EmbeddingReader(f"{out}/img_emb", file_format="npy")
    assert (opened.count, opened.dimension) == (20, 128)
    batches = [batch for batch, _ in opened(batch_size=6, show_progress=False)]
    np.testing.assert_array_equal(np.concatenate(batches), vectors)
    index = faiss.IndexFlatIP(128)
    index.add(vectors.astype(np.float32))
    faiss.write_index(index, f"{out}/image.index")
    index = back.load_index(f"{out}/image.index", True)
    _, found = index.search(vectors.astype(np.float32), 1)
    assert found[:, 0].tolist() == list(range(20))
    wanted = ["url", "image_path", "caption"]
    # It writes HDF5 with pandas 2, which it requires.
    pandas = importlib.import_module("pandas")
    for hdf5 in (False, True) if pandas.__version__.startswith("2.") else (False,):
        provider, _ = back.load_metadata_provider(out, hdf5, False, index, wanted, False)
        metas = [back.meta_to_dict(one) for one in provider.get(list(range(20)), wanted)]
        assert [one["image_path"] for one in metas] == [line["image_path"] for line in lines]
    back.convert_metadata_to_base64(metas[0])
    assert metas[0]["image"]


def test_an_empty_part(tmp_path: Path) -> None:
    write(tmp_path / "some", np.eye(2, 8, dtype=np.float16), [{"key": "a"}, {"key": "b"}], parts=1)
    np.save(tmp_path / "some" / "img_emb" / "img_emb_1.npy", np.empty((0, 8), np.float16))
    empty = pyarrow.table({"key": pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(empty, tmp_path / "some" / "metadata" / "metadata_1.parquet")
    opened = bulk.open_clip_retrieval(tmp_path / "some")
    opened.check()
    assert opened.ids == ["a", "b"]


@pytest.mark.parametrize(
    "mark",
    [
        "no JSON",
        "[" * 100_000,
        '{"model": {"name": "", "digest": "", "embed_dim": Infinity, "resolution": 1}}',
    ],
    ids=["text", "deep", "infinite"],
)
def test_a_mark_that_is_damaged(foreign: Path, mark: str) -> None:
    path = foreign / "metadata" / "metadata_0.parquet"
    table = pyarrow.parquet.read_table(path).replace_schema_metadata({"cnclip": mark})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    path.write_bytes(content.getvalue())
    with pytest.raises(EmbeddingsError, match=r"metadata_0\.parquet: damaged: its description"):
        bulk.open_clip_retrieval(foreign)
