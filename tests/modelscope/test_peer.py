"""The same programs on ModelScope itself, where it is installed and can be imported.

They ran on ModelScope 1.40.2 with the versions that docs/en/howto/modelscope.md lists. No test
replaces a part of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest

from tests.modelscope.conftest import PROGRAMS, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PathFinder.find_spec("modelscope") is None, reason="requires modelscope"),
]
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
IMAGES = GOLDEN / "cases" / "images"
PHOTO = IMAGES / "rgb_223x225.png"
TOLERANCE = 2e-6
# What the programs import of ModelScope.
IMPORTS = """
from modelscope.models.multi_modal.clip.model import CLIPForMultiModalEmbedding
from modelscope.msdatasets import MsDataset
from modelscope.pipelines import pipeline
from modelscope.preprocessors.multi_modal import CLIPPreprocessor
from modelscope.trainers import build_trainer
"""
# Programs that print the same text.
EQUAL = {
    "tokens": (GOLDEN / "tiny-vit" / "vocab.txt", "戴眼镜的猫", "naïve “quotes”"),
    "names": (),
}
# Programs that print numbers.
PRINTED = {
    "image_text_match": (PHOTO, "猫", "一只狗", "Hello"),
    "default_model": (),
    "text_search": ("猫", PHOTO, IMAGES / "rgb_500x375.png", IMAGES / "gray.jpg"),
}
# Programs that save arrays to a file.
OUTPUT, PIXELS = "OUTPUT", "PIXELS"
SAVED = {
    "folder_features": (IMAGES, OUTPUT),
    "open_model": (OUTPUT, PHOTO, IMAGES / "rgb_500x375.png"),
    "clip_module": (OUTPUT, PIXELS, "猫", "一只可爱的狗", "naïve “quotes”"),
    "data_loader": (OUTPUT, *[PHOTO] * 5),
    "directory_rows": (GOLDEN / "tiny-vit", OUTPUT, PHOTO),
}


@pytest.fixture(scope="module", autouse=True)
def requires_its_packages() -> None:
    """Skip if ModelScope cannot be imported: it needs packages that it does not install."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, encoding="utf-8")
    if done.returncode:
        (*_, reason) = done.stderr.strip().splitlines()
        pytest.skip(f"ModelScope cannot be imported: {reason}")


def outputs(run_command: Run, name: str, *arguments: object) -> tuple[str, str]:
    """The standard outputs of a program with cnclip and with ModelScope."""
    ours = run_command(PROGRAMS / f"{name}.py", *arguments)
    theirs = run_command(PROGRAMS / f"{name}.py", *arguments, plain=True)
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    return ours.stdout, theirs.stdout


@pytest.mark.parametrize("name", EQUAL)
def test_texts_are_equal(name: str, run_command: Run) -> None:
    ours, theirs = outputs(run_command, name, *EQUAL[name])
    assert ours == theirs


@pytest.mark.parametrize("name", PRINTED)
def test_numbers_agree(name: str, run_command: Run) -> None:
    found = [re.findall(r"\S+", text) for text in outputs(run_command, name, *PRINTED[name])]
    ours, theirs = np.array(found, dtype=float)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def compare_arrays(run_command: Run, folder: Path, name: str, *arguments: object) -> None:
    """Run a program with cnclip and with ModelScope, and compare the arrays that it saves."""
    script, files = PROGRAMS / f"{name}.py", []
    for kind in ("ours", "theirs"):
        files.append(folder / f"{kind}.npz")
        given = [files[-1] if argument is OUTPUT else argument for argument in arguments]
        done = run_command(script, *given, plain=kind == "theirs")
        assert done.returncode == 0, done.stderr
    ours, theirs = (dict(np.load(file)) for file in files)
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        if expected.dtype.kind in "US":
            assert set(ours[key]) == set(expected), key
            continue
        # Of values that are not of unit length, such as logits, relative to their size.
        bound = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(ours[key], expected, rtol=0, atol=bound, err_msg=key)


@pytest.mark.parametrize("name", SAVED)
def test_arrays_agree(name: str, run_command: Run, tmp_path: Path) -> None:
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, np.load(GOLDEN / "tiny-vit.npz")["pixels"])
    given = [pixels if argument is PIXELS else argument for argument in SAVED[name]]
    compare_arrays(run_command, tmp_path, name, *given)


def test_what_the_tutorial_wrote(run_command: Run, tmp_path: Path) -> None:
    """ModelScope opens the directory that the model card's tutorial writes."""
    done = run_command(PROGRAMS / "fine_tune.py", 1, 24, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "workspace/ckpts/clip/output"
    compare_arrays(run_command, tmp_path, "directory_rows", directory, OUTPUT, PHOTO)
