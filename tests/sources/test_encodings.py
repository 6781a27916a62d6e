"""Text files in every encoding that users have: read as they are meant, or refused as a whole."""

from __future__ import annotations

import codecs
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnclip import _encoding
from cnclip._encoding import decode, decode_names, find_encoding, known_encoding, utf8_file
from cnclip.bulk.items import open_sources
from cnclip.datasets import ProblemKind, Problems, open_pairs, open_retrieval
from cnclip.datasets.classification import ClassificationData
from cnclip.errors import DatasetError, InvalidInputError
from cnclip.evaluate.texts import read_labels, read_templates
from cnclip.train.options import TrainOptions
from tests.support.layouts import IMAGES, PAIRS, add, make_tsv, pairs_of, write_images, write_table

TEXT = "红色的猫\n蓝色的汽车，很快\nascii cat\n"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "gb18030": "\ufeff".encode("gb18030"),
}
# As Excel, Notepad and PowerShell write: with a mark, and without one.
WRITTEN = [mark + TEXT.encode(name) for name, mark in MARKED.items()]
WRITTEN += [TEXT.encode(name) for name in MARKED]


def found(content: bytes, encoding: str | None = None) -> tuple[str, bytes]:
    file, chosen = utf8_file(io.BytesIO(content), encoding)
    return chosen.name, file.read()


@pytest.mark.parametrize("content", WRITTEN)
@pytest.mark.parametrize("lines", ["\n", "\r\n"])
def test_every_encoding_gives_the_same_text(content: bytes, lines: str) -> None:
    name = decode(content)[1].name
    mark = MARKED[name] if content.startswith(MARKED[name]) else b""
    changed = mark + TEXT.replace("\n", lines).encode(name)
    text, encoding = decode(changed)
    assert text == TEXT.replace("\n", lines)
    assert found(changed)[1].removeprefix(codecs.BOM_UTF8).decode() == text
    assert (encoding.remark is None) == (name == "utf-8")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
def test_every_end_of_lines(end: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(end.join(["猫", "", " 狗", "鸟", ""]).encode(encoding))
    items = list(open_sources(tmp_path / "a.txt", kind="texts").items())
    assert [item.text for item in items] == ["猫", " 狗", "鸟"]
    if end != "\r\r\n":
        assert [item.id.rpartition(":")[2] for item in items] == ["1", "3", "4"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("content", WRITTEN)
def test_characters_at_the_ends_of_chunks(
    content: bytes, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_encoding, "_CHUNK", chunk)
    assert found(content)[1].removeprefix(codecs.BOM_UTF8).decode() == TEXT


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("红色的猫和狗 a1,\n\t\"'，。é😀の"), min_size=1))
@example("猫")
def test_texts_in_utf8_never_become_others(text: str) -> None:
    assert decode(text.encode()) == (text, find_encoding(io.BytesIO(b"")))
    for name in ("utf-16", "utf-32"):
        assert decode(text.encode(name))[0] == text


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("红色的猫\n".encode() * 3 + b"\xff\n", 3),  # no GB18030
        ("红猫\n".encode() * 3 + b"\xe7\x8c\n" + "树木\n".encode(), 4),  # a character that is cut
        ("红猫\n".encode() + "红猫\n".encode("gbk") + "蓝天白云\n".encode(), 2),  # two files
        (b"a\xff\xfe\nb\n", 1),
    ],
)
def test_a_few_damaged_lines_cost_these_lines(content: bytes, kept: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    items = list(open_sources(tmp_path / "a.txt", "texts").items())
    assert sum(item.error is None for item in items) == kept
    assert {item.error for item in items} == {None, "the text is not UTF-8"}


def test_a_text_with_a_nul_byte_is_refused_by_its_line(tmp_path: Path) -> None:
    for name, content in (("a.txt", "红\0蓝\n绿\n"), ("a.csv", "text\n红\0蓝\n绿\n")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        items = list(open_sources(tmp_path / name, "texts").items())
        assert [item.text for item in items] == [None, "绿"]
        assert items[0].error == "has a NUL byte"
        assert items[0].id == f"{tmp_path / name}:{1 if name == 'a.txt' else 2}"
    (tmp_path / "labels.txt").write_bytes(b"cat\ndo\0g\n")
    with pytest.raises(InvalidInputError, match=r"labels.txt:2: has a NUL byte"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfea\0b", "begins with the byte order mark of UTF-16 LE, but is damaged"),
        (b"\xff\xfe\0\xd8a\0", "but is damaged"),
        (b"\x01\0\xff\xff\0\0\x80", "has NUL bytes, and is neither UTF-8 nor for certain UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=f"a.txt: cannot be read: .*{message}"):
        list(open_sources(tmp_path / "a.txt", "texts").items())


def test_an_encoding_that_the_user_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("紅貓\n\n藍天\n".encode("big5") + b"\xff\n")
    items = list(open_sources(tmp_path / "a.txt", "texts", encoding="Big5").items())
    assert [item.text for item in items] == ["紅貓", "藍天", None]
    assert found("猫".encode("utf-16"), "utf-16") == ("utf-16-le", "猫".encode())
    assert found("猫".encode("utf-16-be"), "utf-16-be") == ("utf-16-be", "猫".encode())
    assert found("猫".encode("utf-8-sig"), "utf-8-sig")[0] == "utf-8"
    assert known_encoding("GBK") == "gbk"
    for name in ("klingon", "base64", "rot13"):
        with pytest.raises(InvalidInputError, match=f"encoding: unknown encoding '{name}'"):
            open_sources(tmp_path / "a.txt", "texts", encoding=name)
        with pytest.raises(InvalidInputError, match="encoding: unknown"):
            open_retrieval(make_tsv(tmp_path / name), encoding=name)
        with pytest.raises(InvalidInputError, match="encoding: unknown"):
            ClassificationData(tmp_path, encoding=name)
    with pytest.raises(UnicodeError, match="not ascii: byte 1, line 1"):
        decode("猫".encode(), "ascii")
    with pytest.raises(UnicodeError, match="neither UTF-8 nor GB18030: byte 3, line 2"):
        decode(b"a\n\xff")


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
@pytest.mark.parametrize("kind", [".txt", ".csv", ".tsv", ".jsonl", ".json"])
def test_every_list_and_table(kind: str, encoding: str, tmp_path: Path) -> None:
    texts = ["红色的猫", "蓝色的汽车"]
    written = {
        ".txt": "\n".join(texts),
        ".csv": "id,text\n1,红色的猫\n2,蓝色的汽车\n",
        ".tsv": "id\ttext\n1\t红色的猫\n2\t蓝色的汽车\n",
        ".jsonl": '{"text": "红色的猫"}\n{"text": "蓝色的汽车"}\n',
        ".json": '[{"text": "红色的猫"}, {"text": "蓝色的汽车"}]',
    }
    path = tmp_path / f"a{kind}"
    path.write_bytes(written[kind].encode(encoding))
    sources = open_sources(path, "texts")
    for _ in range(2):  # counted, then embedded: the remark is made once
        assert [item.text for item in sources.items()] == texts
    (remark,) = sources.remarks
    assert remark.reason.endswith(
        "read as UTF-16 LE"
        if "16" in encoding
        else "not UTF-8; read as GB18030; --encoding names another"
    )


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_every_data_set(encoding: str, tmp_path: Path) -> None:
    def written(path: Path) -> None:
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))

    def checked(path: Path) -> None:
        problems = Problems()
        data = open_pairs(path, problems=problems)
        assert pairs_of(data) == PAIRS
        assert {problem.kind for problem in problems.found} <= {ProblemKind.ENCODING}
        assert len(problems.found) == 1

    written(make_tsv(tmp_path / "tsv") / "train_texts.jsonl")
    checked(tmp_path / "tsv")
    table = write_table(write_images(tmp_path / "csv") / "a.csv", ("图片", "文本"))
    written(table)
    checked(table)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "tsv").iterdir():
            archive.write(path, path.name)
    checked(tmp_path / "a.zip")


def test_texts_in_tar_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, text in ((100, "红色的猫"), (101, "蓝色的汽车")):
            add(tar, f"{number}.png", IMAGES[number])
            add(tar, f"{number}.txt", text.encode("gbk"))
        add(tar, "102.png", IMAGES[102])
        add(tar, "102.json", json.dumps({"标题": "树"}, ensure_ascii=False).encode("utf-16"))
    problems = Problems()
    data = open_pairs(tmp_path / "a.tar", problems=problems)
    assert data.texts == ["红色的猫", "蓝色的汽车", "树"]
    assert [str(problem.where) for problem in problems.found] == ["a.tar", "a.tar"]


def test_tsv_files_of_images_in_utf16_are_refused(tmp_path: Path) -> None:
    path = make_tsv(tmp_path) / "train_imgs.tsv"
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    with pytest.raises(DatasetError, match=r"train_imgs.tsv: is UTF-16; save it as UTF-8"):
        open_pairs(tmp_path, problems=Problems())


@pytest.mark.parametrize("content", WRITTEN)
def test_labels_templates_and_options(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = decode(content)[1].name
    mark = MARKED[name] if content.startswith(MARKED[name]) else b""
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels(tmp_path / "labels.txt") == TEXT.splitlines()
    assert len(caplog.records) == (name != "utf-8")
    (tmp_path / "templates.txt").write_bytes(mark + "{}的照片\n一张{}\n".encode(name))
    assert read_templates(tmp_path / "templates.txt") == ["{}的照片", "一张{}"]
    for suffix, text in (
        (".toml", '# 红色的猫\ntrain = "数据"\nmax-epochs = 3\n'),
        (".yaml", "# 红色的猫\ntrain: 数据\nmax-epochs: 3\n"),
        (".json", '{"train": "数据", "max-epochs": 3}'),
    ):
        if suffix == ".yaml":
            pytest.importorskip("yaml")
        (tmp_path / f"a{suffix}").write_bytes(mark + text.encode(name))
        read = TrainOptions.read(tmp_path / f"a{suffix}")
        assert read == {"train": "数据", "max_epochs": 3}


def test_lists_of_classes(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "label_cn.txt").write_bytes("红色的猫\n蓝色的汽车\n".encode("gbk"))
    (tmp_path / "list.txt").write_bytes("imgs/100.png 红猫\nimgs/101.png 汽车\n".encode("gbk"))
    problems = Problems()
    data = ClassificationData(tmp_path / "list.txt")
    assert data.chinese == ["红色的猫", "蓝色的汽车"]
    assert [one.label for one in data.images(["红猫", "汽车"], problems)] == [0, 1]
    assert [str(one.where) for one in problems.found] == ["label_cn.txt", "list.txt"]


def test_names_are_decoded_together() -> None:
    assert decode_names(["猫.png".encode("gbk"), "狗.png".encode("gbk")]) == ["猫.png", "狗.png"]
    assert decode_names(["猫".encode(), b"a"]) == ["猫", "a"]
    assert decode_names([b"\xff"]) is None
    assert decode_names(["貓".encode("big5")], "big5") == ["貓"]
