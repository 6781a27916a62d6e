"""What a run tells while it goes on: lines on stderr, metrics, images that were left out."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from .curve import TensorBoard
from .distributed import World
from .run_folder import TENSORBOARD, RunFolder


class Journal:
    """Tells and writes, in the first process, what all processes have to tell.

    Attributes:
        skipped: How many times an image could not be read, in all processes, also before a
            resumption.
    """

    def __init__(self, folder: RunFolder, world: World, *, shown: bool) -> None:
        """Begin to tell of a run; lines go to stderr if they are to be `shown`."""
        self._folder, self._world = folder, world
        self._shown = shown and world.is_first
        self._board: TensorBoard | None = None
        self._unsaid: list[tuple[str, str]] = []
        self._named: set[str] = set()
        self.skipped = 0

    def begin(self, step: int) -> None:
        """Go on behind a step, forgetting what was told of steps that are made again."""
        if self._world.is_first:
            self._folder.forget_metrics_behind(step)
            self._named = self._folder.skipped()
            self._board = TensorBoard(self._folder.path / TENSORBOARD, step)

    def say(self, line: str) -> None:
        """Print a line on stderr."""
        if self._shown:
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
            print(shown, file=sys.stderr, flush=True)

    def add(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        if self._board is not None:
            self._folder.add_metrics(values)
            self._board.add(values)

    def leave_out(self, skipped: list[tuple[str, str]]) -> None:
        """Note (place, reason) of images that this process could not read."""
        self._unsaid += skipped
        if skipped and self._world.size == 1:
            self.tell_left_out()

    def tell_left_out(self) -> None:
        """Tell of the images noted since the last call, each once. All processes call."""
        for part in self._world.objects(self._unsaid):
            self.skipped += len(part)
            for where, what in part:
                if where not in self._named:
                    self._named.add(where)
                    if self._world.is_first:
                        self._folder.add_skipped(where, what)
                    self.say(f"left out: {where}: {what}")
        self._unsaid = []

    def end(self) -> None:
        """Draw the curve. Whatever ends the run is more important than a full disk here."""
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()
                self._folder.draw_curve()
