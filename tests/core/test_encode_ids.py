"""Rows of token ids: those of their texts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnclip import errors
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline

Ids = NDArray[np.int64]


@pytest.fixture(scope="module")
def ids(vit: MultiModalEmbeddingPipeline, texts: list[str]) -> Ids:
    return vit.preprocessor.tokenizer.encode(texts, 52)[0]


@pytest.mark.parametrize("batch_size", [0, 1, 7])
def test_ids_have_the_rows_of_their_texts(
    vit: MultiModalEmbeddingPipeline, texts: list[str], ids: Ids, batch_size: int
) -> None:
    encoder = vit.model.encoder
    rows = encoder.encode_ids(ids, batch_size)
    assert np.array_equal(rows, encoder.encode_texts(texts, batch_size))
    assert rows.dtype == np.float32


def test_rows_are_modelscopes(vit: MultiModalEmbeddingPipeline, golden: Path) -> None:
    answers = np.load(golden / "tiny-vit.npz")
    rows = vit.model.encoder.encode_ids(answers["token_ids"])
    np.testing.assert_allclose(rows, answers["text_embedding"], rtol=0, atol=2e-6)


def test_more_rows_than_are_sorted_at_once(
    vit: MultiModalEmbeddingPipeline, texts: list[str]
) -> None:
    many = [f"{number}{text}" for number, text in enumerate(texts * 60)][:4200]
    ids = vit.preprocessor.tokenizer.encode(many, 12)[0]
    rows = vit.model.encoder.encode_ids(ids)
    some = [0, 1, 4095, 4096, 4199]
    np.testing.assert_allclose(
        rows[some], vit.model.encoder.encode_ids(ids[some]), rtol=0, atol=2e-6
    )


def test_any_memory_and_integers(vit: MultiModalEmbeddingPipeline, ids: Ids) -> None:
    encoder = vit.model.encoder
    rows = encoder.encode_ids(ids)
    others: list[NDArray[Any]] = [
        ids.astype(np.int32),
        ids.astype(np.uint16),
        ids.astype(">i8"),
        np.asfortranarray(ids),
        np.repeat(ids, 2, axis=1)[:, ::2],
    ]
    for same in others:
        assert np.array_equal(encoder.encode_ids(same), rows), same.dtype
    assert np.array_equal(encoder.encode_ids(ids[::-1]), encoder.encode_ids(ids[::-1].copy()))
    ids = ids.copy()
    ids.flags.writeable = False
    assert np.array_equal(encoder.encode_ids(ids), rows)


def test_columns_of_padding_change_nothing(vit: MultiModalEmbeddingPipeline) -> None:
    encoder = vit.model.encoder
    for text in ("猫", "一只猫 a cat", ""):
        whole = vit.preprocessor.tokenizer.encode([text], 52)[0]
        used = int((whole[0] != 0).sum())
        expected = encoder.encode_texts([text])
        for columns in {used, used + 1, 30, 52}:
            assert np.array_equal(encoder.encode_ids(whole[:, :columns]), expected)


def test_shapes(vit: MultiModalEmbeddingPipeline) -> None:
    encoder = vit.model.encoder
    assert encoder.encode_ids(np.zeros((0, 52), np.int64)).shape == (0, 64)
    single = encoder.encode_ids(np.array([[101]]))
    assert np.abs(np.linalg.norm(single) - 1) < 1e-5
    # The model uses the first column always: a row of padding is a text of this one id.
    padding = encoder.encode_ids(np.zeros((3, 9), np.int64))
    expected = np.repeat(encoder.encode_ids(np.zeros((1, 1), np.int64)), 3, axis=0)
    np.testing.assert_allclose(padding, expected, rtol=0, atol=2e-6)
    # Padding between ids is masked.
    mixed = np.array([[101, 0, 200, 0, 0, 102, 0, 0], [101, 200, 102, 0, 0, 0, 0, 0]])
    rows = encoder.encode_ids(mixed)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3  # the positions differ
    np.testing.assert_allclose(rows[0], encoder.encode_ids(mixed[:1])[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("row", "column", "wrong"), [(0, 0, -1), (1, 3, 21128), (2, 51, 2**62), (3, 7, -(2**63))]
)
def test_unknown_ids_are_named(
    vit: MultiModalEmbeddingPipeline, row: int, column: int, wrong: int
) -> None:
    ids = np.full((4, 52), 101)
    ids[row, column] = wrong
    with pytest.raises(errors.InvalidInputError) as raised:
        vit.model.encoder.encode_ids(ids)
    assert raised.value.where.item == f"text[{row}]"
    expected = f"column {column}: expected an id from 0 to 21127, got {wrong}"
    assert raised.value.reason == expected


def test_lengths_are_checked(vit: MultiModalEmbeddingPipeline) -> None:
    for columns in (0, 53):
        reason = f"ids: expected 1 to 52 columns, the context length, got {columns}"
        with pytest.raises(errors.InvalidInputError, match=reason):
            vit.model.encoder.encode_ids(np.full((2, columns), 101))


def test_padding_that_is_not_zero(vit_directory: Path, tmp_path: Path) -> None:
    """Where [PAD] has another id, zeros after a text's end are words, as they are in ModelScope."""
    folder = tmp_path / "model"
    shutil.copytree(vit_directory, folder)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert words[0] == "[PAD]"
    words[:2] = words[1], words[0]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    opened = pipeline(model=folder)
    assert opened.preprocessor.tokenizer.pad_id == 1
    texts = ["猫", "一只狗在跑"]
    ids = opened.preprocessor.tokenizer.encode(texts, 52)[0]
    assert np.array_equal(
        opened.model.encoder.encode_ids(ids), opened.model.encoder.encode_texts(texts)
    )
