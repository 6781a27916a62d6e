"""Memory, descriptors, threads and mappings of a process."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class State:
    """What a process holds.

    Attributes:
        memory: Bytes that are resident, shared ones included. What other processes do does not
            change it, as it changes PSS: the part of a shared library grows when another process
            that uses it ends.
        descriptors: Open descriptors.
        threads: Threads.
        mappings: Lines of /proc/PID/maps.
    """

    memory: float
    descriptors: int
    threads: int
    mappings: int

    @classmethod
    def of(cls, process: psutil.Process) -> State:
        """The present state."""
        return cls(
            process.memory_info().rss,
            process.num_fds(),
            process.num_threads(),
            len(Path(f"/proc/{process.pid}/maps").read_bytes().splitlines()),
        )

    @classmethod
    def of_this_process(cls) -> State:
        """The present state, without garbage and without memory that is free.

        glibc keeps freed memory for later calls, in each thread's arena as much as the thread once
        needed. That memory comes and goes and is no growth, so it is returned to the system first.
        """
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return cls.of(psutil.Process())

    def grown_from(
        self, before: State, max_bytes: float, max_objects: int, max_mappings: int | None = None
    ) -> list[str]:
        """What has grown by more than it may."""
        found = []
        if self.memory - before.memory > max_bytes:
            found.append(f"memory grew by {(self.memory - before.memory) / 1e6:.1f} MB")
        limits = {"descriptors": max_objects, "threads": max_objects, "mappings": max_mappings}
        for name, limit in limits.items():
            first, last = getattr(before, name), getattr(self, name)
            if limit is not None and last - first > limit:
                found.append(f"{name} grew from {first} to {last}")
        return found

    def __str__(self) -> str:
        return (
            f"{self.memory / 1e6:7.1f} MB, {self.descriptors} descriptors, {self.threads} threads, "
            f"{self.mappings} mappings"
        )
