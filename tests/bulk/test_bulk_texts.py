"""Texts of which a model sees only a part: counted and reported, by every command."""

from __future__ import annotations

import io
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnclip import bulk, cli
from cnclip._text import is_blank
from cnclip.errors import EmbeddingsError, InvalidInputError
from cnclip.evaluate import ZeroShotClassifier
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.text import TextCounts, count_texts
from tests.support.bulk import Embed, vectors_of

LONG = "长" * 60


def test_texts_are_counted(model: MultiModalEmbeddingPipeline) -> None:
    preprocessor = model.preprocessor
    assert count_texts(preprocessor, ["猫", "a cat", "猫🐶"]).messages() == []
    assert count_texts(preprocessor, []).messages() == []
    edge = "猫" * 50
    assert count_texts(preprocessor, [edge, edge + "猫"]).cut == 1
    counts = count_texts(preprocessor, [LONG, LONG + "猫", "🐶", "ねこ", "\u200b", " ", "猫"])
    assert (counts.texts, counts.cut, counts.unknown, counts.empty) == (7, 2, 2, 2)
    assert counts.first == {"cut": LONG, "unknown": "🐶", "empty": "\u200b"}


def test_messages(model: MultiModalEmbeddingPipeline) -> None:
    preprocessor = model.preprocessor
    (one,) = count_texts(preprocessor, ["猫" * 60]).messages()
    assert one == "the text is longer than 52 ids: the model does not see the rest"
    (one,) = count_texts(preprocessor, ["🐶"]).messages()
    assert one.startswith("the text is of characters that the model does not know")
    (one,) = count_texts(preprocessor, ["ＣＡＴ"]).messages()
    assert "'CAT' may be known" in one
    (one,) = count_texts(preprocessor, ["🐶", "猫"], "label").messages()
    assert one.startswith("1 of 2 labels is of characters") and one.endswith("(such as '🐶')")
    messages = count_texts(preprocessor, ["猫" * 60, "狗" * 60, "\u200b"]).messages()
    assert messages[0].startswith("2 of 3 texts are longer than 52 ids")
    assert messages[1] == "1 of 3 texts is without a visible character: the model sees nothing"


def test_counts_are_added_up(model: MultiModalEmbeddingPipeline) -> None:
    texts = ["猫", LONG, "🐶"] * 700
    parts = TextCounts()
    for text in texts[:30]:
        parts.add(model.preprocessor, [text])
    assert parts == count_texts(model.preprocessor, texts[:30])
    assert count_texts(model.preprocessor, texts).cut == 700


def test_blank_texts_are_those_without_ids(model: MultiModalEmbeddingPipeline) -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    _, lengths = model.preprocessor.tokenizer.encode(characters, 52)
    blank = [is_blank(character) for character in characters]
    assert blank == (lengths == 2).tolist()
    assert is_blank("") and is_blank(" \u200b\ufeff\u3000\n\ufffd\u0301") and not is_blank(" a")


def test_embedding_reports_them(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"{LONG}\n{LONG}猫\n🐶\n猫\n\u200b\n".encode("utf-16"))
    arguments = ["embed", str(path), "--texts", "-o", str(tmp_path / "out"), "--device", "cpu"]
    for _ in range(2):  # the second run keeps the embeddings, and reports the same
        assert cli.main(arguments) == 1
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("cnclip embed: ")]
        assert f"cnclip embed: {path}: read as UTF-16 LE" in lines
        assert any("2 of 4 texts are longer than 52 ids" in line for line in lines)
        assert any("1 of 4 texts is of characters that the model" in line for line in lines)
        assert f"cnclip embed: {path}:5: expected a string, found nothing" in lines
        assert "4 texts of 128 columns" in out and "1 failed" in out


def test_lists_from_find(tmp_path: Path, some: list[Path], monkeypatch: Any, capsys: Any) -> None:
    content = b"\0".join(str(path).encode() for path in some) + b"\0"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert cli.main(["embed", "-0", "-", "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert list(vectors_of(tmp_path / "out")) == list(map(str, some))


def test_texts_may_be_normalized(
    embed: Embed, model: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("“猫”\n狗\n", encoding="utf-8")
    plain = embed(tmp_path / "a.txt", kind="texts", dtype="float32")
    with pytest.raises(EmbeddingsError, match="normalized: False and True; write to another"):
        embed(tmp_path / "a.txt", kind="texts", dtype="float32", normalize=True)
    normalized = embed(
        tmp_path / "a.txt", kind="texts", dtype="float32", normalize=True, output=tmp_path / "b"
    )
    assert bulk.open_embeddings(normalized.output).manifest.normalized
    rows = model.forward({"text": ["“猫”", '"猫"', "狗"]})["text_embedding"]
    np.testing.assert_array_equal(list(vectors_of(plain.output).values()), rows[[0, 2]])
    np.testing.assert_allclose(
        list(vectors_of(normalized.output).values()), rows[[1, 2]], atol=1e-6
    )
    (block,) = bulk.open_embeddings(normalized.output).blocks()
    assert block.lines["text"].to_pylist() == ["“猫”", "狗"]


def test_the_description_of_a_model_decides(model: MultiModalEmbeddingPipeline) -> None:
    options = bulk.EmbedOptions("texts")
    info = model.model.info
    trained = replace(info, metadata=info.metadata | {"normalized_texts": True})
    assert not info.normalizes_texts and trained.normalizes_texts
    assert options.for_model(info).normalize is False
    assert options.for_model(trained).normalize is True
    assert replace(options, normalize=False).for_model(trained).normalize is False
    assert bulk.EmbedOptions("images").for_model(trained).normalize is False


def test_labels_that_a_model_cannot_tell_apart_are_logged(
    model: MultiModalEmbeddingPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    ZeroShotClassifier(["🐶", "🐱", "猫"], model)
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 3 labels are of characters that the model does not")
    with pytest.raises(InvalidInputError, match=r"labels\[1\]: expected a text"):
        ZeroShotClassifier(["猫", "\u200b"], model)


def test_normalization_forms_are_the_same_text(model: MultiModalEmbeddingPipeline) -> None:
    texts = ["café", "が"]
    ids = [
        model.preprocessor.tokenize([unicodedata.normalize(form, text) for text in texts])  # type: ignore
        for form in ("NFC", "NFD")
    ]
    np.testing.assert_array_equal(*ids)
