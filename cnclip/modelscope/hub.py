"""The content of `modelscope.hub`: downloads from ModelScope's hub by its own light client.

The client, modelscope-hub, is what ModelScope 1.40 uses as well: files are stored in the same
folders, and errors are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

from .._checks import requires_extra

MODEL_NAME_PARTS = 2
# Of regular expressions and not of file names: ModelScope took such patterns before 1.10.
_REGULAR = re.compile(r"[\\^$+(|]|\.\*")
_PATTERNS = ("ignore_file_pattern", "allow_file_pattern")


def _client() -> ModuleType:
    """The light client's functions with ModelScope's older arguments."""
    with requires_extra("modelscope", "modelscope-hub"):
        from modelscope_hub import compat
    return compat


def _without_expressions(patterns: Any, options: dict[str, Any]) -> Any:
    """Patterns of file names: regular expressions are replaced by the names that they match."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns or ())
    if not any(map(_REGULAR.search, listed)):
        return patterns
    from modelscope_hub import HubApi as Api

    model = options.get("repo_id") or options.get("model_id") or ""
    files = Api(token=options.get("token"), endpoint=options.get("endpoint")).list_repo_files(
        model, options.get("repo_type") or "model"
    )
    names = [
        file.path
        for pattern in listed
        for file in files
        if _REGULAR.search(pattern) and re.search(pattern, file.path)
    ]
    return [*(one for one in listed if not _REGULAR.search(one)), *names] or patterns


def _download(name: str, order: str) -> Callable[..., str]:
    """A function of the client that takes ModelScope's positional arguments, and any path."""
    names = order.split()

    def download(*arguments: Any, **keywords: Any) -> str:
        if len(arguments) > len(names):
            raise TypeError(f"{name}: {len(arguments)} arguments, expected {len(names)} at most")
        options = dict(zip(names, arguments, strict=False)) | keywords
        client = _client()
        options = {
            key: fspath(value) if isinstance(value, PathLike) else value
            for key, value in options.items()
            if value is not None and key != "cookies"
        }
        for key in _PATTERNS:
            if key in options and not options.get("local_files_only"):
                options[key] = _without_expressions(options[key], options)
        if name == "dataset_snapshot_download" and "repo_id" in options:
            options["dataset_id"] = options.pop("repo_id")
        place: str = getattr(client, name)(**options)
        return place

    download.__name__ = download.__qualname__ = name
    download.__doc__ = f"""As of ModelScope: returns the path of the download.

    Arguments in their order: {", ".join(names)}; and the client's keywords, such as `token`.
    A pattern is one of file names, such as `*.bin`, or a regular expression.

    Raises:
        MissingExtraError: the client is not installed.
        requests.exceptions.HTTPError: the hub has no such name; the client raises others too.
    """
    return download


_CACHE = "cache_dir user_agent local_files_only cookies"
_CHOICE = "allow_patterns ignore_patterns max_workers"
snapshot_download = _download(
    "snapshot_download",
    f"model_id revision {_CACHE} ignore_file_pattern allow_file_pattern local_dir {_CHOICE}",
)
dataset_snapshot_download = _download(
    "dataset_snapshot_download",
    f"dataset_id revision cache_dir local_dir allow_file_pattern ignore_file_pattern {_CHOICE}",
)
model_file_download = _download(
    "model_file_download", f"model_id file_path revision {_CACHE} local_dir"
)
dataset_file_download = _download(
    "dataset_file_download", "dataset_id file_path revision cache_dir local_dir"
)


class HubApi:
    """The hub's interface: `HubApi(...)` is the light client's, with ModelScope's older methods."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        """Open the client's interface."""
        return _client().LegacyHubApi(*arguments, **keywords)


def check_model_is_id(model_id: str, token: str | None = None) -> bool:
    """Whether the hub has a model of this name."""
    if Path(model_id).exists() or len(model_id.split("/")) != MODEL_NAME_PARTS:
        return False
    exists: bool = HubApi(**({} if token is None else {"token": token})).repo_exists(model_id)
    return exists


def check_local_model_is_latest(model_root_path: str, *_: Any, **__: Any) -> None:
    """Do nothing: a model that was downloaded is used as it is."""


__all__ = [
    "HubApi",
    "check_local_model_is_latest",
    "check_model_is_id",
    "dataset_file_download",
    "dataset_snapshot_download",
    "model_file_download",
    "snapshot_download",
]
