"""Files that are gone since they were embedded, and their new places."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..bulk.outcomes import is_path_of
from ..errors import ImageError, InvalidInputError
from ..preprocessors.image import located
from ..sources import spelled
from .hits import Hit


def is_gone(path: str) -> bool:
    """Whether a recorded path is that of a file that does not exist. URLs are not tried."""
    place = _local(path)
    return place is not None and not os.path.lexists(place)


def gone_message(paths: Iterable[str]) -> str | None:
    """A message about the files that are gone, if there are some."""
    tried = list(dict.fromkeys(paths))
    gone = [path for path in tried if is_gone(path)]
    if not gone:
        return None
    return (
        f"{len(gone)} of {len(tried)} files are gone, such as {gone[0]}; if they were moved, pass "
        "the folder that holds them now as --root"
    )


class Root:
    """A folder that files were moved to, with some of the folders above them."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Take the folder.

        Raises:
            InvalidInputError: there is no such folder.
        """
        self._folder = os.path.abspath(folder)
        if not os.path.isdir(self._folder):
            raise InvalidInputError("no such folder", file=folder)
        # Former and new beginnings of paths that were found.
        self._beginnings: dict[str, str] = {}

    def place(self, id: str, path: str) -> tuple[str, str]:
        """The id and the path of an item, with its new place if its file was found here.

        It is the longest end of the path that exists in the folder; of an id that is a relative
        path, the id.
        """
        place = _local(path)
        found = None if place is None else self._find(id, str(place), path)
        if found is None:
            return id, path
        shown = spelled(found)
        inner = id.removeprefix(f"{path}:")
        if id == path:
            id = shown
        elif inner != id:  # in an archive
            id = f"{shown}:{inner}"
        return id, shown

    def moved(self, hit: Hit) -> Hit:
        """A hit with its new place."""
        id, path = self.place(hit.id, hit.path)
        return replace(hit, id=id, path=path)

    def _find(self, id: str, place: str, path: str) -> str | None:
        if id != path and is_path_of(id, path):
            found = os.path.join(self._folder, id)
            if os.path.lexists(found):
                return found
        for former, new in self._beginnings.items():
            if place.startswith(former) and os.path.lexists(new + place[len(former) :]):
                return new + place[len(former) :]
        parts = place.split("/")
        for number in range(1, len(parts)):
            found = os.path.join(self._folder, *parts[number:])
            if os.path.lexists(found):
                self._beginnings["/".join(parts[:number]) + "/"] = f"{self._folder}/"
                return found
        return None


def _local(path: str) -> Path | None:
    """The file of a recorded path; None of a URL, and of a name that is no absolute path."""
    try:
        place = located(path)
    except ImageError:
        return None
    return place if isinstance(place, Path) and place.is_absolute() else None
