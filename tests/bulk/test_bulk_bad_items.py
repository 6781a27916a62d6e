"""Items that cannot be embedded: odd files, broken rows, damaged archives."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cnclip import bulk, cli, load_image
from cnclip.errors import DatasetError, ImageError, InputTypeError, InvalidInputError
from tests.support.bulk import (
    Embed,
    failed_of,
    vectors_of,
    write_tar,
    write_tsv,
    write_zip,
)


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


def test_the_command_names_what_failed(
    photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "bad\x1b[31m.png").write_bytes(b"no image")
    arguments = ["embed", str(photos), "-o", str(tmp_path / "out"), "--device", "cpu"]
    for _ in range(2):  # it has not changed, and is named again
        assert cli.main(arguments) == 1
        out, err = capsys.readouterr()
        assert "20 images" in out
        assert "1 failed" in out
        assert f"{photos}/bad\\x1b[31m.png: cannot be read as an image" in err
    (photos / "worse.png").write_bytes(b"no image")
    monkeypatch.setattr(sys.modules["cnclip.bulk.embed"], "MAX_FAILED", 1)
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert "worse" not in err
    assert "cnclip embed: 1 more failed; all are in the Parquet files, column `error`\n" in err
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
        "expected a JSON object, found []",
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
    with pytest.raises(InvalidInputError, match="sources: expected at least one"):
        embed([])
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        embed(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="unknown kind of file"):
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
    with pytest.raises(DatasetError, match=r"no images; to embed its \*.tar files, name them"):
        embed(photos)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int8"},
        {"batch_size": 0},
        {"shard_items": 0},
        {"kind": "both"},
    ],
)
def test_bad_options(embed: Embed, photos: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        embed(photos, **options)


def test_options_of_other_types(embed: Embed, photos: Path) -> None:
    with pytest.raises(InputTypeError, match="batch_size: expected int, got str"):
        embed(photos, batch_size="8")


def test_the_batch_size_of_images_does_not_limit_texts(embed: Embed, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("cat\ndog\n")
    assert embed(tmp_path / "some.txt", kind="texts", batch_size=1000).rows == 2


def test_failed_rows_are_named_by_file_and_line(embed: Embed, tmp_path: Path) -> None:
    table, rows = tmp_path / "some.csv", tmp_path / "some.jsonl"
    lines, texts = tmp_path / "some.txt", tmp_path / "texts.csv"
    table.write_text("id,image\n7,gone.jpg\n8,\n")
    rows.write_text('{"id": 9, "image": "gone.png"}\n{"id": 10, "image": {"a": null}}\n{"x": 1}\n')
    lines.write_text("\ngone.webp\n")
    texts.write_text("id,text\n7,\n")
    failed = embed([table, rows, lines]).first_failed
    assert [name for name, _ in failed] == [
        f"{table}:2: {tmp_path}/gone.jpg",
        f"{table}:3",
        f"{rows}:1: {tmp_path}/gone.png",
        f"{rows}:2",
        f"{rows}:3",
        f"{lines}:2: {tmp_path}/gone.webp",
    ]
    assert [reason for _, reason in failed[:2]] == [
        "no such file",
        "expected a string, found nothing",
    ]
    assert failed[3][1] == 'expected a string, found {"a": null}'
    assert embed(texts, kind="texts", output=tmp_path / "of texts").first_failed[0][0] == (
        f"{texts}:2"
    )


def test_a_member_of_a_table_of_images_is_named_by_the_table(
    embed: Embed, some: list[Path], tmp_path: Path
) -> None:
    write_tsv(tmp_path / "test_imgs.tsv", [some[0]])
    with (tmp_path / "test_imgs.tsv").open("a") as file:
        file.write("200\tbm8gaW1hZ2U=\n")
    assert embed(tmp_path / "test_imgs.tsv").first_failed[0][0] == f"{tmp_path}/test_imgs.tsv:200"


def test_larger_batches_are_those_that_the_device_runs(
    embed: Embed, photos: Path, tmp_path: Path
) -> None:
    embed(photos, batch_size=32)
    embed(photos, batch_size=10**30, output=tmp_path / "other")
    one, other = vectors_of(tmp_path / "out"), vectors_of(tmp_path / "other")
    assert one.keys() == other.keys() and all((one[id] == other[id]).all() for id in one)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.png", "s3://bucket/a.png", " oss://a/b.jpg"])
def test_urls_of_other_kinds_are_not_taken_for_paths(
    embed: Embed, tmp_path: Path, url: str
) -> None:
    reason = "URLs are not read; expected a path, or an http, https or file URL"
    with pytest.raises(DatasetError, match=reason):
        embed(url)
    with pytest.raises(ImageError, match=reason):
        load_image(url)
    (tmp_path / "some.txt").write_text(f"{url}\n")
    ((where, found),) = embed(tmp_path / "some.txt").first_failed
    assert where.endswith(f"some.txt:1: {url.strip()}")
    assert found == f"{url.strip().partition(':')[0]} {reason}"


def test_a_path_may_look_like_a_url(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    (tmp_path / "ftp:" / "host").mkdir(parents=True)
    shutil.copy(some[0], tmp_path / "ftp:" / "host" / "a.png")
    (tmp_path / "some.txt").write_text("ftp://host/a.png\n")
    assert embed(tmp_path / "some.txt").rows == 1


def test_a_report_names_only_the_first_of_many_failures(
    embed: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = sorted(photos.glob("*.png"))[:3]
    for path in bad:
        path.write_bytes(b"no image")
    monkeypatch.setattr(sys.modules["cnclip.bulk.embed"], "MAX_FAILED", 2)
    report = embed(photos)
    assert (report.rows, report.failed) == (17, 3)
    assert [where for where, _ in report.first_failed] == [str(path) for path in bad[:2]]


def test_equal_ids_of_a_table(embed: Embed, some: list[Path], tmp_path: Path) -> None:
    rows = "".join(f"a,{path}\n" for path in some[:2])
    (tmp_path / "list.csv").write_text(f"id,path\n{rows}")
    report = embed(tmp_path / "list.csv")
    assert (report.rows, report.failed) == (1, 1)
    assert report.first_failed == [
        (f"{tmp_path}/list.csv:3: {some[1]}", "another item has this id"),
    ]


def test_broken_rows_of_chinese_clip_in_a_zip(
    embed: Embed, some: list[Path], tmp_path: Path
) -> None:
    write_tsv(tmp_path / "valid_imgs.tsv", some[:3])
    lines = (tmp_path / "valid_imgs.tsv").read_text().splitlines()
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("valid_imgs.tsv", "\n".join([*lines, "no tab", lines[0], ""]))
        archive.write(tmp_path / "valid_texts.jsonl", "valid_texts.jsonl")
    report = embed(tmp_path / "data.zip")
    assert (report.rows, report.failed) == (3, 2)
    assert [where for where, _ in report.first_failed] == [
        f"{tmp_path}/data.zip:valid_imgs.tsv:4",
        f"{tmp_path}/data.zip:valid_imgs.tsv:5",
    ]
    ids = [id for id, _, _ in bulk.open_embeddings(report.output).failed()]
    assert ids == [where for where, _ in report.first_failed]
