"""`load_from_name` downloads what its folder lacks: the real clients against a local server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cn_clip_peer import FILE, write_published
from tests.support.fork_server import ForkServer
from tests.support.hub_server import IMPATIENT, Hub, serve

pytest.importorskip("huggingface_hub")
pytest.importorskip("modelscope_hub")

pytestmark = pytest.mark.skipif(
    "CNCLIP_SANITIZE" in os.environ, reason="starts processes, and nothing of it is C"
)

REPOSITORY = "chinese-clip-vit-base-patch16"
HUBS = {"OFA-Sys": "False", "AI-ModelScope": "True"}
PROGRAM = """
import sys
from cnclip.cn_clip.clip import load_from_name
from cnclip.errors import CnclipError
root, use_modelscope = sys.argv[1], sys.argv[2] == "True"
try:
    model, _ = load_from_name("ViT-B-16", "cpu", root, use_modelscope=use_modelscope)
    print(type(model).__name__)
except CnclipError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_published(folder)
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    with serve({f"{owner}/{REPOSITORY}": published for owner in HUBS}) as server:
        yield server


def load(fork_server: ForkServer, url: str, root: Path, owner: str, home: Path) -> str:
    done = fork_server.run(
        IMPATIENT + PROGRAM,
        root,
        HUBS[owner],
        HF_HOME=str(home / "hf"),
        HF_ENDPOINT=url,
        MODELSCOPE_CACHE=str(home / "ms"),
        MODELSCOPE_ENDPOINT=url,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("owner", HUBS)
def test_a_file_is_downloaded_once(
    owner: str, hub: Hub, published: Path, tmp_path: Path, fork_server: ForkServer
) -> None:
    root = tmp_path / "models"
    assert load(fork_server, hub.url, root, owner, tmp_path) == "CLIP"
    assert hub.fetched() == [FILE]
    assert (root / FILE).read_bytes() == (published / FILE).read_bytes()
    assert load(fork_server, "http://127.0.0.1:9", root, owner, tmp_path) == "CLIP"


@pytest.mark.parametrize("owner", HUBS)
def test_what_goes_wrong(
    owner: str, hub: Hub, published: Path, tmp_path: Path, fork_server: ForkServer
) -> None:
    root = tmp_path / "models"
    hub.wrong_digest.add(FILE)
    answer = load(fork_server, hub.url, root, owner, tmp_path)
    assert answer.startswith(f"HubError {FILE} of {owner}/{REPOSITORY} cannot be downloaded from")
    assert f"or copy the file to {root}" in answer
    assert not (root / FILE).exists()
    answer = load(fork_server, "http://127.0.0.1:9", root, owner, tmp_path)
    assert answer.startswith("HubError")
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("nothing else")
    hub.models[f"{owner}/{REPOSITORY}"] = other
    answer = load(fork_server, hub.url, root, owner, tmp_path)
    assert answer.startswith(f"ModelNotFoundError no {FILE} of {owner}/{REPOSITORY} on"), answer
