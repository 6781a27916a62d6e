"""Tables as other tools write them: names of columns, JSON arrays, COCO's captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnclip.bulk.items import open_sources
from cnclip.datasets import Problems, open_pairs
from cnclip.errors import DatasetError
from cnclip.sources.rows import IMAGE_COLUMNS, TEXT_COLUMNS, Columns
from tests.support.layouts import IMAGES, broken, write_images

IMAGE_NAMES = [
    "url",
    "URL",
    "image_url",
    "Image Path",
    "imgPath",
    "img-path",
    "filename",
    "图片路径",
]
IMAGE_NAMES += ["FileName", "images", "IMAGE", "Photo", "jpg", "file_path", "ＩＭＧ"]
TEXT_NAMES = [
    "TEXT",
    "Caption",
    "标题",
    "描述",
    "description",
    "Raw Text",
    "prompt",
    "文字",
    "内容",
]


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return path


@pytest.mark.parametrize("name", [*IMAGE_NAMES, *IMAGE_COLUMNS])
def test_names_of_columns_of_images(name: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    path = written(tmp_path / "a.csv", f"编号,{name}\n1,imgs/100.png\n")
    (item,) = open_sources(path).items()
    assert item.id == str(tmp_path / "imgs" / "100.png")
    path = written(tmp_path / "a.jsonl", {"编号": 1, name: "imgs/100.png"})
    (item,) = open_sources(path).items()
    assert item.id == str(tmp_path / "imgs" / "100.png")


@pytest.mark.parametrize("name", [*TEXT_NAMES, *TEXT_COLUMNS])
def test_names_of_columns_of_texts(name: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_images(tmp_path)
    parquet.write_table(arrow.table({"n": [1], name: ["红"]}), tmp_path / "a.parquet")
    (item,) = open_sources(tmp_path / "a.parquet", "texts").items()
    assert item.text == "红"
    path = written(tmp_path / "a.csv", f"filename,{name}\nimgs/100.png,红\n")
    data = open_pairs(path, problems=Problems())
    assert (data.texts, data.image_ids) == (["红"], ["imgs/100.png"])


def test_which_of_several_columns_is_used() -> None:
    columns = Columns.of("images")
    assert columns.choose(["url", "path", "Image"]).image == "Image"
    assert columns.choose(["IMAGE", "image"]).image == "image"  # the exact name first
    assert columns.choose(["url", "id", "ID"]) == ("url", None, "id")
    assert columns.choose(["ID"]).id == "ID"
    given = Columns.of("texts", "Name", "Code")
    assert given.choose(["name", "code"]) == (None, None, None)
    assert given.choose(["Name", "Code"]) == (None, "Name", "Code")


def test_where_no_column_is_known_the_option_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "a,b\n1,2\n")
    for kind in ("images", "texts"):
        with pytest.raises(DatasetError, match=rf"no column of {kind} .*; found a, b; .*--column"):
            list(open_sources(path, kind).items())
    path = written(tmp_path / "a.jsonl", {"conversations": [{"from": "human", "value": "图"}]})
    (item,) = open_sources(path, "texts").items()
    assert item.error is not None and "found conversations; name the column with" in item.error
    with pytest.raises(DatasetError, match="rename the columns to file_name and text"):
        broken(written(tmp_path / "b.csv", "a,b\n1,2\n"))


ROWS = [{"image": "imgs/100.png", "text": "红"}, {"image": "imgs/101.png", "text": "绿"}]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n\n  " + json.dumps(ROWS),
        "\ufeff" + json.dumps(ROWS),
        "\n".join(map(json.dumps, ROWS)),
    ],
)
def test_arrays_and_lines(suffix: str, content: str, tmp_path: Path) -> None:
    path = write_images(tmp_path) / f"a{suffix}"
    path.write_text(content, encoding="utf-8")
    items = list(open_sources(path, "texts").items())
    assert [item.text for item in items] == ["红", "绿"]
    data = open_pairs(path, problems=Problems())
    assert [data.read(number).name for number in (0, 1)] == ["100.png", "101.png"]  # type: ignore
    assert open_pairs(tmp_path, problems=Problems()).texts == ["红", "绿"]


def test_one_object_with_one_list(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", {"version": 1, "tags": ["x"], "data": ROWS})
    assert [item.text for item in open_sources(path, "texts").items()] == ["红", "绿"]
    path = written(tmp_path / "b.json", ROWS[0])
    assert [item.text for item in open_sources(path, "texts").items()] == ["红"]


def test_coco_captions(tmp_path: Path) -> None:
    write_images(tmp_path)
    coco = {
        "info": {"year": 2026},
        "images": [
            {"id": 7, "file_name": "imgs/100.png", "coco_url": "http://localhost/x"},
            {"id": 8, "file_name": "imgs/101.png"},
            {"id": 9, "file_name": "imgs/102.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 8, "caption": "绿"},
            {"id": 2, "image_id": 7, "caption": "红"},
            {"id": 3, "image_id": 8, "caption": "绿色"},
            {"id": 4, "image_id": 10, "caption": "没有"},
            {"id": 5, "image_id": 7, "bbox": [0, 0, 1, 1]},
        ],
    }
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps(coco, indent=indent))
        items = list(open_sources(tmp_path / "a.json").items())
        assert [item.id for item in items] == ["7", "8", "9"]
        items = list(open_sources(tmp_path / "a.json", "texts").items())
        assert [item.text for item in items if item.error is None] == ["红", "绿", "绿色"]
        assert [item.id for item in items if item.error is not None] == [
            f"{tmp_path}/a.json",  # the annotation of no image
            f"{tmp_path}/a.json:3",  # the image without a text
        ]
        data, problems = broken(tmp_path / "a.json")
        assert data.texts == ["红", "绿", "绿色"]
        assert data.image_ids == ["imgs/100.png", "imgs/101.png", "imgs/102.png"]
        assert problems[0] == "a.json: annotation of an image that does not exist: 10"
    assert (tmp_path / "imgs" / "100.png").read_bytes() == IMAGES[100]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2", "not JSON"),
        (
            '{"a": [{"x": 1}],\n "b": [{"y": 1}]}',
            "expected an array of objects, or COCO's images and annotations; found a, b",
        ),
    ],
)
def test_json_that_is_no_table(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        list(open_sources(tmp_path / "a.json", "texts").items())


def test_values_of_an_array_that_are_no_objects(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [{"text": "红"}, 5, {"text": ""}])
    items = list(open_sources(path, "texts").items())
    assert [item.error for item in items] == [
        *(None, "expected a JSON object, found 5", "expected a string, found nothing")
    ]
    assert [item.id for item in items] == [f"{path}:{number}" for number in (1, 2, 3)]


def test_lines_of_json_of_which_the_first_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('[1, 2]\n{"text": "红"}\n', encoding="utf-8")
    items = list(open_sources(path, "texts").items())
    assert [(item.id, item.text) for item in items] == [(f"{path}:1", None), (f"{path}:2", "红")]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_empty_json(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"a\.json: holds no texts"):
        list(open_sources(tmp_path / "a.json", "texts").items())


def test_a_json_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnclip.sources.tables.MAX_JSON", 10)
    with pytest.raises(DatasetError, match="JSON of more than 10 bytes; write an object on each"):
        list(open_sources(written(tmp_path / "a.json", ROWS), "texts").items())
