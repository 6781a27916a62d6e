"""`MsDataset.load` from folders, zips and files of every layout."""

from __future__ import annotations

import io
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import load_image
from cnclip.datasets import PairData, Problems, open_pairs, open_retrieval
from cnclip.errors import DatasetError, ImageError, InputTypeError, InvalidInputError
from cnclip.modelscope._training_data import inbatch_recall, pairs_of
from cnclip.modelscope.msdatasets import MsDataset
from cnclip.modelscope.rows import RowPairs
from tests.support.layouts import IMAGES, make_tsv, make_zip

ROWS = [(7, "红裙子", 70), (7, "红裙子", 71), (8, "蓝帽子", 70), (9, "白鞋", 72)]


def name_of(image_id: int) -> str:
    return f"{image_id}.png"


def write_index(
    folder: Path, rows: Any = ROWS, header: str = "query_id,query,image_id,image:FILE"
) -> Path:
    """ModelScope's index of two splits, CSV files, and a zip or folder of images."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{text_id},{text},{image_id},{name_of(image_id)}" for text_id, text, image_id in rows]
    (folder / "train.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    (folder / "val.csv").write_text("\n".join([header, lines[-1]]), encoding="utf-8")
    with zipfile.ZipFile(folder / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in zip((70, 71, 72), IMAGES.values(), strict=False):
            archive.writestr(name_of(number), content)
    (folder / "val").mkdir(exist_ok=True)
    (folder / "val" / name_of(72)).write_bytes(IMAGES[102])
    index = {
        "default": {
            "train": {"meta": "train.csv", "file": "train.zip"},
            "validation": {"meta": "val.csv", "file": "val"},
            "test": {"meta": "", "file": ""},
        }
    }
    (folder / "muge.json").write_text(json.dumps(index))
    return folder


def test_an_index_with_a_csv_file_and_a_zip(tmp_path: Path) -> None:
    data = MsDataset.load(str(write_index(tmp_path / "muge")))
    assert sorted(data) == ["train", "validation"]
    rows = data["train"]
    found = [(row["query_id"], row["query"], row["image_id"]) for row in rows]
    assert found == ROWS
    assert rows[0]["image"].size == (4, 4)
    assert rows[0]["image"].getpixel((0, 0)) == (100, 200, 155)
    assert [row["image_id"] for row in data["validation"]] == [72]
    # `cnclip train` and `cnclip eval retrieval` read it too.
    pairs = open_pairs(tmp_path / "muge", role="val", problems=Problems())
    assert pairs.split == "validation" and len(pairs.pairs) == 1


def test_problems_of_an_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS, (7, "别的词", 70), (10, "", 70), (11, "没有图", 99)]
    folder = write_index(tmp_path / "muge", rows)
    with caplog.at_level(logging.WARNING, "cnclip"):
        data = MsDataset.load(str(folder), split="train")
    assert len(data) == len(ROWS)
    text = caplog.text
    assert "train.csv:6: text 7 has other words in another row" in text
    assert "train.csv:7: the text of line 7 is empty" in text
    assert "train.csv:8: there is no image 99.png in train.zip" in text
    assert "3 rows left out" in text


def test_rows_without_names_or_ids_in_an_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_index(tmp_path / "muge")
    lines = [
        "query_id,query,image_id,image:FILE",
        "0,红,70,70.png",
        ",绿,,71.png",  # the next number that no text has, and the file's name
        "1,蓝,70,71.png",  # another image of this id
        "2,白,72,",
        "3,黑,73,../val.csv",
    ]
    (folder / "train.csv").write_text("\n".join(lines), encoding="utf-8")
    data = MsDataset.load(str(folder), split="train")
    found = [(row["query_id"], row["query"], row["image_id"]) for row in data]
    assert found == [(0, "红", 70), (1, "绿", "71.png")]
    text = caplog.text
    assert "train.csv:4: image 70 is 70.png in another row" in text
    assert "train.csv:5: column of images: expected a file's name, found" in text
    assert "train.csv:6: there is no image ../val.csv in train.zip" in text
    # In a folder.
    (folder / "val.csv").write_text("\n".join([*lines[:1], *lines[5:], "4,白,72,72.png"]))
    caplog.clear()
    assert MsDataset.load(str(folder), split="validation")["query_id"] == [4]
    assert "val.csv:2: column of images: " in caplog.text


def test_an_index_without_a_table_or_images(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "muge")
    index: Any = {"default": {"train": {"meta": "", "file": "train.zip"}}}
    (folder / "muge.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=r"muge\.json: split train has no table"):
        MsDataset.load(str(folder), split="train")
    index = {"default": {"train": {"meta": "train.csv", "file": "val.csv"}}}
    (folder / "muge.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match=r"val\.csv: expected a zip or a folder of images"):
        MsDataset.load(str(folder), split="train")
    for other in ({"default": [1]}, {"default": {}}, {"default": {"train": {"rows": 7}}}):
        (folder / "muge.json").write_text(json.dumps(other))
        with pytest.raises(DatasetError):
            MsDataset.load(str(folder), split="train")


def test_columns_that_an_index_lacks(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "muge", header="query_id,words,image_id,image:FILE")
    with pytest.raises(DatasetError, match=r"no column of texts \(query, .*found query_id, words"):
        MsDataset.load(str(folder), split="train")


@pytest.mark.parametrize("name", ["../train.csv", "/etc/passwd", "missing.csv", 7])
def test_an_index_that_names_other_files(tmp_path: Path, name: Any) -> None:
    folder = write_index(tmp_path / "muge")
    (folder / "muge.json").write_text(json.dumps({"default": {"train": {"meta": name}}}))
    with pytest.raises(DatasetError, match=r"muge.json: "):
        MsDataset.load(str(folder), split="train")


def test_subsets_of_an_index(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "muge")
    splits = json.loads((folder / "muge.json").read_text())["default"]
    (folder / "muge.json").write_text(json.dumps({"large": splits, "small": splits}))
    assert len(MsDataset.load(str(folder), subset_name="small", split="train")) == len(ROWS)
    with pytest.raises(DatasetError, match="has the subsets large, small: choose one"):
        MsDataset.load(str(folder), split="train")


def test_a_csv_file_in_the_folder_of_its_images(tmp_path: Path) -> None:
    for number in (70, 71):
        (tmp_path / name_of(number)).write_bytes(IMAGES[100])
    lines = ["image_id,caption,file_name", *(f"{n},标题{n},{name_of(n)}" for n in (70, 71))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    data = MsDataset.load("imagefolder", data_dir=str(tmp_path), split="train")
    assert data.ds_instance.column_names == ["caption", "query_id", "image", "image_id"]
    assert data["caption"] == ["标题70", "标题71"] and data["image_id"] == [70, 71]
    (tmp_path / name_of(71)).unlink()
    assert len(MsDataset.load("csv", data_files=str(tmp_path / "metadata.csv"), split="train")) == 1


def test_parquet_files_keep_their_ids(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for split, rows in (("train", ROWS[:3]), ("validation", ROWS[3:])):
        columns = {
            "query_id": [text_id for text_id, _, _ in rows],
            "query": [text for _, text, _ in rows],
            "image_id": [image_id for _, _, image_id in rows],
            "image": [{"bytes": IMAGES[image_id + 30], "path": None} for _, _, image_id in rows],
        }
        parquet.write_table(arrow.table(columns), tmp_path / f"{split}-00000-of-00001.parquet")
    data = MsDataset.load(str(tmp_path), split="train+validation")
    assert [(row["query_id"], row["query"], row["image_id"]) for row in data] == ROWS
    assert data[2]["image"].getpixel((0, 0)) == (100, 200, 155)
    assert data.ds_instance.shuffle(seed=1).num_rows == 4


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips(tmp_path: Path, method: int) -> None:
    path = make_zip(tmp_path, method=method)
    data = MsDataset.load(str(path), split="train")
    plain = MsDataset.load(str(make_tsv(tmp_path / "plain")), split="train")
    assert [row["query"] for row in data] == [row["query"] for row in plain]
    assert [row["image"].tobytes() for row in data] == [row["image"].tobytes() for row in plain]


def test_a_zip_of_another_layout(tmp_path: Path) -> None:
    write_index(tmp_path / "inner")
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "inner").rglob("*"):
            archive.write(file, f"top/{file.relative_to(tmp_path / 'inner')}")
    assert len(MsDataset.load(str(tmp_path / "data.zip"), split="train")) == len(ROWS)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../outside.txt", "x" * 100)
    with pytest.raises(DatasetError, match="outside the zip"):
        MsDataset.load(str(tmp_path / "bad.zip"), split="train")
    assert not (tmp_path / "outside.txt").exists()


def test_indexing(tmp_path: Path) -> None:
    data = MsDataset.load(str(make_tsv(tmp_path)), split="train")
    assert len(data) == 6 and len(list(data)) == 6
    assert data[-1]["query"] == "树" and data[np.int64(0)]["query"] == "一只猫"
    assert data[1:3]["query_id"] == [1, 2] and data[[4, 0]]["query_id"] == [4, 0]
    assert data["image_id"] == [100, 101, 101, 102, 103, 104]
    rows = data.ds_instance
    assert rows.select([3, 1])["query_id"] == [3, 1]
    assert rows.take(2).num_rows == 2 and rows.skip(2).num_rows == 4
    assert sorted(rows.shuffle(seed=3)["query_id"]) == [0, 1, 2, 3, 4, 5]
    assert rows.shape == (6, 4) and data.config_kwargs is None
    assert repr(rows) == "Rows(6 rows: ['query', 'query_id', 'image', 'image_id'])"
    assert repr(data) == f"MsDataset({rows!r})"
    for index in (6, -7):
        with pytest.raises(IndexError, match="there are 6"):
            data[index]
    with pytest.raises(KeyError, match="no column 'text'"):
        data["text"]
    with pytest.raises(InputTypeError, match="a row's number or a column's name, got float"):
        data[1.5]
    with pytest.raises(InvalidInputError, match="no row 9"):
        rows.select([9])


def test_targets_and_lists(tmp_path: Path) -> None:
    data = MsDataset.load(str(make_tsv(tmp_path)), split="train", target="query")
    assert next(iter(data)) == "一只猫"
    listed = MsDataset.load(["甲", "乙"], target="text")
    assert list(listed) == ["甲", "乙"] and listed[0] == {"text": "甲"}
    with pytest.raises(InvalidInputError, match="no column 'words'"):
        MsDataset.load(str(tmp_path), split="train", target="words")


def test_renamed_columns(tmp_path: Path) -> None:
    data = MsDataset.load(str(make_tsv(tmp_path)), split="train")
    rows = data.remap_columns({"query": "text", "image": "img"})
    assert sorted(rows[0]) == ["image_id", "img", "query_id", "text"]
    assert rows["text"] == data["query"]
    assert data.ds_instance.rename_column("query", "text")["text"] == data["query"]
    assert pairs_of(rows, "train_dataset", "img", "text").texts == rows["text"]
    for mapping, words in (({"x": "y"}, "no column 'x'"), ({"query": "image"}, "same name")):
        with pytest.raises(DatasetError, match=words):
            data.remap_columns(mapping)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_index(tmp_path)
    with zipfile.ZipFile(tmp_path / "train.zip", "a") as archive:
        archive.writestr("73.png", b"no image")
    with (tmp_path / "train.csv").open("a", encoding="utf-8") as file:
        file.write("\n10,坏图,73,73.png\n")
    data = MsDataset.load(str(tmp_path), split="train")
    assert data["query_id"][4] == 10
    with pytest.raises(ImageError, match=r"train.zip:73.png: "):
        data[4]


def test_ignored_options_are_named_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MsDataset.load(
        str(make_tsv(tmp_path)), split="train", use_streaming=True, token="t", features=None
    )
    assert caplog.messages == ["MsDataset.load: ignored: token, use_streaming"]


def test_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(DatasetError, match=r"of no known layout.*pip install modelscope"):
        MsDataset.load(str(tmp_path), split="train")
    with pytest.raises(DatasetError, match="no such data set"):
        MsDataset.load(str(tmp_path / "missing" / "deep"), split="train")
    with pytest.raises(InputTypeError, match="expected a name, a path or a list"):
        MsDataset.load(3)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="no such folder in the data set"):
        MsDataset.load(str(tmp_path), data_dir="inner", split="train")
    make_tsv(tmp_path / "tsv")
    for options, error, words in (
        ({"split": 5}, InputTypeError, "split: expected str, got int"),
        ({"split": "test"}, DatasetError, "has no split 'test'; it has train"),
        ({"data_files": {"train": 5}}, InputTypeError, "data_files: expected a path .* got 5"),
        ({"data_files": ["a", "b"]}, InputTypeError, "data_files: expected a path for each split"),
        ({"subset_name": "../other"}, InvalidInputError, "subset_name: expected a name, got"),
    ):
        with pytest.raises(error, match=words):
            MsDataset.load(str(tmp_path / "tsv"), **options)
    with pytest.raises(InvalidInputError, match="data_files: requires a folder or one of csv"):
        MsDataset.load("no-such-kind", data_files="a.csv")


def test_subsets_in_folders_and_paths_in_lists(tmp_path: Path) -> None:
    make_tsv(tmp_path / "data" / "small")
    assert len(MsDataset.load(str(tmp_path), subset_name="small", split="train")) == 6
    write_index(tmp_path / "muge")
    files = {"train": ["train.csv"]}
    with zipfile.ZipFile(tmp_path / "muge" / "train.zip") as archive:
        archive.extractall(tmp_path / "muge")
    data = MsDataset.load(str(tmp_path / "muge"), data_files=files, split="train")
    assert data["query_id"] == [row[0] for row in ROWS]


def test_a_slice_beyond_the_rows_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = MsDataset.load(str(make_tsv(tmp_path)), split="train[4:100]")
    assert len(data) == 2
    assert "train" in caplog.text


def test_zips_that_do_not_fit_or_are_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path / "inner")
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "inner").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "inner"))
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: full)
        with pytest.raises(DatasetError, match=r"data\.zip: unpacked it has .* CNCLIP_CACHE"):
            MsDataset.load(str(path), split="train")
    # A folder with nothing else than a zip is that zip.
    (tmp_path / "alone").mkdir()
    path.rename(tmp_path / "alone" / "data.zip")
    (tmp_path / "alone" / "README.md").write_text("not needed")
    assert len(MsDataset.load(str(tmp_path / "alone"), split="train")) == len(ROWS)


def test_a_zip_that_is_wrong_about_a_size(tmp_path: Path) -> None:
    write_index(tmp_path)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.write(tmp_path / "train.csv", "train.csv")
    content = (tmp_path / "data.zip").read_bytes()
    size = (tmp_path / "train.csv").stat().st_size.to_bytes(4, "little")
    assert content.count(size) >= 2
    place = content.rindex(size)  # in the table
    (tmp_path / "data.zip").write_bytes(content[:place] + b"\5\0\0\0" + content[place + 4 :])
    with pytest.raises(DatasetError, match=r"data\.zip: cannot be unpacked: Bad CRC-32"):
        MsDataset.load(str(tmp_path / "data.zip"), split="train")


# --- For the trainer -----------------------------------------------------------------------------


def image_of(number: int) -> Image.Image:
    return Image.open(io.BytesIO(IMAGES[number]))


def test_rows_of_other_software() -> None:
    rows = [{"img": image_of(100 + n), "text": f"文{n}"} for n in range(3)]
    pairs = pairs_of(MsDataset.to_ms_dataset(rows), "train_dataset", None, None)
    assert isinstance(pairs, RowPairs) and pairs.texts == ["文0", "文1", "文2"]
    assert pairs.pairs.tolist() == [[0, 0], [1, 1], [2, 2]]
    read = pairs.read(1)
    assert isinstance(read, Image.Image) and read.size == (4, 4)
    for changed, words in (
        ({"image": "file"}, "no column 'file' for 'img'; it has img, text"),
        ({"text": "query"}, "no column 'query' for 'text'"),
    ):
        chosen = {"image": "img", "text": "text"} | changed
        with pytest.raises(DatasetError, match=words):
            pairs_of(rows, "train_dataset", **chosen)
    with pytest.raises(DatasetError, match=r"train_dataset:2: column 'text': expected a text"):
        pairs_of([*rows[:1], {"img": rows[0]["img"], "text": None}], "train_dataset", None, None)
    with pytest.raises(DatasetError, match="there are no rows"):
        pairs_of([], "train_dataset", None, None)
    with pytest.raises(DatasetError, match="train_dataset: expected rows that are dicts, found"):
        pairs_of(np.zeros((2, 3)), "train_dataset", None, None)
    with pytest.raises(InputTypeError, match=r"expected data sets of MsDataset\.load in the list"):
        pairs_of([np.zeros(2), np.zeros(2)], "train_dataset", None, None)
    with pytest.raises(InputTypeError, match="expected a data set with numbered rows, got str"):
        pairs_of("muge", "train_dataset", None, None)


def test_images_of_other_software(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGES[100])
    opened = image_of(100)
    values = [
        opened,
        IMAGES[100],
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": IMAGES[100], "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
        np.asarray(opened),
    ]
    pairs = pairs_of([{"img": one, "text": "文"} for one in [*values, 5]], "rows", None, None)
    for number in range(len(values)):
        found = pairs.read(number)
        image = found if isinstance(found, Image.Image) else load_image(found)
        assert np.array_equal(image, opened.convert("RGB")), number
    with pytest.raises(ImageError, match="rows:8: expected an image, found int"):
        pairs.read(len(values))
    assert str(pairs.where(0)) == "rows:1"


def test_several_data_sets_of_load(tmp_path: Path) -> None:
    first = MsDataset.load(str(make_tsv(tmp_path / "a")), split="train")
    second = MsDataset.load(str(write_index(tmp_path / "b")), split="train")
    assert pairs_of([first], "train_dataset", None, None).texts == first.ds_instance.pairs.texts
    both = pairs_of([first, first], "train_dataset", None, None)
    assert both.texts == first["query"] * 2
    renamed = MsDataset(second.remap_columns({"query": "words"}))
    with pytest.raises(DatasetError, match="splits have different columns: query, .* and words"):
        pairs_of([first, renamed], "train_dataset", None, None)


def test_column_map_that_does_not_fit(tmp_path: Path) -> None:
    data = MsDataset.load(str(make_tsv(tmp_path)), split="train")
    assert isinstance(pairs_of(data, "train_dataset", "image", "query"), PairData)
    with pytest.raises(DatasetError, match=r"column_map: no column 'img' for 'img'; it has query"):
        pairs_of(data, "train_dataset", "img", "query")
    with pytest.raises(DatasetError, match="images are in 'image', texts in 'query'"):
        pairs_of(data, "train_dataset", "image_id", "query")


def test_pairs_of_a_slice_are_other_pairs(tmp_path: Path) -> None:
    whole = open_pairs(make_tsv(tmp_path), problems=Problems())
    some = whole.select(np.array([1, 3]))
    assert some.pairs.tolist() == whole.pairs[[1, 3]].tolist()
    assert some.fingerprint != whole.fingerprint and len(whole.pairs) == 6
    assert whole.text_ids == [row.text_id for row in open_retrieval(tmp_path).texts(Problems())]


def test_inbatch_recall() -> None:
    """Texts are ranked among the images of their batch, in the order of the pairs."""
    rows = np.eye(4, dtype=np.float32)
    numbers = np.arange(4)
    pairs = np.array([[0, 0], [1, 1], [2, 2], [3, 3], [0, 1]])
    texts = (numbers, rows[[0, 1, 3, 2]])
    # The third text is as near to the fourth image, and the other way round.
    found = [
        inbatch_recall(pairs, texts, (numbers, rows), size, drop_last=drop)
        for size, drop in ((4, True), (4, False), (2, False), (8, True))
    ]
    assert found == pytest.approx([2 / 4, 3 / 5, 3 / 5, 2 / 5])
    # Pairs of an image that could not be read are left out.
    left = inbatch_recall(pairs, texts, (numbers[:2], rows[:2]), 2, drop_last=True)
    assert left == 1.0


def test_hugging_face(tmp_path: Path) -> None:
    pytest.importorskip("datasets.arrow_dataset", reason="datasets is not installed")
    import datasets

    data = MsDataset.load(str(make_tsv(tmp_path)), split="train")
    converted = data.to_hf_dataset()
    assert isinstance(converted, datasets.Dataset)
    assert converted["query"][:] == data["query"] and converted[0]["query_id"] == 0
    assert converted[0]["image"].tobytes() == data[0]["image"].tobytes()
    pairs = pairs_of(MsDataset.to_ms_dataset(converted), "train_dataset", "image", "query")
    assert isinstance(pairs, RowPairs) and len(pairs.pairs) == len(data)
    # Rows of several splits, and items of a list.
    joined = MsDataset.load(str(tmp_path), split="train[4:]+train[:1]")
    assert joined.to_hf_dataset()["query"][:] == joined["query"]
    assert MsDataset.load(["甲", "乙"]).to_hf_dataset()["target"][:] == ["甲", "乙"]
