"""`modelscope.utils.config` and the helpers of `modelscope.utils`."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnclip.errors import InputTypeError, InvalidInputError
from cnclip.modelscope.config import Config, ConfigDict
from cnclip.modelscope.utils import get_logger, own_device, read_config

SETTINGS: dict[str, Any] = {
    "task": "multi-modal-embedding",
    "train": {
        "max_epochs": 2,
        "hooks": [{"type": "A", "interval": 1}, {"type": "B", "by": [1, 2]}],
    },
    "names": ["a", ["b"]],
}


@pytest.fixture
def config() -> Config:
    return Config(copy.deepcopy(SETTINGS))


def test_keys_are_attributes(config: Config) -> None:
    assert config.train.max_epochs == config["train"]["max_epochs"] == 2
    assert config.train.hooks[1].by == [1, 2]
    config.train.optimizer = {"lr": 0.1}
    config.dataset = {"name": "muge"}
    config["model"] = {"type": "clip"}
    found = (config.train.optimizer.lr, config.dataset.name, config.model.type)
    assert found == (0.1, "muge", "clip")
    del config.train.max_epochs
    assert "max_epochs" not in config.train and "train" in config and "none" not in config
    for name in ("max_epochs", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(config.train, name)
    with pytest.raises(AttributeError, match="max_epochs"):
        del config.train.max_epochs
    with pytest.raises(AttributeError, match="__wrapped__"):
        config.__wrapped__  # noqa: B018
    assert list(config) == ["task", "train", "names", "dataset", "model"]
    assert "path: None" in repr(config) and "muge" in repr(config)


def test_copies_share_nothing(config: Config) -> None:
    for copied in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert type(copied) is Config and copied.to_dict() == config.to_dict() == SETTINGS
        copied.train.hooks[0].interval = 9
        assert config.train.hooks[0].interval == 1
    inner = pickle.loads(pickle.dumps(config.train))
    assert type(inner) is ConfigDict and type(inner.hooks[0]) is ConfigDict
    assert type(config.to_dict()["train"]["hooks"][0]) is dict


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.max_epochs", 2),
        ("train.hooks[1].by[0]", 1),
        ("train.hooks.B.by", [1, 2]),
        ("names[1][0]", "b"),
        ("train.hooks.C.by", None),
        ("train.hooks[7]", None),
        ("train.hooks[x]", None),
        ("train.max_epochs.more", None),
        ("nothing", None),
    ],
)
def test_values_at_paths(config: Config, path: str, value: Any) -> None:
    assert config.safe_get(path) == value
    if value is None:
        assert config.safe_get(path, "default") == "default"


def test_options_are_merged(config: Config) -> None:
    config.merge_from_dict(
        {
            "train.max_epochs": 5,
            "train.hooks.0.interval": 3,
            "train.hooks": [{"type": "B", "by": [7]}, {"type": "C"}],
            "train.optimizer.lr": 0.5,
            "train": {"seed": 1},
            "names.1": "c",
        }
    )
    assert config.to_dict() == {
        "task": "multi-modal-embedding",
        "train": {
            "max_epochs": 5,
            "hooks": [{"type": "A", "interval": 3}, {"type": "B", "by": [7]}, {"type": "C"}],
            "optimizer": {"lr": 0.5},
            "seed": 1,
        },
        "names": ["a", "c"],
    }
    config.merge_from_dict({"train.seed": 2, "names.0": "x", "train.new": 3}, force=False)
    assert (config.train.seed, config.names[0], config.train.new) == (1, "a", 3)
    for path in ("task.inner", "task.inner.more", "names.7", "names.7.x", "names.x"):
        with pytest.raises(InvalidInputError, match=f"{path}: no place for it"):
            config.merge_from_dict({path: 1})


def test_files(config: Config, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    config.extra = {"made": iter((1, 2)), "call": print, "path": tmp_path}
    wanted = {**SETTINGS, "extra": {"made": [1, 2], "call": None, "path": str(tmp_path)}}
    assert json.loads(config.dump() or "") == wanted
    config.extra.made = [1, 2]
    assert json.loads(config.pretty_text) == wanted
    for name in ("a.json", "a.YAML", "a.yml"):
        assert config.dump(tmp_path / name) is None
        read = Config.from_file(tmp_path / name)
        assert read.to_dict() == wanted
        assert read.filename == str(tmp_path / name)
        assert read.text == (tmp_path / name).read_text(encoding="utf-8")
    assert Config.from_string('{"a": {"b": 1}}', ".json").a.b == 1
    assert Config.from_string("a: {b: 1}", ".yaml").a.b == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"{", "cannot be read"),
        ("a.json", b"[1]", "expected names and values, found"),
        ("a.json", b"[" * 100_000, "cannot be read"),
        ("a.yaml", b"a: [", "cannot be read"),
        ("a.py", b"raise SystemExit", r"ends in \.json"),
        ("a.json", b"\xff\xff\x80", "a.json: "),
        ("a.json", None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_configuration(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    pytest.importorskip("yaml")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=words):
        Config.from_file(tmp_path / name)


def test_what_is_no_dict(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="cfg_dict: expected a dict, got list"):
        Config([])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"a\.py: expected a name that ends in"):
        config.dump(tmp_path / "a.py")
    assert not list(tmp_path.iterdir())


def test_the_configuration_of_a_model(vit_directory: Path, tmp_path: Path) -> None:
    found = read_config(vit_directory)
    assert found is not None and found.task == "multi-modal-embedding"
    assert read_config(vit_directory / "configuration.json").to_dict() == found.to_dict()  # type: ignore
    assert read_config(tmp_path) is None


@pytest.mark.parametrize(
    ("device", "own"),
    [("cpu", "cpu"), (" CPU ", "cpu"), (-1, "cpu"), (None, "cpu"), ("gpu", "cpu"), (5, "cpu")],
)
def test_devices_without_a_gpu(device: Any, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choose(name: str) -> str:
        asked.append(name)
        return "cpu"

    monkeypatch.setattr("cnclip.modelscope.utils.choose_device", choose)
    assert own_device(device) == own
    wanted = {None: "gpu", 5: "gpu:5", -1: "cpu"}
    assert asked == [wanted.get(device, str(device).strip().lower())]


@pytest.mark.parametrize("device", ["", " ", "cuda:", "gpu:"])
def test_names_of_no_device(device: str) -> None:
    with pytest.raises(InvalidInputError, match="device: expected 'cpu', 'gpu' or 'cuda:N'"):
        own_device(device)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """ModelScope's logger, which keeps its handlers."""
    found = logging.getLogger("modelscope")
    handlers, level = list(found.handlers), found.level
    found.handlers.clear()
    yield found
    for handler in found.handlers:
        handler.close()
    found.handlers[:] = handlers
    found.setLevel(level)


def test_the_logger_writes_to_a_file_once(logger: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    for _ in range(2):
        assert get_logger(str(path), log_level=logging.WARNING) is logger
    logger.info("quiet")
    logger.warning("loud")
    assert path.read_text(encoding="utf-8").count("loud") == 1
    assert "quiet" not in path.read_text(encoding="utf-8")
    assert len(logger.handlers) == 2
