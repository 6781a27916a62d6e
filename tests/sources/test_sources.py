"""What a reader of a container can do, everyone who reads through it can do: bulk, data sets."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnclip.bulk import open_recorded
from cnclip.bulk.items import open_sources
from cnclip.datasets import ProblemKind, Problems, open_pairs, open_retrieval
from cnclip.datasets.classification import ClassificationData
from cnclip.errors import DatasetError, ImageError, Where
from cnclip.sources import Columns, ImageRef, walk
from cnclip.sources.parquet_files import GROUPS_KEPT, ParquetTable
from cnclip.sources.rows import with_problems
from cnclip.sources.tables import read_table


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images."""
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def write_parquet(path: Path, columns: dict[str, Any], rows: int = 2) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def contents(path: Path) -> list[bytes]:
    """The images of a data set, as evaluation reads them."""
    return [row.image.read() for row in open_retrieval(path).images(Problems())]


def embedded(path: Path) -> list[bytes]:
    """The images of a source, as bulk embedding reads them."""
    return [item.image.read() for item in open_sources(path).items() if item.image is not None]


# Columns


def test_a_struct_of_bytes_or_paths(folder: Path) -> None:
    images = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "1.png"}]
    path = write_parquet(folder / "a.parquet", {"image": images, "text": ["零", "一"]})
    assert embedded(path) == contents(path) == [png(0), png(1)]
    data = open_pairs(path, problems=Problems())
    assert (data.read(0), data.read(1)) == (png(0), folder / "1.png")
    path = write_parquet(folder / "b.parquet", {"image": [{"path": "1.png"}], "text": ["一"]})
    assert embedded(path) == contents(path) == [png(1)]


def test_columns_of_a_wrong_type_are_not_chosen(folder: Path) -> None:
    path = write_parquet(folder / "a.parquet", {"label": [3], "caption": ["字"]})
    assert [item.text for item in open_sources(path, "texts").items()] == ["字"]
    with pytest.raises(DatasetError, match=r"no column of images .*found label: int64, caption"):
        list(open_sources(path).items())


def test_texts_in_lists(folder: Path) -> None:
    path = write_parquet(folder / "a.parquet", {"image": [png(0)], "texts": [["甲", "乙"]]})
    items = list(open_sources(path, "texts").items())
    assert [item.text for item in items] == ["甲", "乙"]
    assert [item.id for item in items] == [f"{path}:1:1", f"{path}:1:2"]
    assert open_pairs(path, problems=Problems()).texts == ["甲", "乙"]


# URLs


def test_urls_of_files_in_a_data_set(folder: Path) -> None:
    data_url = "data:image/png;base64,iVBORw0KGgo="
    names = [(folder / "0.png").as_uri(), "1.png", data_url]
    outside = [(folder.parent / "x.png").as_uri(), "../x.png", "http://localhost/x.png"]
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": name, "text": "字"}) + "\n" for name in names + outside)
    )
    problems = Problems()
    data = open_pairs(folder, problems=problems)
    assert list(data.image_ids) == names
    assert data.read(0) == folder / "0.png"
    assert data.read(2) == b"\x89PNG\r\n\x1a\n"
    assert [(problem.kind, problem.where.line) for problem in problems.found] == [
        (ProblemKind.NO_IMAGE, line) for line in (4, 5, 6)
    ]


def test_urls_and_zips_in_a_list_of_classes(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/2.png", png(2))
        archive.writestr("x/3.png", png(3))
    lines = [
        "0.png 0", f"{(folder / '1.png').as_uri()}\tbig cat", "a.zip@x/2.png 0", "a.zip@x/4.png 0",
        "b.zip@x/2.png 0", "a.zip@x/3.png 1",
    ]  # fmt: skip
    (folder / "list.txt").write_text("\n".join(lines))
    problems = Problems()
    images = list(ClassificationData(folder / "list.txt").images(["dog", "big cat"], problems))
    assert [image.row.image.read() for image in images] == [png(number) for number in range(4)]
    assert [image.label for image in images] == [0, 1, 0, 1]
    assert [(problem.kind, problem.where.line) for problem in problems.found] == [
        (ProblemKind.NO_IMAGE, 4),
        (ProblemKind.NO_IMAGE, 5),
    ]
    sent = pickle.loads(pickle.dumps([image.row.image for image in images]))
    assert [image.read() for image in sent] == [png(number) for number in range(4)]


# Folders


def test_folders_of_classes_are_walked_as_sources_are(folder: Path) -> None:
    classes, linked = folder / "classes", folder / "linked"
    for place in (classes / "cat", classes / "dog", linked):
        place.mkdir(parents=True)
    (classes / "cat" / "1.png").write_bytes(png(1))
    (classes / "cat" / "._1.png").write_bytes(b"of macOS")
    (classes / "cat" / "0.jfif").touch()
    (linked / "2.TIF").write_bytes(png(2))
    (classes / "dog" / "more").symlink_to(linked)
    problems = Problems()
    images = ClassificationData(classes).images(["cat", "dog"], problems)
    assert [image.row.image_id for image in images] == ["cat/1.png", "dog/more/2.TIF"]
    assert [(str(p.where), p.reason) for p in problems.found] == [("cat/0.jfif", "an empty file")]
    found = [os.path.relpath(file.path, classes) for file in walk(classes)]
    assert found == ["cat/0.jfif", "cat/1.png", "dog/more/2.TIF"]


def test_a_zip_of_stored_tsv_is_read_at_random(folder: Path) -> None:
    import base64

    rows = b"".join(b"%d\t%s\n" % (n, base64.b64encode(png(n))) for n in range(3))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("valid_imgs.tsv", rows)
        archive.writestr("valid_texts.jsonl", '{"text_id": 1, "text": "字", "image_ids": [0]}')
    items = list(open_sources(folder / "a.zip").items())
    assert [item.id for item in items] == ["0", "1", "2"]
    assert not any(isinstance(item.image.origin, bytes) for item in items if item.image)
    assert embedded(folder / "a.zip") == contents(folder / "a.zip") == [png(n) for n in range(3)]


# Problems


def test_problems_come_before_the_rows_that_follow_them(folder: Path) -> None:
    path = folder / "a.csv"
    path.write_bytes(b'text\n"a"b\n\xe5\xad\x97\nx,y\n')
    columns = Columns.of("texts")
    found = list(with_problems(lambda problems: read_table(path, "a.csv", columns, problems)))
    problem, row, last = found
    assert problem.kind is last.kind is ProblemKind.DAMAGED  # type: ignore[union-attr]
    assert (problem.where, last.where) == (  # type: ignore[union-attr]
        Where(file="a.csv", line=2),
        Where(file="a.csv", line=4),
    )
    assert row.text == "字"  # type: ignore[union-attr]


def test_a_strict_collection_raises_with_the_place() -> None:
    problems = Problems(strict=True)
    where = Where(file="a.csv", line=2)
    with pytest.raises(DatasetError) as caught:
        problems.add(ProblemKind.DAMAGED, where, "not CSV")
    assert (caught.value.where, caught.value.reason) == (where, "not CSV")


# Parquet


def test_row_groups_are_read_when_needed_and_dropped(folder: Path) -> None:
    images = [png(number) for number in range(2 * GROUPS_KEPT + 4)]
    path = write_parquet(folder / "a.parquet", {"image": images, "text": ["字"] * len(images)})
    table = ParquetTable(path, path.name, Columns.of("images"))
    rows = list(table.read(Problems()))
    assert not any(group._values for group in table.groups)
    assert rows[0].image.read() == images[0]
    assert [group._values is not None for group in table.groups][:2] == [True, False]
    store = open_retrieval(path).locate(Problems())
    assert [store.content(number) for number in range(len(images))] == images
    loaded = [group._values is not None for group in store._row_groups]  # type: ignore[attr-defined]
    assert loaded == [False, False] + [True] * GROUPS_KEPT
    one = pickle.loads(pickle.dumps(ImageRef(store, 5)))
    assert one.read() == images[5]
    assert len(pickle.dumps(ImageRef(store, 5))) < 500


def test_a_missing_image_has_a_reason_and_no_place(folder: Path) -> None:
    for image in (ImageRef(folder / "none.png"), ImageRef(str(folder / "none.png"))):
        with pytest.raises(ImageError) as caught:
            image.read()
        assert (caught.value.reason, caught.value.where) == ("no such file", None)


def test_a_fifo_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "fifo.png")
    (folder / "empty.png").touch()
    (folder / "list.txt").write_text("fifo.png 0\nempty.png 0\n0.png 0\n")
    rows = [i.row for i in ClassificationData(folder / "list.txt").images(["cat"], Problems())]
    for row, reason in zip(rows, ("a FIFO, not a file", "an empty file"), strict=False):
        with pytest.raises(ImageError) as caught:
            row.image.read()
        assert caught.value.reason == reason
    assert rows[2].image.read() == png(0)


def test_a_malformed_url_is_a_problem_of_its_row(folder: Path) -> None:
    bad = "file://[x/b.png"
    (folder / "list.txt").write_text(f"{bad} 0\n0.png 0\n")
    problems = Problems()
    rows = list(ClassificationData(folder / "list.txt").images(["a"], problems))
    assert [row.row.image_id for row in rows] == ["0.png"]
    assert [str(one) for one in problems.found] == [
        f"list.txt:1: {bad}: not a URL: Invalid IPv6 URL"
    ]
    table = folder / "metadata.jsonl"
    table.write_text(
        "".join(json.dumps({"file_name": name, "text": "字"}) + "\n" for name in ("0.png", bad))
    )
    problems = Problems()
    assert [row.image_id for row in open_retrieval(folder).images(problems)] == ["0.png"]
    assert "metadata.jsonl:2: " in str(problems.found[0])
    items = list(open_sources(table).items())
    assert [item.error for item in items] == [None, "not a URL: Invalid IPv6 URL"]
    images = [{"bytes": None, "path": "0.png"}, {"bytes": None, "path": bad}]
    path = write_parquet(folder / "a.parquet", {"image": images, "text": ["零", "一"]})
    rows_of_parquet = list(open_retrieval(path).images(Problems()))
    assert rows_of_parquet[0].image.read() == png(0)
    with pytest.raises(ImageError, match="not a URL"):
        rows_of_parquet[1].image.read()


def test_names_that_no_file_can_have(folder: Path) -> None:
    long = "x" * 300 + ".png"
    rows = [{"file_name": name, "text": "字"} for name in ("0.png", long, "\ud800.png")]
    table = folder / "metadata.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert contents(folder) == embedded(table) == [png(0)]


@pytest.mark.parametrize("path", ["file://[x/a.png", "a\0b.png", "a\0b.tar", "\ud800.png"])
def test_a_recorded_path_that_no_file_can_have(path: str) -> None:
    with pytest.raises(ImageError):
        open_recorded("x", path)


def test_the_first_of_several_columns_of_a_name(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    columns = [pyarrow.array(values) for values in (["0.png"], ["字"], [7])]
    table = pyarrow.Table.from_arrays(columns, names=["image", "text", "image"])
    path = folder / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    assert embedded(path) == contents(path) == [png(0)]


def test_every_type_of_strings_and_lists(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    names = ["0.png", "1.png"]
    both = [png(0), png(1)]
    for images in (
        pyarrow.array(names, pyarrow.string_view()),
        pyarrow.array([names]),
        pyarrow.array([names], pyarrow.list_(pyarrow.string(), 2)),
        pyarrow.array(both, pyarrow.binary_view()),
        pyarrow.array([one.ljust(200, b"\0") for one in both], pyarrow.binary(200)),
    ):
        path = write_parquet(folder / "a.parquet", {"image": images})
        assert [one.rstrip(b"\0") for one in embedded(path)] == [one.rstrip(b"\0") for one in both]
    texts = pyarrow.array([["甲", "乙"]], pyarrow.list_(pyarrow.string(), 2))
    path = write_parquet(folder / "a.parquet", {"text": texts})
    assert [item.text for item in open_sources(path, "texts").items()] == ["甲", "乙"]
    path = write_parquet(folder / "a.parquet", {"id": [1, 2], "image": pyarrow.nulls(2)})
    items = list(open_sources(path).items())
    assert [item.id for item in items] == ["1", "2"]
    assert {item.error for item in items} == {"expected a string, found nothing"}


def test_an_empty_list_is_an_item_that_failed(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"id": 1, "image": []}\n{"id": 2, "image": "0.png"}\n')
    items = list(open_sources(folder / "a.jsonl").items())
    assert [item.error for item in items] == ["expected a string, found nothing", None]


def test_ids_that_cannot_be_read_are_not_used(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    ids = pyarrow.array([b"a", b"\xff"])
    ids = pyarrow.Array.from_buffers(pyarrow.string(), 2, ids.buffers())
    names = ["0.png", "1.png"]
    path = write_parquet(folder / "a.parquet", {"id": ids, "image": names})
    assert [item.id for item in open_sources(path).items()] == ["a", str(folder / "1.png")]
    ids = pyarrow.array([0, 2**61], pyarrow.timestamp("ms"))
    path = write_parquet(folder / "a.parquet", {"id": ids, "image": names})
    assert [item.id for item in open_sources(path).items()][1] == str(folder / "1.png")


def test_each_damaged_row_group_is_counted(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = folder / "a.parquet"
    table = pyarrow.table({"id": list(range(12)), "image": [png(0)] * 12})
    pyarrow.parquet.write_table(
        table, path, row_group_size=3, compression="none", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    metadata = pyarrow.parquet.read_metadata(path)
    for group in (1, 3):
        start = metadata.row_group(group).column(0).data_page_offset
        content[start : start + 12] = b"\xff" * 12
    path.write_bytes(content)
    items = list(open_sources(path).items())
    assert [item.id for item in items if item.error] == [f"{path}:4", f"{path}:10"]
    assert len(items) == 8


def test_a_parquet_file_that_became_shorter(folder: Path) -> None:
    path = write_parquet(folder / "a.parquet", {"image": [png(0), png(1)], "text": ["零", "一"]})
    rows = list(open_retrieval(path).images(Problems()))
    write_parquet(path, {"image": [png(0)], "text": ["零"]})
    with pytest.raises(ImageError, match="has changed since"):
        rows[1].image.read()


def test_a_missing_image_that_a_container_refers_to_is_named(folder: Path) -> None:
    images = [{"bytes": None, "path": "gone.png"}]
    path = write_parquet(folder / "a.parquet", {"id": ["k"], "image": images})
    (item,) = open_sources(path).items()
    assert item.image is not None
    with pytest.raises(ImageError) as caught:
        item.image.read()
    assert caught.value.reason == f"{folder}/gone.png: no such file"


def test_control_characters_of_a_reason_are_escaped() -> None:
    where = Where(file="a")
    with pytest.raises(DatasetError) as caught:
        Problems(strict=True).add(ProblemKind.DUPLICATE, where, "k\x1b[31m twice")
    assert str(caught.value) == "a: k\\x1b[31m twice"


@pytest.mark.parametrize("size", [2**31, 2**62, 2**70])
def test_a_tar_header_with_a_damaged_size(folder: Path, size: int) -> None:
    path = folder / "a.tar"
    image = png(0)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    content = bytearray(path.read_bytes())
    start = 512 + -(-len(image) // 512) * 512
    content[start + 124 : start + 136] = b"\x80" + size.to_bytes(11, "big")
    header = content[start : start + 512]
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    content[start + 148 : start + 156] = b"%06o\0 " % checksum
    path.write_bytes(content)
    items = list(open_sources(path).items())
    assert [item.error is None for item in items][:2] == [True, False]
    assert items[1].id == f"{path}:b.png"
    assert embedded(path) == [image]
