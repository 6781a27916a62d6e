"""Which files are images: by their names, and by their first bytes.

Folders, archives, lists and single paths all use these rules. A format that Pillow lacks needs a
package that an extra of cnclip installs.
"""

from __future__ import annotations

import importlib.util
import os
import re
import struct
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from ..errors import InvalidInputError

# Pillow's formats that are opened. Those that start programs (EPS), that are only stubs (WMF, GRIB,
# HDF5, BUFR, MPEG) or that open further formats are not.
COMMON_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "ICO",
    "DIB",
    "CUR",
)
# Drawing programs, games and old systems write them. Photos and the web have none, and their
# decoders are seldom run by others than attackers. TGA has no signature, so it is last.
RARE_FORMATS = ("DDS", "ICNS", "PCX", "PSD", "QOI", "SGI", "SUN", "TGA")
PILLOW_FORMATS = COMMON_FORMATS + RARE_FORMATS
FORMATS_VARIABLE = "CNCLIP_FORMATS"
# The suffixes of image files, and the format of each.
IMAGE_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM"),
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".avif": "AVIF",
    ".ico": "ICO",
    ".icns": "ICNS",
    ".pcx": "PCX",
    ".psd": "PSD",
    ".qoi": "QOI",
    ".tga": "TGA",
    ".dds": "DDS",
    ".sgi": "SGI",
    ".ras": "SUN",
    ".cur": "CUR",
}
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe")


class ExtraFormat(NamedTuple):
    """A format that an optional package decodes."""

    name: str
    extra: str  # of cnclip
    package: str
    module: str


HEIF = ExtraFormat("HEIF", "heif", "pillow-heif", "pillow_heif")
JXL = ExtraFormat("JPEG XL", "jxl", "pillow-jxl-plugin", "pillow_jxl")
RAW = ExtraFormat("a camera's raw format", "raw", "rawpy", "rawpy")
EXTRA_FORMATS = (HEIF, JXL, RAW)
# The names of single formats in `--formats`, and the formats as they are called here.
FORMAT_NAMES: Mapping[str, str] = {
    **{name.lower(): name for name in PILLOW_FORMATS},
    **{one.extra: one.name for one in EXTRA_FORMATS},
}
FORMAT_SETS: Mapping[str, frozenset[str]] = {
    "common": frozenset(FORMAT_NAMES.values()) - set(RARE_FORMATS),
    "all": frozenset(FORMAT_NAMES.values()),
}

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc"}
    | {".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2"}
    | {".srf", ".srw", ".x3f"}
)
EXTRA_SUFFIXES: Mapping[str, ExtraFormat] = {
    **dict.fromkeys((".heic", ".heif", ".hif"), HEIF),
    ".jxl": JXL,
    **dict.fromkeys(RAW_SUFFIXES, RAW),
}

# Bytes of the beginning of a file that `format_of` needs.
HEAD = 512
# Bytes before the image that are skipped: line ends, a byte order mark, the header of a response.
_MAX_STRAY = 256
_SIGNATURES = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<WEBP>RIFF....WEBP)",
    re.DOTALL,
)
_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\r -~]*")
# Those that are too short or too common to be searched for.
_BEGINNINGS = (
    (RAW.name, (b"II*\0\x10\0\0\0CR", b"IIRO", b"IIRS", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb")),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("BMP", (b"BM",)),
    ("JPEG2000", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    (JXL.name, (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("ICO", (b"\0\0\1\0",)),
    ("ICNS", (b"icns",)),
    ("PSD", (b"8BPS",)),
    ("QOI", (b"qoif",)),
    ("DDS", (b"DDS ",)),
    ("SUN", (b"\x59\xa6\x6a\x95",)),
)
_PCX = re.compile(rb"\n[\0\2-\5][\0\1][\1\2\4\x08]", re.DOTALL)
_SGI = re.compile(rb"\x01\xda[\0\1][\1\2]\0[\1-\3]")
_BRANDS = (
    ("AVIF", (b"avif", b"avis")),
    (HEIF.name, (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")),
    (RAW.name, (b"crx ",)),
    (HEIF.name, (b"mif1", b"msf1", b"mif2")),
)
# Files that are found under the names of images, by their first bytes without blanks.
_OTHER_KINDS = (
    ("a web page", (b"<!doctype html", b"<html")),
    ("an SVG drawing; save it as PNG", (b"<svg",)),
    ("XML or SVG", (b"<?xml",)),
    ("a pointer of Git LFS: run `git lfs pull` in its folder", (b"version https://git-lfs",)),
    ("a PDF document", (b"%pdf-",)),
    ("PostScript, which would start a program", (b"%!ps", b"\xc5\xd0\xd3\xc6")),
    ("a zip file", (b"pk\x03\x04",)),
    ("a Matroska or WebM video", (b"\x1aE\xdf\xa3",)),
)
_TGA_HEADER = struct.Struct("<BBBHHBHHHHBB")
_TGA_KINDS = (1, 2, 3, 9, 10, 11)  # indexed, colored, gray; the same with runs of pixels
_TGA_END = b"TRUEVISION-XFILE.\0"
_NETPBM = re.compile(rb"P(?:[1-6fF]|0[1-6])\s")


def suffix_of(name: str) -> str:
    """The last suffix of a file's name in lower case, such as `.jpg`; empty if it has none.

    Blanks and dots at the name's end, which some systems drop, are not part of it.
    """
    return os.path.splitext(name.rstrip(". "))[1].lower()


@cache
def is_installed(format: ExtraFormat) -> bool:
    """Whether the package that decodes a format can be imported."""
    return importlib.util.find_spec(format.module) is not None


def is_image_suffix(suffix: str) -> bool:
    """Whether files with this suffix are images that can be decoded here."""
    if suffix in IMAGE_SUFFIXES:
        return True
    extra = EXTRA_SUFFIXES.get(suffix)
    return extra is not None and is_installed(extra)


@cache
def parse_formats(text: str, item: str = "formats") -> frozenset[str]:
    """The formats that a list names: `common`, `all`, `psd`, separated by commas.

    Args:
        text: The list.
        item: Its name in messages.

    Raises:
        InvalidInputError: a name is unknown; the message lists the names.
    """
    found: set[str] = set()
    for name in text.lower().split(","):
        name = name.strip()
        if name in FORMAT_SETS:
            found |= FORMAT_SETS[name]
        elif name in FORMAT_NAMES:
            found.add(FORMAT_NAMES[name])
        else:
            names = ", ".join([*FORMAT_SETS, *FORMAT_NAMES])
            reason = f"expected a list of some of {names}; got {name!r:.60}"
            raise InvalidInputError(reason, item=item)
    if RAW.name in found:
        found.add("TIFF")  # many of a camera's formats are TIFF files
    return frozenset(found)


def formats_of_environment(default: str) -> str:
    """The list of formats in `$CNCLIP_FORMATS`, or else the default.

    Raises:
        InvalidInputError: a name in it is unknown.
    """
    text = os.environ.get(FORMATS_VARIABLE) or default
    parse_formats(text, FORMATS_VARIABLE)
    return text


def chosen_formats(formats: str | None) -> frozenset[str]:
    """The formats that a list names; None for that of the environment, by default all.

    Raises:
        InvalidInputError: a name is unknown.
    """
    return parse_formats(formats_of_environment("all") if formats is None else formats)


@cache
def pillow_formats(chosen: frozenset[str]) -> tuple[str, ...]:
    """Those of Pillow's formats that are chosen, in the order in which they are tried."""
    return tuple(name for name in PILLOW_FORMATS if name in chosen)


def option_name(format: str) -> str:
    """The name of a format in `--formats`."""
    return next(name for name, one in FORMAT_NAMES.items() if one == format)


def format_of_suffix(suffix: str) -> str | None:
    """The format that a suffix such as `.jpg` stands for; None if it is no image's."""
    extra = EXTRA_SUFFIXES.get(suffix)
    return IMAGE_SUFFIXES.get(suffix) if extra is None else extra.name


def format_of(head: bytes) -> str | None:
    """The format of an image file by its first bytes; None if they are not those of an image.

    Bytes of text may come first, such as line ends.

    Args:
        head: The first bytes, HEAD of them where the file is that long.
    """
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in (8, *range(16, min(len(head), 64), 4))}
        return next((name for name, some in _BRANDS if brands.intersection(some)), None)
    found = next((name for name, starts in _BEGINNINGS if head.startswith(starts)), None)
    if found is None:
        some = (("PPM", _NETPBM), ("PCX", _PCX), ("SGI", _SGI))
        found = next((name for name, pattern in some if pattern.match(head)), None)
    if found is None and (signature := _SIGNATURES.search(head, 0, _MAX_STRAY + 16)):
        # After other bytes than text, it may be an image in a file of another kind.
        found = signature.lastgroup if _TEXT.fullmatch(head, 0, signature.start()) else None
    return found


def is_tga(content: bytes) -> bool:
    """Whether a file is TGA, which has no signature at its beginning.

    It has one at its end, or else a header whose fields agree with each other and with the size.
    """
    if content.endswith(_TGA_END):
        return True
    if len(content) < _TGA_HEADER.size:
        return False
    fields: tuple[int, ...] = _TGA_HEADER.unpack_from(content)
    id_size, has_map, kind, _, colors, color_bits, _, _, width, height, bits, flags = fields
    if kind not in _TGA_KINDS or bits not in (8, 15, 16, 24, 32) or flags >> 6 or has_map > 1:
        return False
    if (kind & 7 == 1) != bool(has_map) or bool(colors and color_bits) != bool(has_map):
        return False
    pixels = width * height * ((bits + 7) // 8)
    packed = pixels // 128 if kind & 8 else pixels
    start = _TGA_HEADER.size + id_size + colors * ((color_bits + 7) // 8)
    return pixels > 0 and start + packed <= len(content)


def other_kind(head: bytes) -> str | None:
    """The kind of a file that is no image, by its first bytes; None if it is unknown.

    Args:
        head: As for `format_of`.
    """
    if head and not head.strip(b"\0"):
        return "nothing but zeros, as where a download or a copy has failed"
    if head[4:8] == b"ftyp" and format_of(head) is None:
        return "a video"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = start.lower()
    return next(
        (name for name, some in _OTHER_KINDS if start.startswith(some) or lower.startswith(some)),
        None,
    )


def stray_bytes(head: bytes) -> int:
    """The number of bytes before the signature of an image; 0 if there are none, or no image."""
    if head[4:8] == b"ftyp" or head.startswith((b"II", b"MM")):
        return 0
    found = _SIGNATURES.search(head, 0, _MAX_STRAY + 16)
    return 0 if found is None else found.start()
