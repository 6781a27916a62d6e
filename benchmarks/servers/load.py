"""Callers of a model or a server, and how long they wait."""

from __future__ import annotations

import io
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from cnclip.benchmark.inputs import make_texts

TEXTS = make_texts(64, 12)
FILES = 32


def rate_of(call: Callable[[], int], seconds: float) -> float:
    """Items per second of one caller; `call` returns the items that it has embedded."""
    begin, items = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        items += call()
    return items / (time.perf_counter() - begin)


def rate_of_callers(
    call: Callable[[int], Any], callers: int, seconds: float, whole: int = 1
) -> tuple[float, float, int]:
    """Items per second of many callers.

    Args:
        call: Embeds the item of a number.
        callers: Threads, each with one item at a time.
        seconds: No call begins later, but for the rest of a multiple of `whole`.
        whole: The items of which all are embedded as often.

    Returns:
        Items per second, the median of the milliseconds of a call, and the number of items.
    """
    waits: list[float] = []
    failures: list[BaseException] = []
    numbers, lock = itertools.count(), threading.Lock()
    begin = time.perf_counter()
    is_over = False

    def take() -> int | None:
        nonlocal is_over
        with lock:
            number = next(numbers)
            late = time.perf_counter() - begin > seconds
            is_over = is_over or (late and number % whole == 0)
            return None if is_over or failures else number

    def run() -> None:
        try:
            while (number := take()) is not None:
                start = time.perf_counter()
                call(number)
                waits.append(time.perf_counter() - start)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    seconds = time.perf_counter() - begin
    return len(waits) / seconds, statistics.median(waits) * 1000, len(waits)


def median_times(calls: list[Callable[[], Any]], seconds: float) -> list[float]:
    """The median milliseconds of calls that take turns."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, samples in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
    return [statistics.median(samples) * 1000 for samples in times]


def write_files(folder: Path) -> list[bytes]:
    """Write JPEG files with about as many bytes per pixel as a photo has; returns their contents.

    They have 640 x 480 pixels.
    """
    random = np.random.default_rng(0)
    contents = []
    for number in range(FILES):
        noise = Image.fromarray(random.integers(0, 256, (480, 640, 3), np.uint8))
        content = io.BytesIO()
        noise.filter(ImageFilter.GaussianBlur(1.5)).save(content, "jpeg", quality=85)
        contents.append(content.getvalue())
        (folder / f"{number:02}.jpg").write_bytes(contents[-1])
    return contents
