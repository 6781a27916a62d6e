"""Programs that use cn_clip run with `cnclip.cn_clip` in their imports, and compute the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.checkpoints.published_sizes import TEXT_SIZES, VISION_SIZES
from tests.support.cn_clip_peer import ANSWERS, PROGRAMS, folder_of_programs
from tests.support.fork_server import ForkServer

IMPORT = re.compile(r"^(import|from) cn_clip\b", re.MULTILINE)

# Published names with the sizes of the tests' file.
SMALL = """
import os, sys
from cnclip.checkpoints import published_sizes
from tests.support.families import smaller
config = smaller("ViT-B-16")
published_sizes.VISION_SIZES["ViT-B-16"] = config.embed_dim, config.vision
published_sizes.TEXT_SIZES["RoBERTa-wwm-ext-base-chinese"] = config.text
import cnclip.cn_clip.clip.utils as utils
utils._MODEL_INFO["ViT-B-16"]["input_resolution"] = config.vision.resolution
os.chdir(sys.argv[1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("programs")
    with folder_of_programs(made):
        return made


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the programs print with cn_clip 1.6.0."""
    content: dict[str, Any] = json.loads(ANSWERS.read_text(encoding="utf-8"))
    return content


def check_close(ours: Any, theirs: Any, place: str) -> None:
    """Compare values of JSON; numbers within 2e-5 of the largest of their list."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), place
        for key in theirs:
            check_close(ours[key], theirs[key], f"{place}: {key}")
    elif isinstance(theirs, list) and all(isinstance(item, float) for item in theirs):
        a, b = np.array(ours, np.float64), np.array(theirs, np.float64)
        bound = 2e-5 * max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=place)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for index, item in enumerate(theirs):
            check_close(ours[index], item, f"{place}[{index}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=2e-5), place
    else:
        assert ours == theirs, place


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_programs_move_by_one_import(
    program: Path, folder: Path, answers: dict[str, Any], fork_server: ForkServer
) -> None:
    source, count = IMPORT.subn(r"\1 cnclip.cn_clip", program.read_text(encoding="utf-8"))
    assert count
    done = fork_server.run(SMALL + source, folder)
    assert done.returncode == 0, done.stderr
    check_close(json.loads(done.stdout), answers[program.stem], program.stem)


def test_the_answers_are_those_of_these_programs(answers: dict[str, Any]) -> None:
    assert list(answers) == [program.stem for program in PROGRAMS]
    assert {"ViT-B-16", "ViT-B-32", "RN50"} <= VISION_SIZES.keys()
    assert "RoBERTa-wwm-ext-base-chinese" in TEXT_SIZES
