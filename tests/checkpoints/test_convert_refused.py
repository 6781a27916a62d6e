"""Model directories that cannot be converted: refused with a message that names the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip import cli, pipeline
from cnclip.archive import read_archive
from cnclip.convert import convert
from tests.support.small_vit import VISION, VOCABULARY, Make, Weights, check


def refused(source: Path, message: str) -> cnclip.errors.CheckpointError:
    with pytest.raises(cnclip.errors.CheckpointError, match=message) as raised:
        pipeline(model=source, device="cpu")
    assert isinstance(raised.value, ValueError)
    return raised.value


def without(weights: Weights, *names: str) -> Weights:
    return {name: value for name, value in weights.items() if name not in names}


WRONG_TENSORS: list[tuple[Callable[[Weights], Any], str]] = [
    (lambda w: without(w, "visual.proj"), r"has no tensor visual\.proj$"),
    (lambda w: without(w, "logit_scale"), "has no tensor logit_scale$"),
    (
        lambda w: {**w, "extra": torch.zeros(2)},
        "has a tensor extra that this architecture does not have",
    ),
    (
        lambda w: {**w, "visual.proj": torch.zeros(48, 25)},
        r"visual\.proj of shape \[48, 25\], expected \[48, 24\]",
    ),
    (
        lambda w: {**w, "visual.proj": torch.zeros(48, 24, dtype=torch.int64)},
        r"visual\.proj of type torch\.int64, expected dense floats",
    ),
    (
        lambda w: {**w, "visual.proj": torch.zeros(48, 24, dtype=torch.complex64)},
        r"visual\.proj of type torch\.complex64",
    ),
    (
        lambda w: {**w, "visual.proj": torch.zeros(48, 24).to_sparse()},
        r"_rebuild_sparse_tensor makes no dense tensor",
    ),
    (lambda w: {**w, "logit_scale": torch.zeros(1)}, r"logit_scale of shape \[1\], expected \[\]"),
    (
        lambda w: {**w, "visual.proj": torch.full((48, 24), torch.nan)},
        r"visual\.proj has NaN or infinite values as torch\.float16",
    ),
    (
        lambda w: {**w, "visual.ln_post.bias": torch.tensor([torch.inf] * 48)},
        r"visual\.ln_post\.bias has NaN or infinite values as torch\.float32",
    ),
    (
        lambda w: {**w, "text_projection": w["text_projection"].float() - 1e5},  # beyond float16
        r"text_projection has NaN or infinite values as torch\.float16",
    ),
    (lambda w: {**w, "logit_scale": torch.tensor(-torch.inf)}, "logit_scale has NaN or infinite"),
    (lambda w: {**w, "logit_scale": torch.tensor(-200.0)}, "logit_scale -200 is out of range"),
    (lambda w: {**w, "logit_scale": torch.tensor(200.0)}, "logit_scale 200 is out of range"),
    (lambda w: {**w, "visual.proj": 5}, r"visual\.proj: expected a tensor, found .*int"),
    (lambda w: {**w, 5: torch.zeros(2)}, "expected tensors by their names"),
    (lambda w: {}, "expected a dict of tensors"),
    (lambda w: {"state_dict": []}, "expected a dict of tensors"),
    (lambda w: list(w.values()), "expected a dict of tensors"),
    (lambda w: w["visual.proj"], "expected a dict of tensors"),
    (lambda w: {"a" + name: value for name, value in w.items()}, r"\(and \d+ more\)$"),
    (
        lambda w: {("" if "proj" in name else "module.") + name: w[name] for name in w},
        r"a tensor module\.|no tensor",
    ),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.parametrize(("change", "message"), WRONG_TENSORS, ids=[m for _, m in WRONG_TENSORS])
def test_wrong_tensors(
    make: Make, weights: Weights, change: Callable[[Weights], Any], message: str
) -> None:
    directory = make(change(weights))
    assert str(directory) in str(refused(directory, message))


def test_weights_that_are_not_finite_on_request(
    make: Make, weights: Weights, tmp_path: Path
) -> None:
    directory = make({**weights, "visual.proj": torch.full((48, 24), torch.inf)})
    output = tmp_path / "out.cnclip.pt"
    assert cli.main(["convert", str(directory), "-o", str(output)]) == 2
    assert not output.exists()
    assert cli.main(["convert", str(directory), "-o", str(output), "--allow-nonfinite"]) == 0
    assert read_archive(output).embed_dim == 24


def test_parts_that_unpack_to_more_than_the_file(make: Make, weights: Weights) -> None:
    directory = make(weights)
    path = directory / "pytorch_model.bin"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, bytes(1 << 28) if name.endswith("/data/0") else content)
    assert path.stat().st_size < 1 << 21
    assert "pytorch_model.bin" in str(refused(directory, "is compressed, unlike torch's files"))


class Hostile:
    """Would write a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("form", ["zip", "before zip", "plain pickle", "next to the weights"])
def test_a_hostile_pickle_is_refused_and_not_run(
    make: Make, weights: Weights, tmp_path: Path, form: str
) -> None:
    trace = tmp_path / "it-ran"
    hostile = Hostile(trace)
    if form == "plain pickle":
        directory = make(pickle.dumps(hostile, protocol=2))
    else:
        directory = make({**weights, "x": hostile} if form == "next to the weights" else hostile)
        if form == "before zip":
            torch.save(
                hostile, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False
            )
    error = refused(directory, "not read|damaged")
    assert "pytorch_model.bin" in str(error)
    assert not trace.exists()
    with pytest.raises(cnclip.errors.CheckpointError):
        convert(directory, tmp_path / "out.pt")
    assert not trace.exists()
    assert not (tmp_path / "out.pt").exists()
    torch.load(directory / "pytorch_model.bin", weights_only=False) if form == "zip" else None
    assert trace.exists() == (form == "zip")  # the file is as hostile as it is meant to be


@pytest.mark.parametrize("form", ["zip", "before zip"])
@pytest.mark.filterwarnings("ignore:.*")
def test_damaged_weights(make: Make, weights: Weights, form: str) -> None:
    directory = make(weights)
    path = directory / "pytorch_model.bin"
    torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    for end in [0, 1, 2, 100, 1000, len(content) // 2, len(content) - 100, len(content) - 1]:
        path.write_bytes(content[:end])
        assert "pytorch_model.bin" in str(refused(directory, "damaged"))
    random = np.random.default_rng(0)
    for _ in range(20):
        # In the pickled names, where a reader would trip in a hundred ways.
        at = content.find(b"visual") + int(random.integers(2000))
        path.write_bytes(content[:at] + random.bytes(30) + content[at + 30 :])
        refused(directory, "")


@pytest.mark.parametrize("content", [b"", b"text", bytes(5000), b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_weights_that_are_none(make: Make, content: bytes) -> None:
    assert "pytorch_model.bin" in str(refused(make(content), "pytorch_model"))


@pytest.mark.filterwarnings("ignore:.*TorchScript archive.*:UserWarning")
def test_weights_that_are_an_archive(make: Make, archive: Path) -> None:
    refused(make(archive.read_bytes()), "pytorch_model.bin")


@pytest.mark.parametrize("name", ["vision_model_config.json", "text_model_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1, 2]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"{}", "expected an integer from 1 to .*, found nothing"),
        (b"\xff\xfe{}", "can't decode|BOM"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_broken_json(make: Make, name: str, content: bytes, message: str) -> None:
    directory = make()
    (directory / name).write_bytes(content)
    assert name in str(refused(directory, message))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("embed_dim", 0, "an integer from 1"),
        ("embed_dim", "24", "an integer from 1"),
        ("embed_dim", 24.0, "an integer from 1"),
        ("embed_dim", True, "an integer from 1"),
        ("embed_dim", 2**40, "an integer from 1"),
        ("vision_layers", 10**6, "an integer from 1 to 1000"),
        ("vision_layers", [1, 2, 3], "an integer or four of them"),
        ("vision_layers", [1, 2, 3, 0], "an integer or four of them"),
        ("vision_layers", [1, 2, 3, "4"], "an integer or four of them"),
        ("vision_layers", [1, 2, 3, 10**9], "an integer or four of them"),
        ("vision_layers", None, "an integer from 1"),
        ("image_resolution", 10**6, "an integer from 1 to 4096"),
        ("vision_patch_size", None, "an integer from 1"),
        ("vision_patch_size", 64, "an integer from 1 to 32"),
        ("vision_head_width", 64, "a divisor of 48 columns"),
        ("vision_head_width", 9, "a divisor of 48 columns"),
        ("text_num_hidden_layers", 10**6, "an integer from 1 to 1000"),
        ("text_num_attention_heads", 5, "a divisor of 32"),
        ("text_hidden_act", "mish", "one of gelu, gelu_new, relu, swish"),
        ("text_hidden_act", ["gelu"], "one of gelu, gelu_new, relu, swish"),
        ("vocab_size", -1, "an integer from 1"),
    ],
)
def test_wrong_values(make: Make, weights: Weights, key: str, value: Any, expected: str) -> None:
    part = {key: value}
    directory = make(weights, **({"vision": part} if key in VISION else {"text": part}))
    refused(directory, rf"_model_config\.json:{key}: expected {expected}")


def test_a_resnet_of_a_size_that_does_not_halve(make: Make, weights: Weights) -> None:
    vision = {"vision_layers": [1, 1, 1, 1], "image_resolution": 63}
    refused(make(weights, vision=vision), "image_resolution: expected one that a ResNet halves")


@pytest.mark.parametrize(
    "missing",
    ["pytorch_model.bin", "vision_model_config.json", "text_model_config.json", "vocab.txt"],
)
def test_missing_files(make: Make, missing: str) -> None:
    directory = make()
    (directory / missing).unlink()
    assert str(directory) in str(refused(directory, f"missing {missing}$"))
    (directory / missing).mkdir()
    refused(directory, f"missing {missing}$")


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "not a model directory: it has neither vision_model_config.json .* nor config.json",
    )


@pytest.mark.parametrize("token", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_vocabularies_without_a_special_token(make: Make, token: str) -> None:
    directory = make(vocabulary=[word for word in VOCABULARY if word != token])
    with pytest.raises(cnclip.errors.VocabularyError, match=rf"\[{token[1:-1]}\]"):
        pipeline(model=directory, device="cpu")


def test_a_vocabulary_that_is_not_utf8(make: Make) -> None:
    directory = make()
    (directory / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(cnclip.errors.VocabularyError):
        pipeline(model=directory, device="cpu")


def test_a_vocabulary_larger_than_the_embedding(
    make: Make, image: Image.Image, weights: Weights
) -> None:
    longer = [*VOCABULARY, *(f"word{i}" for i in range(40 - len(VOCABULARY)))]
    assert len(longer) == 40
    check(make(vocabulary=longer), image, weights)
    error = refused(make(vocabulary=[*longer, "more"]), "ids up to 40, the word embedding only 40")
    assert "model-" in str(error)


def test_convert_leaves_nothing_behind_when_it_fails(
    make: Make, tmp_path: Path, weights: Weights
) -> None:
    output = tmp_path / "out" / "model.pt"
    with pytest.raises(FileNotFoundError, match=rf"{output}: there is no directory") as raised:
        convert(make(), output)
    assert isinstance(raised.value, cnclip.errors.InvalidInputError)
    assert raised.value.where == cnclip.errors.Where(file=str(output))
    output.parent.mkdir()
    with pytest.raises(cnclip.errors.CheckpointError):
        convert(make(without(weights, "visual.proj")), output)
    assert list(output.parent.iterdir()) == []
    output.write_text("what was here")
    with pytest.raises(cnclip.errors.CheckpointError):
        convert(make(without(weights, "visual.proj")), output)
    assert output.read_text() == "what was here"
    convert(make(), output)
    assert [path.name for path in output.parent.iterdir()] == ["model.pt"]


def test_convert_refuses_an_archive(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(cnclip.errors.InvalidInputError, match="is an archive already"):
        convert(archive, tmp_path / "out.pt")
    with pytest.raises(cnclip.errors.ModelNotFoundError):
        convert("nowhere", tmp_path / "out.pt")
