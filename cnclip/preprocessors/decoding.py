"""Decodes image files, which `opening.py` opens with Pillow.

A file is first decoded as Pillow does it. Only where that fails, other formats are tried, and
faults that viewers pass over are repaired.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from .._text import first_line
from ..errors import (
    CnclipError,
    FormatOffError,
    ImageError,
    InvalidInputError,
    MissingExtraError,
)
from .formats import (
    FORMATS_VARIABLE,
    HEAD,
    HEIF,
    JXL,
    PILLOW_FORMATS,
    RAW,
    ExtraFormat,
    chosen_formats,
    format_of,
    is_tga,
    option_name,
    other_kind,
    parse_formats,
    pillow_formats,
)
from .jxl_size import jxl_size
from .opening import open_bounded
from .pillow_warnings import PillowWarnings
from .repair import repaired

Decode: TypeAlias = Literal["exact", "fast"]
DEPTHS = ("clip", "scale")
FRAMES = ("first", "middle")
DECODES = ("exact", "fast")
# What a folder of embeddings and an index record, where it is not the default.
RECORDED = ("background", "depth", "frame", "decode")
MAX_PIXELS_VARIABLE = "CNCLIP_MAX_PIXELS"
# A JPEG is not reduced to fewer pixels per side: twice the resolution of the largest model.
_MIN_REDUCED_SIDE = 672
# By which libjpeg reduces an image while it decodes it.
_SCALES = (2, 4, 8)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# LibRaw's numbers for the orientation.
_RAW_TURNS = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.ROTATE_90,
    6: Image.Transpose.ROTATE_270,
}
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "HEIF", "JXL")
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS = 50706, 254, 330
# The largest values of images with 8, 10, 12, 14, 16 and 32 bits.
_MAX_VALUES = (255, 1023, 4095, 16383, 65535, 2**31 - 1)

# Notes on images that are decoded as ModelScope decodes them, and not as a viewer shows them.
HIGH_DEPTH = (
    "more than 8 bits per channel: values above 255 become white, as in ModelScope; "
    "--depth scale shows them as a viewer does"
)
TRANSPARENT = (
    "transparent: embedded with the colors below the transparency, as in ModelScope; "
    "--background white shows them as a viewer does"
)
REDUCED = "above the limit of pixels: decoded at a reduced scale"


@dataclass(frozen=True)
class ImageOptions:
    """How image files are decoded. The defaults are ModelScope's.

    Attributes:
        background: The color below transparent pixels, such as `white` or `#808080`; None keeps
            the colors that the file has there.
        depth: Of images with more than 8 bits per channel: `clip` makes values above 255 white,
            `scale` divides them.
        frame: The frame of an animation: `first` or `middle`.
        max_pixels: Images with more pixels are reduced (JPEG) or refused. None for
            `$CNCLIP_MAX_PIXELS`, else twice `PIL.Image.MAX_IMAGE_PIXELS`, which is Pillow's limit.
        decode: `exact`; or `fast`: the JPEG decoder scales by 1/2, 1/4 or 1/8, as long as twice the
            model's resolution remains in both sides. Other formats are decoded exactly.
        resolution: Pixels per side of the model's input, which `fast` requires when an image is
            decoded.
        formats: `common` refuses images in formats that few need, such as PSD and TGA; `all` opens
            them. Or a list of these and of single formats: `common,psd`. None for
            `$CNCLIP_FORMATS`, else all.

    Raises:
        InvalidInputError: the background is not a color, a format is unknown, or `decode` has
            another value.
    """

    background: str | None = None
    depth: Literal["clip", "scale"] = "clip"
    frame: Literal["first", "middle"] = "first"
    max_pixels: int | None = None
    decode: Decode = "exact"
    resolution: int | None = None
    formats: str | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, str], resolution: int | None = None) -> ImageOptions:
        """The options that `record` returned, for a model of this resolution.

        Raises:
            InvalidInputError: a name or value is unknown, such as that of a later version.
        """
        for name, value in record.items():
            if name not in RECORDED:
                reason = f"images were decoded with {name}={value}, which this version lacks"
                raise InvalidInputError(reason)
        return cls(**dict(record), resolution=resolution)  # type: ignore[arg-type]

    def record(self) -> dict[str, str]:
        """The options that change pixels and are not the defaults, by name."""
        values = {name: getattr(self, name) for name in RECORDED}
        return {name: value for name, value in values.items() if value != default_of(name)}

    def __post_init__(self) -> None:
        """Check the values."""
        for name, allowed in (("depth", DEPTHS), ("frame", FRAMES), ("decode", DECODES)):
            if (value := getattr(self, name)) not in allowed:
                reason = f"expected one of {', '.join(allowed)}, got {value!r:.60}"
                raise InvalidInputError(reason, item=name)
        if self.background is not None:
            try:
                ImageColor.getrgb(self.background)
            except ValueError as error:
                reason = f"expected a color such as white or #808080, got {self.background!r:.60}"
                raise InvalidInputError(reason, item="background") from error
        if self.formats is not None:
            parse_formats(self.formats)


DEFAULTS = ImageOptions()


def default_of(name: str) -> str | None:
    """The default of a recorded option; None of an unknown one."""
    value: str | None = getattr(DEFAULTS, name, None)
    return value


class OptionChange(NamedTuple):
    """A recorded option that differs, with its values; None for no value."""

    name: str
    one: str | None
    other: str | None


def changed_options(one: Mapping[str, str], other: Mapping[str, str]) -> list[OptionChange]:
    """The recorded options that differ, by name."""
    return [
        OptionChange(name, *(record.get(name, default_of(name)) for record in (one, other)))
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def decode_image(
    file: bytes | IO[bytes],
    *,
    turned: bool = True,
    options: ImageOptions = DEFAULTS,
    notes: list[str] | None = None,
) -> Image.Image:
    """Decode an image file.

    Args:
        file: Its bytes, or the open file.
        turned: Turn the image as its EXIF orientation says, and convert it to RGB.
        options: See `ImageOptions`.
        notes: Gets notes on an image that a viewer would show otherwise, and Pillow's warnings as
            `PillowWarnings` does.

    Raises:
        FormatOffError: it is in a format that `options` does not list.
        ImageError: it cannot be decoded. The errors have a reason and no place.
    """
    chosen = chosen_formats(options.formats)
    formats = pillow_formats(chosen)
    with DecodingErrors(), PillowWarnings(notes):
        try:
            stream = io.BytesIO(file) if isinstance(file, bytes) else file
            image = open_bounded(stream, formats)
            return _finish(image, turned, options, notes)
        except (MemoryError, _FinalError):
            raise
        except Exception as error:  # Pillow raises anything on damaged files
            content = _content(file)
            if not content:
                raise _FinalError("cannot be read as an image: an empty file") from error
            _check_chosen(content, error, chosen)
            for image in _other_versions(content, error, turned, options, notes):
                return _finish(image, turned, options, notes)
            for version in repaired(content):
                try:
                    image = open_bounded(io.BytesIO(version), formats)
                    return _finish(image, turned, options, notes)
                except (MemoryError, _FinalError):
                    raise
                except Exception:
                    continue
            if kind := other_kind(content[:HEAD]):
                raise _FinalError(f"cannot be read as an image: {kind}") from error
            raise


class ImageHeader(NamedTuple):
    """What the header of an image file says: its format and its size in pixels."""

    format: str | None
    width: int
    height: int


def image_header(content: bytes) -> ImageHeader | None:
    """The header of an image file; None where Pillow cannot read it. Decodes nothing."""
    try:
        formats = pillow_formats(chosen_formats(None))
        with PillowWarnings([]), open_bounded(io.BytesIO(content), formats) as image:
            return ImageHeader(image.format, image.width, image.height)
    except MemoryError:
        raise
    except Exception:  # Pillow raises anything on damaged files
        return None


class DecodingErrors:
    """Raises an ImageError for every exception that Pillow raises on a damaged file.

    A class, since a generator of contextlib takes a microsecond for each image.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, CnclipError | MemoryError):
            return
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no format that Pillow knows" if unknown else first_line(error)
        raise ImageError(f"cannot be read as an image: {reason}") from error


class _FinalError(ImageError):
    """An error that no repair removes."""


def _content(file: bytes | IO[bytes]) -> bytes:
    if isinstance(file, bytes):
        return file
    file.seek(0)
    return file.read()


def _finish(
    image: Image.Image, turned: bool, options: ImageOptions, notes: list[str] | None
) -> Image.Image:
    """Load an opened image, and make of it what `decode_image` returns."""
    _choose_scale(image, options, notes)
    if image.format == "TIFF" and _is_raw(image):
        raise _RawError
    if options.frame == "middle" and image.format in _ANIMATED:
        image.seek(getattr(image, "n_frames", 1) // 2)
    image.load()
    if turned:
        image = _upright(image)
    if image.mode != "RGB" or "transparency" in image.info:
        image = _in_8_opaque_bits(image, options, notes)
    if not turned:
        return image
    # Without `convert`, which copies an image that is RGB already: 48 MB of 12 megapixels.
    return image._new(image.im) if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where the metadata are damaged."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # Pillow raises anything on damaged metadata
        return image
    return image if turn is None else image.transpose(turn)


def _in_8_opaque_bits(
    image: Image.Image, options: ImageOptions, notes: list[str] | None
) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        if options.depth == "scale":
            return _scaled(image)
        if notes is not None:
            notes.append(HIGH_DEPTH)
    elif (options.background is not None or notes is not None) and image.has_transparency_data:
        with_alpha = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        if with_alpha.getchannel("A").getextrema()[0] == 255:
            return image
        if options.background is not None:
            below = Image.new("RGBA", image.size, options.background)
            return Image.alpha_composite(below, with_alpha.convert("RGBA")).convert("RGB")
        if notes is not None:
            notes.append(TRANSPARENT)
    return image


def _scaled(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits in 8 bits, as viewers show it.

    The range is that of the smallest usual number of bits which holds the brightest pixel; of
    floating point numbers 0 to 1, or else 0 to 255; with negative numbers, the image's range.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0:
        top = max(high - low, 1e-30)
        values -= low
    elif image.mode == "F" and high <= 1:
        top = 1.0
    else:
        top = next((one for one in _MAX_VALUES if high <= one), high)
    return Image.fromarray(np.floor(values * (255 / top) + 0.5).astype(np.uint8))


def _choose_scale(image: Image.Image, options: ImageOptions, notes: list[str] | None) -> None:
    """Choose the scale at which a JPEG is decoded; refuse other images above the limit of pixels.

    A JPEG is reduced where it is above the limit, and for `decode='fast'`.
    """
    width, height = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    scale = _fast_scale(width, height, options) if is_jpeg else 1
    if width * height > _max_pixels(options):
        needed = _needed_scale(image, options) if is_jpeg else None
        if needed is None:
            _check_pixels(width, height, options)
        elif notes is not None:
            notes.append(REDUCED)
        scale = max(scale, needed or 1)
    if scale > 1:
        image.draft(None, (width // scale, height // scale))


def _fast_scale(width: int, height: int, options: ImageOptions) -> int:
    """The largest scale, 1, 2, 4 or 8, that leaves twice the model's resolution in both sides.

    Raises:
        InvalidInputError: the options lack the resolution.
    """
    if options.decode == "exact":
        return 1
    if options.resolution is None:
        raise InvalidInputError("decode='fast' requires the model's resolution", item="resolution")
    side = min(width, height) // (2 * options.resolution)
    return max((scale for scale in _SCALES if scale <= side), default=1)


def _needed_scale(image: Image.Image, options: ImageOptions) -> int | None:
    """The smallest scale at which a JPEG is within the limit of pixels; None if there is none."""
    # A progressive JPEG is in memory at its full size, whatever the scale.
    if image.info.get("progressive"):
        return None
    for scale in _SCALES:
        width, height = image.width // scale, image.height // scale
        if width * height <= _max_pixels(options) and min(width, height) >= _MIN_REDUCED_SIDE:
            return scale
    return None


def _check_pixels(width: int, height: int, options: ImageOptions) -> None:
    """Refuse more pixels than the limit, before memory for them is allocated.

    Raises:
        _FinalError: there are more.
    """
    limit = _max_pixels(options)
    if width * height > limit:
        raise _FinalError(
            f"cannot be read as an image: {width} x {height} pixels could be a decompression bomb; "
            f"the limit is {limit:.0f}, raise it with --max-pixels or ${MAX_PIXELS_VARIABLE}"
        )


def _max_pixels(options: ImageOptions) -> float:
    if options.max_pixels is not None:
        return options.max_pixels
    if text := os.environ.get(MAX_PIXELS_VARIABLE):
        if not text.isdecimal() or not int(text):
            raise InvalidInputError(
                f"expected a number, got {text!r:.60}", item=MAX_PIXELS_VARIABLE
            )
        return int(text)
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


class _RawError(Exception):
    """A file that Pillow opens as TIFF has the raw data of a camera."""


def _is_raw(image: Image.Image) -> bool:
    """Whether the first image of a TIFF is only the thumbnail of a camera's raw data."""
    tags: Any = getattr(image, "tag_v2", {})
    try:
        return _DNG_VERSION in tags or bool(tags.get(_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in tags)
    except MemoryError:
        raise
    except Exception:  # Pillow raises anything on damaged metadata
        return False


def _other_versions(
    content: bytes,
    error: Exception,
    turned: bool,
    options: ImageOptions,
    notes: list[str] | None,
) -> Iterator[Image.Image]:
    """The image, opened in another way, if there is one for its content or its error."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        formats = pillow_formats(chosen_formats(options.formats))
        yield from _open_unlimited(content, error, formats)
        return
    found = format_of(content[:HEAD])
    if isinstance(error, _RawError) or found == RAW.name:
        yield _open_raw(content, turned, options, notes)
    elif found == HEIF.name:
        with _ExtraErrors(HEIF):
            from pillow_heif import HeifImageFile
        yield HeifImageFile(io.BytesIO(content))
    elif found == JXL.name:
        yield _open_jxl(content, options)


def _open_unlimited(
    content: bytes, error: Exception, formats: tuple[str, ...]
) -> Iterator[Image.Image]:
    """An image that Pillow refuses for its number of pixels, which are not decoded yet."""
    if isinstance(error, Image.DecompressionBombWarning):
        raise error  # the program has made an error of Pillow's warning
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(content[:16]) is True:
            try:
                yield factory(io.BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
            return


def _check_chosen(content: bytes, error: Exception, chosen: frozenset[str]) -> None:
    """Refuse an image that could not be opened because its format is not among the chosen ones.

    Raises:
        FormatOffError: it is not.
    """
    found = RAW.name if isinstance(error, _RawError) else _format_by_content(content)
    if found is None or found in chosen:
        return
    off = FormatOffError(
        f"cannot be read as an image: {found} is off here; --formats all opens it, or a list with "
        f"{option_name(found)}, also as ${FORMATS_VARIABLE}"
    )
    off.format = found
    raise off from error


def _format_by_content(content: bytes) -> str | None:
    """The format of an image file by its content; None if it is unknown."""
    if (found := format_of(content[:HEAD])) is not None:
        return found
    if is_tga(content):  # before Pillow's check of CUR, which takes a header of TGA for one
        return "TGA"
    Image.init()
    for name in PILLOW_FORMATS:
        accept = Image.OPEN[name][1]
        with contextlib.suppress(struct.error):  # that of DIB, for less than four bytes
            if accept is not None and accept(content[:16]) is True:
                return name
    return None


class _ExtraErrors:
    """Raises an ImageError where the package that decodes a format cannot be imported."""

    def __init__(self, format: ExtraFormat) -> None:
        self._format = format

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ImportError):
            missing = MissingExtraError(self._format.extra, self._format.package)
            raise _FinalError(f"{self._format.name}: {missing.reason}") from error


def _open_raw(
    content: bytes, turned: bool, options: ImageOptions, notes: list[str] | None
) -> Image.Image:
    """The JPEG that a camera has written into its raw file; else the developed raw data."""
    with _ExtraErrors(RAW):
        import rawpy
    with rawpy.imread(io.BytesIO(content)) as raw:
        turn = _RAW_TURNS.get(raw.sizes.flip) if turned else None
        try:
            preview = raw.extract_thumb()
        except rawpy.LibRawError:
            _check_pixels(raw.sizes.raw_width, raw.sizes.raw_height, options)
            # Turned upright by LibRaw.
            return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
    # An array of pixels (ThumbFormat.BITMAP), or the content of a JPEG file.
    if not isinstance(preview.data, bytes):
        image = Image.fromarray(preview.data)
    else:
        image = open_bounded(io.BytesIO(preview.data), ("JPEG",))
        _choose_scale(image, options, notes)  # before it is turned, which loads it
        if _ORIENTATION in image.getexif():
            turn = None
    return image if turn is None else image.transpose(turn)


def _open_jxl(content: bytes, options: ImageOptions) -> Image.Image:
    with _ExtraErrors(JXL):
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile
    size = jxl_size(content)
    if size is None:
        raise _FinalError("cannot be read as an image: JPEG XL without the size of the image")
    _check_pixels(*size, options)  # JXLImageFile decodes all of it
    image: Image.Image = JXLImageFile(io.BytesIO(content))
    if not image.jpeg:  # type: ignore[attr-defined]
        # The decoder has turned the image; its EXIF orientation no longer counts.
        image.info.pop("exif", None)
    return image
