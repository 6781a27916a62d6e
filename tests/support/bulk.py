"""Sources and folders of embeddings."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from cnclip import bulk
from cnclip.assets import asset_path
from cnclip.datasets import write_split
from cnclip.pipelines import MultiModalEmbeddingPipeline

GALLERY = asset_path("gallery")
Embed = Callable[..., bulk.EmbedReport]


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
