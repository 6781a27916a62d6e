"""Uses pipelines from many threads at once, in every way that may collide.

    python tools/stress.py [--seconds 20] [--threads 6] [--seed N]

Threads embed with shared pipelines in random batches, open others in their place and so close them
while they are used, write prepared models, close streams early, change a list that is embedded,
pass bad inputs and fork. The main thread is interrupted by a timer in its calls meanwhile. Every
answer is compared with the first one. `make tsan` runs this under ThreadSanitizer, which reports
data races by the exit status. The printed seed repeats the choices, not the order of the threads.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cnclip
from cnclip.errors import CnclipError, DeviceError, ForkedProcessError
from cnclip.pipelines import MultiModalEmbeddingPipeline, embed_images

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
MODELS = ["tiny-vit", "tiny-rn"]
# By how much two answers of a precision may differ. Batches differ, and the number of threads
# follows the load: where torch computes, as the narrow heads of these models, sums are in another
# order. In int8, a last bit moves an activation to the next of its 255 values (measured: 1e-4).
MAX_DIFFERENCES = {"fp32": 2e-6, "int8": 1e-3}
TEXTS = ["猫" * (number % 30) + " a" * (number % 7) for number in range(60)]


class Interrupted(BaseException):
    """Raised by the timer's signal, as KeyboardInterrupt by Ctrl-C."""


class Stress:
    """Pipelines, by their model and precision, that threads share and replace."""

    def __init__(self, seconds: float, seed: int, folder: Path) -> None:
        self._seed, self._folder = seed, folder
        numbers = np.random.default_rng(seed)
        sizes = [tuple(numbers.integers(1, 90, 2)) for _ in range(20)]
        arrays = [numbers.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        self._images = [
            Image.fromarray(array) if number % 2 else array for number, array in enumerate(arrays)
        ]
        self._open: dict[tuple[str, str], MultiModalEmbeddingPipeline] = {}
        self._expected: dict[tuple[str, str], dict[str, Any]] = {}
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        for model in MODELS:
            for precision in MAX_DIFFERENCES:
                try:
                    opened = cnclip.pipeline(
                        model=GOLDEN / model, device="cpu", precision=precision, num_threads=2
                    )
                except DeviceError:  # this processor does not compute in it
                    continue
                self._open[model, precision] = opened
                self._expected[model, precision] = opened.forward(
                    {"text": TEXTS, "img": self._images}
                )
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return bool(self.faults) or time.monotonic() > self._end

    def run(self, number: int) -> None:
        """Do one thing after the other until the end, on this thread."""
        chooser = random.Random(self._seed + number)
        acts: list[Callable[[random.Random], None]] = [
            *[self.embed] * 6,
            *[self.replace] * 3,
            self.write_prepared,
            self.close_early,
            self.change_the_list,
            self.use_parts,
            self.refuse,
            self.fork,
        ]
        while not self.is_over:
            act = chooser.choice(acts)
            try:
                act(chooser)
            except Exception as error:
                self.faults.append(f"{act.__name__}: {type(error).__name__}: {error}")
            self.counts[act.__name__] += 1

    def interrupt(self) -> None:
        """Interrupt long calls of this thread, the main one, until the end."""
        chooser = random.Random(self._seed)

        def handle(*_: Any) -> None:
            raise Interrupted

        signal.signal(signal.SIGALRM, handle)
        while not self.is_over:
            _, opened = self._choose(chooser)
            try:
                signal.setitimer(signal.ITIMER_REAL, chooser.uniform(0.01, 0.2))
                opened.forward({"text": TEXTS * 200, "img": self._images * 20}, batch_size=4)
                signal.setitimer(signal.ITIMER_REAL, 0)
                self.counts["not interrupted"] += 1
            except Interrupted:
                self.counts["interrupted"] += 1
            self.embed(chooser)

    def _choose(
        self, chooser: random.Random
    ) -> tuple[tuple[str, str], MultiModalEmbeddingPipeline]:
        key = chooser.choice(list(self._open))
        return key, self._open[key]

    def _compare(self, key: tuple[str, str], rows: Any, expected: Any) -> None:
        most = MAX_DIFFERENCES[key[1]]
        if rows.shape != expected.shape or not np.abs(rows - expected).max() <= most:
            self.faults.append(f"{key}: another answer than the first")

    def embed(self, chooser: random.Random) -> None:
        """Some texts and images in batches of some size."""
        key, opened = self._choose(chooser)
        texts = chooser.sample(range(len(TEXTS)), chooser.randint(1, len(TEXTS)))
        images = chooser.sample(range(20), chooser.randint(1, 20))
        answer = opened.forward(
            {"text": [TEXTS[i] for i in texts], "img": [self._images[i] for i in images]},
            batch_size=chooser.choice([None, 1, 3, 8, 50]),
        )
        self._compare(key, answer["text_embedding"], self._expected[key]["text_embedding"][texts])
        self._compare(key, answer["img_embedding"], self._expected[key]["img_embedding"][images])

    def replace(self, chooser: random.Random) -> None:
        """Open a pipeline again. The one before is closed when its last call ends."""
        key, _ = self._choose(chooser)
        self._open[key] = cnclip.pipeline(
            model=GOLDEN / key[0],
            device="cpu",
            precision=key[1],
            num_threads=chooser.choice([None, 1, 2, 3]),
        )

    def write_prepared(self, chooser: random.Random) -> None:
        """Write a model's file while others use it."""
        _, opened = self._choose(chooser)
        opened.model.encoder.save_prepared(self._folder / f"{threading.get_ident()}.prepared")

    def close_early(self, chooser: random.Random) -> None:
        """Close a stream whose threads are at work."""
        key, opened = self._choose(chooser)
        with closing(embed_images(opened, self._images, lambda image: image, batch_size=3)) as some:
            rows = next(some).vectors
        self._compare(key, rows, self._expected[key]["img_embedding"][:3])

    def change_the_list(self, chooser: random.Random) -> None:
        """Texts that another thread removes while they are embedded."""
        key, opened = self._choose(chooser)
        texts = TEXTS[:1] * 300
        thread = threading.Thread(target=texts.clear)
        thread.start()
        rows = opened.model.encoder.encode_texts(texts, 8)
        thread.join()
        if len(rows):
            expected = self._expected[key]["text_embedding"][:1]
            self._compare(key, rows, np.repeat(expected, len(rows), 0))

    def use_parts(self, chooser: random.Random) -> None:
        """The tokenizer and the image processor without the model; ids and tensors to the model."""
        key, opened = self._choose(chooser)
        tensors = opened.preprocess({"text": TEXTS, "img": self._images})
        encoder = opened.model.encoder
        rows = encoder.encode_ids(tensors["text"], 16)
        self._compare(key, rows, self._expected[key]["text_embedding"])
        pixels = tensors["img"][:8]
        self._compare(key, encoder.encode_pixels(pixels), self._expected[key]["img_embedding"][:8])

    def refuse(self, chooser: random.Random) -> None:
        """Inputs and models that are refused, with a message each."""
        _, opened = self._choose(chooser)
        for refused in (
            lambda: opened.forward({"text": ["a", 3]}),
            lambda: opened.forward({"img": [*self._images, b"GIF89a"]}),
            lambda: opened.forward({"img": np.zeros((2, 2), np.uint8)}),
            lambda: cnclip.pipeline(model=GOLDEN / "README.md", device="cpu"),
        ):
            try:
                refused()
            except (CnclipError, TypeError, ValueError):
                continue
            self.faults.append("accepted what is to be refused")

    def fork(self, chooser: random.Random) -> None:
        """A child gets an error from pipelines that were open before."""
        _, opened = self._choose(chooser)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                opened.forward({"text": "a"})
            except ForkedProcessError:
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if status:
            self.faults.append(f"a forked child ended with status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cnclip-stress-") as name:
        os.environ |= {"CNCLIP_CACHE": name, "CNCLIP_PREPARED": "always"}
        stress = Stress(arguments.seconds, arguments.seed, Path(name))
        threads = [
            threading.Thread(target=stress.run, args=(number,))
            for number in range(1, arguments.threads + 1)
        ]
        for thread in threads:
            thread.start()
        stress.interrupt()
        for thread in threads:
            thread.join()
    done = ", ".join(f"{name} {count}" for name, count in sorted(stress.counts.items()))
    print(f"seed {arguments.seed}: {done}")
    for fault in stress.faults[:20]:
        print(fault, file=sys.stderr)
    sys.exit(1 if stress.faults else 0)


if __name__ == "__main__":
    main()
