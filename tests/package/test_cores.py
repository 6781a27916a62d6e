"""The cores that a process may use: affinity, control groups of both versions, $OMP_NUM_THREADS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnclip import _cores
from cnclip._cores import model_threads, usable_cores


class FakeSystem:
    """A /proc/self and control groups in a folder, for a machine of 8 cores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proc").mkdir()

    def process(self, groups: str, mounts: str) -> None:
        (self.folder / "proc" / "cgroup").write_text(groups)
        (self.folder / "proc" / "mountinfo").write_text(mounts.replace("/sys/", f"{self.folder}/"))

    def limit(self, group: str, **files: str) -> None:
        directory = self.folder / group
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(content + "\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    monkeypatch.setattr(_cores, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(_cores, "_affine_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return FakeSystem(tmp_path)


V2_MOUNT = "24 1 0:22 {root} /sys/fs rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs rw,relatime - tmpfs tmpfs rw\n"
    "33 31 0:30 {root} /sys/fs/acct rw - cgroup cgroup rw,cpuacct\n"
    "32 31 0:29 {root} /sys/fs/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n"
)


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 8),
        ({"fs/a/b": "max 100000"}, 8),
        ({"fs/a/b": "100000 100000"}, 1),
        ({"fs/a/b": "250000 100000"}, 3),
        ({"fs/a/b": "20000 100000"}, 1),
        ({"fs/a/b": "max 100000", "fs/a": "150000 50000"}, 3),
        ({"fs/a/b": "400000 100000", "fs/a": "200000 100000"}, 2),
        ({"fs/a/b": "9000000 100000"}, 8),
        ({"fs/a/b": "nonsense"}, 8),
        ({"fs/a/b": "100000 0"}, 8),
        ({"fs/other": "100000 100000"}, 8),
    ],
)
def test_quotas_of_version_2(system: FakeSystem, limits: dict[str, str], cores: int) -> None:
    system.process("0::/a/b\n", V2_MOUNT.format(root="/"))
    for group, limit in limits.items():
        system.limit(group, cpu__max=limit)
    assert usable_cores() == cores
    assert model_threads() == (0 if cores == 8 else cores)


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("-1", "100000", 8), ("150000", "100000", 2), ("50000", "100000", 1)],
)
def test_quotas_of_version_1(system: FakeSystem, quota: str, period: str, cores: int) -> None:
    system.process("5:cpuset:/x\n4:cpuacct:/y\n3:cpu,io:/a\n0::/\n", V1_MOUNTS.format(root="/"))
    system.limit("fs/acct/y", cpu__cfs_quota_us="1000", cpu__cfs_period_us="100000")
    system.limit("fs/cpu/a", cpu__cfs_quota_us=quota, cpu__cfs_period_us=period)
    assert usable_cores() == cores


def test_a_container_that_sees_its_outer_name(system: FakeSystem) -> None:
    # The mount shows the container's group as its root, while /proc names the group from outside.
    system.process("3:cpu:/docker/1f\n", V1_MOUNTS.format(root="/docker/1f"))
    system.limit("fs/cpu", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert usable_cores() == 2


@pytest.mark.parametrize("groups", ["", "0::/a/b", "nonsense", "0::", "::::", "0::/../.."])
def test_without_groups(system: FakeSystem, groups: str) -> None:
    assert usable_cores() == 8  # no /proc
    system.process(groups, V2_MOUNT.format(root="/"))
    assert usable_cores() == 8


@pytest.mark.parametrize(
    ("value", "cores"),
    [("3", 3), ("16", 16), ("2,4", 2), (" 5 ", 5), ("", 1), ("0", 1), ("-2", 1), ("many", 1)],
)
def test_openmp_variable(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch, value: str, cores: int
) -> None:
    system.process("0::/", V2_MOUNT.format(root="/"))
    system.limit("fs", cpu__max="100000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert usable_cores() == cores
    assert model_threads() == (0 if cores > 1 else 1)  # torch reads the variable itself


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system sets no affinity")
def test_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from cnclip._cores import usable_cores; print(usable_cores())"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=-1, check=True)
    assert done.stdout == b"1\n"


def test_a_real_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group made here, where this process may make one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own = next(iter(_cores._control_groups()), None)
    files = {"cpu.max": "150000 100000", "cpu.cfs_quota_us": "150000"}
    if own is None or _cores._cores_of_quota() is not None:
        pytest.skip("this process is in no group without a quota")
    group = own / f"cnclip-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("this process may not make control groups")
    try:
        name = next((name for name in files if (group / name).exists()), None)
        if name is None:
            pytest.skip("the groups here have no CPU controller")
        (group / name).write_text(files[name])
        code = (
            f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
            "from cnclip import _cores\n"
            "print(_cores._cores_of_quota())"
        )
        printed = subprocess.run([sys.executable, "-c", code], stdout=-1, check=True).stdout
        assert printed == b"2\n"
    finally:
        group.rmdir()
