"""`modelscope.hub`: ModelScope's arguments for its light client's functions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnclip.modelscope import hub

modelscope_hub = pytest.importorskip("modelscope_hub")


class Client:
    """Keeps the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(**options: Any) -> str:
            self.calls.append((name, options))
            return "/place"

        return call


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client()
    monkeypatch.setattr(hub, "_client", lambda: found)
    files = ["config.json", "pytorch_model.bin", "model-00001-of-00002.bin", "README.md"]

    class Api:
        def __init__(self, **options: Any) -> None:
            pass

        def list_repo_files(self, model: str, kind: str) -> list[SimpleNamespace]:
            assert model == "damo/clip"
            return [SimpleNamespace(path=path) for path in files]

    monkeypatch.setattr(modelscope_hub, "HubApi", Api)
    return found


def test_positions_and_paths(client: Client, tmp_path: Path) -> None:
    place = hub.snapshot_download("damo/clip", "v1", tmp_path, cookies={"a": "b"})
    assert place == "/place"
    ((name, options),) = client.calls
    assert name == "snapshot_download"
    assert options == {"model_id": "damo/clip", "revision": "v1", "cache_dir": str(tmp_path)}
    with pytest.raises(TypeError, match="snapshot_download: 99 arguments, expected"):
        hub.snapshot_download(*["x"] * 99)
    hub.dataset_snapshot_download(repo_id="damo/clip")
    assert client.calls[-1] == ("dataset_snapshot_download", {"dataset_id": "damo/clip"})


def test_regular_expressions_become_names(client: Client) -> None:
    wanted = [r"model-\d+-of-\d+\.bin$", "*.json"]
    hub.snapshot_download("damo/clip", allow_file_pattern=wanted)
    assert client.calls[-1][1]["allow_file_pattern"] == ["*.json", "model-00001-of-00002.bin"]
    hub.snapshot_download("damo/clip", allow_file_pattern="*.json")
    assert client.calls[-1][1]["allow_file_pattern"] == "*.json"
    hub.snapshot_download("damo/clip", allow_file_pattern=[r"none\d+$"])
    assert client.calls[-1][1]["allow_file_pattern"] == [r"none\d+$"]
