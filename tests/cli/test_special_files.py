"""FIFOs and devices where a command expects a file: nothing waits, and nothing replaces them."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnclip._files import replaced_atomically
from cnclip.assets import asset_path
from cnclip.cli import main

GALLERY = asset_path("gallery")
DATA = ("txt", "csv", "jsonl", "json", "tsv", "parquet", "tar", "zip")


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "a.png").write_bytes((GALLERY / "1f408.png").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "train -o run --config pipe.toml",
        "train -o run --config pipe.json",
        "eval zeroshot photos --labels pipe.txt",
        "eval zeroshot photos --templates pipe.txt",
        "eval zeroshot pipe.txt",
        *(f"eval retrieval pipe.{suffix}" for suffix in DATA),
        *(f"train -o run --model emoji-cn --train pipe.{suffix} --val x" for suffix in DATA),
        *(f"embed pipe.{suffix} -o out" for suffix in DATA),
        *(f"embed --texts pipe.{suffix} -o out" for suffix in DATA[:6]),
        *(
            "info pipe.pt",
            "info pipe.cnclip.pt",
            "convert pipe.pt -o x.pt",
            "embed photos -o pipe.x",
        ),
        *("search pipe.index x", "index pipe.parquet -o x.index"),
    ],
)
def test_inputs(place: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    name = next(word for word in words if word.startswith("pipe."))
    os.mkfifo(place / name)
    device = [] if words[0] in ("info", "convert", "train") else ["--device", "cpu"]
    assert main([*words, *device]) == 2
    printed = capsys.readouterr().err
    assert name in printed
    assert any(
        text in printed
        for text in (
            "a FIFO, not a file",
            "expected a file",
            "regular file",
            "exists",
            "no such folder",
        )
    )


@pytest.mark.parametrize(
    "command",
    [
        "index photos -o pipe.index",
        "search it.index x --html pipe.html",
        "demo -o pipe.png",
        "bench --json pipe.json",
        "convert emoji-cn -o pipe.pt --to cn_clip",
    ],
)
@pytest.mark.parametrize("kind", ["a FIFO", "a device"])
def test_outputs(place: Path, command: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    name = next(word for word in words if word.startswith("pipe."))
    if kind == "a FIFO":
        os.mkfifo(place / name)
    else:
        (place / name).symlink_to("/dev/null")
    if words[0] == "search":
        pytest.importorskip("faiss")
        assert main(["index", "photos", "-o", "it.index", "--device", "cpu"]) == 0
    mode = (place / name).stat().st_mode
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert f"{kind}, not a file" in printed or "not a regular file" in printed
    assert (place / name).stat().st_mode == mode and not stat.S_ISREG(mode)
    assert not list(place.glob("*.tmp"))


def test_nothing_replaces_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    for path, reason in ((tmp_path / "link", "a device"), (tmp_path / "fifo", "a FIFO")):
        with pytest.raises(OSError, match=f"{reason}, not a file"), replaced_atomically(path):
            pass
    with replaced_atomically(tmp_path / "lost") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "lost").read_text() == "x"
