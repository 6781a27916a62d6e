"""The folder of embeddings: second runs, damaged files, other models and sources."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cnclip import bulk
from cnclip.bulk.store import Store, locked
from cnclip.errors import EmbeddingsError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from tests.support.bulk import (
    GALLERY,
    Embed,
    content_of,
    text_file,
    vectors_of,
    write_list,
)


def test_new_changed_and_removed_files(embed: Embed, photos: Path, tmp_path: Path) -> None:
    embed(photos)
    before = vectors_of(tmp_path / "out")
    names = sorted(photos.glob("*.png"))
    others = sorted(GALLERY.glob("*.png"))[20:22]
    shutil.copy(others[0], names[0])  # changed
    names[1].unlink()
    shutil.copy(others[1], photos / "0.png")  # new, and the first of all
    report = embed(photos)
    assert (report.embedded, report.kept, report.rows) == (2, 18, 20)
    after = vectors_of(tmp_path / "out")
    assert after.keys() == before.keys() - {names[1].name} | {"0.png"}
    for name in after.keys() & before.keys() - {names[0].name}:
        np.testing.assert_array_equal(after[name], before[name])
    assert not np.array_equal(after[names[0].name], before[names[0].name])
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
        bulk.embed(photos, vit, tmp_path / "out")
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
    shard = content["shards"][0]
    for damaged in (
        "{",
        "[]",
        '{"format": 7}',
        json.dumps(content | {"shards": [{"name": "../x"}]}),
        json.dumps(content | {"shards": [shard | {"name": "../x"}]}),
        json.dumps(content | {"shards": [shard | {"rows": shard["items"] + 1}]}),
        json.dumps(content | {"shards": [shard | {"rows": -1}]}),
        json.dumps(content | {"shards": [shard | {"sha256": {"npy": 5}}]}),
        json.dumps(content | {"kind": "videos"}),
        json.dumps(content | {"dtype": "float64"}),
        json.dumps(content | {"precision": None}),
        json.dumps(content | {"shard_items": 1.5}),
    ):
        manifest.write_text(damaged)
        with pytest.raises(EmbeddingsError, match=r"manifest\.json"):
            bulk.open_embeddings(tmp_path / "out")
        with pytest.raises(EmbeddingsError, match=r"manifest\.json"):
            embed(photos)
        assert manifest.read_text() == damaged
    manifest.write_text(json.dumps(content))
    vectors = next((tmp_path / "out").glob("*.npy"))
    np.save(vectors, np.zeros((3, 3)))
    opened = bulk.open_embeddings(tmp_path / "out")
    with pytest.raises(EmbeddingsError, match=f"{vectors.name}: damaged: holds float64"):
        list(opened.blocks())
    with pytest.raises(EmbeddingsError, match=f"{vectors.name}: damaged"):
        opened.check()


def test_files_that_are_changed_after_the_opening(
    embed: Embed, photos: Path, tmp_path: Path
) -> None:
    embed(photos)
    opened = bulk.open_embeddings(tmp_path / "out")
    vectors = min((tmp_path / "out").glob("*.npy"))
    lines = vectors.with_suffix(".parquet")
    array, table = np.load(vectors), pq.read_table(lines)
    header = vectors.read_bytes()[:100]
    objects = io.BytesIO()
    np.save(objects, np.array([None] * len(array)), allow_pickle=True)
    for content in (b"", header, b"\x93NUMPY\x09" + header[7:], objects.getvalue()):
        vectors.write_bytes(content)
        with pytest.raises(EmbeddingsError, match=f"{vectors.name}: damaged: "):
            list(opened.blocks())
    vectors.unlink()
    with pytest.raises(EmbeddingsError, match=f"{vectors.name}: is missing"):
        list(opened.blocks())
    vectors.mkdir()
    with pytest.raises(EmbeddingsError, match=f"{vectors.name}: cannot be read"):
        list(opened.blocks())
    vectors.rmdir()
    np.save(vectors, array)

    for wrong, reason in [
        (table.slice(1), "damaged: "),
        (table.drop_columns("width"), "damaged: "),
        (table.take(list(range(len(table)))[::-1]), "its rows are not in order"),
    ]:
        pq.write_table(wrong, lines)
        with pytest.raises(EmbeddingsError, match=f"{lines.name}: .*{reason}"):
            list(opened.ids)
    lines.write_bytes(b"PAR1 and no more")
    with pytest.raises(EmbeddingsError, match=f"{lines.name}: damaged: "):
        list(opened.ids)
    lines.unlink()
    with pytest.raises(EmbeddingsError, match=f"{lines.name}: is missing"):
        list(opened.ids)
    lines.mkdir()
    with pytest.raises(EmbeddingsError, match=f"{lines.name}: cannot be read"):
        list(opened.ids)


def test_one_run_at_a_time(embed: Embed, photos: Path, tmp_path: Path) -> None:
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


def test_folders_of_earlier_versions_are_read(embed: Embed, photos: Path) -> None:
    folder = embed(photos).output
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kind": "images"', '"kind": "pictures"'))
    assert bulk.open_embeddings(folder).kind == "images"
    report = embed(photos)
    assert (report.embedded, report.kept) == (0, 20)
    assert json.loads(manifest.read_text())["kind"] == "images"


def test_rebuilding_drops_what_cannot_be_mixed(embed: Embed, photos: Path) -> None:
    folder = embed(photos).output
    wanted = bulk.open_embeddings(folder).manifest
    with locked(folder):
        assert len(Store(folder, wanted, rebuild=True).earlier.intact) == 3
        other = replace(wanted, precision="bf16", shards=[])
        with pytest.raises(EmbeddingsError, match="precision: fp32 and bf16"):
            Store(folder, other)
        assert not Store(folder, other, rebuild=True).earlier.intact
    assert content_of(folder).keys() == {"unfinished.json"}
    (folder / "manifest.json").write_text("{")
    with locked(folder):
        Store(folder, wanted, rebuild=True).finish()
    assert bulk.open_embeddings(folder).rows == 0


def test_a_checksum_of_an_image_that_is_no_number(embed: Embed, photos: Path) -> None:
    """The folder's own checksums are right: another program wrote it."""
    folder = embed(photos, shard_items=64).output
    manifest = json.loads((folder / "manifest.json").read_text())
    (shard,) = manifest["shards"]
    path = folder / f"{shard['name']}.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("sha256")
    pq.write_table(table.set_column(place, "sha256", [["猫"] * len(table)]), path)
    shard["sha256"]["parquet"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for image in photos.rglob("*.png"):
        os.utime(image, (1, 1))
    report = embed(photos, shard_items=64)
    assert (report.embedded, report.kept) == (20, 0)
