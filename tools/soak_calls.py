"""Calls the library in one process for a long time, and checks that nothing grows or changes.

    python -m tools.soak_calls [--seconds 1800] [--callers 4] [--warm-up 300]

Threads make calls in random order: images of every form and shape, texts, both, streams that are
closed early, classification, indexes, folders of embeddings, pipelines that are opened and closed,
and bad inputs of all kinds. Every minute the threads end, new ones begin, and between them memory,
descriptors, threads and mappings are printed. The exit status is 1 if

- a number of an answer differs from that of the call's first answer by more than 2e-6 (int8: 1e-3),
  anything else at all, or an error in its class or message;
- after the warm-up, memory has grown by more than 5 MB (`--growth`), descriptors or threads at all,
  or mappings by more than 20.

Memory is what is resident, after free memory was returned to the system (malloc_trim): what glibc
keeps for later calls is no growth. So that the rest is seen, glibc has one arena for all threads,
and oneDNN keeps compiled code for 32 shapes, not for 1,024: by default that takes 100 MB more, and
hours until it is full. Growth is measured from the largest of the first states after the warm-up to
the smallest of the last ones, three of each, since heaps have gaps that come and go.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from cnclip import load_image, pipeline
from cnclip.bulk import EmbedOptions, embed, iter_embeddings, open_embeddings
from cnclip.errors import CnclipError, DeviceError
from cnclip.evaluate import ZeroShotClassifier
from cnclip.pipelines import MultiModalEmbeddingPipeline, embed_images, embed_texts
from cnclip.search import Index, index_embeddings
from tests.support.one_engine import use_one_engine
from tests.support.process_state import State
from tools.stress import MAX_DIFFERENCES

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
IMAGES = sorted((DATA / "golden" / "cases" / "images").iterdir())
MODELS = [DATA / "golden" / "tiny-vit", DATA / "golden" / "tiny-rn", "emoji-cn"]
MAX_OBJECTS, MAX_MAPPINGS = 0, 20
M_ARENA_MAX = -8  # of malloc.h
COMPARED = 3  # states at the beginning and at the end

Call = Callable[[], Any]
Pipeline = MultiModalEmbeddingPipeline


def image_calls(model: Pipeline, url: str) -> dict[str, Call]:
    """Images in every form and shape."""
    forms: dict[str, Callable[[Path], Any]] = {
        "str": str,
        "path": lambda path: path,
        "bytes": Path.read_bytes,
        "bytearray": lambda path: bytearray(path.read_bytes()),
        "memoryview": lambda path: memoryview(path.read_bytes()),
        "file URL": Path.as_uri,
        "URL": lambda path: url + path.name,
        "data URL": lambda path: "data:," + quote(path.read_bytes()),
        "array": lambda path: np.asarray(load_image(path)),
        "open": Image.open,
        "loaded": load_image,
    }
    numbers = np.random.default_rng(1)
    sides = [(1, 1), (1, 3000), (3000, 1), (7, 5), (224, 224), (480, 640), (1030, 4100)]
    arrays = [numbers.integers(0, 256, (*size, 3), np.uint8) for size in sides]
    same = numbers.integers(0, 256, (5, 40, 30, 3), np.uint8)
    modes = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"]
    photo = Image.fromarray(arrays[-1])  # in several blocks of memory
    converted = [_converted(Image.fromarray(arrays[-2]), mode) for mode in modes]

    def reused() -> Iterator[Any]:
        """One array for all images, as a camera has it."""
        frame = np.empty_like(same[0])
        for one in same:
            frame[:] = one
            yield frame

    def embedded(images: Any, **options: Any) -> Any:
        return model.forward({"img": images}, **options)["img_embedding"]

    calls: dict[str, Call] = {
        f"images, {name}": lambda form=form: embedded([form(path) for path in IMAGES])  # type: ignore[misc]
        for name, form in forms.items()
    }
    calls |= {
        "one image": lambda: embedded(IMAGES[3]),
        "no image": lambda: embedded([]),
        "images of all shapes": lambda: embedded(arrays),
        "images turned": lambda: embedded([array[::-1, ::-2] for array in arrays]),
        "images of all modes": lambda: embedded(converted, batch_size=5),
        "one array of images": lambda: embedded(same),
        "an iterator of arrays": lambda: embedded(reused(), batch_size=2),
        "an image in blocks": lambda: embedded([photo, photo]),
        "many images": lambda: embedded(arrays[:5] * 20, batch_size=32),
        "preprocess": lambda: model.preprocess({"img": IMAGES, "text": ["猫"] * 9}),
        "load_image": lambda: [np.asarray(load_image(path)) for path in IMAGES],
    }
    return calls


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """An image in a mode, some of which have one way only."""
    if mode == "PA":
        return image.convert("P").convert("PA")
    if mode in ("LAB", "HSV", "YCbCr"):
        return Image.frombytes(mode, image.size, image.tobytes())
    return image.convert("RGBA" if mode == "LA" else "RGB").convert(mode)


def text_calls(model: Pipeline) -> dict[str, Call]:
    """Texts of every kind and number."""
    chooser = random.Random(2)
    letters = [*"猫狗的在 aé①。\n", chr(0xD800), chr(0x1F431), chr(0x301)]
    texts = ["".join(chooser.choices(letters, k=chooser.randrange(80))) for _ in range(300)]
    long = ["猫" * 100_000, "a" * 100_000, " " * 100_000, "".join(map(chr, range(0x2000, 0x9FFF)))]

    def embedded(texts: Any, **options: Any) -> Any:
        return model.forward({"text": texts}, **options)["text_embedding"]

    return {
        "texts": lambda: embedded(texts),
        "one text": lambda: embedded("猫"),
        "no text": lambda: embedded([]),
        "texts one by one": lambda: [embedded(text) for text in texts[:20]],
        "texts in batches of 7": lambda: embedded(texts, batch_size=7),
        "an iterator of texts": lambda: embedded(iter(texts)),
        "an array of texts": lambda: embedded(np.array(texts[:50])),
        "long texts": lambda: embedded(long),
        "many texts": lambda: embedded(texts * 15, batch_size=200),
        "tokenize": lambda: model.preprocessor.tokenize(texts, return_lengths=True),
        "both": lambda: model.forward({"img": IMAGES[:9], "text": texts[:9]}),
        "a list of inputs": lambda: model(
            [{"img": IMAGES[:3]}, {"text": texts[:3]}, {"img": IMAGES[4], "text": "狗"}]
        ),
    }


def bad_inputs(folder: Path, url: str) -> dict[str, Any]:
    """Inputs that are refused."""
    files = {path.name: path.read_bytes() for path in IMAGES}
    images: dict[str, Any] = {
        f"half of {name}": files[name][: len(files[name]) // 2] for name in files
    }
    images |= {
        f"flipped {name}": bytes(
            byte ^ (255 if place % 97 == 50 else 0) for place, byte in enumerate(content)
        )
        for name, content in files.items()
    }
    images |= {
        "no bytes": b"",
        "a page": b"<!DOCTYPE html><p>404",
        "zeros": bytes(10_000),
        "no file": folder / "none.png",
        "a folder": folder,
        "a device": "/dev/zero",
        "a text file": str(DATA / "golden" / "README.md"),
        "no URL": url + "none.png",
        "a URL that is closed": "http://127.0.0.1:9/a.png",
        "a URL of a page": url,
        "a data URL": "data:image/png;base64,####",
        "a file of another machine": "file://other/a.png",
        "ftp": "ftp://127.0.0.1/a.png",
        "a number": 3,
        "None": [None],
        "floats": np.zeros((3, 3, 3)),
        "no pixels": np.zeros((0, 3, 3), np.uint8),
        "two channels": np.zeros((3, 3, 2), np.uint8),
        "an image without pixels": Image.new("RGB", (0, 5)),
        "a closed image": _closed(IMAGES[0]),
        "one among others": [*IMAGES[:20], b"GIF89a", *IMAGES[20:]],
    }
    found = {f"image: {name}": {"img": image} for name, image in images.items()}
    texts: dict[str, Any] = {
        "a number": 3,
        "None": ["猫", None],
        "bytes": [b"a"],
        "lists": [["猫"]],
    }
    found |= {f"text: {name}": {"text": text} for name, text in texts.items()}
    found |= {"no key": {}, "another key": {"image": IMAGES[0]}, "a list": ["猫"]}
    return found


def _closed(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image


def stream_calls(model: Pipeline) -> dict[str, Call]:
    """Streams: whole ones with failures, and such that are closed early."""

    def opened(item: Any) -> Any:
        return item

    def failing(items: list[Any]) -> Any:
        batches = list(embed_images(model, items, opened, batch_size=4, cut_every=7))
        return [(batch.vectors, [str(error) for _, error in batch.failed]) for batch in batches]

    def images_closed_early() -> Any:
        with closing(embed_images(model, itertools.cycle(IMAGES), opened, batch_size=3)) as batches:
            return next(batches).vectors

    def texts_closed_early() -> Any:
        texts = (f"{number} 猫" for number in itertools.count())
        with closing(embed_texts(model, texts, str, max_texts=16)) as batches:
            return [next(batches).vectors for _ in range(2)]

    def dropped() -> Any:
        return next(embed_images(model, IMAGES, opened, batch_size=2)).vectors

    mixed = [*IMAGES[:9], b"", *IMAGES[9:], Path("/none"), None]
    return {
        "a stream with failures": lambda: failing(mixed),
        "a stream of images, closed early": images_closed_early,
        "a stream of texts, closed early": texts_closed_early,
        "a stream that is dropped": dropped,
    }


def upper_calls(model: Pipeline, folder: Path) -> dict[str, Call]:
    """What is built on pipelines: classification, folders of embeddings, indexes."""
    images = folder / "images"
    images.mkdir()
    for number, path in enumerate(IMAGES):
        content = path.read_bytes()
        (images / path.name).write_bytes(content if number % 10 else content[:60])
    rows = np.random.default_rng(3).standard_normal((3000, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def classified() -> Any:
        classifier = ZeroShotClassifier(["猫", "狗", "车"], model, others=["风景"])
        return classifier.probabilities(IMAGES[:6]), [str(one) for one in classifier(IMAGES[:6])]

    def stored() -> Any:
        """Embed a folder, index it, save, load and ask the index."""
        with tempfile.TemporaryDirectory(dir=folder) as name:
            output, file = Path(name, "out"), Path(name, "a.index")
            report = embed(images, model, output, EmbedOptions(ids="name"))
            embed(images, model, output, EmbedOptions(ids="name"))
            embeddings = open_embeddings(output)
            index_embeddings(embeddings).save(file)
            answer = Index.load(file).find(model, text="猫", image=IMAGES[0], k=5)
            return report.embedded, report.failed, [(hit.id, hit.score) for hit in answer.hits]

    def searched(kind: str) -> Any:
        index = Index.create(64, model=None, kind=kind, sample=rows if kind == "ivfpq" else None)
        index.add([str(number) for number in range(len(rows))], rows)
        index.remove(["5", "7"])
        return [[hit.id for hit in hits] for hits in index.search(rows[:20], 5)]

    def iterated() -> Any:
        return [(ids, vectors) for ids, vectors in iter_embeddings(images, model)]

    damaged = folder / "damaged.index"
    damaged.write_bytes(bytes(range(256)) * 40)
    return {
        "classify": classified,
        "embed a folder, index it, search": stored,
        "an exact index": lambda: searched("exact"),
        "an approximate index": lambda: searched("hnsw") and None,  # its graph depends on threads
        "iter_embeddings": iterated,
        "a damaged index": lambda: Index.load(damaged),
        "embeddings that are missing": lambda: open_embeddings(folder / "none"),
    }


def opening_calls(folder: Path) -> dict[str, Call]:
    """Pipelines that are opened, used and dropped, and such that cannot be opened."""

    def opened(model: Any, **options: Any) -> Any:
        one = pipeline(model=model, device="cpu", **options)
        return one.forward({"text": ["猫", "狗 a"], "img": IMAGES[:2]})

    archive = pipeline(model=MODELS[0], device="cpu").model.info.path
    content = archive.read_bytes()
    for number in range(8):  # cut at several places, and changed there
        place = len(content) * (number + 1) // 9
        (folder / f"cut{number}.cnclip.pt").write_bytes(content[:place])
        changed = bytearray(content)
        changed[place : place + 64] = bytes(64)
        (folder / f"changed{number}.cnclip.pt").write_bytes(changed)
    calls: dict[str, Call] = {
        f"open {getattr(model, 'name', model)}, {precision}": (
            lambda model=model, precision=precision: opened(model, precision=precision)  # type: ignore[misc]
        )
        for model in MODELS
        for precision in ("fp32", "int8", "bf16", "fp16")
    }
    calls |= {
        f"open {path.name}": lambda path=path: opened(path)  # type: ignore[misc]
        for path in sorted(folder.glob("*.cnclip.pt"))
    }
    return calls | {
        "open with one thread": lambda: opened(MODELS[0], num_threads=1),
        "open, decode fast": lambda: opened(MODELS[0], decode="fast"),
        "open nothing": lambda: opened(folder / "none"),
        "open a folder": lambda: opened(folder),
        "open with a bad option": lambda: opened(MODELS[0], presicion="int8"),
    }


def all_calls(folder: Path, url: str, models: int) -> dict[str, Call]:
    """Every call by its name. Images and texts go through each of the first few models."""
    calls: dict[str, Call] = {}
    for model in MODELS[:models]:
        for precision in ("fp32", "int8"):
            try:
                one = pipeline(model=model, device="cpu", precision=precision)
            except DeviceError:  # this processor does not compute in it
                continue
            some = image_calls(one, url) | text_calls(one) | stream_calls(one)
            calls |= {
                f"{one.model.info.path.name.partition('.')[0]}, {precision}: {name}": some[name]
                for name in some
            }
    first = pipeline(model=MODELS[0], device="cpu")
    calls |= {
        f"refused: {name}": lambda given=given: first.forward(given)  # type: ignore[misc]
        for name, given in bad_inputs(folder, url).items()
    }
    calls["refused: the last of an iterator"] = lambda: first.forward(
        {"img": iter([*IMAGES[:5], Path("/none")])}
    )
    for size in (0, -1, 1.5, "2", 1 << 80):
        calls[f"refused: batch_size={size!r}"] = lambda size=size: first.forward(  # type: ignore[misc]
            {"text": "a"}, batch_size=size
        )
    return calls | upper_calls(first, folder) | opening_calls(folder)


class Soak:
    """The calls, their first answers, and what was found."""

    def __init__(self, calls: dict[str, Call]) -> None:
        self._calls = calls
        self._first: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.count = 0
        self.difference = 0.0
        self.faults: list[str] = []

    def make(self, name: str) -> None:
        """Make a call, and compare its answer with the first one."""
        answer = outcome(self._calls[name])
        with self._lock:
            self.count += 1
            first = self._first.setdefault(name, answer)
        found = max(differences(first, answer), default=0.0)
        with self._lock:
            self.difference = max(self.difference, found)
        if not found <= MAX_DIFFERENCES["int8" if ", int8: " in name else "fp32"]:
            self.faults.append(
                f"{name}: {answer!r:.300}, first {first!r:.300}: differ by {found:g}"
            )

    def run(self, callers: int, seconds: float) -> None:
        """Make calls in random order on new threads, which have ended afterwards."""
        end = time.monotonic() + seconds

        def run() -> None:
            names: list[str] = []
            try:
                while time.monotonic() < end and not self.faults:
                    if not names:
                        names = random.sample(list(self._calls), len(self._calls))
                    self.make(names.pop())
            except Exception as error:  # that no call may raise
                self.faults.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=run, name="soak") for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def outcome(call: Call) -> Any:
    """What a call returns; of an error, its class and message."""
    try:
        return call()
    except (CnclipError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def differences(first: Any, found: Any) -> Iterator[float]:
    """By how much the numbers of two answers differ; infinite where another part does."""
    if isinstance(first, np.ndarray) and isinstance(found, np.ndarray):
        if first.shape != found.shape or first.dtype != found.dtype:
            yield np.inf
        elif first.size:
            yield float(np.abs(first - found).max())
    elif isinstance(first, dict) and isinstance(found, dict):
        yield from differences(list(first.items()), list(found.items()))
    elif isinstance(first, list | tuple) and isinstance(found, list | tuple):
        if len(first) != len(found):
            yield np.inf
        for pair in zip(first, found, strict=False):
            yield from differences(*pair)
    elif isinstance(first, float) and isinstance(found, float):
        yield abs(first - found)
    elif type(first) is not type(found) or first != found:
        yield np.inf


@contextmanager
def image_server(folder: Path) -> Iterator[str]:
    """The URL of a server of a folder's files, in another process."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    command += ["--directory", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as server:
        try:
            assert server.stdout is not None
            # Serving HTTP on 127.0.0.1 port 12345 (http://127.0.0.1:12345/) ...
            yield server.stdout.readline().partition("(")[2].partition(")")[0]
        finally:
            server.terminate()


def soak(calls: dict[str, Call], options: argparse.Namespace) -> list[str]:
    """Make calls until the end, and print the state now and then; returns what is wrong."""
    found = Soak(calls)
    begun = time.monotonic()
    for name in calls:  # each once, alone
        found.make(name)
    states: list[State] = []
    while not found.faults:
        found.run(options.callers, options.every)
        state, passed = State.of_this_process(), time.monotonic() - begun
        within = f"answers within {found.difference:.1e}"
        print(f"{found.count:8} calls {passed:6.0f} s: {state}, {within}", flush=True)
        if passed > options.warm_up:
            states.append(state)
        if passed > options.seconds and len(states) >= 2 * COMPARED:
            break
    return found.faults or growth(states, options.growth * 1e6)


def growth(states: list[State], max_bytes: float) -> list[str]:
    """What has grown from the largest of the first states to the smallest of the last ones."""
    first, last = states[:COMPARED], states[-COMPARED:]
    before, after = (
        State(*(choose(getattr(one, name) for one in some) for name in NAMES))
        for choose, some in ((max, first), (min, last))
    )
    return after.grown_from(before, max_bytes, MAX_OBJECTS, MAX_MAPPINGS)


NAMES = [field.name for field in fields(State)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--warm-up", type=float, help="by default a sixth of the time")
    parser.add_argument("--callers", type=int, default=4, help="threads")
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    parser.add_argument("--models", type=int, default=len(MODELS), help="models to embed with")
    parser.add_argument("--growth", type=float, default=5, help="MB that memory may grow by")
    options = parser.parse_args()
    if options.warm_up is None:
        options.warm_up = options.seconds / 6
    logging.getLogger("cnclip").setLevel(logging.CRITICAL)
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "32"
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    use_one_engine()
    with (
        tempfile.TemporaryDirectory(prefix="cnclip-soak-") as name,
        image_server(IMAGES[0].parent) as url,
    ):
        os.environ |= {"CNCLIP_CACHE": name, "CNCLIP_PREPARED": "always"}
        calls = all_calls(Path(name), url, options.models)
        print(f"{len(calls)} different calls", flush=True)
        wrong = soak(calls, options)
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
