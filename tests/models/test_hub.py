"""Models by their names on the hubs: the real clients against a local server."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnclip
import cnclip.convert
from cnclip.hub import parse_hub_name
from tests.support.fork_server import ForkServer
from tests.support.hub_server import COMMIT, IMPATIENT, Hub, serve

pytest.importorskip("huggingface_hub")
pytest.importorskip("modelscope_hub")
load_file = pytest.importorskip("safetensors.torch").load_file
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = pytest.mark.skipif(
    "CNCLIP_SANITIZE" in os.environ, reason="starts many processes, and nothing of it is C"
)

MODELSCOPE, HUGGINGFACE = "damo/multi-modal_clip-tiny_zh", "OFA-Sys/chinese-clip-tiny"
NAMES = [MODELSCOPE, HUGGINGFACE]

# Runs in a new process, since the clients read the environment when they are imported.
PROGRAM = """
import json, logging, sys
import cnclip
logging.basicConfig(level="INFO")
for name, options in json.loads(sys.argv[1]):
    try:
        found = cnclip.pipeline(model=name, device="cpu", **options)
    except cnclip.CnclipError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
    else:
        row = found.forward({"text": "猫"})["text_embedding"][0]
        print(json.dumps({"row": row.tolist(), "source": found.model.info.metadata["source"]}))
"""

Results = list[dict[str, Any]]
Open = Callable[..., Results]


@pytest.fixture(scope="module")
def directories(vit_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directory of the same model on each hub; one has files that are not needed."""
    theirs = tmp_path_factory.mktemp("hub") / "theirs"
    cnclip.convert.convert(vit_directory, theirs, to="huggingface")
    (theirs / "README.md").write_text("not needed")
    (theirs / "tf_model.h5").write_bytes(bytes(1000))
    return {MODELSCOPE: vit_directory, HUGGINGFACE: theirs}


@pytest.fixture
def hub(directories: dict[str, Path]) -> Iterator[Hub]:
    with serve(dict(directories)) as server:
        yield server


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of archives, which keeps a model by the digests of its files: converted once."""
    return tmp_path_factory.mktemp("archives")


@pytest.fixture
def open_models(hub: Hub, archives: Path, tmp_path: Path, fork_server: ForkServer) -> Open:
    """Opens models in a new process; the clients' caches last as long as the test."""

    def run(*calls: tuple[str, dict[str, Any]], offline: bool = False) -> Results:
        url = "http://127.0.0.1:9" if offline else hub.url
        environment = {
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": url,
            "MODELSCOPE_CACHE": str(tmp_path / "ms"),
            "MODELSCOPE_ENDPOINT": url,
            "CNCLIP_CACHE": str(archives),
        }
        done = fork_server.run(IMPATIENT + PROGRAM, json.dumps(calls), **environment)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()[-len(calls) :]]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_model_by_its_name(
    name: str, open_models: Open, hub: Hub, vit: Any, directories: dict[str, Path]
) -> None:
    (first,) = open_models((name, {}))
    expected = vit.forward({"text": "猫"})["text_embedding"][0]
    np.testing.assert_allclose(first["row"], expected, rtol=0, atol=1e-3)
    assert first["source"]["digest"]
    needed = {"vocab.txt", "config.json", "preprocessor_config.json", "model.safetensors"}
    needed |= {
        "vision_model_config.json",
        "text_model_config.json",
        "pytorch_model.bin",
        "configuration.json",
    }
    fetched = hub.fetched()
    assert set(fetched) == needed & {file.name for file in directories[name].iterdir()}
    assert len(fetched) == len(set(fetched))
    hub.requests.clear()
    (again,) = open_models((name, {}))
    assert again["row"] == first["row"]
    assert hub.fetched() == []


@pytest.mark.parametrize("name", NAMES)
def test_without_a_network(name: str, open_models: Open) -> None:
    local: dict[str, Any] = {"local_files_only": True}
    (refused,) = open_models((name, {}), offline=True)
    assert refused["error"] == "HubError"
    assert name in refused["message"] and "cannot be downloaded" in refused["message"]
    missing, fetched = open_models((name, local), (name, {}))
    assert missing["error"] == "HubError"
    again, found = open_models((name, {}), (name, local), offline=True)
    assert again["row"] == found["row"] == fetched["row"]


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_connection(
    name: str, open_models: Open, hub: Hub, directories: dict[str, Path]
) -> None:
    weights = "pytorch_model.bin" if name == MODELSCOPE else "model.safetensors"
    hub.cut[weights] = (directories[name] / weights).stat().st_size // 2
    assert "row" in open_models((name, {}))[0]
    assert hub.fetched().count(weights) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_digest(name: str, open_models: Open, hub: Hub) -> None:
    weights = "pytorch_model.bin" if name == MODELSCOPE else "model.safetensors"
    hub.wrong_digest.add(weights)
    (refused,) = open_models((name, {}))
    assert refused["error"] == "HubError"
    assert name in refused["message"]
    hub.wrong_digest.clear()
    assert "row" in open_models((name, {}))[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(name: str, open_models: Open, hub: Hub) -> None:
    hub.hidden.add("vocab.txt")
    (refused,) = open_models((name, {}))
    assert refused["error"] in ("HubError", "CheckpointError")
    assert "row" not in refused


@pytest.mark.parametrize("name", NAMES)
def test_names_and_revisions_that_are_not_there(name: str, open_models: Open) -> None:
    missing, other, found = open_models(
        (name + "-not", {}), (name, {"model_revision": "v9"}), (name, {"model_revision": "v1.0"})
    )
    assert missing["error"] == "ModelNotFoundError", missing
    assert name + "-not" in missing["message"]
    assert other["error"] == "ModelNotFoundError"
    assert "row" in found


def test_prefixes_choose_the_hub(open_models: Open, hub: Hub) -> None:
    hub.models["somebody/clip"] = hub.models[MODELSCOPE]
    assert "row" in open_models(("ms:somebody/clip", {}))[0]
    hub.models["somebody/clip"] = hub.models[HUGGINGFACE]
    assert "row" in open_models(("hf:somebody/clip", {"model_revision": COMMIT}))[0]


def test_the_layout_is_the_models(open_models: Open, hub: Hub) -> None:
    hub.models["somebody/theirs"] = hub.models[HUGGINGFACE]
    hub.models["somebody/ours"] = hub.models[MODELSCOPE]
    theirs, ours = open_models(("ms:somebody/theirs", {}), ("hf:somebody/ours", {}))
    assert theirs["source"]["format"] == "huggingface"
    assert ours["source"]["format"] == "modelscope"
    assert "tf_model.h5" not in hub.fetched()
    again = open_models(("ms:somebody/theirs", {}), ("hf:somebody/ours", {}), offline=True)
    assert [one["row"] for one in again] == [theirs["row"], ours["row"]]


@pytest.mark.parametrize("prefix", ["ms:", "hf:"])
def test_settings_come_before_weights(
    prefix: str, open_models: Open, hub: Hub, directories: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(directories[HUGGINGFACE], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / "clip_cn_vit-b-16.pt").write_bytes(bytes(1000))
    hub.models |= {"somebody/other": other, "somebody/nothing": nothing}
    first, second = open_models((f"{prefix}somebody/other", {}), (f"{prefix}somebody/nothing", {}))
    assert first["error"] == "CheckpointError"
    assert "model_type: expected 'chinese_clip', found 'clip'" in first["message"]
    assert second["error"] == "CheckpointError"
    assert "somebody/nothing on " in second["message"] and "has neither" in second["message"]
    assert not {"model.safetensors", "clip_cn_vit-b-16.pt"} & set(hub.fetched())


def test_shards_are_those_of_the_index(
    open_models: Open, hub: Hub, directories: dict[str, Path], tmp_path: Path
) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(directories[HUGGINGFACE], sharded)
    weights = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(weights)
    place = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(place.values()):
        save_file({name: weights[name] for name in names if place[name] == file}, sharded / file)
    index = {"metadata": {}, "weight_map": place}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    (sharded / "part-2.safetensors").write_bytes(b"not needed")
    hub.models["somebody/sharded"] = sharded
    for prefix in ("hf:", "ms:"):
        hub.requests.clear()
        assert "row" in open_models((f"{prefix}somebody/sharded", {}))[0]
        assert {"part-0.safetensors", "part-1.safetensors"} <= set(hub.fetched())
        assert "part-2.safetensors" not in hub.fetched()


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_proxies_break_no_model_that_is_there(
    name: str, open_models: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = open_models((name, {}))
    for variable, value in {
        "all_proxy": "socks5://127.0.0.1:9",
        "https_proxy": "socks5h://127.0.0.1:9",
        "http_proxy": "socks5://127.0.0.1:9",
        "no_proxy": "[::1],fe80::/10, ,*.local",
        "NO_PROXY": "[::1],fe80::/10, ,*.local",
        "SSL_CERT_FILE": "/nowhere.pem",
    }.items():
        monkeypatch.setenv(variable, value)
    (again,) = open_models((name, {}), offline=True)
    assert again.get("row") == first["row"], again


def test_parsing_names() -> None:
    assert parse_hub_name("damo/x") == ("modelscope", "damo/x")
    assert parse_hub_name("iic/x") == ("modelscope", "iic/x")
    assert parse_hub_name("OFA-Sys/x") == ("huggingface", "OFA-Sys/x")
    assert parse_hub_name("hf:damo/x") == ("huggingface", "damo/x")
    assert parse_hub_name("ms:a/b") == ("modelscope", "a/b")
    for name in ("a/b", "hf:a", "damo", "damo/x/y", "damo/", "/x", "hf:../x/y", "damo/a b", ""):
        assert parse_hub_name(name) is None
    for name in ("ms:../..", "hf:../x", "ms:./.", "hf:x/..", "damo/..", "iic/."):
        assert parse_hub_name(name) is None
        with pytest.raises(cnclip.errors.ModelNotFoundError):
            cnclip.pipeline(model=name, device="cpu")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("damo/x", "modelscope_hub", "modelscope"), ("OFA-Sys/x", "huggingface_hub", "huggingface")],
)
def test_the_clients_are_extras(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(cnclip.errors.MissingExtraError, match=rf"pip install 'cnclip\[{extra}\]'"):
        cnclip.pipeline(model=name, device="cpu")


def test_a_path_comes_before_a_hubs_name(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damo").mkdir()
    (tmp_path / "damo" / "x").symlink_to(vit_directory)
    monkeypatch.chdir(tmp_path)
    assert cnclip.pipeline(model="damo/x", device="cpu").model.info.embed_dim == 64
