"""Every checkpoint of the corpus is refused by name: no crash, no hang, little memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cnclip.checkpoints.files import find_checkpoint
from cnclip.convert import convert
from tests.support.corpus import CORPUS, write
from tests.support.fork_server import ForkServer
from tests.support.small_vit import TEXT, VISION, VOCABULARY, random_weights

pytest.importorskip("safetensors")

# Opens what stdin lists, a line each; answers a line each.
PROGRAM = """
import json, sys, time
from pathlib import Path
from cnclip import CnclipError
from cnclip.convert import convert

def peak():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) << 10

hints = json.loads(sys.argv[1])
for line in sys.stdin:
    path, output = json.loads(line)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, begin = peak(), time.monotonic()
    try:
        convert(path, output, **hints)
        answer = {"error": None}
    except CnclipError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        answer = {"error": repr(error), "message": ""}
    answer |= {"seconds": time.monotonic() - begin, "bytes": peak() - before}
    print(json.dumps(answer), flush=True)
"""
# What is the default where it is null, and so opens.
FINE = {f"preprocessor_config.json {key} None" for key in ("image_mean", "size")} | {"fine"}


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model that opens, in the format of the parameter."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "vision_model_config.json").write_text(json.dumps(VISION))
    (source / "text_model_config.json").write_text(
        json.dumps(TEXT | {"vocab_size": len(VOCABULARY)})
    )
    (source / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
    weights = random_weights(VISION, TEXT | {"vocab_size": len(VOCABULARY)})
    torch.save(weights, source / "pytorch_model.bin")
    name = "model.pt" if request.param == "cn_clip" else "model"
    return convert(source, tmp_path / name, to=request.param)


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("model", CORPUS, indirect=True)
def test_the_corpus(model: Path, tmp_path: Path, fork_server: ForkServer) -> None:
    kind = find_checkpoint(model).format
    hints: dict[str, Any] = {}
    if kind == "cn_clip":
        words = tmp_path / "source" / "vocab.txt"
        hints = {"vision_head_width": 16, "text_head_width": 8, "vocabulary": str(words)}
    # The one that opens comes first: what it needs is imported then.
    corpus = [("fine", model), *write(kind, model, tmp_path)]
    asked = "".join(json.dumps([str(p), str(tmp_path / "out.cnclip.pt")]) + "\n" for _, p in corpus)
    done = fork_server.run(PROGRAM, json.dumps(hints), stdin=asked, timeout=240)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(corpus) > 25
    sanitized = "CNCLIP_SANITIZE" in os.environ
    for (what, path), answer in zip(corpus, answers, strict=True):
        context = f"{kind}: {what}: {answer}"
        if what in FINE:
            assert answer["error"] is None, context
            continue
        assert answer["error"] in ("CheckpointError", "VocabularyError"), context
        assert str(path) in answer["message"], context
        assert answer["seconds"] < 10, context
        assert sanitized or answer["bytes"] < 64 << 20, context


def test_the_corpus_is_as_large_as_it_is_said_to_be() -> None:
    assert sum(len(list(damages())) for damages in CORPUS.values()) > 230
