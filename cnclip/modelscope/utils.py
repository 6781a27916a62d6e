"""The content of the small modules of `modelscope.utils`: logging, devices, configurations."""

from __future__ import annotations

import logging
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError
from ..pipelines.builder import choose_device
from .config import Config
from .hub import model_file_download, snapshot_download

if TYPE_CHECKING:
    import torch

_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


def get_logger(
    log_file: str | None = None, log_level: int | str | None = None, file_mode: str = "w"
) -> logging.Logger:
    """ModelScope's logger, which writes to standard error.

    Args:
        log_file: A file for its messages as well.
        log_level: By default `$MODELSCOPE_LOG_LEVEL`, or INFO.
        file_mode: `'w'` or `'a'`.
    """
    level = os.environ.get("MODELSCOPE_LOG_LEVEL", "INFO") if log_level is None else log_level
    found = logging.getLogger("modelscope")
    found.propagate = False
    kinds = {type(handler) for handler in found.handlers}
    handlers: list[logging.Handler] = []
    if logging.StreamHandler not in kinds:
        handlers.append(logging.StreamHandler())
    if log_file is not None and logging.FileHandler not in kinds:
        handlers.append(logging.FileHandler(log_file, file_mode))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        found.addHandler(handler)
    found.setLevel(int(level) if str(level).isdecimal() else level)
    return found


def own_device(device: Any) -> str:
    """A device of ModelScope's or torch's as cnclip names it.

    Args:
        device: `'gpu'`, `'cuda'`, `'gpu:N'`, `'cuda:N'`, `'cpu'`, a torch.device, the number of a
            GPU, or None. As in ModelScope, a GPU that is not there means the CPU.

    Returns:
        `'cpu'` or `'cuda:N'`.
    """
    if device is None:
        name = "gpu"
    elif isinstance(device, int) and not isinstance(device, bool):
        name = "cpu" if device < 0 else f"gpu:{device}"
    else:
        name = str(device).strip().lower().replace("cuda", "gpu", 1)
    if name == "gpu:" or not name:
        raise InvalidInputError(f"expected 'cpu', 'gpu' or 'cuda:N', got {device!r}", item="device")
    return choose_device(name)


def create_device(device_name: Any = "gpu") -> torch.device:
    """A torch.device; the CPU if there is no such GPU."""
    import torch

    return torch.device(own_device(device_name))


def read_config(
    model_id_or_path: str | PathLike[str], revision: str | None = None
) -> Config | None:
    """The `configuration.json` of a model on the hub, of a directory, or a file; None if none."""
    path = Path(model_id_or_path)
    if not path.exists():
        path = Path(model_file_download(str(model_id_or_path), "configuration.json", revision))
    elif path.is_dir():
        path = path / "configuration.json"
    return Config.from_file(path) if path.is_file() else None


def test_level() -> int:
    """The level of ModelScope's own tests, which some of its examples read."""
    return int(os.environ.get("TEST_LEVEL", "2"))


test_level.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


__all__ = [
    "create_device",
    "get_logger",
    "model_file_download",
    "read_config",
    "snapshot_download",
    "test_level",
]
