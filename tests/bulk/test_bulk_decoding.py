"""The folder of embeddings records how images were decoded, and refuses to mix."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from cnclip import bulk, evaluate, pipeline
from cnclip.cli import main
from cnclip.datasets import ProblemKind
from cnclip.errors import EmbeddingsError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.decoding import ImageOptions
from tests.support.bulk import Embed, vectors_of
from tests.support.photos import write_photos
from tests.support.twins.fast_decoding import decode_fast


@pytest.fixture(scope="module")
def fast() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu", decode="fast")


@pytest.fixture
def jpegs(tmp_path: Path, model: MultiModalEmbeddingPipeline) -> list[Path]:
    return write_photos(tmp_path / "jpegs", 5, 5 * model.preprocessor.image_resolution)


def recorded(folder: Path) -> dict[str, str]:
    value = json.loads((folder / "manifest.json").read_text())
    found: dict[str, str] = value.get("image_options", {})
    return found


def test_fast_is_that_of_the_pipeline_and_of_the_option(
    embed: Embed,
    jpegs: list[Path],
    model: MultiModalEmbeddingPipeline,
    fast: MultiModalEmbeddingPipeline,
    tmp_path: Path,
) -> None:
    side = model.preprocessor.image_resolution
    images = [decode_fast(path.read_bytes(), side) for path in jpegs]
    want = model.forward({"img": images}, batch_size=4)["img_embedding"]
    embed(jpegs[0].parent, decode="fast", dtype="float32")
    found = vectors_of(tmp_path / "out")
    np.testing.assert_allclose(np.stack(list(found.values())), want, atol=2e-6)
    assert recorded(tmp_path / "out") == {"decode": "fast"}
    options = bulk.EmbedOptions(dtype="float32", shard_items=8, batch_size=4)
    # The option is that of the pipeline by default: nothing is embedded again.
    report = bulk.embed(jpegs[0].parent, fast, tmp_path / "out", options)
    assert (report.kept, report.embedded) == (5, 0)
    exact = dataclasses.replace(options, decode="exact")
    bulk.embed(jpegs[0].parent, fast, tmp_path / "exact", exact)
    assert recorded(tmp_path / "exact") == {}
    assert not np.array_equal(want, list(vectors_of(tmp_path / "exact").values()))
    ids, vectors = zip(*bulk.iter_embeddings(jpegs[0].parent, fast), strict=True)
    np.testing.assert_allclose(np.concatenate(vectors), want, atol=2e-6)
    assert len(ids[0]) == 5


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            {"decode": "fast"},
            {},
            r"decode: fast and exact; embed as before \(--decode fast\), or write to another",
        ),
        (
            {},
            {"decode": "fast"},
            r"decode: exact and fast; embed as before \(--decode exact\), or write to another",
        ),
        (
            {"background": "white"},
            {"frame": "middle"},
            r"background: white and none; frame: first and middle; embed as before "
            r"\(--background white, --frame first\)",
        ),
        ({}, {"background": "red"}, r"background: none and red; .*\(no --background\)"),
        ({"dtype": "float32"}, {}, r"dtype: float32 and float16; write to another folder"),
    ],
)
def test_other_decoding_is_refused(
    embed: Embed, jpegs: list[Path], first: dict[str, str], second: dict[str, str], words: str
) -> None:
    embed(jpegs[0].parent, **first)
    with pytest.raises(EmbeddingsError, match=words):
        embed(jpegs[0].parent, **second)
    assert embed(jpegs[0].parent, **first).kept == 5


def test_texts_have_no_decoding(
    embed: Embed, fast: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("猫\n狗\n", encoding="utf-8")
    options = bulk.EmbedOptions("texts")
    bulk.embed(tmp_path / "texts.txt", fast, tmp_path / "out", options)
    assert recorded(tmp_path / "out") == {}
    assert embed(tmp_path / "texts.txt", kind="texts", shard_items=8192).kept == 2


def test_the_command(jpegs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", str(jpegs[0].parent), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--decode", "fast"]) == 0
    assert recorded(tmp_path / "out") == {"decode": "fast"}
    capsys.readouterr()
    assert main(arguments) == 2
    assert "embed as before (--decode fast), or write to another folder" in capsys.readouterr().err


def test_evaluation_decodes_as_the_pipeline(
    jpegs: list[Path],
    fast: MultiModalEmbeddingPipeline,
    model: MultiModalEmbeddingPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [json.dumps({"file_name": one.name, "text": "猫"}) for one in jpegs]
    (jpegs[0].parent / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    kept = tmp_path / "report"
    for opened, want in ((fast, {"decode": "fast"}), (model, {})):
        evaluate.retrieval(jpegs[0].parent, opened, output=kept)
        (folder,) = {
            path.parent for path in kept.rglob("manifest.json") if path.parent.name == "images"
        }
        assert recorded(folder) == want
    seen: list[ImageOptions] = []
    module = importlib.import_module("cnclip.evaluate.zeroshot")
    decode = module.decode_image

    def spy(*arguments: object, options: ImageOptions, **others: object) -> object:
        seen.append(options)
        return decode(*arguments, options=options, **others)

    monkeypatch.setattr(module, "decode_image", spy)
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
    jpegs[0].rename(tmp_path / "classes" / "cat" / "1.jpg")
    jpegs[1].rename(tmp_path / "classes" / "dog" / "1.jpg")
    report = evaluate.zeroshot(tmp_path / "classes", fast, labels=["猫", "狗"])
    assert report.images == 2 and not report.problems
    assert [one.decode for one in seen] == ["fast", "fast"]
    assert ProblemKind.UNREADABLE_IMAGE not in {one.kind for one in report.problems}
