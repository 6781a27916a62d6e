"""The same programs on ModelScope itself, where it is installed and can be imported."""

from __future__ import annotations

import re
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
PHOTO = GOLDEN / "cases" / "images" / "rgb_223x225.png"
CASES = {
    "image_text_match": (PHOTO, "猫", "一只狗", "Hello"),
    "tokens": (GOLDEN / "tiny-vit" / "vocab.txt", "戴眼镜的猫", "naïve “quotes”"),
    "default_model": (),
    "names": (),
    "text_search": ("猫", *[PHOTO] * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_agree(name: str, run_command: Run) -> None:
    arguments = (PROGRAMS / f"{name}.py", *CASES[name])
    theirs = run_command(*arguments, plain=True)
    reasons = re.findall(
        r"^(?:\w+\.)*(?:ModuleNotFound|Import)Error: .*", theirs.stderr, re.MULTILINE
    )
    if theirs.returncode and reasons:
        pytest.skip(f"ModelScope cannot run it here: {reasons[-1]}")
    ours = run_command(*arguments)
    assert (theirs.returncode, ours.returncode) == (0, 0), theirs.stderr + ours.stderr
    if name in ("tokens", "names"):
        assert ours.stdout == theirs.stdout
    else:
        found = [[float(word) for word in done.stdout.split()] for done in (ours, theirs)]
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-6)
