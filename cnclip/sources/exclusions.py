"""Files and folders that a folder's images are found without."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import translate

from .names import with_slashes

# Hidden files, and folders that other programs make: copies of images in other sizes, deleted
# files, snapshots, metadata.
HIDDEN = ".*"
DEFAULT_EXCLUDES = (
    HIDDEN,
    "@eaDir/",  # Synology
    "#recycle/",
    "#snapshot/",
    "@Recycle/",  # QNAP
    "@Recently-Snapshot/",
    "$RECYCLE.BIN/",  # Windows
    "RECYCLER/",
    "System Volume Information/",
    "lost+found/",  # Linux
    "__MACOSX/",  # zip files that macOS makes
    "iPod Photo Cache/",
    "node_modules/",
    "__pycache__/",
)


class Exclusions:
    """Patterns of files and folders that are left out.

    A pattern is compared with names; one that has a slash is compared with paths relative to the
    folder that is searched. A pattern that ends in a slash is for folders alone. `*`, `?` and
    `[...]` are as in a shell, `*` also matches slashes. Upper and lower case are equal.

    Attributes:
        counts: The number of files and folders that each pattern left out, hidden ones not counted.
        output: The folder that the run writes, which is not a source; None if there is none.
    """

    def __init__(self, patterns: Iterable[str] = (), *, defaults: bool = True) -> None:
        """Take patterns, in addition to the defaults unless `defaults` is false."""
        self.counts: Counter[str] = Counter()
        self.output: str | None = None
        wanted = [*(DEFAULT_EXCLUDES if defaults else ()), *patterns]
        self._of_folders = [_Pattern(text) for text in dict.fromkeys(wanted) if text]
        self._of_files = [one for one in self._of_folders if not one.folders_only]

    def exclude(self, path: str, *, is_folder: bool) -> bool:
        """Whether a file or folder is left out, which is then counted.

        Args:
            path: Its path, relative to the folder that is searched.
            is_folder: Whether it is a folder.
        """
        name = path.rpartition("/")[2]
        for pattern in self._of_folders if is_folder else self._of_files:
            if pattern.matches(path, name):
                if pattern.text != HIDDEN:
                    self.counts[pattern.text] += 1
                return True
        return False

    def is_output(self, folder: str) -> bool:
        """Whether a folder is the one that the run writes."""
        return self.output is not None and os.path.realpath(folder) == self.output

    def exclude_member(self, name: str) -> bool:
        """Whether a member of an archive is left out, by its name or by a folder that it is in."""
        parts = [part for part in with_slashes(name).split("/") if part not in ("", ".", "..")]
        folders = ("/".join(parts[:number]) for number in range(1, len(parts)))
        return any(self.exclude(folder, is_folder=True) for folder in folders) or self.exclude(
            "/".join(parts), is_folder=False
        )


class _Pattern:
    def __init__(self, text: str) -> None:
        self.text = text
        inner = text.rstrip("/")
        self.folders_only = inner != text
        self._of_paths = "/" in inner
        self._expression = re.compile(translate(inner.removeprefix("/")), re.IGNORECASE)

    def matches(self, path: str, name: str) -> bool:
        return self._expression.match(path if self._of_paths else name) is not None


def describe_excluded(counts: Mapping[str, int]) -> list[str]:
    """A line that reports what `Exclusions.counts` counts, if there is something."""
    kinds = (f"{count} {pattern}" for pattern, count in sorted(counts.items()))
    return [f"excluded by patterns: {', '.join(kinds)}"] if counts else []
