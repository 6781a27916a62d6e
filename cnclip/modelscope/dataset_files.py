"""Fetches the files of a data set: from ModelScope's hub by its own client, and out of zips."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._checks import requires_extra
from .._files import ZIP_ERRORS, directory_replaced_atomically, identity_of
from .._text import first_line
from ..cache import cache_directory
from ..datasets.chinese_clip import TsvData
from ..errors import DatasetError, HubError, InvalidInputError, UnknownLayoutError
from ..sources.zip_files import ZIP_SUFFIX, open_zip, visible_members

logger = logging.getLogger("cnclip")

# Names of a split in files and folders, by the name that ModelScope has for it.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_WORDS = re.compile(r"[a-z]+")
# Files that say nothing about images and texts. A script is never run.
_UNUSED = (".md", ".py", ".gitattributes", ".gitignore", "LICENSE")


def usual_split(name: str) -> str:
    """The name that ModelScope has for a split: `validation` for `valid`."""
    return _SPLIT_OF.get(name.lower(), name)


def download_dataset(
    name: str,
    revision: str | None = None,
    *,
    splits: set[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    again: bool = False,
) -> Path:
    """Download a data set from ModelScope's hub, unless its files were downloaded before.

    Args:
        name: `OWNER/NAME`.
        revision: A branch, tag or commit; by default the hub's default.
        splits: The splits that are wanted; files whose names say another split are left out.
        cache_dir: Where the client stores the files; by default in its cache.
        again: Download all files again.

    Returns:
        The folder of the files.
    """
    with requires_extra("modelscope", "modelscope-hub"):
        import modelscope_hub
    api = modelscope_hub.HubApi()
    place = None if cache_dir is None else Path(cache_dir).expanduser()
    named = name if revision is None else f"{name} of revision {revision}"

    def fetch(**options: Any) -> Path:
        return Path(
            api.download_repo(name, "dataset", revision=revision, cache_dir=place, **options)
        )

    try:
        files = api.list_repo_files(name, "dataset", revision=revision)
    except modelscope_hub.errors.NotExistError as error:
        reason = f"no data set {named} on ModelScope: {first_line(error)}"
        raise DatasetError(reason) from error
    except MemoryError:
        raise
    except Exception as error:  # of the client, and of its HTTP library
        return _downloaded_before(named, fetch, error)
    wanted = [file for file in files if file.type != "tree" and _is_wanted(file.path, splits)]
    if not wanted and (others := {split_of(file.path) for file in files} - {None}):
        shown = ", ".join(sorted(filter(None, others)))
        chosen = " or ".join(sorted(splits or ()))
        raise DatasetError(f"{named} on ModelScope has no split {chosen!r}; it has {shown}")
    if not wanted:
        raise UnknownLayoutError(f"{named} on ModelScope has no files of images and texts")
    entries = [{"Path": one.path, "Size": one.size, "Sha256": one.sha256} for one in wanted]
    try:
        if again:
            # Files of other splits stay: the program may be reading them.
            with contextlib.suppress(Exception):
                folder = fetch(local_files_only=True)
                for one in wanted:
                    (folder / one.path).unlink(missing_ok=True)
        return fetch(file_list=entries)
    except MemoryError:
        raise
    except Exception as error:  # of the client, of its HTTP library, and of the disk
        reason = f"{named} cannot be downloaded from ModelScope: {first_line(error)}"
        raise HubError(reason) from error


def _downloaded_before(named: str, fetch: Callable[..., Path], error: Exception) -> Path:
    """The files that were downloaded before, where the hub cannot be reached."""
    try:
        found = fetch(local_files_only=True)
        if not any(found.iterdir()):
            raise FileNotFoundError(found)
    except MemoryError:
        raise
    except Exception:
        reason = f"{named} cannot be downloaded from ModelScope: {first_line(error)}"
        raise HubError(reason) from error
    logger.warning("ModelScope cannot be reached (%s); using %s", first_line(error), found)
    return found


def _is_wanted(path: str, splits: set[str] | None) -> bool:
    """Whether a file may have images or texts of the splits."""
    if path.endswith(_UNUSED):
        return False
    found = split_of(path)
    return splits is None or found is None or found in splits


def split_of(path: str) -> str | None:
    """The split that the name of a file, or of a folder that it is in, says; None if none does."""
    for part in reversed(path.lower().split("/")):
        for word in _WORDS.findall(part):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return None


# --- Zips ----------------------------------------------------------------------------------------


def with_random_access(path: Path, splits: set[str] | None = None) -> Path:
    """A data set that can be read in any order: the path itself, or the folder of an unpacked zip.

    A zip with Chinese-CLIP's files is read where it is, unless it is compressed. Another is
    unpacked into the cache once.

    Args:
        path: A data set; a folder with nothing but a zip is that zip.
        splits: The splits that are wanted.
    """
    if path.is_dir():
        files = [one for one in path.iterdir() if not one.name.startswith(".")]
        zips = [one for one in files if one.suffix.lower() == ZIP_SUFFIX]
        others = [one for one in files if not one.name.endswith(_UNUSED) and one not in zips]
        if len(zips) != 1 or others:
            return path
        path = zips[0]
    if path.suffix.lower() != ZIP_SUFFIX or not path.is_file():
        return path
    with open_zip(path) as archive:
        members = [one for one in visible_members(archive) if not one.is_dir()]
        if TsvData.splits(path) and all(
            one.compress_type == zipfile.ZIP_STORED
            for one in members
            if _is_wanted(one.filename, splits)
        ):
            return path
        try:
            return _unpacked(path, archive, members)
        except (OSError, *ZIP_ERRORS) as error:
            raise DatasetError(f"cannot be unpacked: {first_line(error)}", file=path) from error


def _unpacked(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Path:
    digest = hashlib.sha256(identity_of(path).encode()).hexdigest()[:32]
    home = cache_directory() / "datasets"
    home.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)[:80]
    folder = home / f"{name}-{digest}"
    if not folder.is_dir():
        _check_free_space(path, home, members)
        logger.info("unpacking %s to %s", path, folder)
        try:
            with directory_replaced_atomically(folder) as temporary:
                _extract(path, archive, members, temporary)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    return _without_single_folders(folder)


def _check_free_space(path: Path, home: Path, members: list[zipfile.ZipInfo]) -> None:
    size, free = sum(one.file_size for one in members), shutil.disk_usage(home).free
    if size > free:
        reason = f"unpacked it has {size >> 20} MB, and {home} has {free >> 20} MB free"
        raise DatasetError(f"{reason}; set CNCLIP_CACHE to another disk", file=path)


def _extract(
    path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path
) -> None:
    for member in members:
        parts = [part for part in member.filename.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or "\0" in member.filename:
            raise DatasetError("a name is outside the zip", file=path, member=member.filename)
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as file:
            # zipfile reads no more than the size that the table says, which was counted.
            shutil.copyfileobj(source, file)


def _without_single_folders(folder: Path) -> Path:
    """The first folder in it with more than one folder."""
    inner = list(folder.iterdir())
    while len(inner) == 1 and inner[0].is_dir():
        folder = inner[0]
        inner = list(folder.iterdir())
    return folder


def subset_folder(folder: Path, subset: str) -> Path | None:
    """The folder of a subset in a data set; None if there is none."""
    if not re.fullmatch(r"[\w.-]+", subset) or subset in (".", ".."):
        raise InvalidInputError(f"expected a name, got {subset!r:.60}", item="subset_name")
    places = (folder / subset, folder / "data" / subset)
    return next((place for place in places if place.is_dir()), None)
