"""Which files of a folder or archive are images, and the count of those that are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..errors import Where
from ..preprocessors.formats import (
    EXTRA_FORMATS,
    EXTRA_SUFFIXES,
    JPEG_SUFFIXES,
    RAW_SUFFIXES,
    chosen_formats,
    format_of,
    format_of_suffix,
    is_image_suffix,
    is_installed,
    option_name,
    suffix_of,
)
from .exclusions import Exclusions
from .rows import ProblemKind, Problems

# After the suffix of a camera's raw file of which there is a JPEG.
_WITH_JPEG = " with a .jpg"
# After the name in `--formats` of a format that is off.
_BY_CONTENT = " by content"
_UNNAMED = "without a name"
# After the suffix of a member of a tar file that is a link, or a sparse file.
_LINK = " link"


class ImageNames:
    """Decides which files are images, by the same rules in folders and archives.

    The last suffix of a name decides. A file without a suffix is looked at, and with `all_files`
    every file is. A camera's raw file is left out where there is a JPEG of the same name.

    Attributes:
        all_files: Decide by the content of files, not by their names.
        formats: Files of other formats are left out by their names.
        exclusions: Files and folders that are left out before.
        left_out: The number of files that are not images, or cannot be decoded here, by their
            suffixes; see `describe_left_out`.
    """

    def __init__(
        self,
        *,
        all_files: bool = False,
        formats: str | None = None,
        exclusions: Exclusions | None = None,
    ) -> None:
        """Decide by these rules; `formats` is a list as for `formats.chosen_formats`.

        Raises:
            InvalidInputError: a format is unknown.
        """
        self.all_files = all_files
        self.formats = chosen_formats(formats)
        self.exclusions = Exclusions() if exclusions is None else exclusions
        self.left_out: Counter[str] = Counter()

    def visible(self, paths: Iterable[str]) -> Iterator[str]:
        """The members of an archive that are not excluded, as `without_raw` yields them."""
        return self.without_raw([one for one in paths if not self.exclusions.exclude_member(one)])

    def without_raw(self, names: Sequence[str]) -> Iterator[str]:
        """The names in a folder without raw files of which there is a JPEG; those are counted."""
        jpegs: set[str] | None = None
        for name in names:
            suffix = suffix_of(name)
            if suffix in RAW_SUFFIXES:
                if jpegs is None:
                    jpegs = {_stem(one) for one in names if suffix_of(one) in JPEG_SUFFIXES}
                if _stem(name) in jpegs:
                    self.leave_raw(suffix)
                    continue
            yield name

    def leave_raw(self, suffix: str) -> None:
        """Count a raw file of which there is a JPEG."""
        self.left_out[suffix + _WITH_JPEG] += 1

    def leave_link(self, name: str) -> None:
        """Count a link or sparse file in a tar file, if it is an image by its name."""
        suffix = suffix_of(name)
        if is_image_suffix(suffix):
            self.left_out[suffix + _LINK] += 1

    def leave_format(self, format: str, count: int = 1) -> None:
        """Count images whose content, not their name, is of a format that is off."""
        self.left_out[option_name(format) + _BY_CONTENT] += count

    def leave_unnamed(self, count: int) -> None:
        """Count members of a zip without a name, which only a damaged zip has."""
        if count:
            self.left_out[_UNNAMED] += count

    def leave_texts(self, suffixes: Iterable[str]) -> None:
        """Count texts without an image, by their suffixes: `txt`."""
        self.left_out.update(f".{suffix}" for suffix in suffixes)

    def report(self, problems: Problems, where: Where, *, all_kinds: bool = True) -> None:
        """Add a remark for each kind of file that was left out.

        Without `all_kinds`, only for images that cannot be decoded here.
        """
        counts = {
            key: count
            for key, count in self.left_out.items()
            if all_kinds or format_of_suffix(key) is not None or _is_by_content(key)
        }
        for line in describe_left_out(counts):
            problems.add(ProblemKind.LEFT_OUT, where, line, skipped=False)

    def accept(self, name: str, read_head: Callable[[], bytes]) -> bool:
        """Whether a file is an image; otherwise it is counted.

        Args:
            name: Its name or path.
            read_head: Returns its first bytes, `formats.HEAD` of them.
        """
        suffix = suffix_of(name)
        if is_image_suffix(suffix):
            if format_of_suffix(suffix) in self.formats:
                return True
            self.left_out[suffix] += 1
            return False
        found = _format_by_content(read_head()) if self.all_files or not suffix else None
        if found in self.formats:
            return True
        if found is None:
            self.left_out[suffix] += 1
        else:
            self.leave_format(found)
        return False


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].lower()


def _format_by_content(head: bytes) -> str | None:
    """The format of a file that begins with these bytes; None if it cannot be decoded here."""
    found = format_of(head)
    extra = next((one for one in EXTRA_FORMATS if one.name == found), None)
    return found if extra is None or is_installed(extra) else None


def _is_by_content(key: str) -> bool:
    """Whether a key of `left_out` is of images under another name, and not a suffix."""
    return key.endswith(_BY_CONTENT) and not key.startswith(".")


def describe_left_out(left_out: Mapping[str, int]) -> list[str]:
    """Lines that report what `ImageNames.left_out` counts."""
    lines, others = [], []
    for key, count in sorted(left_out.items()):
        extra = EXTRA_SUFFIXES.get(key)
        if key.endswith(_WITH_JPEG):
            suffix = key.removesuffix(_WITH_JPEG)
            lines.append(f"{count} {suffix} left out: there is a JPEG of the same name")
        elif key.endswith(_LINK):
            suffix = key.removesuffix(_LINK)
            lines.append(
                f"{count} {suffix} left out: stored as links or sparse files; pack whole files: "
                "tar --dereference --hard-dereference"
            )
        elif key == _UNNAMED:
            lines.append(f"{count} without a name left out: the zip is damaged")
        elif _is_by_content(key):
            name = key.removesuffix(_BY_CONTENT)
            lines.append(
                f"{count} {name.upper()} under another name left out: --formats all opens it, or "
                f"a list with {name}"
            )
        elif extra is not None and not is_image_suffix(key):
            lines.append(f"{count} {key} left out: pip install 'cnclip[{extra.extra}]'")
        elif (found := format_of_suffix(key)) is not None:
            name = option_name(found)
            lines.append(f"{count} {key} left out: --formats all opens it, or a list with {name}")
        else:
            others.append(f"{count} {key or 'without a suffix'}")
    if others:
        lines.append(f"left out, not image files: {', '.join(others)}")
    return lines
