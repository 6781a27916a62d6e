"""Downloads one file of a model from a hub to a folder, with the hub's own client."""

from __future__ import annotations

import re
from pathlib import Path

from ._checks import requires_extra
from ._files import sha256_of
from ._text import first_line
from .errors import HubError, MissingExtraError, ModelNotFoundError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def download_file(hub: str, model: str, name: str, folder: Path) -> Path:
    """Download a file of a model, and compare it with the hub's digest.

    Args:
        hub: `'modelscope'` or `'huggingface'`.
        model: The model's name on the hub.
        name: The file's name.
        folder: Where the file is stored; created if it does not exist.

    Returns:
        The file's path in `folder`.

    Raises:
        MissingExtraError: the hub's client is not installed.
        ModelNotFoundError: the hub has no such model or file.
        HubError: it cannot be downloaded, or does not match the hub's digest.
    """
    title, fetch = _CLIENTS[hub]
    try:
        return fetch(model, name, folder)
    except (MemoryError, MissingExtraError):
        raise
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"no {name} of {model} on {title}: {error.reason}") from error
    except Exception as error:  # of the client, of its HTTP library, and of the disk
        reason = f"{name} of {model} cannot be downloaded from {title}: {first_line(error)}"
        raise HubError(f"{reason}; or copy the file to {folder}") from error


def _from_huggingface(model: str, name: str, folder: Path) -> Path:
    with requires_extra("huggingface", "huggingface_hub"):
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
    try:
        url = huggingface_hub.hf_hub_url(model, name)
        metadata = huggingface_hub.get_hf_file_metadata(url)
        path = Path(huggingface_hub.hf_hub_download(model, name, local_dir=folder))
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise ModelNotFoundError(first_line(error)) from error
    # The client compares sizes only. The tag of a large file is its SHA-256.
    digest = metadata.etag or ""
    if _SHA256.fullmatch(digest) and sha256_of(path) != digest:
        path.unlink()  # so that it is downloaded again
        raise OSError(f"{name} does not match the hub's digest; try again")
    return path


def _from_modelscope(model: str, name: str, folder: Path) -> Path:
    with requires_extra("modelscope", "modelscope-hub"):
        import modelscope_hub
    api = modelscope_hub.HubApi()
    try:
        files = {file.path: file for file in api.list_repo_files(model, "model")}
    except modelscope_hub.errors.NotExistError as error:
        raise ModelNotFoundError(first_line(error)) from error
    if name not in files:
        raise ModelNotFoundError(f"it has {', '.join(sorted(files))}"[:200])
    found = files[name]
    return Path(
        api.download_file(
            model,
            "model",
            name,
            local_dir=folder,
            expected_sha256=found.sha256,
            file_size=found.size,
        )
    )


_CLIENTS = {
    "huggingface": ("Hugging Face", _from_huggingface),
    "modelscope": ("ModelScope", _from_modelscope),
}
