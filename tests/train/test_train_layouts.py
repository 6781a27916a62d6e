"""Training on every layout of data sets, and on images that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cnclip.cli import main  # noqa: E402
from cnclip.datasets import write_split  # noqa: E402
from cnclip.errors import (  # noqa: E402
    DatasetError,
)
from cnclip.train import finetune  # noqa: E402
from tests.support.training import (  # noqa: E402
    SMALL,
    WORDS,
    losses_of,
    png,
)

LAYOUTS = ("tsv", "lmdb", "folder", "csv", "tars", "parquet")


def train_on_layout(layout: str, workers: int, sizes: Path, folder: Path) -> dict[int, float]:
    """Losses of two steps on the pairs of tests/support/layouts.py in a layout."""
    from tests.support import layouts

    data = folder / "data"
    data.mkdir()
    dataset = getattr(layouts, f"make_{layout}")(data)
    options = SMALL | {"max_steps": 2, "batch_size": 6, "num_workers": workers}
    finetune(sizes, dataset, folder / "run", from_scratch=True, show_progress=False, **options)
    return losses_of(folder / "run")


@pytest.fixture(scope="module")
def losses_of_tsv(tmp_path_factory: pytest.TempPathFactory, sizes: Path) -> dict[int, float]:
    """Losses on the layout of Chinese-CLIP, read without worker processes."""
    return train_on_layout("tsv", 0, sizes, tmp_path_factory.mktemp("tsv"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_losses(
    layout: str, losses_of_tsv: dict[int, float], sizes: Path, tmp_path: Path
) -> None:
    """Worker processes read the same pairs from every layout."""
    losses = train_on_layout(layout, 1, sizes, tmp_path)
    # The readers keep the order of the pairs; of a Parquet file, row groups are shuffled.
    if layout == "parquet":
        assert losses.keys() == losses_of_tsv.keys()
    else:
        assert losses == pytest.approx(losses_of_tsv, rel=1e-5)


def test_broken_images_are_skipped_and_reported(
    sizes: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "data"
    images = [(i, png(i)) for i in range(20)]
    images[3] = (3, b"not an image")
    images[11] = (11, images[11][1][:60])
    write_split(broken, "train", images, [(i, WORDS[i], [i]) for i in range(20)])
    with (broken / "train_texts.jsonl").open("a") as file:
        file.write('{"text_id": 99, "text": "", "image_ids": [1]}\nnonsense\n')
    output = tmp_path / "run"
    arguments = [
        "train",
        "--model",
        str(sizes),
        "--from-scratch",
        "--train",
        str(broken),
        "--val",
        str(broken),
        "--val-split",
        "train",
        "-o",
        str(output),
        "--batch-size",
        "10",
        "--max-steps",
        "4",
        "--device",
        "cpu",
        "--num-workers",
        "0",
    ]
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    for name in (
        "train_imgs.tsv:4: ",
        "train_imgs.tsv:12: ",
        "train_texts.jsonl:21: ",
        "train_texts.jsonl:22: ",
    ):
        assert errors.count(name) == 1, errors
    named = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert {line["where"] for line in named} == {"train_imgs.tsv:4", "train_imgs.tsv:12"}
    assert sorted(losses_of(output)) == [4]


def test_data_without_readable_images(sizes: Path, tmp_path: Path) -> None:
    write_split(tmp_path, "train", [(1, b"x"), (2, b"y")], [(1, "猫", [1]), (2, "狗", [2])])
    message = r"^\d+ images in a row cannot be read; the first: train_imgs.tsv:[12]: [^\n]*$"
    for workers in (0, 1):
        options = SMALL | {"num_workers": workers, "from_scratch": True, "show_progress": False}
        with pytest.raises(DatasetError, match=message):
            finetune(sizes, tmp_path, tmp_path / f"run-{workers}", **options)
