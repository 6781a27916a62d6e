"""Which files are images: the same in folders, zips, tar files and lists; never a FIFO."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from cnclip import bulk, errors, load_image
from cnclip.bulk.items import open_sources
from cnclip.datasets import open_retrieval
from cnclip.datasets.pairs import open_pairs
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from cnclip.preprocessors import formats
from cnclip.sources import Problems
from cnclip.sources.image_names import ImageNames, describe_left_out

JPEG = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(JPEG, "JPEG")
CONTENT = JPEG.getvalue()


@pytest.fixture(scope="module")
def model() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", num_threads=2)


def as_folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = place / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place / "folder"


def as_zip(place: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place / "a.zip"


def as_tar(place: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path = place / ("a.tar" if mode == "w" else "a.tar.gz")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def as_compressed_tar(place: Path, files: dict[str, bytes]) -> Path:
    return as_tar(place, files, "w:gz")


Maker = Callable[[Path, dict[str, bytes]], Path]
MAKERS = [as_folder, as_zip, as_tar, as_compressed_tar]


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "is_installed", lambda format: False)


@pytest.mark.usefixtures("no_extras")
@pytest.mark.parametrize("make", MAKERS)
def test_every_source_takes_the_same(make: Maker, tmp_path: Path) -> None:
    names = ["a.jpg", "b.JPE", "c.mpo", "d.v2.jpeg", "IMG.1.jpg", "IMG.2.jpg", "2024.05.01 12.jpg"]
    others = ["e.heic", "f.HEIC", "g.jxl", "h.svg", "i.jpg.part", "j.txt~", "k.cr2", "l.dng"]
    files = dict.fromkeys([*names, *others, "no suffix"], CONTENT)
    files |= {"text": b"words", "a.cr2": CONTENT, ".hidden.jpg": CONTENT, "__MACOSX/._a.jpg": b"x"}
    opened = open_sources(make(tmp_path, files))
    found = {os.path.basename(item.id.rpartition(":")[2]) for item in opened.items()}
    wanted = {*names, "no suffix"}
    if make in (as_tar, as_compressed_tar):
        wanted = {os.path.splitext(name)[0] for name in wanted}
        # Read once: without rawpy, a raw file is counted before its JPEG may be known.
        opened.image_names.left_out[".cr2"] -= 1
        opened.image_names.left_out[".cr2 with a .jpg"] += 1
    assert found == wanted
    left_out = {".heic": 2, ".jxl": 1, ".svg": 1, ".part": 1, ".txt~": 1, ".cr2": 1, ".dng": 1}
    assert dict(opened.image_names.left_out) == {**left_out, "": 1, ".cr2 with a .jpg": 1}
    assert describe_left_out(opened.image_names.left_out) == [
        "1 .cr2 left out: pip install 'cnclip[raw]'",
        "1 .cr2 left out: there is a JPEG of the same name",
        "1 .dng left out: pip install 'cnclip[raw]'",
        "2 .heic left out: pip install 'cnclip[heif]'",
        "1 .jxl left out: pip install 'cnclip[jxl]'",
        "left out, not image files: 1 without a suffix, 1 .part, 1 .svg, 1 .txt~",
    ]


@pytest.mark.parametrize("make", MAKERS)
def test_all_files(make: Maker, tmp_path: Path) -> None:
    files = {"a.part": CONTENT, "b.dat": CONTENT, "c.txt": b"words", "d.jpg": CONTENT}
    opened = open_sources(make(tmp_path, files), all_files=True)
    assert len(list(opened.items())) == 3
    assert dict(opened.image_names.left_out) == {".txt": 1}


def test_a_single_file_of_another_name(tmp_path: Path) -> None:
    for name in ("a.part", "a", "a.unknown"):
        (tmp_path / name).write_bytes(CONTENT)
        (item,) = open_sources(tmp_path / name).items()
        assert item.error is None and item.image is not None
    (tmp_path / "b.part").write_bytes(b"words")
    with pytest.raises(errors.DatasetError, match="unknown kind of file"):
        open_sources(tmp_path / "b.part")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_a_tar_are_counted(mode: Literal["w", "w:gz"], tmp_path: Path) -> None:
    path = tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar")
    with tarfile.open(path, mode) as tar:
        for name, kind in [
            ("a.jpg", tarfile.REGTYPE),
            ("b.jpg", tarfile.LNKTYPE),
            ("c.JPG", tarfile.SYMTYPE),
            ("d.png", tarfile.SYMTYPE),
            ("e.txt", tarfile.SYMTYPE),
            ("@eaDir/f.jpg", tarfile.LNKTYPE),
            ("g.jpg", tarfile.DIRTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.jpg"
            member.size = len(CONTENT) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(CONTENT))
    opened = open_sources(path)
    assert len(list(opened.items())) == 1
    assert describe_left_out(opened.image_names.left_out) == [
        f"{count} left out: stored as links or sparse files; pack whole files: "
        "tar --dereference --hard-dereference"
        for count in ("2 .jpg", "1 .png")
    ]


def test_members_of_a_zip_without_a_name_are_counted(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("a.jpg", "XX.jpg", "猫.jpg"):  # the last is marked as UTF-8
            archive.writestr(name, CONTENT)
    # A name ends at its first NUL byte.
    damaged = content.getvalue().replace(b"XX.jpg", b"\0X.jpg")
    (tmp_path / "a.zip").write_bytes(damaged.replace("猫.jpg".encode(), b"\0XX.jpg"))
    opened = open_sources(tmp_path / "a.zip")
    assert [item.id.rpartition(":")[2] for item in opened.items()] == ["a.jpg"]
    assert describe_left_out(opened.image_names.left_out) == [
        "2 without a name left out: the zip is damaged"
    ]


def test_images_of_one_name_in_a_tar(tmp_path: Path) -> None:
    files = {"a.jpg": CONTENT, "a.png": CONTENT, "a.jpeg": CONTENT}
    opened = open_sources(as_tar(tmp_path, files))
    found = [item.id.rpartition(":")[2] for item in opened.items()]
    assert found == ["a", "a.png", "a.jpeg"]


def test_pairs_with_dots_in_a_tar(tmp_path: Path) -> None:
    files = {"a.b.jpg": CONTENT, "a.b.txt": b"one", "c.jpg": CONTENT, "c.txt": b"two"}
    files |= {"d.tiff": CONTENT, "d.txt": b"three", "c.mask.png": CONTENT}
    pairs = open_pairs(as_tar(tmp_path, files), problems=Problems(strict=True))
    assert (list(pairs.image_ids), pairs.texts) == (["a.b", "c", "d"], ["one", "two", "three"])


def test_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "is_installed", lambda format: True)
    names = ImageNames()
    found = list(names.visible(["a.CR2", "a.jpg", "b/a.nef", "c.dng"]))
    assert found == ["a.jpg", "b/a.nef", "c.dng"]
    assert all(names.accept(name, lambda: b"") for name in found)
    assert names.left_out == {".cr2 with a .jpg": 1}


# Paths that are not files: each would wait for a writer


def special_paths(place: Path) -> list[str]:
    os.mkfifo(place / "fifo.jpg")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place / "socket.jpg"))
    server.close()
    return [str(place / "fifo.jpg"), str(place / "socket.jpg"), "/dev/zero"]


def test_load_image_never_waits(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        for path in [*special_paths(tmp_path), f"/dev/fd/{read}", f"/proc/self/fd/{read}"]:
            for source in (path, Path(path), Path(path).as_uri()):
                with pytest.raises(errors.ImageError, match="not a file"):
                    load_image(source)
    finally:
        os.close(read)
        os.close(write)


def test_a_writer_is_not_woken(tmp_path: Path) -> None:
    """A program that waits to write to the FIFO would be ended by SIGPIPE."""
    os.mkfifo(tmp_path / "a.jpg")
    opened = threading.Event()

    def write() -> None:
        with open(tmp_path / "a.jpg", "wb"):
            opened.set()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    time.sleep(0.05)
    with pytest.raises(errors.ImageError, match="a FIFO, not a file"):
        load_image(tmp_path / "a.jpg")
    assert not opened.is_set()
    with open(tmp_path / "a.jpg", "rb"):
        writer.join()


def test_forward_and_bulk_never_wait(model: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    paths = special_paths(tmp_path)
    for path in paths:
        with pytest.raises(errors.ImageError, match=r"img\[1\]: .*not a file"):
            model({"img": [CONTENT, path, CONTENT]})
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join([*paths, *(Path(path).as_uri() + "?" for path in paths[:1])]))
    items = list(open_sources(listing).items())
    assert all("not a file" in (item.error or "") for item in items)


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.zip", "a.jsonl", "a.csv", "a.tsv"])
def test_data_sets_never_wait(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(errors.DatasetError):
            data = open_retrieval(path)
            problems = Problems(strict=True)
            list(data.texts(problems))
            list(data.images(problems))


# Damaged models and sources


def test_rows_of_a_damaged_model(
    model: MultiModalEmbeddingPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged:
        def __init__(self, inner: object, value: float) -> None:
            self._inner, self._value = inner, value

        def __getattr__(self, name: str) -> object:
            method = getattr(self._inner, name)
            if not name.startswith("encode"):
                return method

            def encode(*arguments: object) -> object:
                rows = np.array(method(*arguments))
                rows[-1] *= self._value
                return rows

            return encode

    files = {f"{n}.jpg": CONTENT for n in range(3)}
    for value in (np.nan, np.inf, 0.0, 1.5):
        with monkeypatch.context() as patch:
            patch.setattr(model.model, "encoder", Damaged(model.model.encoder, value))
            for given in ({"img": [CONTENT] * 2}, {"text": ["猫", "狗"]}):
                with pytest.raises(errors.ModelRunError, match="not finite or not of unit length"):
                    model(given)
            output = tmp_path / f"{value}"
            report = bulk.embed(as_folder(tmp_path, files), model, output)
            assert (report.rows, report.failed) == (2, 1)
            assert "not finite or not of unit length" in report.first_failed[0][1]
    assert bulk.embed(tmp_path / "folder", model, tmp_path / "good").rows == 3


def test_iter_embeddings_reports_what_is_missing(
    model: MultiModalEmbeddingPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = as_tar(tmp_path, {"a.jpg": CONTENT, "b.jpg": CONTENT})
    cut.write_bytes(cut.read_bytes()[:1700])
    ids = [id for some, _ in bulk.iter_embeddings(cut, model) for id in some]
    assert len(ids) == 1
    assert "1 images could not be embedded, the first" in caplog.text
    folder = as_folder(tmp_path, {"x.jpg": b"no image", "y.jpg": b""})
    with pytest.raises(errors.DatasetError, match="2 images could not be embedded, the first"):
        list(bulk.iter_embeddings(folder, model))
    problems = Problems()
    assert list(bulk.iter_embeddings(folder, model, problems=problems)) == []
    assert len(problems.found) == 2


def test_notes_are_counted_once_per_run(model: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.new("RGBA", (8, 8), (0, 0, 0, number)).save(photos / f"{number}.png")
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(photos / "deep.png")
    report = bulk.embed(photos, model, tmp_path / "plain")
    assert sorted(count for count, _ in report.notes.values()) == [1, 3]
    assert bulk.embed(photos, model, tmp_path / "plain").notes == {}
    options = bulk.EmbedOptions(background="white", depth="scale")
    assert bulk.embed(photos, model, tmp_path / "shown", options).notes == {}
    for other in (bulk.EmbedOptions(), bulk.EmbedOptions(background="black", depth="scale")):
        with pytest.raises(errors.EmbeddingsError, match="background: "):
            bulk.embed(photos, model, tmp_path / "shown", other)
    assert bulk.embed(photos, model, tmp_path / "shown", options).kept == 4
    with pytest.raises(errors.InvalidInputError, match="background: expected a color"):
        bulk.EmbedOptions(background="wite")
