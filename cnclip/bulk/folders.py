"""The images of a folder and all folders in it, always in the same order."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator

from ..datasets.classification import SUFFIXES
from .items import Item, file_item, reason, spelled


def walk(folder: str, left_out: Counter[str] | None = None) -> Iterator[Item]:
    """The files of a folder whose names say that they are images, and what is no file at all.

    Links are followed; a folder that was seen already, as where links lead in a circle, is not
    gone through again. Hidden files and folders are left out.

    Args:
        folder: Where to begin.
        left_out: Counts the other files by the ends of their names.

    Yields:
        Items sorted by name, folders among files. One that cannot be used has its error, a folder
        that cannot be listed included.
    """
    seen: set[tuple[int, int]] = set()
    # Names still to be looked at, the next one last.
    waiting = [os.path.abspath(folder)]
    while waiting:
        path = waiting.pop()
        try:
            state = os.stat(path)
        except OSError:
            yield file_item(path)
            continue
        if stat.S_ISDIR(state.st_mode):
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            try:
                names = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            except OSError as error:
                name = spelled(path)
                yield Item(name, name, error=f"cannot be listed: {reason(error)}")
                continue
            waiting += [os.path.join(path, name) for name in names if not name.startswith(".")]
            continue
        suffix = os.path.splitext(path)[1].lower()
        if suffix in SUFFIXES or not stat.S_ISREG(state.st_mode):
            yield file_item(path)
        elif left_out is not None:
            left_out[suffix] += 1
