"""The cache: one conversion of a checkpoint, whatever else happens."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from cnclip import cache, models, pipeline
from cnclip.archive import FORMAT_VERSION, read_archive
from cnclip.checkpoints.checkpoint import Checkpoint
from cnclip.checkpoints.files import CheckpointFiles, find_checkpoint
from cnclip.convert import convert
from cnclip.errors import CheckpointError
from tests.support.fork_server import ForkServer, code_at_once

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("CNCLIP_CACHE", str(directory))
    return directory


@pytest.fixture
def model(tmp_path: Path, vit_directory: Path) -> Path:
    """A copy of tiny-vit that a test may change, old enough for its digests to be remembered."""
    directory = tmp_path / "model"
    shutil.copytree(vit_directory, directory)
    return directory


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Lists the sources that are converted."""
    converted: list[Path] = []
    read = models.read_files

    def record(source: CheckpointFiles) -> Checkpoint:
        converted.append(source.path)
        return read(source)

    monkeypatch.setattr(models, "read_files", record)
    return converted


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once, without waiting for the clock to tick."""
    monkeypatch.setattr(cache, "_CLOCK_TICK_SECONDS", -1.0)


def archives(directory: Path) -> list[Path]:
    return sorted((directory / "archives").iterdir())


def test_the_second_opening_converts_nothing(
    own_cache: Path, model: Path, conversions: list[Path]
) -> None:
    first, second = models.open_archive(model), models.open_archive(model)
    assert first == second
    assert conversions == [model]
    assert archives(own_cache) == [first.path]
    assert first.path.name.startswith("model-")


@pytest.mark.usefixtures("settled")
def test_the_second_opening_reads_no_weights(
    own_cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = models.open_archive(model)
    models.open_archive(model)
    read: list[Path] = []
    monkeypatch.setattr(cache, "sha256_of", lambda file: read.append(file) or "0" * 64)
    monkeypatch.setattr(cache, "check_archive", read.append)
    assert models.open_archive(model) == info
    assert read == []


@pytest.mark.usefixtures("settled")
def test_the_same_content_elsewhere_is_not_converted(
    own_cache: Path, model: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    shutil.copytree(model, tmp_path / "elsewhere" / "model")
    assert models.open_archive(model) == models.open_archive(tmp_path / "elsewhere" / "model")
    assert conversions == [model]


@pytest.mark.usefixtures("settled")
def test_changed_content_is_converted(
    own_cache: Path, model: Path, conversions: list[Path]
) -> None:
    before = models.open_archive(model)
    vocabulary = model / "vocab.txt"
    times = vocabulary.stat()
    content = vocabulary.read_bytes()
    # The same size and the same modification time.
    vocabulary.write_bytes(content.replace("猫\n".encode(), "貓\n".encode()))
    os.utime(vocabulary, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = models.open_archive(model)
    assert after.path != before.path
    assert after.vocabulary != before.vocabulary
    assert len(conversions) == 2


def test_only_the_user_can_read_it(own_cache: Path, model: Path) -> None:
    info = models.open_archive(model)
    for directory in (own_cache, own_cache / "archives", own_cache / "records"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(info.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("which", [".", "archives", "records"])
@pytest.mark.parametrize("mode", [0o777, 0o720, 0o1777])
def test_directories_that_others_can_write_to(
    own_cache: Path, model: Path, caplog: pytest.LogCaptureFixture, which: str, mode: int
) -> None:
    planted = models.open_archive(model).path
    (own_cache / which).chmod(mode)
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        info = models.open_archive(model)
    # Records are not needed; an archive is code.
    assert (info.path == planted) == (which == "records")
    assert ("other users can write to it, and archives contain code" in caplog.text) == (
        which != "records"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("which", [".", "archives"])
def test_directories_of_others(own_cache: Path, model: Path, which: str) -> None:
    planted = models.open_archive(model).path
    os.chown(own_cache / which, 65534, 65534)
    assert models.open_archive(model).path != planted


def test_directories_that_others_can_read(own_cache: Path, model: Path) -> None:
    path = models.open_archive(model).path
    path.parent.chmod(0o755)
    assert models.open_archive(model).path == path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_directories_above_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "a" / "b"))
    models.open_archive(model)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbage inside", "another version"])
def test_a_damaged_archive_is_made_again(
    own_cache: Path, model: Path, conversions: list[Path], damage: str
) -> None:
    archive = models.open_archive(model).path
    models.open_archive(model)
    good = archive.read_bytes()
    archive.write_bytes(
        {
            "truncated": good[: len(good) // 2],
            "emptied": b"",
            "garbage inside": good[:300_000] + b"garbage" * 100 + good[300_700:],
            "another version": good.replace(b'"format": %d' % FORMAT_VERSION, b'"format": 7'),
        }[damage]
    )
    assert models.open_archive(model).path == archive
    assert len(conversions) == 2
    pipeline(model=model, device="cpu").forward({"text": "猫"})
    assert len(conversions) == 2


@pytest.mark.parametrize("obstacle", ["file", "no home", "full"])
def test_without_a_usable_cache(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    obstacle: str,
) -> None:
    if obstacle == "no home":
        monkeypatch.delenv("CNCLIP_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
    else:
        monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "blocked"))
    if obstacle == "file":
        (tmp_path / "blocked").touch()
    if obstacle == "full":

        def full(path: Path, mode: int = 0) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(cache, "replaced_atomically", full)
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        p = pipeline(model=model, device="cpu")
    assert p.forward({"text": "猫"})["text_embedding"].shape == (1, 64)
    assert caplog.text.count("the cache directory cannot be used") == 1


def test_a_place_for_records_is_not_needed(
    own_cache: Path, model: Path, conversions: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    models.open_archive(model)
    shutil.rmtree(own_cache / "records")
    (own_cache / "records").touch()
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        models.open_archive(model)
    assert conversions == [model]
    assert caplog.text == ""


def test_an_unreadable_source_is_named(
    own_cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(cache, "sha256_of", refuse)
    with pytest.raises(CheckpointError, match=r"bin: cannot be read: Permission denied"):
        models.open_archive(model)


def test_a_failed_conversion_leaves_nothing(own_cache: Path, model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"\x80not weights")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        models.open_archive(model)
    assert archives(own_cache) == []


@pytest.mark.parametrize("format", ["modelscope", "huggingface"])
def test_the_digest_of_a_model_stays(format: str, model: Path, tmp_path: Path) -> None:
    """Embeddings and indexes record it, and refuse queries of models with another."""
    names = ["pytorch_model.bin", "vision_model_config.json", "text_model_config.json", "vocab.txt"]
    if format == "huggingface":
        model = convert(model, tmp_path / "theirs", to=format)
        names = ["config.json", "vocab.txt", "preprocessor_config.json", "model.safetensors"]
    lines = [f"{name}\0{sha256((model / name).read_bytes()).hexdigest()}\n" for name in names]
    digest = sha256("".join(lines).encode()).hexdigest()
    assert models.origin_of(find_checkpoint(model))["digest"] == digest


OPEN = """
p = cnclip.pipeline(model=sys.argv[1], device="cpu", num_threads=1)
print(p.model.info.path.name, p.forward({"text": "a"})["text_embedding"].shape, flush=True)
"""


def test_many_processes_at_once(own_cache: Path, model: Path, fork_server: ForkServer) -> None:
    *opened, statuses = fork_server.run(code_at_once(4, OPEN), model).stdout.splitlines()
    assert statuses == "0 0 0 0"
    (archive,) = archives(own_cache)
    assert opened == [f"{archive.name} (1, 64)"] * 4
    read_archive(archive)


FULL_DISK = """
import resource, signal, sys
import cnclip.convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    cnclip.convert.convert(sys.argv[1], sys.argv[2])
except OSError as error:
    print("refused:", error)
"""


def test_a_full_disk_is_an_exception(fork_server: ForkServer, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = fork_server.run(FULL_DISK, model, tmp_path / "out" / "a.cnclip.pt")
    assert done.stdout.startswith("refused: [Errno 27]")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"CNCLIP_CACHE": "/a/b"}, "/a/b"),
        ("linux", {"CNCLIP_CACHE": "~/b", "HOME": "/h"}, "/h/b"),
        ("linux", {"HOME": "/h"}, "/h/.cache/cnclip"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/cnclip"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/cnclip"),
        ("win32", {"HOME": "/h", "LOCALAPPDATA": "/l"}, "/l/cnclip"),
    ],
)
def test_where_it_is(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: str
) -> None:
    for name in ("CNCLIP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(cache.cache_directory()) == expected
