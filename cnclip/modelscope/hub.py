"""The content of `modelscope.hub`: downloads from ModelScope's hub by its own light client.

The client, modelscope-hub, is what ModelScope 1.40 uses as well: files are stored in the same
folders, and errors are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

from .._checks import requires_extra

Patterns = Sequence[str] | str | None
MODEL_NAME_PARTS = 2
# Of regular expressions and not of file names: ModelScope took such patterns before 1.10.
_REGULAR = re.compile(r"[\\^$+(|]|\.\*")


def _client() -> ModuleType:
    """The light client's functions with ModelScope's older arguments.

    Raises:
        MissingExtraError: it is not installed.
    """
    with requires_extra("modelscope", "modelscope-hub"):
        from modelscope_hub import compat
    return compat


def _text(path: str | PathLike[str] | None) -> str | None:
    return None if path is None else fspath(path)


def _as_names(patterns: Patterns, model: str | None, others: dict[str, Any]) -> Patterns:
    """Patterns of file names: regular expressions are replaced by the names that they match."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns or ())
    if not any(map(_REGULAR.search, listed)):
        return patterns
    with requires_extra("modelscope", "modelscope-hub"):
        from modelscope_hub import HubApi as Api
    files = Api(token=others.get("token"), endpoint=others.get("endpoint")).list_repo_files(
        others.get("repo_id") or model or "", others.get("repo_type") or "model"
    )
    names = [
        file.path
        for pattern in listed
        for file in files
        if _REGULAR.search(pattern) and re.search(pattern, file.path)
    ]
    return [*(one for one in listed if not _REGULAR.search(one)), *names] or patterns


def snapshot_download(
    model_id: str | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    user_agent: dict[str, Any] | str | None = None,
    local_files_only: bool | None = False,
    cookies: Any = None,
    ignore_file_pattern: Patterns = None,
    allow_file_pattern: Patterns = None,
    local_dir: str | PathLike[str] | None = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    max_workers: int | None = None,
    **others: Any,
) -> str:
    """Download all files of a model, or those that match patterns; returns their directory.

    Args:
        model_id: The model's name on the hub.
        revision: Branch, tag or commit.
        cache_dir: Where the client keeps models, by default `$MODELSCOPE_CACHE`.
        user_agent: Sent with requests.
        local_files_only: Use only files that were downloaded before.
        cookies: Ignored.
        ignore_file_pattern: Files to leave out: patterns such as `*.bin`, or regular expressions.
        allow_file_pattern: Files to download.
        local_dir: The directory for the files, instead of one in the cache.
        allow_patterns: As `allow_file_pattern`.
        ignore_patterns: As `ignore_file_pattern`.
        max_workers: Downloads at a time.
        others: Further keywords of the client: `repo_id`, `repo_type`, `token`, `endpoint`.

    Raises:
        MissingExtraError: the client is not installed.
        requests.exceptions.HTTPError: the hub has no such model; the client raises others too.
    """
    if not local_files_only:
        ignore_file_pattern = _as_names(ignore_file_pattern, model_id, others)
        allow_file_pattern = _as_names(allow_file_pattern, model_id, others)
    directory: str = _client().snapshot_download(
        model_id,
        revision=revision,
        cache_dir=_text(cache_dir),
        local_dir=_text(local_dir),
        allow_file_pattern=allow_file_pattern,
        ignore_file_pattern=ignore_file_pattern,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        max_workers=max_workers or 4,
        local_files_only=bool(local_files_only),
        user_agent=user_agent,
        **others,
    )
    return directory


def dataset_snapshot_download(
    dataset_id: str | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_dir: str | PathLike[str] | None = None,
    allow_file_pattern: Patterns = None,
    ignore_file_pattern: Patterns = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    max_workers: int | None = None,
    cookies: Any = None,
    **others: Any,
) -> str:
    """Download all files of a data set, as `snapshot_download` does; returns their directory."""
    directory: str = _client().dataset_snapshot_download(
        dataset_id or others.pop("repo_id", None),
        revision=revision,
        cache_dir=_text(cache_dir),
        local_dir=_text(local_dir),
        allow_file_pattern=allow_file_pattern,
        ignore_file_pattern=ignore_file_pattern,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        max_workers=max_workers or 4,
        **others,
    )
    return directory


def model_file_download(
    model_id: str,
    file_path: str,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    user_agent: dict[str, Any] | str | None = None,
    local_files_only: bool | None = False,
    cookies: Any = None,
    local_dir: str | PathLike[str] | None = None,
    **others: Any,
) -> str:
    """Download one file of a model; returns its path. See `snapshot_download`."""
    path: str = _client().model_file_download(
        model_id,
        file_path,
        revision=revision,
        cache_dir=_text(cache_dir),
        local_dir=_text(local_dir),
        local_files_only=bool(local_files_only),
        user_agent=user_agent,
        **others,
    )
    return path


def dataset_file_download(
    dataset_id: str,
    file_path: str,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_dir: str | PathLike[str] | None = None,
    **others: Any,
) -> str:
    """Download one file of a data set; returns its path. See `snapshot_download`."""
    path: str = _client().dataset_file_download(
        dataset_id,
        file_path,
        revision=revision,
        cache_dir=_text(cache_dir),
        local_dir=_text(local_dir),
        **others,
    )
    return path


class HubApi:
    """The hub's interface: `HubApi(...)` is the light client's, with ModelScope's older methods."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        """Open the client's interface.

        Raises:
            MissingExtraError: the client is not installed.
        """
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
