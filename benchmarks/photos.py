"""Photos of 12 megapixels, decode='exact' and 'fast': time per stage, other decoders, accuracy.

    python benchmarks/photos.py [--rounds N] [--random ViT-B-16] [--turbojpeg libturbojpeg.so]
    python benchmarks/photos.py --rate PRECISION [--rounds N] [--random ViT-B-16]
    python benchmarks/photos.py --accuracy [--random ViT-B-16]

The photos are those that scikit-image and scikit-learn ship, enlarged to 4000 x 3000 pixels and
saved as JPEG with quality 90; without these packages, an image of the gallery. The first one is
measured twice: as it is, and with the noise of a camera's sensor, which makes the file larger.

The default is core-milliseconds of each stage for one photo, on one thread, medians: reading,
decoding (of which Pillow alone), resizing. PyTurboJPEG, simplejpeg and torchcodec take part where
they are installed; their bits are compared with Pillow's. `--rate` is the rate of `forward` on 32
photos and that of the model alone, which take turns. `--accuracy` compares embeddings and recall of
exact and fast.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnclip import demo, pipeline
from cnclip.benchmark import random_archive
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.decoding import ImageOptions, decode_image

SIZE = (4000, 3000)
PHOTOS = 32
# Of int8 in ViT-B/16 for one image, on a processor with AVX-512 VNNI: docs/en/howto/photos.md.
INT8_MS = 92
FOLDERS = (("sklearn", "datasets/images"), ("skimage", "data"))
# No photos: drawings, tables, medical images and calibration targets.
NO_PHOTOS = frozenset(
    {"chessboard_GRAY", "chessboard_RGB", "clock_motion", "color", "horse", "logo", "page"}
    | {"phantom", "text"}
)
Decoder = Callable[[bytes, int], NDArray[np.uint8]]


def photos() -> dict[str, Image.Image]:
    """The photos that installed packages ship, by their names."""
    found: dict[str, Image.Image] = {}
    for package, folder in FOLDERS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for path in sorted((Path(spec.origin).parent / folder).iterdir()):
            if path.suffix in (".jpg", ".png") and path.stem not in NO_PHOTOS:
                with Image.open(path) as image:
                    found[path.stem] = image.convert("RGB")
    if not found:
        with Image.open(demo.load_gallery()[0].path) as image:
            found["gallery"] = image.convert("RGB")
    return found


def enlarged(image: Image.Image, size: tuple[int, int] = SIZE, noise: float = 0) -> bytes:
    """A JPEG of quality 90, with noise of this standard deviation."""
    image = image.resize(size, Image.Resampling.LANCZOS)
    if noise:
        random = np.random.default_rng(0)
        grain = random.standard_normal((size[1], size[0], 3), np.float32) * noise
        pixels = np.clip(np.asarray(image) + grain, 0, 255)
        image = Image.fromarray(pixels.astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def core_ms(function: Callable[[], object], rounds: int) -> float:
    """The median of the process's time, in milliseconds."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return 1000 * statistics.median(times)


def stages(content: bytes, embedder: MultiModalEmbeddingPipeline, rounds: int) -> None:
    """Print core-milliseconds of each stage, and the bound that follows for int8."""
    resolution = embedder.preprocessor.image_resolution
    processor = embedder.preprocessor.image_processor
    print(
        f"{len(content) / 1e6:.1f} MB; checksum {core_ms(lambda: sha256(content), rounds):.1f} ms"
    )
    for name in ("exact", "fast"):
        options = ImageOptions(decode=name, resolution=resolution)  # type: ignore[arg-type]
        image = decode_image(content, options=options)
        scale = round(SIZE[0] / image.width)
        decode = core_ms(lambda o=options: decode_image(content, options=o), rounds)
        bare = core_ms(lambda s=scale: pillow(content, s), rounds)
        resize = core_ms(lambda i=image: processor.process([i]), rounds)
        total = decode + resize
        print(
            f"  {name}: decode {decode:.1f} (Pillow's load alone {bare:.1f}), {image.width} x "
            f"{image.height}, resize {resize:.1f}, together {total:.1f} ms; with int8's {INT8_MS} "
            f"ms at most {INT8_MS / (INT8_MS + total):.0%} of the model's rate"
        )


def pillow(content: bytes, scale: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    return image


def decoders(library: str | None) -> Iterator[tuple[str, Decoder]]:
    """Other decoders that are installed, as functions of a file and the scale."""
    yield "Pillow", lambda content, scale: np.asarray(pillow(content, scale))
    with suppress(ImportError):
        import simplejpeg

        def simple(content: bytes, scale: int) -> NDArray[np.uint8]:
            least = [-(-side // scale) for side in SIZE]
            found: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                content, min_width=least[0], min_height=least[1], min_factor=1
            )
            return found

        yield "simplejpeg", simple
    with suppress(ImportError, RuntimeError):
        import turbojpeg

        turbo: Any = turbojpeg.TurboJPEG(library)
        yield (
            "PyTurboJPEG",
            lambda content, scale: turbo.decode(
                content, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, scale)
            ),
        )
    with suppress(ImportError, OSError):
        import torch
        from torchcodec.decoders import decode_image as torchcodec

        def codec(content: bytes, scale: int) -> NDArray[np.uint8]:
            if scale > 1:
                raise NotImplementedError
            tensor = torchcodec(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            found: NDArray[np.uint8] = tensor.permute(1, 2, 0).numpy()
            return found

        yield "torchcodec", codec


def compare_decoders(content: bytes, library: str | None, rounds: int) -> None:
    """Print core-milliseconds of each decoder and scale, and whether its bits are Pillow's."""
    for name, decode in decoders(library):
        cells = []
        for scale in (1, 2, 4, 8):
            try:
                equal = np.array_equal(decode(content, scale), pillow(content, scale))
            except NotImplementedError:
                continue
            ms = core_ms(lambda d=decode, s=scale: d(content, s), rounds)
            cells.append(f"1/{scale} {ms:.1f} ms {'equal' if equal else 'DIFFERS'}")
        print(f"  {name}: {', '.join(cells)}")


def rates(archive: Path, content: bytes, precision: str, rounds: int) -> None:
    """Print images per second of `forward` on files, and of the model alone."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{number}.jpg")) for number in range(PHOTOS)]
        for file in files:
            Path(file).write_bytes(content)
        opened = {
            name: pipeline(
                model=archive,
                device="cpu",
                precision=precision,
                decode=name,  # type: ignore[arg-type]
            )
            for name in ("exact", "fast")
        }
        fast = opened["fast"]
        # Of the model's size: opening and preparing it costs next to nothing.
        side = fast.preprocessor.image_resolution
        arrays = [np.zeros((side, side, 3), np.uint8)] * PHOTOS
        runs: dict[str, Callable[[], object]] = {
            "model": lambda: fast.forward({"img": arrays}),
            "exact": lambda: opened["exact"].forward({"img": files}),
            "fast": lambda: fast.forward({"img": files}),
        }
        found: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(-1, rounds):
            for name, run in runs.items():
                begin = time.perf_counter()
                run()
                if turn >= 0:
                    found[name].append(PHOTOS / (time.perf_counter() - begin))
    best = {name: statistics.median(some) for name, some in found.items()}
    for name, rate in best.items():
        share = f"{rate / best['model']:.0%} of the model alone"
        print(f"{precision}, {name}: {rate:.2f} images/s, {share}", flush=True)


def rows_of(archive: Path | str, contents: list[bytes]) -> dict[str, NDArray[np.float32]]:
    """The embeddings of files, exact and fast."""
    found = {}
    for name in ("exact", "fast"):
        opened = pipeline(model=archive, device="cpu", decode=name)  # type: ignore[arg-type]
        found[name] = np.asarray(opened.forward({"img": iter(contents)})["img_embedding"])
    return found


def recall(queries: NDArray[np.float32], rows: NDArray[np.float32], k: int) -> float:
    """The share of queries whose own row is among the k best."""
    scores = queries @ rows.T
    better = (scores > np.diag(scores)[:, None]).sum(1)
    return float((better < k).mean())


def compare_rows(name: str, rows: dict[str, NDArray[np.float32]]) -> None:
    cosines = (rows["exact"] * rows["fast"]).sum(1)
    print(f"  {name}: {len(cosines)} images, cosine mean {cosines.mean():.6f}, ", end="")
    print(f"lowest {cosines.min():.6f}")


def compare_photos(archive: Path) -> None:
    """Print cosines of photos, and how often one half of a photo finds the other."""
    shipped = photos()
    compare_rows("photos, random weights", rows_of(archive, list(map(enlarged, shipped.values()))))
    halves = []
    for image in shipped.values():
        middle, width, height = image.width // 2, image.width, image.height
        halves += [image.crop((0, 0, middle, height)), image.crop((middle, 0, width, height))]
    rows = rows_of("emoji-cn", list(map(enlarged, halves)))
    compare_rows("halves of photos, emoji-cn", rows)
    for name, some in rows.items():
        values = [f"@{k} {recall(some[::2], some[1::2], k):.3f}" for k in (1, 5, 10)]
        print(f"    {name}: a half finds the other: recall {', '.join(values)}")


def compare_gallery() -> None:
    """Print cosines of the gallery that ships, enlarged, and how often a label finds its image."""
    gallery = demo.load_gallery()
    contents = []
    for one in gallery:
        with Image.open(one.path) as image:
            drawn = image.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        contents.append(enlarged(Image.alpha_composite(white, drawn).convert("RGB"), (1024, 1024)))
    rows = rows_of("emoji-cn", contents)
    compare_rows("gallery, emoji-cn", rows)
    model = pipeline(model="emoji-cn", device="cpu")
    texts = model.forward({"text": [one.label for one in gallery]})["text_embedding"]
    for name, some in rows.items():
        values = [f"@{k} {recall(texts, some, k):.4f}" for k in (1, 5, 10)]
        print(f"    {name}: a label finds its image: recall {', '.join(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random", default="ViT-B-16", metavar="ARCHITECTURE")
    parser.add_argument("--rate", metavar="PRECISION")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--turbojpeg", metavar="FILE", help="the library, if it is not found")
    arguments = parser.parse_args()
    first = next(iter(photos().values()))
    with random_archive(arguments.random) as archive:
        if arguments.rate:
            rates(archive, enlarged(first), arguments.rate, arguments.rounds)
        elif arguments.accuracy:
            compare_photos(archive)
            compare_gallery()
        else:
            embedder = pipeline(model=archive, device="cpu")
            for noise in (0, 3.6):
                content = enlarged(first, noise=noise)
                print(f"noise {noise}: ", end="")
                stages(content, embedder, arguments.rounds)
                compare_decoders(content, arguments.turbojpeg, arguments.rounds)


if __name__ == "__main__":
    main()
