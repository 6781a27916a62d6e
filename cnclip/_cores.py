"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self")


def usable_cores() -> int:
    """The default number of threads: `$OMP_NUM_THREADS`, or the cores that this process may use.

    These are the cores of its affinity, or fewer where a control group limits its CPU time.
    """
    return _openmp_threads() or min(_affine_cores(), _cores_of_quota() or sys.maxsize)


def model_threads() -> int:
    """The default number of threads of a model's run; 0 for the default of torch.

    torch takes one thread for each core of the affinity, or `$OMP_NUM_THREADS`. It does not know
    the limits of control groups: threads beyond the quota wait at each barrier for one that the
    system has stopped.
    """
    cores = _cores_of_quota()
    if _openmp_threads() is not None or cores is None or cores >= _affine_cores():
        return 0
    return cores


def is_number_fixed() -> bool:
    """Whether `$OMP_NUM_THREADS` sets the number of threads, whatever other processes do."""
    return _openmp_threads() is not None


def _openmp_threads() -> int | None:
    # A list has a number for each level of nested parallel regions.
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(number) if number.isascii() and number.isdigit() and int(number) > 0 else None


def _affine_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cores_of_quota() -> int | None:
    """The cores that the CPU quotas of this process's control groups allow, rounded up."""
    quotas = [quota for group in _control_groups() if (quota := _quota_of(group)) is not None]
    return math.ceil(min(quotas)) if quotas else None


def _control_groups() -> Iterator[Path]:
    """The directories of the process's group and of those around it, of version 2 and 1."""
    try:
        groups = (_PROC / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (_PROC / "mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # another system, or no /proc
        return
    for group in groups:
        # ID:CONTROLLERS:PATH; version 2 names no controllers.
        _, controllers, path = (*group.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            # ... ROOT MOUNT_POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS
            before, _, after = mount.partition(" - ")
            root, point = before.split()[3:5]
            kind, _, options = (*after.split(), "", "", "")[:3]
            if (kind == "cgroup2") if not controllers else ("cpu" in options.split(",")):
                yield from _with_parents(Path(point), PurePosixPath(root), PurePosixPath(path))


def _with_parents(point: Path, root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    # A container may see its group under the name that it has outside.
    inner = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath(".")
    for part in (inner, *inner.parents):
        yield point / part


def _quota_of(group: Path) -> float | None:
    """The number of cores that a control group may use; None if it has no limit."""
    for limit, period in (("cpu.max", None), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            numbers = (group / limit).read_text(encoding="ascii").split()
            if period is not None:
                numbers += (group / period).read_text(encoding="ascii").split()
            quota, microseconds = map(int, numbers)  # "max" and -1 are no limit
        except (OSError, ValueError):
            continue
        if quota > 0 and microseconds > 0:
            return quota / microseconds
    return None
