"""The files of a run, which remain usable if the process is killed at any moment.

    RUN/options.json      the options of the run
    RUN/last.pt           the newest state to resume from
    RUN/best/             the best weights so far, a ModelScope model directory
    RUN/best.cnclip.pt    the best weights as an archive
    RUN/metrics.jsonl     one line per interval and per validation
    RUN/skipped.jsonl     images that could not be read
    RUN/curve.png         a plot of the metrics
    RUN/tensorboard/      the metrics, for TensorBoard

Every file is replaced as a whole or appended to. When a run is resumed, metrics of steps after its
state are removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from .._files import FolderLock, directory_replaced_atomically, lock_folder
from .._temporaries import remove, remove_temporaries
from ..errors import InvalidInputError

STATE, OPTIONS, METRICS, SKIPPED = "last.pt", "options.json", "metrics.jsonl", "skipped.jsonl"
BEST, ARCHIVE, CURVE, TENSORBOARD = "best", "best.cnclip.pt", "curve.png", "tensorboard"
_PREVIOUS_BEST = ".best.old"


def prepare_folder(path: Path, *, resume: bool) -> FolderLock:
    """Create a run's folder, or remove temporary files of a run to resume. One process calls.

    Returns:
        The lock that keeps other runs out of the folder.

    Raises:
        InvalidInputError: the folder contains a run, and `resume` is not set; or another run writes
            to it.
        OSError: the folder cannot be created.
    """
    try:
        lock = lock_folder(path)
    except BlockingIOError as error:
        raise InvalidInputError("another run writes to it", file=path) from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock)
        _prepare(path, resume=resume)
        stack.pop_all()
    return lock


def _prepare(path: Path, *, resume: bool) -> None:
    names = (STATE, OPTIONS, METRICS, SKIPPED, BEST, ARCHIVE, CURVE)
    existing = [name for name in names if (path / name).exists()]
    if not resume and existing:
        raise InvalidInputError(
            f"contains a run already ({existing[0]}); resume it, or choose another folder",
            file=path,
        )
    for name in names:
        remove_temporaries(path / name)
    previous = path / _PREVIOUS_BEST
    if previous.exists():  # a run was killed between the two renames of `write_best`
        if (path / BEST).exists():
            remove(previous)
        else:
            previous.rename(path / BEST)


def write_best(path: Path, write: Callable[[Path], None]) -> None:
    """Replace a run's best weights by the files that `write` creates in an empty directory."""
    with directory_replaced_atomically(path / BEST, previous=path / _PREVIOUS_BEST) as temporary:
        write(temporary)
