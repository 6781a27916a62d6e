"""Runs that are interrupted: kills, Ctrl-C, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnclip import bulk, cli
from cnclip.bulk import store
from cnclip.errors import EmbeddingsError
from tests.support.bulk import (
    GALLERY,
    Embed,
    content_of,
    vectors_of,
)

COMMAND = """
import signal, sys
from cnclip import cli
from cnclip.bulk import store
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
store.SECONDS_BETWEEN_COMMITS = 0
print("ready", flush=True)
sys.exit(cli.main(sys.argv[1:]))
"""


def command(*arguments: object) -> list[str]:
    return ["embed", *map(str, arguments), "--device", "cpu", "--threads", "2"]


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A run that commits after each batch."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command(*arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def committed(folder: Path) -> int:
    """Items that an unfinished run has noted."""
    try:
        return int(json.loads((folder / "unfinished.json").read_text())["items"])
    except FileNotFoundError:
        return 0


def kill_and_resume(source: Path, out: Path, times: int, *options: object) -> list[int]:
    """Kill runs at random moments, then let one end; the items that were noted at each kill."""
    reached = []
    assert cli.main(command(source, "-o", out.with_name("unbroken"), *options)) in (0, 1)
    moments = random.Random(0)
    for number in range(times):
        with started(source, "-o", out, *options) as process:
            # One after the other, so that each has something left to do.
            share = moments.uniform(number, number + 1) / times
            wanted = share * 0.9 * sum(1 for _ in source.rglob("*.png"))
            while committed(out) < wanted and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            process.wait()
        reached.append(committed(out))
        with pytest.raises(EmbeddingsError, match="not finished|no manifest"):
            bulk.open_embeddings(out)
    assert cli.main(command(source, "-o", out, *options)) in (0, 1)
    return reached


def test_killed_runs_end_as_an_unbroken_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    reached = kill_and_resume(GALLERY, out, 2, "--shard-items", 100)
    assert reached == sorted(reached)
    assert reached[-1] > 0
    assert content_of(out) == content_of(tmp_path / "unbroken")
    assert len(content_of(out)) == 2 * 4 + 1


@pytest.mark.slow
def test_killed_ten_times_in_2000_images(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    images = sorted(GALLERY.glob("*.png"))
    for number in range(2000):
        with Image.open(images[number % len(images)]) as image:
            image.rotate(number // len(images) * 60).save(source / f"{number:04}.png")
    (source / "0100.png").write_bytes(b"no image")
    reached = kill_and_resume(source, out, 10, "--shard-items", 300)
    assert reached == sorted(reached)
    assert content_of(out) == content_of(tmp_path / "unbroken")
    assert len(vectors_of(out)) == 1999


def test_a_killed_update_leaves_what_was_there(
    embed: Embed, photos: Path, tmp_path: Path, some: list[Path]
) -> None:
    out = tmp_path / "out"
    embed(photos, shard_items=50)
    before = vectors_of(out)
    for image in GALLERY.glob("*.png"):
        shutil.copy(image, photos / f"0{image.name}")
    with started(photos, "-o", out, "--shard-items", 50) as process:
        while committed(out) < 150:
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert vectors_of(out).keys() == before.keys()  # until a run ends
    report = embed(photos, shard_items=50)
    assert report.kept >= 150
    assert report.rows == 20 + len(list(GALLERY.glob("*.png")))
    assert len(content_of(out)) == 2 * 8 + 1


def test_ctrl_c(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    with started(GALLERY, "-o", out) as process:
        while committed(out) < 50:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.wait() == 130
        assert time.monotonic() - begin < 5
        assert process.stderr is not None
        assert process.stderr.read().endswith("cnclip embed: interrupted\n")
    assert committed(out) >= 50
    with pytest.raises(EmbeddingsError, match="not finished: run the same `cnclip embed` again"):
        bulk.open_embeddings(out)
    assert cli.main(command(GALLERY, "-o", out)) == 0
    assert ", 0 kept" not in capsys.readouterr().out


# Disks


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(embed: Embed, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(store, "SECONDS_BETWEEN_COMMITS", 0)
    embed(GALLERY, output=tmp_path / "unbroken", batch_size=8, shard_items=100)
    arguments = ["embed", str(GALLERY), "--device", "cpu", "--shard-items", "100", "-o"]
    with mounted(tmp_path / "disk", "size=100k") as disk:
        out = disk / "out"
        assert cli.main([*arguments, str(out)]) == 2
        printed = capsys.readouterr().err
        assert str(out) in printed and "no space left on device" in printed
        assert 0 < committed(out) < 362
        assert not list(out.glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert cli.main([*arguments, str(out)]) == 0
        assert " 0 kept" not in capsys.readouterr().out
        assert content_of(out) == content_of(tmp_path / "unbroken")


def test_a_read_only_folder(photos: Path, tmp_path: Path, capsys: Any) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        for out in (disk, disk / "out"):
            assert cli.main(["embed", str(photos), "-o", str(out), "--device", "cpu"]) == 2
            printed = capsys.readouterr().err
            assert str(out) in printed and "read-only file system" in printed
    (tmp_path / "file").touch()
    assert cli.main(["embed", str(photos), "-o", str(tmp_path / "file"), "--device", "cpu"]) == 2
    assert "file exists" in capsys.readouterr().err
