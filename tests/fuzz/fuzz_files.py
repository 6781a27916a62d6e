"""Targets: lists, tables, archives and data sets of images and texts, and image files."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import io
import lzma
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from cnclip.bulk.items import open_sources
from cnclip.datasets import open_retrieval
from cnclip.errors import DatasetError, ImageError
from cnclip.preprocessors.decoding import ImageOptions, decode_image
from cnclip.sources import Problems, images, pyarrow_modules
from cnclip.sources.images import ImageRef, ImageStore
from cnclip.sources.lmdb_files import LmdbImages, _parse_pair, read_pairs
from cnclip.sources.rows import id_of
from tests.fuzz.fuzz_target import Finding, Target, scratch, split_choice, written
from tests.support.layouts import IMAGES, write_parquet, write_tar

_TABLES = (".txt", ".csv", ".tsv", ".jsonl", ".json")
_KINDS = ("images", "texts")


def _is_data(url: object) -> bool:
    return isinstance(url, str) and url[:5].lower() == "data:"


def refuse_downloads() -> None:
    """Let no target ask the network, for as long as the process runs."""
    fetch = images.fetch  # type: ignore[attr-defined]

    def fetch_data(url: str) -> bytes:
        if not _is_data(url):
            raise ImageError(f"{url!r:.60} is not downloaded here")
        return fetch(url)

    images.fetch = fetch_data  # type: ignore[attr-defined]


def _read(image: ImageRef | None) -> None:
    """Read an image of a container; paths, which could be those of any file, are left alone."""
    origin = None if image is None else image.origin
    if image is not None and (isinstance(origin, ImageStore | bytes) or _is_data(origin)):
        with contextlib.suppress(ImageError):
            image.read()


def _read_items(path: Path, kind: str = "images") -> None:
    opened = open_sources(path, kind)  # type: ignore[arg-type]
    ids = set()
    for item in opened.items():
        if item.error is None and item.id in ids:
            raise Finding(f"two items have the id {item.id!r}")
        ids.add(item.id)
        item.id.encode()
        str(item.where).encode()
        _read(item.image)


def _read_table(content: bytes) -> None:
    suffix, rest = split_choice(content, _TABLES)
    kind, rest = split_choice(rest, _KINDS)
    _read_items(written(f"table{suffix}", rest), kind)


def _read_tsv(content: bytes) -> None:
    _read_items(written("train_imgs.tsv", content))


def _read_tar(content: bytes) -> None:
    compress, rest = split_choice(content, (False, True))
    if compress:
        _read_items(written("shard.tar.gz", gzip.compress(rest, 1)))
    else:
        _read_items(written("shard.tar", rest))


def _tars() -> Iterator[bytes]:
    for number, format in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)):
        path = scratch() / "seed.tar"
        write_tar(path, (100, 101), format=format)
        yield bytes([number % 2]) + path.read_bytes()
    # A sparse file of GNU tar's former format, whose parts go on in another header.
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    yield b"\0" + bytes(header) + bytes(512) + path.read_bytes()


_COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar")


def _read_compressed(content: bytes) -> None:
    suffix, rest = split_choice(content, _COMPRESSED)
    _read_items(written(f"compressed{suffix}", rest))


def _compressed() -> Iterator[bytes]:
    arrow, _ = pyarrow_modules()
    path = scratch() / "seed.tar"
    write_tar(path, (100, 101))
    content = path.read_bytes()
    yield b"\0" + gzip.compress(content)
    yield b"\1" + bz2.compress(content)
    # Their checksums of the content would refuse most inputs.
    yield b"\2" + lzma.compress(content, check=lzma.CHECK_NONE)
    yield b"\2" + lzma.compress(content, lzma.FORMAT_ALONE)
    yield b"\3" + arrow.compress(content, "zstd", asbytes=True)
    yield b"\4" + gzip.compress(content, 0)


def _read_zip(content: bytes) -> None:
    _read_items(written("images.zip", content))


def _zips() -> Iterator[bytes]:
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    for method in methods:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as file:
            file.writestr("图/1.png", IMAGES[100])
            file.writestr("train_imgs.tsv", b"1\tAAAA\n")
            file.writestr("train_texts.jsonl", b'{"text_id": 1, "text": "a", "image_ids": [1]}\n')
        yield stream.getvalue()


def _read_parquet(content: bytes) -> None:
    path = written("data.parquet", content)
    for kind in _KINDS:
        with contextlib.suppress(DatasetError):
            _read_items(path, kind)


def _parquets() -> Iterator[bytes]:
    pyarrow_modules()
    for kind in ("struct", "bytes", "path"):
        path = scratch() / "seed.parquet"
        write_parquet(path, (100, 101), kind)
        yield path.read_bytes()


def _read_pair(content: bytes) -> None:
    """A value of an LMDB of pairs."""
    pair = _parse_pair(content)
    if pair is not None and (None in map(id_of, pair[:2]) or not isinstance(pair[2], str)):
        raise Finding(f"{pair!r:.100} is no pair")


def _pairs() -> Iterator[bytes]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps((100, 7, "一只猫"), protocol)
        yield pickle.dumps(("a", "b", "c"), protocol)


# Of a page of an LMDB, the input has the header and the last nodes. The rest is zeros.
_PAGE, _HEAD, _TAIL = 4096, 160, 352


def _read_database(content: bytes) -> None:
    """The file of an LMDB."""
    kind, rest = split_choice(content, ("imgs", "pairs"))
    step = _HEAD + _TAIL
    pages = (rest[at : at + step].ljust(step, b"\0") for at in range(0, len(rest), step))
    gap = bytes(_PAGE - step)
    folder = written(
        "database/data.mdb", b"".join(page[:_HEAD] + gap + page[_HEAD:] for page in pages)
    ).parent
    problems = Problems()
    if kind == "pairs":
        for where, *_ in read_pairs(folder, kind, problems):
            str(where).encode()
        return
    store = LmdbImages(folder, kind, problems)
    for number in range(len(store.ids)):
        with contextlib.suppress(ImageError):
            store.content(number)


def _databases() -> Iterator[bytes]:
    import lmdb

    image, pair = base64.b64encode(IMAGES[100]), pickle.dumps((100, 7, "一只猫"))
    for number, value in enumerate((image[:60], pair)):
        for count, size in ((0, 1), (2, 1), (2, 80), (60, 1)):
            with tempfile.TemporaryDirectory() as folder:
                with lmdb.open(folder, map_size=1 << 22) as opened, opened.begin(write=True) as put:
                    for key in range(count):
                        put.put(b"%d" % key, value * size)
                content = (Path(folder) / "data.mdb").read_bytes()
            pages = (content[at : at + _PAGE] for at in range(0, len(content), _PAGE))
            yield bytes([number]) + b"".join(page[:_HEAD] + page[-_TAIL:] for page in pages)


# The file that the input is, in a data set that is intact otherwise.
_DATA_SETS = (
    "tsv/train_texts.jsonl",
    "folder/metadata.jsonl",
    "folder/metadata.csv",
    "coco/captions.json",
    "indexed/index.json",
    "indexed/train.csv",
)
_INDEX = b'{"default": {"train": {"meta": "train.csv", "file": "images"}}}'


def _read_data_set(content: bytes) -> None:
    name, rest = split_choice(content, _DATA_SETS)
    folder = scratch() / "data" / Path(name).parent
    if not folder.exists():
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "1.png").write_bytes(IMAGES[100])
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    if folder.name == "tsv":
        (folder / "train_imgs.tsv").write_bytes(b"1\tAAAA\n2\tAAAA\n")
    if folder.name == "indexed":
        (folder / "index.json").write_bytes(_INDEX)
        (folder / "train.csv").write_bytes(b"image,text\n1.png,a\n")
    path = folder / Path(name).name
    path.write_bytes(rest)
    data = open_retrieval(path if folder.name == "coco" else folder)
    problems = Problems()
    ids = {row.image_id for row in data.images(problems)}
    for text in data.texts(problems):
        if not text.text.strip() or not text.text.encode():
            raise Finding("a text that cannot be used")
    for number in range(len(ids)):
        with contextlib.suppress(ImageError):
            data.locate(Problems()).content(number)
    for problem in problems.found:
        str(problem).encode()


def _decode(content: bytes) -> None:
    options, rest = split_choice(
        content,
        (
            ImageOptions(max_pixels=1 << 18),
            ImageOptions(max_pixels=1 << 18, depth="scale", frame="middle", background="white"),
            ImageOptions(max_pixels=1 << 18, decode="fast", resolution=8),
        ),
    )
    notes: list[str] = []
    try:
        image = decode_image(rest, options=options, notes=notes)
    except ImageError as error:
        if not error.reason.isprintable():
            raise Finding("a reason that is not printable") from error
        return
    if image.mode != "RGB" or image.width * image.height > 1 << 18:
        raise Finding(f"{image.mode} {image.size}")


def _images() -> Iterator[bytes]:
    image = Image.new("RGB", (9, 7), "red")
    for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "QOI", "PCX"):
        stream = io.BytesIO()
        try:
            image.save(stream, format)
        except (KeyError, OSError):  # which this Pillow does not write
            continue
        yield b"\0" + stream.getvalue()
    for mode in ("RGBA", "LA", "P", "I;16", "F", "CMYK"):
        stream = io.BytesIO()
        Image.new(mode, (5, 6)).save(stream, "TIFF" if mode in ("F", "CMYK") else "PNG")
        yield b"\1" + stream.getvalue()


TARGETS = {
    "compressed": Target(_read_compressed, _compressed, (DatasetError,)),
    "data_set": Target(_read_data_set, errors=(DatasetError,)),
    "image": Target(_decode, _images),
    "lmdb": Target(_read_database, _databases, (DatasetError,), max_len=8192),
    "pair": Target(_read_pair, _pairs, max_len=512),
    "parquet": Target(_read_parquet, _parquets, max_len=8192),
    "table": Target(_read_table, errors=(DatasetError,)),
    "tar": Target(_read_tar, _tars, (DatasetError,), max_len=16384),
    "tsv": Target(_read_tsv, errors=(DatasetError,)),
    "zip": Target(_read_zip, _zips, (DatasetError,)),
}
