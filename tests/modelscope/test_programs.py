"""Programs written for ModelScope, unmodified: their answers are ModelScope's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnclip.pipelines import MultiModalEmbeddingPipeline
from tests.modelscope.conftest import OTHERS, Run
from tests.support.tls_proxy import serve_https
from tests.support.twins.tokenizer import Tokenizer

TOLERANCE = 2e-6
# Images whose rows do not depend on how a program opens them.
PLAIN = ("rgb_223x225.png", "rgb_30x400.png")


def close(rows: NDArray[Any], expected: NDArray[Any], tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(rows, expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def answers(golden: Path) -> dict[str, Any]:
    return dict(np.load(golden / "tiny-vit.npz"))


@pytest.fixture(scope="module")
def plain(answers: dict[str, Any], golden: Path) -> tuple[list[Path], list[int]]:
    """Some images of mode RGB, and their rows in the golden answers."""
    names = answers["image_names"].tolist()
    places = [place for place, name in enumerate(names) if name.startswith("rgb_")][:4]
    return [golden / "cases" / "images" / names[place] for place in places], places


def numbers(line: str) -> NDArray[Any]:
    return np.array([float(word) for word in line.split()])


def row_of(texts: list[str], answers: dict[str, Any], text: str) -> NDArray[Any]:
    found: NDArray[Any] = answers["text_embedding"][texts.index(text)]
    return found


def probabilities(images: NDArray[Any], texts: NDArray[Any], temperature: float) -> NDArray[Any]:
    logits = images @ texts.T / temperature
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: NDArray[Any] = raised / raised.sum(axis=-1, keepdims=True)
    return found


def test_image_text_match(
    run_program: Run, answers: dict[str, Any], plain: Any, texts: list[str]
) -> None:
    labels = [text for text in texts if text.isprintable() and text.strip()][:5]
    done = run_program("image_text_match", plain[0][0], *labels)
    rows = np.stack([row_of(texts, answers, text) for text in labels])
    image = answers["img_embedding"][plain[1][0]]
    expected = probabilities(image[None], rows, float(answers["temperature"]))
    close(numbers(done.stdout), expected[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_the_model_card(
    run_program: Run,
    vit: MultiModalEmbeddingPipeline,
    answers: dict[str, Any],
    plain: Any,
    tmp_path: Path,
) -> None:
    host = "yangan2.oss-cn-beijing.aliyuncs.com"
    with serve_https(host, plain[0][0].read_bytes(), tmp_path) as variables:
        done = run_program("model_card", **variables)
    texts = vit.forward({"text": ["杰尼龟", "妙蛙种子", "小火龙", "皮卡丘"]})["text_embedding"]
    image = answers["img_embedding"][plain[1][0]]
    expected = probabilities(image[None], texts, float(answers["temperature"]))
    title, printed = done.stdout.split(":")
    assert title == "图文匹配概率"
    close(numbers(printed.strip(" []\n")), expected[0])


def test_folder_features(
    run_program: Run, answers: dict[str, Any], golden: Path, tmp_path: Path
) -> None:
    done = run_program("folder_features", golden / "cases" / "images", tmp_path / "features.npz")
    found = np.load(tmp_path / "features.npz")
    order = [answers["image_names"].tolist().index(name) for name in found["names"]]
    assert len(order) == len(answers["image_names"])
    close(found["images"], answers["img_embedding"][order])
    assert found["texts"].shape == (2, 64), done.stderr


def test_text_search(
    run_program: Run, answers: dict[str, Any], plain: Any, texts: list[str]
) -> None:
    query = next(text for text in texts if text.isprintable() and len(text) > 1)
    done = run_program("text_search", query, *plain[0])
    scores = answers["img_embedding"][plain[1]] @ row_of(texts, answers, query)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(place) for place, _ in lines] == np.argsort(-scores)[:3].tolist()
    close(np.array([float(score) for _, score in lines]), np.sort(scores)[::-1][:3])
    assert "4 images" in done.stderr


def test_default_model(run_program: Run, vit: MultiModalEmbeddingPipeline) -> None:
    done = run_program("default_model", "cpu")
    close(numbers(done.stdout), vit.forward({"text": "皮卡丘"})["text_embedding"][0, :4])


def test_snapshot(run_program: Run, vit: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    kind, whole, local, some, words, row = run_program("snapshot", tmp_path).stdout.splitlines()
    names = "configuration.json pytorch_model.bin text_model_config.json vision_model_config.json"
    assert kind == "clip-multi-modal-embedding"
    assert whole == local == f"{names} vocab.txt"
    assert some == whole.replace("pytorch_model.bin ", "")
    assert words == "vocab.txt"
    close(numbers(row), vit.forward({"text": "猫"})["text_embedding"][0, :4])


def test_open_model(
    run_program: Run, answers: dict[str, Any], image_paths: list[Path], tmp_path: Path
) -> None:
    run_program("open_model", tmp_path / "rows.npz", *image_paths)
    found = np.load(tmp_path / "rows.npz")
    assert np.array_equal(found["pixels"], answers["pixels"])
    close(found["images"], answers["img_embedding"])
    close(found["again"], answers["img_embedding"])
    close(found["temperature"], answers["temperature"])
    expected = answers["img_embedding"] @ found["texts"].T / answers["temperature"]
    close(found["similarity"], expected, 1e-4)


def test_clip_module(
    run_program: Run,
    answers: dict[str, Any],
    texts: list[str],
    tmp_path: Path,
    golden: Path,
) -> None:
    chosen = [place for place, text in enumerate(texts) if is_argument(text)]
    np.save(tmp_path / "pixels.npy", answers["pixels"])
    run_program(
        "clip_module", tmp_path / "o.npz", tmp_path / "pixels.npy", *[texts[i] for i in chosen]
    )
    found = np.load(tmp_path / "o.npz")
    assert np.array_equal(found["ids"], answers["token_ids"][chosen])
    lengths = np.linalg.norm(found["image_rows"], axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all()
    close(found["image_rows"] / lengths, answers["img_embedding"])
    lengths = np.linalg.norm(found["text_rows"], axis=1, keepdims=True)
    close(found["text_rows"] / lengths, answers["text_embedding"][chosen])
    close(found["units"], answers["img_embedding"])
    close(found["texts"], answers["text_embedding"][chosen])
    assert (np.abs(found["gradient"]).max(axis=(1, 2, 3)) > 0).all()
    close(1 / np.exp(found["logit_scale"]), answers["temperature"])
    torch = pytest.importorskip("torch")
    stored = torch.load(golden / "tiny-vit" / "pytorch_model.bin", weights_only=True)["state_dict"]
    assert set(found["names"]) == {name.replace("module.", "clip_model.", 1) for name in stored}


def is_argument(text: str) -> bool:
    """Whether a text can be passed on a command line."""
    return "\0" not in text and text.isprintable()


def test_tokens(run_program: Run, vit_directory: Path) -> None:
    texts = ["戴眼镜的猫", "Hello, World! 2022年", "naïve “quotes” \U0001f600", ""]
    *lines, last = run_program("tokens", vit_directory / "vocab.txt", *texts).stdout.splitlines()
    twin = Tokenizer((vit_directory / "vocab.txt").read_bytes())
    for text, line in zip(texts, lines, strict=True):
        tokens, ids, _ = json.loads(line)
        assert ids == twin.encode(text)[0][1 : len(ids) + 1]
        assert [twin.ids[token] for token in tokens] == ids
    assert json.loads(lines[1])[2] == "hello, world! 2022 年"
    assert last == "21128 100 [PAD]"


def test_names(run_program: Run) -> None:
    assert run_program("names").stdout.splitlines() == [
        "1 multi-modal-embedding image-captioning",
        "clip-multi-modal-embedding inbatch_recall clip-multi-modal-embedding",
        "multi-modal-embedding load-image text_embedding",
        "vocab.txt train pytorch force_redownload",
        "multi-modal 2 []",
        "True False modelscope",
    ]


def test_several_inputs(
    run_program: Run, answers: dict[str, Any], plain: Any, tmp_path: Path
) -> None:
    paths, places = plain
    run_program("several_inputs", tmp_path / "o.npz", *paths)
    found = np.load(tmp_path / "o.npz")
    for name in ("listed", "drawn", "single", "modelled"):
        close(found[name], answers["img_embedding"][places])
    assert np.array_equal(found["pixels"], answers["pixels"][places])


def test_other_models_need_modelscope(run_program: Run, vit_directory: Path) -> None:
    done = run_program("other_models", *OTHERS, vit_directory)
    *lines, own, called, derived, opened, no_model = done.stdout.splitlines()
    for name, line in zip(OTHERS, lines, strict=True):
        assert line.startswith(f"{name} ModelScopeError ")
        assert "pip install modelscope" in line
        assert name in line.removeprefix(name)
    assert own == f"{vit_directory} Tensor"
    name = "modelscope.models.nlp.SbertForSequenceClassification"
    assert called == derived == opened == f"ModelScopeError {name}"
    assert no_model == "ModelScopeError task 'text-classification'"


def test_weights_are_not_fetched_to_decide(
    run_program: Run, other_models: dict[str, Path], hub: Any
) -> None:
    name = next(iter(OTHERS))
    (other_models[name] / "pytorch_model.bin").write_bytes(bytes(1000))
    hub.requests.clear()
    run_program("other_models", name)
    assert set(hub.fetched()) <= {"configuration.json"}


def test_fine_tuned(run_program: Run, answers: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", answers["pixels"][:4])
    run_program("fine_tuned", tmp_path / "o.npz", tmp_path / "pixels.npy")
    found = np.load(tmp_path / "o.npz")
    close(found["before"], answers["img_embedding"][:4])
    assert np.abs(found["after"] - found["before"]).max() > 1e-3
    assert np.array_equal(found["restored"], found["after"])


def test_data_loader(
    run_program: Run,
    vit: MultiModalEmbeddingPipeline,
    answers: dict[str, Any],
    plain: Any,
    tmp_path: Path,
) -> None:
    """Workers are forked after the core ran, and only preprocess."""
    paths, places = plain
    run_program("data_loader", tmp_path / "o.npz", *paths)
    found = np.load(tmp_path / "o.npz")
    close(found["images"], answers["img_embedding"][places])
    texts = [f"第{number}张" for number in range(len(paths))]
    expected = vit.forward({"text": texts})["text_embedding"]
    close(found["texts"], expected)
    close(found["first"], expected[:1])


def test_own_training(
    run_program: Run, vit: MultiModalEmbeddingPipeline, plain: Any, tmp_path: Path
) -> None:
    run_program("own_training", tmp_path / "w.pth", tmp_path / "o.npz", *plain[0])
    found = np.load(tmp_path / "o.npz")
    texts = [f"第{number}张图" for number in range(len(plain[0]))]
    close(found["start"], vit.forward({"text": texts})["text_embedding"])
    assert np.isfinite(found["losses"]).all()
    assert np.abs(found["trained"] - found["start"]).max() > 1e-3
    close(found["restored"], found["trained"])


@pytest.mark.slow
def test_spawned_processes(
    run_command: Run, vit: MultiModalEmbeddingPipeline, vit_directory: Path
) -> None:
    from tests.modelscope.conftest import PROGRAMS

    done = run_command(PROGRAMS / "spawned.py", vit_directory)
    assert done.returncode == 0, done.stderr
    rows = vit.forward({"text": ["猫", "皮卡丘"]})["text_embedding"][:, :4]
    close(np.stack([numbers(line) for line in done.stdout.splitlines()]), rows)


def test_a_folder_named_as_the_model(
    run_program: Run, vit_directory: Path, tmp_path: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    """A copy without configuration.json is Chinese-CLIP by its other files."""
    copy = tmp_path / "copy"
    shutil.copytree(vit_directory, copy)
    (copy / "configuration.json").unlink()
    assert run_program("other_models", copy).stdout.startswith(f"{copy} Tensor")
