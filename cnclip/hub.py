"""Downloads models from ModelScope and Hugging Face with the hubs' own clients.

The clients store files in their usual caches (`MODELSCOPE_CACHE`, `HF_HOME`), resume broken
downloads, compare digests, show progress, and read tokens and mirrors from the environment. This
module needs no torch. The layout is that of the model's files, whichever the hub.
"""

from __future__ import annotations

import contextlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ._checks import requires_extra
from ._text import first_line
from .cache import remembered_sha256
from .checkpoints.files import VOCABULARY, find_checkpoint, layout_of, shards_of
from .engine.libtorch import find_torch
from .errors import CheckpointError, HubError, MissingExtraError, ModelNotFoundError

logger = logging.getLogger("cnclip")

PREFIXES = {"hf:": "huggingface", "ms:": "modelscope"}
# The owners that publish Chinese-CLIP or QA-CLIP, and their hubs.
OWNERS = {
    "damo": "modelscope",
    "iic": "modelscope",
    "ofa-sys": "huggingface",
    "tencentarc": "huggingface",
}

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
        CheckpointError: it is not Chinese-CLIP, which is found before the weights are downloaded.
    """
    with _client(hub, model, revision) as client:
        return client.local_files() if local_files_only else _download(client)


def fetch_settings(
    hub: str,
    model: str,
    names: Collection[str],
    revision: str | None = None,
    *,
    local_files_only: bool = False,
) -> Path:
    """Download small files of a model, those of `names` that it has.

    Args:
        hub: `'modelscope'` or `'huggingface'`.
        model: The model's name on the hub.
        names: The names of files.
        revision: A branch, tag or commit; by default the hub's default.
        local_files_only: Use only files that were downloaded before.

    Returns:
        The directory of the files, which may have others.

    Raises:
        MissingExtraError, ModelNotFoundError, HubError: as for `download`.
    """
    with _client(hub, model, revision) as client:
        if local_files_only:
            return client.local_files()
        try:
            found = client.names()
        except (MemoryError, ModelNotFoundError):
            raise
        except Exception as error:
            try:
                return client.local_files()
            except MemoryError:
                raise
            except Exception:
                raise error from None
        return client.fetch([name for name in names if name in found])


@contextlib.contextmanager
def _client(hub: str, model: str, revision: str | None) -> Iterator[_Client]:
    """The client of a model; whatever fails in the block is raised as an error of cnclip."""
    client = {"modelscope": _ModelScope, "huggingface": _HuggingFace}[hub](model, revision)
    named = client.named
    try:
        yield client
    except (MemoryError, MissingExtraError, CheckpointError):
        raise
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"no model {named} on {client.title}: {error.reason}") from error
    except Exception as error:  # of the client, of its HTTP library, and of the disk
        reason = f"{named} cannot be downloaded from {client.title}: {first_line(error)}"
        raise HubError(reason) from error


def _download(client: _Client) -> Path:
    """Download the settings, check them, and download the weights.

    If the hub cannot be reached, the files that were downloaded before are used.
    """
    try:
        names = client.names()
    except (MemoryError, ModelNotFoundError):
        raise
    except Exception as error:  # such as a proxy of a kind that the client does not know
        try:
            found = client.local_files()
            find_checkpoint(found)
        except MemoryError:
            raise
        except Exception:
            raise error from None
        logger.warning(
            "%s cannot be reached (%s); using %s", client.title, first_line(error), found
        )
        return found
    layout = layout_of(names, f"{client.named} on {client.title}")
    index = () if layout.index is None else (layout.index,)
    path = client.fetch([*layout.settings, *index])
    weights = [*layout.weights] if layout.index is None else shards_of(path / layout.index)
    if not all((path / name).is_file() for name in weights):
        _check_settings(layout.format, path)
    return client.fetch([*layout.settings, *index, *weights])


def _check_settings(format: str, path: Path) -> None:
    """Refuse another model before its weights are downloaded.

    Raises:
        CheckpointError, VocabularyError: it is not Chinese-CLIP; names the file.
    """
    find_torch()
    from .checkpoints import huggingface, modelscope

    if format == "modelscope":
        modelscope.read_settings(path)
    else:
        huggingface.read_settings(path)


class _Client(ABC):
    """A model on a hub, through the hub's own client."""

    title: str

    def __init__(self, model: str, revision: str | None) -> None:
        self.model, self.revision = model, revision

    @property
    def named(self) -> str:
        """The model and its revision, for messages."""
        return self.model if self.revision is None else f"{self.model} of revision {self.revision}"

    @abstractmethod
    def names(self) -> set[str]:
        """The names of the model's files, without those in folders.

        Raises:
            ModelNotFoundError: the hub has no such model or revision.
        """

    @abstractmethod
    def fetch(self, names: list[str]) -> Path:
        """The directory of the files, which are downloaded unless they were before."""

    @abstractmethod
    def local_files(self) -> Path:
        """The directory of the files that were downloaded before."""


class _HuggingFace(_Client):
    title = "Hugging Face"

    def __init__(self, model: str, revision: str | None) -> None:
        super().__init__(model, revision)
        with requires_extra("huggingface", "huggingface_hub"):
            import huggingface_hub
            import huggingface_hub.errors
        self._hub = huggingface_hub

    def names(self) -> set[str]:
        with self._missing():
            return set(self._hub.HfApi().list_repo_files(self.model, revision=self.revision))

    @contextlib.contextmanager
    def _missing(self) -> Iterator[None]:
        errors = self._hub.errors
        try:
            yield
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise ModelNotFoundError(first_line(error)) from error

    def fetch(self, names: list[str]) -> Path:
        with self._missing():
            found = self._hub.snapshot_download(
                self.model, revision=self.revision, allow_patterns=names
            )
        _check_blobs(Path(found))
        return Path(found)

    def local_files(self) -> Path:
        # The client refuses a directory without a file that matches and that the model has. Each
        # layout has the vocabulary, where the model has it.
        found = self._hub.snapshot_download(
            self.model, revision=self.revision, local_files_only=True, allow_patterns=[VOCABULARY]
        )
        _check_blobs(Path(found))
        return Path(found)


def _check_blobs(path: Path) -> None:
    """Compare large files with the hub's SHA-256, which is the name of their blob.

    The client compares sizes only.
    """
    for file in sorted(path.iterdir()):
        blob = file.resolve()
        is_digest = re.fullmatch(r"[0-9a-f]{64}", blob.name) is not None
        if is_digest and blob.is_file() and remembered_sha256(blob) != blob.name:
            blob.unlink()  # so that it is downloaded again
            raise OSError(f"{file.name} does not match the hub's digest; try again")


class _ModelScope(_Client):
    title = "ModelScope"

    def __init__(self, model: str, revision: str | None) -> None:
        super().__init__(model, revision)
        with requires_extra("modelscope", "modelscope-hub"):
            import modelscope_hub
        self._errors = modelscope_hub.errors
        self._api = modelscope_hub.HubApi()
        self._listed: list[dict[str, Any]] = []

    def names(self) -> set[str]:
        try:
            files = self._api.list_repo_files(self.model, "model", revision=self.revision)
        except self._errors.NotExistError as error:
            raise ModelNotFoundError(first_line(error)) from error
        # So that the client does not list them again.
        self._listed = [
            {"Path": file.path, "Size": file.size, "Sha256": file.sha256} for file in files
        ]
        return {file.path for file in files}

    def fetch(self, names: list[str]) -> Path:
        return Path(
            self._api.download_repo(
                self.model,
                "model",
                revision=self.revision,
                allow_patterns=names,
                file_list=self._listed,
            )
        )

    def local_files(self) -> Path:
        return Path(
            self._api.download_repo(
                self.model, "model", revision=self.revision, local_files_only=True
            )
        )
