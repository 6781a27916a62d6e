"""Temporary files: removed when the process that wrote them is dead, and never before."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnclip import _temporaries
from cnclip._files import directory_replaced_atomically, replaced_atomically, write_durably
from cnclip._temporaries import (
    remove,
    remove_all_temporaries,
    remove_temporaries,
    scratch_directory,
    temporary_file,
    temporary_name,
)
from cnclip.convert import convert

WRITER = """
import sys, time
from pathlib import Path
from cnclip._files import directory_replaced_atomically, replaced_atomically
replaced = directory_replaced_atomically if sys.argv[2] == "directory" else replaced_atomically
with replaced(Path(sys.argv[1])) as temporary:
    print(temporary, flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["file", "directory"])
def writer(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[subprocess.Popen[str], Path, Path]:
    """A process that writes to a path, the path and the temporary one."""
    path = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), request.param], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    request.addfinalizer(process.stdout.close)
    request.addfinalizer(process.wait)
    request.addfinalizer(process.kill)
    return process, path, Path(process.stdout.readline().strip())


def test_only_those_of_dead_processes_are_removed(
    writer: tuple[subprocess.Popen[str], Path, Path],
) -> None:
    process, path, temporary = writer
    assert temporary.exists()
    remove_temporaries(path)
    remove_all_temporaries(path.parent)
    write_durably(path, b"of another process")
    assert temporary.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert temporary.exists()
    write_durably(path, b"new")
    assert os.listdir(path.parent) == ["out"]


def test_other_names_and_links_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    (tmp_path / ".out.0123abcd.tmp").symlink_to(target)
    os.mkfifo(tmp_path / ".out.0123abce.tmp")
    others = [".out.0123ABCD.tmp", ".out.tmp", "out.0123abcd.tmp", ".other.0123abcd.tmp"]
    for name in others:
        (tmp_path / name).touch()
    write_durably(tmp_path / "out", b"new")
    left = set(os.listdir(tmp_path))
    assert left == {*others, "target", "out", ".out.0123abcd.tmp", ".out.0123abce.tmp"}
    assert target.read_bytes() == b"kept"


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [temporary_name(tmp_path / "out") for _ in range(2)]
    made = iter(names)
    flock = _temporaries.fcntl.flock
    calls = []

    def slow_lock(descriptor: int, how: int) -> None:
        if not calls:
            names[0].unlink()  # by another process, between its creation and the lock
        calls.append(how)
        flock(descriptor, how)

    monkeypatch.setattr(_temporaries, "temporary_name", lambda path: next(made))
    monkeypatch.setattr(_temporaries.fcntl, "flock", slow_lock)
    with temporary_file(tmp_path / "out", 0o600) as temporary:
        assert temporary == names[1]
        assert temporary.exists()


def test_scratch_directories_of_dead_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = """
import os, time
from cnclip._temporaries import scratch_directory
with scratch_directory() as directory:
    (directory / "large").write_bytes(b"1")
    os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment)
    assert len(os.listdir(tmp_path)) == 1
    with scratch_directory() as directory:
        assert os.listdir(tmp_path) == [directory.name]
        assert directory.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == []


def test_a_killed_conversion_leaves_nothing_to_the_next(
    tmp_path: Path, vit_directory: Path
) -> None:
    output = tmp_path / "model.cnclip.pt"
    code = """
import os, sys
import cnclip.checkpoints.archive as module
save = module._save
def dies(*arguments):
    save(*arguments)
    os.kill(os.getpid(), 9)
module._save = dies
from cnclip.convert import convert
convert(sys.argv[1], sys.argv[2])
"""
    subprocess.run([sys.executable, "-c", code, str(vit_directory), str(output)])
    assert len(os.listdir(tmp_path)) == 1
    assert not output.exists()
    convert(vit_directory, output)
    assert os.listdir(tmp_path) == [output.name]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_errors_name_the_file(tmp_path: Path, error: int) -> None:
    path = tmp_path / "out"
    with pytest.raises(OSError) as raised, replaced_atomically(path):
        raise OSError(error, "none left")  # as a write to a full or damaged disk raises it
    assert raised.value.filename == str(path)
    with pytest.raises(OSError) as raised, directory_replaced_atomically(path) as temporary:
        raise OSError(error, "none left", str(temporary / "inside"))
    assert raised.value.filename == str(path / "inside")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failed_flush_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before")

    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError) as raised:
        write_durably(path, b"after")
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_is_flushed_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync: Callable[[int], None] = os.fsync

    def recorded(descriptor: int) -> None:
        is_renamed = (tmp_path / "out").exists()
        done.append(f"{os.readlink(f'/proc/self/fd/{descriptor}')} {is_renamed}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with replaced_atomically(tmp_path / "out") as temporary:
        temporary.write_bytes(b"1")
    assert done == [f"{temporary} False", f"{tmp_path} True"]
    done.clear()
    (tmp_path / "out").unlink()
    with directory_replaced_atomically(tmp_path / "out") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_bytes(b"1")
    inner = [temporary, temporary / "inner", temporary / "inner" / "file"]
    assert sorted(done) == sorted([*(f"{one} False" for one in inner), f"{tmp_path} True"])
    assert done[-1] == f"{tmp_path} True"


@pytest.mark.parametrize("failures", [1, 2])
def test_what_cannot_be_removed_costs_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: int,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    unlink, left = os.unlink, [failures]

    def failing(path: str, *arguments: int, **options: int) -> None:
        if Path(path).name == "b" and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", failing)
    remove(folder)
    assert folder.exists() == (failures == 2)
    if failures == 2:
        assert os.listdir(folder) == ["b"]
        assert f"{folder}: cannot be removed: Input/output error" in caplog.text
    else:
        assert not caplog.records
