"""The images of archives as items: tar files, zips, and Chinese-CLIP's `SPLIT_imgs.tsv`.

`encoding` is that of names and texts; `names` decides which members are images, and counts the
others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from .._files import open_file
from ..datasets.captions import sample_texts
from ..datasets.chinese_clip import TsvData
from ..errors import Where
from ..sources.image_names import ImageNames
from ..sources.images import ImageRef, Slices
from ..sources.rows import Problem, Problems, with_problems
from ..sources.tar_files import Sample, read_images, read_tar
from ..sources.tsv_files import TsvImages
from ..sources.zip_files import ZipImages
from .outcomes import Container, Item, spelled_id


def tar_items(path: str, encoding: str | None, names: ImageNames) -> Iterator[Item]:
    """The images of a tar file, as WebDataset makes them. Ids are `PATH:SAMPLE`."""
    container, problems = Container.of(path), Problems()
    images = Slices([Path(path)], [container.path])
    samples = read_tar(
        Path(path),
        container.path,
        problems,
        texts=False,
        captions=True,
        encoding=encoding,
        names=names,
    )
    captions = []
    for key, sample in samples.items():
        if sample.image is not None:
            images.add(key, *sample.image)
            captions.append(_caption_in_tar(sample, key, encoding))
        else:
            names.leave_texts(sample.texts or ())
    for item, caption in zip(container.images(images, named=True), captions, strict=True):
        yield item._replace(caption=caption, found=True)
    yield from container.skipped(problems.found)


def _caption_in_tar(sample: Sample, key: str, encoding: str | None) -> str | None:
    """The first text of a sample."""
    texts = sample_texts(sample, key, Where(member=key), Problems(), encoding)
    return next(texts, None)


def compressed_tar_items(path: str, encoding: str | None, names: ImageNames) -> Iterator[Item]:
    """The images of a compressed tar file, which is read from its beginning. Ids as of others."""
    container = Container.of(path)
    read = partial(
        read_images,
        Path(path),
        container.path,
        encoding=encoding,
        names=names,
    )
    for image in with_problems(read):
        if isinstance(image, Problem):
            yield from container.skipped([image])
        else:
            key, content, sample = image
            item = container.image(f"{container.path}:{spelled_id(key)}", ImageRef(content))
            yield item._replace(caption=_caption_in_tar(sample, key, encoding), found=True)


def tsv_items(path: str) -> Iterator[Item]:
    """The images of a `SPLIT_imgs.tsv`, by their ids there."""
    container, problems = Container.of(path), Problems()
    with open_file(path, 1 << 20) as file:
        store = TsvImages.of(file, container.path, problems, Path(path))
    yield from container.images(store, named=False)
    yield from container.skipped(problems.found)


def zip_items(path: str, encoding: str | None, names: ImageNames) -> Iterator[Item]:
    """The images of a zip, `PATH:NAME`; of Chinese-CLIP's TSV files in one, by their ids."""
    container = Container.of(path)
    splits = TsvData.splits(Path(path))
    for split in splits:
        for row in with_problems(TsvData(Path(path), split, split, encoding).images):
            if isinstance(row, Problem):
                place = Where(file=container.path, member=row.where.file, line=row.where.line)
                yield from container.skipped([replace(row, where=place)])
            else:
                yield container.image(spelled_id(row.image_id), row.image)
    if not splits:
        images = ZipImages.of(Path(path), container.path, encoding, names)
        for item in container.images(images, named=True):
            yield item._replace(found=True)
