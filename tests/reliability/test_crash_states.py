"""The states after a crash, and a sample of all crashes and failures: `make reliability`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.crashes import Start, Started
from tests.reliability.disk import Disk, State, crash_states
from tests.reliability.operations import Operation

WRITE = [Operation("C", "new"), Operation("W", "new", data=b"12345678")]
RENAME = [Operation("N", "new", "file")]
BEFORE: State = {"file": b"before"}


def contents_of(operations: list[Operation]) -> set[bytes | None]:
    """What the file may have after a crash."""
    return {state.get("file") for _, state in crash_states(BEFORE, operations)}


def test_a_file_that_is_renamed_before_it_is_flushed_may_be_damaged() -> None:
    assert contents_of(WRITE + RENAME) == {b"before", b"12345678", b"", b"1234", b"\0" * 8}


def test_a_file_that_is_flushed_before_it_is_renamed_is_whole() -> None:
    assert contents_of([*WRITE, Operation("F", "new"), *RENAME]) == {b"before", b"12345678"}


def test_a_name_is_lost_until_its_folder_is_flushed() -> None:
    operations = [*WRITE, Operation("F", "new"), *RENAME]
    disk = Disk(BEFORE)
    for operation in operations:
        disk.apply(operation)
    assert {state["file"] for state in disk.crashes()} == {b"before", b"12345678"}
    disk.apply(Operation("F", ""))
    assert {state["file"] for state in disk.crashes()} == {b"12345678"}
    disk.apply(Operation("U", "file"))
    assert {state.get("file") for state in disk.crashes()} == {b"12345678", None}


def test_writes_sizes_and_directories_are_replayed() -> None:
    disk = Disk({"file": b"0123456789", "folder": None, "folder/inner": b"1"})
    for operation in (
        Operation("W", "file", number=8, data=b"abcd"),
        Operation("T", "file", number=14),
        Operation("L", "file", "link"),
        Operation("W", "link", data=b"L"),
        Operation("D", "made"),
        Operation("N", "folder", "made/folder"),
    ):
        disk.apply(operation)
    content = b"L1234567abcd\0\0"
    assert disk.content() == {
        "file": content,
        "link": content,
        "made": None,
        "made/folder": None,
        "made/folder/inner": b"1",
    }


def test_states_have_one_run_if_they_differ_in_files_that_it_replaces(tmp_path: Path) -> None:
    state: State = {"kept": b"1", "read": b"2", "replaced": b"3"}
    for name in ("kept", "replaced"):
        (tmp_path / name).touch()
    did = [Operation("R", "read"), Operation("N", "new", "replaced"), Operation("U", "read")]
    started = Started()
    assert not started.covers(state)
    started.add(Start.of(state, did, tmp_path))
    assert started.covers(state)
    assert started.covers({**state, "replaced": b"other"})
    assert not started.covers({**state, "read": b"other"})
    assert not started.covers({**state, "kept": b"other"})
    assert not started.covers({**state, "more": b""})


SCENARIOS = ("embed", "embed-update", "index", "convert-modelscope")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the functions of glibc are replaced")
@pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="a sanitizer is preloaded")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_some_crashes_and_failures() -> None:
    """`make reliability` tries all of them, and more commands."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability", "--every", "20", *SCENARIOS],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(SCENARIOS) + 2
