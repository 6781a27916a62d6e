"""One open model for many callers at a time: their items go through it in common batches.

`dispatch.py` has the way of a request.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self

from ...errors import (
    CnclipError,
    ForkedProcessError,
    InputTypeError,
    InvalidInputError,
)
from ...outputs import OutputKeys
from ...pipelines.model import as_returned
from ...pipelines.stream import Embedder
from ...preprocessors.inputs import InputImage, mixed_items, split_input
from .counters import Counters
from .dispatch import Dispatcher
from .options import BatchOptions
from .queues import PRIORITIES, Embedded, Priority, Request

# At the end of the interpreter, how long to wait for a batch.
_EXIT_SECONDS = 5.0


class Batcher:
    """Embeds the items of many callers in common batches.

    A batch is what has arrived while the model computed the batch before; an idle model begins at
    once. Small requests pass large ones. A bad item fails nothing but itself, or its request.

    Threads may use one batcher at the same time. It is a context manager, and closes at the end.
    What a future's callbacks do holds the batcher's threads: keep them short.
    """

    def __init__(self, pipeline: Embedder, options: BatchOptions | None = None) -> None:
        """Start the threads.

        Args:
            pipeline: An open pipeline, which may be used otherwise as well.
            options: Limits.
        """
        self._pipeline = pipeline
        self._options = options or BatchOptions()
        self._pid = os.getpid()
        self._dispatcher = Dispatcher(pipeline, self._options)
        _open.add(self)

    def __enter__(self) -> Self:
        """Return the batcher."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the batcher; after an error without waiting for the requests."""
        self.close(drain=error is None)

    # Callers

    def submit(
        self,
        items: Iterable[Mapping[str, Any] | CnclipError],
        *,
        priority: Priority | None = None,
        timeout: float | None = None,
        on_error: Literal["raise", "item"] = "raise",
    ) -> Future[Embedded]:
        """Begin to embed a mixed list of images and texts.

        Args:
            items: `{'img': image}` with an image as `pipeline.forward` takes it, or
                `{'text': str}`; or a CnclipError for an item that has failed before. Do not change
                images until the future is done.
            priority: 'interactive' or 'bulk'; by default by the number of items. While both wait,
                four batches of five are for interactive requests.
            timeout: Seconds until the request expires; by default `BatchOptions.timeout`.
            on_error: 'raise': the future raises the error of the first bad item, and the others
                need not be embedded. 'item': the error is in `Embedded.errors`.

        Returns:
            The result's future. When it is cancelled, nothing of the request is computed any more.
            In a coroutine: `await asyncio.wrap_future(future)`.
            It raises InputTypeError, InvalidInputError, ImageError, ModelRunError or
            OutOfMemoryError for an item, whose position is `where.index`; DeadlineError if the
            request has expired; ClosedError if the batcher was closed.

        Raises:
            BusyError: the requests in progress use the memory that they may.
            InvalidInputError: the request alone exceeds it; or a wrong option.
            InputTypeError: not a list.
            ClosedError: the batcher is closed. ForkedProcessError: it is the parent process's.
        """
        if on_error not in ("raise", "item"):
            raise InvalidInputError(
                f"expected 'raise' or 'item', got {on_error!r:.40}", item="on_error"
            )
        values = mixed_items(items)
        return self._start(
            values, "items[{}]".format, priority, timeout, strict=on_error == "raise"
        )

    def forward(
        self,
        input: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Embed images, texts, or both, as `pipeline.forward` does, together with other callers.

        Args:
            input: As for `pipeline.forward`. An iterator is consumed before the work begins.
            priority: As for `submit`.
            timeout: As for `submit`.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None}.

        Raises:
            CnclipError: what `submit` and its future raise. Messages name the item as
                `pipeline.forward` does.
        """
        images, texts = split_input(input)
        as_bytes = self._pipeline.model.takes_bytes
        settled = self._pipeline.preprocessor.settled(images or [], as_bytes=as_bytes)
        values: list[InputImage | str] = [*settled]
        count = len(values)
        values += texts or []

        def name_of(index: int) -> str:
            return f"img[{index}]" if index < count else f"text[{index - count}]"

        future = self._start(values, name_of, priority, timeout, strict=True)
        try:
            vectors = future.result().vectors
        except BaseException:  # Ctrl-C as well
            future.cancel()
            raise
        form = self._pipeline.model.return_tensors
        return {
            OutputKeys.IMG_EMBEDDING: as_returned(
                None if images is None else vectors[:count], form
            ),
            OutputKeys.TEXT_EMBEDDING: as_returned(
                None if texts is None else vectors[count:], form
            ),
        }

    def decoding(self, content: bytes) -> AbstractContextManager[None]:
        """In this context the caller may decode an image file itself.

        It waits until its pixels and those of the images that are being decoded fit into
        `BatchOptions.max_bytes`.

        Raises:
            ImageError: it had to wait longer than `BatchOptions.prepare_timeout`.
        """
        return self._dispatcher.decoding.hold(content)

    @property
    def ready(self) -> bool:
        """Whether requests are accepted and the model completes batches within its time."""
        return self._is_of_this_process and self._dispatcher.ready

    def counters(self) -> Counters:
        """Totals since the start, and the present state."""
        self._check_process()
        return self._dispatcher.counters()

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Accept no more requests, end those in progress, then the threads.

        Args:
            drain: Wait for the requests in progress. Otherwise they get a ClosedError, as they do
                if the model completes no batch in twice its time.
            timeout: Seconds to wait, after which the others get a ClosedError.
        """
        if self._is_of_this_process:
            self._dispatcher.close(drain, timeout, self._options.run_timeout)
            _open.discard(self)

    def close_at_exit(self) -> None:
        """Close without waiting for requests, and not long for the batch in progress."""
        if self._is_of_this_process:
            self._dispatcher.close(False, None, _EXIT_SECONDS)

    def _start(
        self,
        values: Sequence[InputImage | str | CnclipError],
        name_of: Callable[[int], str],
        priority: Priority | None,
        timeout: float | None,
        *,
        strict: bool,
    ) -> Future[Embedded]:
        self._check_process()
        seconds = self._options.timeout if timeout is None else _check_timeout(timeout)
        request = Request(values, name_of, self._pipeline.model.info.embed_dim, strict=strict)
        request.priority = self._priority_of(priority, len(values))
        if seconds is not None:
            request.deadline = time.monotonic() + seconds
        return self._dispatcher.start(request)

    # Checks

    @property
    def _is_of_this_process(self) -> bool:
        return os.getpid() == self._pid

    def _check_process(self) -> None:
        if not self._is_of_this_process:
            raise ForkedProcessError(
                "the batcher was made before a fork, and its threads are the parent's: make one in "
                "each process"
            )

    def _priority_of(self, priority: Priority | None, count: int) -> Priority:
        if priority is None:
            return "interactive" if count <= self._options.interactive_items else "bulk"
        if priority not in PRIORITIES:
            reason = f"expected 'interactive' or 'bulk', got {priority!r:.40}"
            raise InvalidInputError(reason, item="priority")
        return priority


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise InputTypeError(f"expected seconds, got {type(timeout).__name__}", item="timeout")
    if not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidInputError(f"expected more than 0 seconds, got {timeout}", item="timeout")
    return float(timeout)


_open: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _close_all() -> None:
    """Close the batchers that are still open when the interpreter ends."""
    for batcher in list(_open):
        batcher.close_at_exit()


with contextlib.suppress(RuntimeError):  # the interpreter ends already
    # Not atexit, whose functions are called after threads that are no daemons have ended.
    getattr(threading, "_register_atexit", atexit.register)(_close_all)
