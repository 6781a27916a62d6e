"""The content of `modelscope` itself, and of `modelscope.version`."""

from __future__ import annotations

import importlib
from typing import Any

# The version of ModelScope whose results these are.
__version__ = "1.40.2"
__release_datetime__ = "2026-10-09 18:00:00"

# Names by the modules of this package that have them.
_MODULES = {
    "constant": ("Tasks",),
    "hub": (
        "HubApi",
        "check_local_model_is_latest",
        "check_model_is_id",
        "dataset_file_download",
        "dataset_snapshot_download",
        "model_file_download",
        "snapshot_download",
    ),
    "models": ("Model", "TorchModel"),
    "msdatasets": ("MsDataset",),
    "pipelines": ("Pipeline", "pipeline"),
    "preprocessors": ("Preprocessor",),
    "trainers": ("build_trainer",),
    "utils": ("get_logger", "read_config"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__package__}.{_PLACES[name]}"), name)


__all__ = ["__release_datetime__", "__version__", *_PLACES]
