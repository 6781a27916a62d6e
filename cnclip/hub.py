"""Downloads models from ModelScope and Hugging Face with the hubs' own clients.

The clients store files in their usual caches (`MODELSCOPE_CACHE`, `HF_HOME`), resume broken
downloads, compare digests, show progress, and read tokens and mirrors from the environment. This
module needs no torch.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ._checks import requires_extra
from ._text import first_line
from .cache import remembered_sha256
from .checkpoints.files import (
    HUGGINGFACE_FILES,
    HUGGINGFACE_WEIGHTS,
    INDEX_SUFFIX,
    MODELSCOPE_FILES,
)
from .errors import HubError, MissingExtraError, ModelNotFoundError

logger = logging.getLogger("cnclip")

PREFIXES = {"hf:": "huggingface", "ms:": "modelscope"}
# The owners that publish Chinese-CLIP, and their hubs.
OWNERS = {"damo": "modelscope", "iic": "modelscope", "ofa-sys": "huggingface"}

_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def parse_hub_name(name: str) -> tuple[str, str] | None:
    """The hub and the model's name on it, or None if `name` is not a hub id.

    Args:
        name: `'OWNER/MODEL'` of an owner whose hub is known, `'hf:OWNER/MODEL'` or
            `'ms:OWNER/MODEL'`.
    """
    hub = PREFIXES.get(name[:3].lower())
    model = name[3:] if hub else name
    # The parts `.` and `..` would be a path outside the clients' directory of the model.
    if _NAME.fullmatch(model) is None or {".", ".."} & set(model.split("/")):
        return None
    hub = hub or OWNERS.get(model.partition("/")[0].lower())
    return None if hub is None else (hub, model)


def download(
    hub: str, model: str, revision: str | None = None, *, local_files_only: bool = False
) -> Path:
    """Download the files of a model that are needed, unless they were downloaded before.

    Args:
        hub: `'modelscope'` or `'huggingface'`.
        model: The model's name on the hub.
        revision: A branch, tag or commit; by default the hub's default.
        local_files_only: Use only files that were downloaded before.

    Returns:
        The directory of the checkpoint.

    Raises:
        MissingExtraError: the hub's client is not installed.
        ModelNotFoundError: the hub has no such model or revision.
        HubError: the files cannot be downloaded, or do not match the hub's digests.
    """
    named = model if revision is None else f"{model} of revision {revision}"
    fetch, title = {
        "modelscope": (_from_modelscope, "ModelScope"),
        "huggingface": (_from_huggingface, "Hugging Face"),
    }[hub]
    try:
        return fetch(model, revision, local_files_only)
    except MissingExtraError:
        raise
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"no model {named} on {title}: {error.reason}") from error
    except Exception as error:  # of the client, of its HTTP library, and of the disk
        reason = f"{named} cannot be downloaded from {title}: {first_line(error)}"
        raise HubError(reason) from error


def _from_huggingface(model: str, revision: str | None, local_files_only: bool) -> Path:
    with requires_extra("huggingface", "huggingface_hub"):
        from huggingface_hub import errors, snapshot_download
    path = Path()
    try:
        for file in map(Path, HUGGINGFACE_WEIGHTS):
            shards = f"{file.stem}-*-of-*{file.suffix}"
            weights = [file.name, shards, file.name + INDEX_SUFFIX]
            path = Path(
                snapshot_download(
                    model,
                    revision=revision,
                    local_files_only=local_files_only,
                    allow_patterns=[*HUGGINGFACE_FILES, *weights],
                )
            )
            if any((path / name).is_file() for name in weights):
                break
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelNotFoundError(first_line(error)) from error
    _check_blobs(path)
    return path


def _check_blobs(path: Path) -> None:
    """Compare large files with the hub's SHA-256, which is the name of their blob.

    The client compares sizes only.
    """
    for file in sorted(path.iterdir()):
        blob = file.resolve()
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and remembered_sha256(blob) != blob.name:
            blob.unlink()  # so that it is downloaded again
            raise OSError(f"{file.name} does not match the hub's digest; try again")


def _from_modelscope(model: str, revision: str | None, local_files_only: bool) -> Path:
    with requires_extra("modelscope", "modelscope-hub"):
        from modelscope_hub import HubApi, errors

    def fetch(local_files_only: bool) -> Path:
        return Path(
            HubApi().download_repo(
                model,
                "model",
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=list(MODELSCOPE_FILES),
            )
        )

    try:
        return fetch(local_files_only)
    except errors.NotExistError as error:
        raise ModelNotFoundError(first_line(error)) from error
    except errors.NetworkError:
        # Like Hugging Face's client, use the files that were downloaded before.
        found = fetch(local_files_only=True)
        logger.warning("ModelScope cannot be reached; using %s", found)
        return found
