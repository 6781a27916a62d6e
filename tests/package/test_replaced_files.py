"""Files and directories that are replaced as a whole, where the system fails."""

from __future__ import annotations

import base64
import errno
import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnclip._files import (
    directory_replaced_atomically,
    flush,
    lock_folder,
    names_file,
    open_file,
    sha256_of,
)
from cnclip._html import image_url
from cnclip.modelscope.tokenizer import load_vocab
from cnclip.search.index_file import read_description


def failing(code: int, filename: str | None = None) -> Any:
    def fail(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code), filename)

    return fail


def test_a_directory_is_there_again_when_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, old = tmp_path / "best", tmp_path / ".best.old"
    best.mkdir()
    (best / "a").write_text("former")
    rename = Path.rename

    def limited(path: Path, target: Path) -> Path:
        if path not in (best, old):
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", limited)
    with (
        pytest.raises(OSError, match=rf"Permission denied: '{best}'"),
        directory_replaced_atomically(best, previous=old) as temporary,
    ):
        (temporary / "a").write_text("new")
    assert (best / "a").read_text() == "former"
    assert list(tmp_path.iterdir()) == [best]


def test_links_in_a_directory_are_not_followed(tmp_path: Path) -> None:
    with directory_replaced_atomically(tmp_path / "best") as temporary:
        (temporary / "link").symlink_to("nowhere")
        (temporary / "a").write_text("new")
    assert os.readlink(tmp_path / "best" / "link") == "nowhere"


def test_files_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OSError, match=rf"Input/output error: '{tmp_path}'"):
            flush(tmp_path)
        patch.setattr(os, "fsync", failing(errno.EINVAL))
        flush(tmp_path)  # a file system without it
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    flush(tmp_path)  # this user may not list its names


def test_an_error_gets_the_name_that_it_lacks() -> None:
    for given, named in ((None, "a.bin"), ("b.bin", "b.bin")):
        with pytest.raises(OSError, match="No space left") as raised, names_file(Path("a.bin")):
            failing(errno.ENOSPC, given)()
        assert raised.value.filename == named


def test_file_systems_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with lock_folder(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert f"{tmp_path}/new cannot be locked: No locks available" in caplog.text
    monkeypatch.setattr(fcntl, "flock", failing(errno.EWOULDBLOCK))
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        lock_folder(tmp_path / "new")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_lock_ends_once(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    with lock, pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    opened = os.open(tmp_path, os.O_RDONLY)
    os.dup2(opened, lock._descriptor)  # another file has its number now
    lock.__exit__()
    os.fstat(lock._descriptor)
    os.close(lock._descriptor)
    if opened != lock._descriptor:
        os.close(opened)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pages_have_images_of_any_mode(mode: str) -> None:
    image = Image.new("RGB", (8, 8), "red").convert("L" if mode == "I;16" else mode)
    image = image.convert("I").convert("I;16") if mode == "I;16" else image
    url = image_url(image, 80)
    assert url.startswith("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as shown:
        assert (shown.format, shown.size) == ("WEBP", (8, 8))


def test_pages_keep_transparency() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.info["transparency"] = 1
    for image in (palette, Image.new("LA", (8, 8), (50, 0))):
        content = base64.b64decode(image_url(image, 80).partition(",")[2])
        with Image.open(io.BytesIO(content)) as shown:
            assert shown.mode == "RGBA" and shown.getchannel("A").getextrema() == (0, 0)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("buffering", [-1, 0, 1 << 16])
@pytest.mark.parametrize("count", [-1, 10])
def test_a_read_that_fails_names_the_file(buffering: int, count: int) -> None:
    memory = Path("/proc/self/mem")  # there is none at address 0
    with open_file(memory, buffering) as file, pytest.raises(OSError) as raised:
        file.read(count)
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(memory))
    with open_file(memory, buffering) as file, pytest.raises(OSError) as raised:
        file.readinto(bytearray(4))  # type: ignore[attr-defined]
    assert raised.value.filename == str(memory)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("read", [sha256_of, load_vocab, read_description])
def test_whole_files_that_cannot_be_read_are_named(read: Callable[[Path], object]) -> None:
    memory = Path("/proc/self/mem")
    with pytest.raises(OSError) as raised:
        read(memory)
    assert raised.value.filename == str(memory)
