"""The cache of prepared models: the same numbers, whatever happens to its files."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from cnclip import _core, pipeline, prepared
from cnclip.cli import main
from cnclip.engine import open_engine
from cnclip.engine.libtorch import find_torch
from cnclip.errors import DeviceError, InvalidInputError, ModelRunError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from tests.support.fork_server import ForkServer, code_at_once
from tests.support.prepared_models import Rows, open_and_check, rows

PRECISIONS = ("fp32", "bf16", "int8")


def is_mapped(file: Path) -> bool:
    return str(file) in Path("/proc/self/maps").read_text(encoding="utf-8")


# --- The numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["archive", "resnet"])
def test_the_bits_are_the_same(
    request: pytest.FixtureRequest,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    precision: str,
) -> None:
    try:
        _core.check_precision("cpu", precision)
    except DeviceError as error:
        pytest.skip(error.reason)
    path = request.getfixturevalue(model)
    monkeypatch.setenv("CNCLIP_PREPARED", "never")
    wanted = rows(pipeline(model=path, device="cpu", precision=precision))
    assert not folder.exists()
    monkeypatch.setenv("CNCLIP_PREPARED", "always")
    for should_be_mapped in (False, True, True):
        opened = pipeline(model=path, device="cpu", precision=precision)
        (file,) = folder.iterdir()
        assert is_mapped(file) == should_be_mapped
        for row, other in zip(rows(opened), wanted, strict=True):
            np.testing.assert_array_equal(row, other)
    del opened
    assert not is_mapped(file)


def test_a_file_is_read_once(file: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline(model=archive, device="cpu")
    monkeypatch.setattr(prepared, "_state", lambda _: pytest.fail("read again"))
    opened = pipeline(model=archive, device="cpu")
    assert is_mapped(file)
    os.utime(file)  # anything may have been written to it
    with pytest.raises(pytest.fail.Exception, match="read again"):
        pipeline(model=archive, device="cpu")
    del opened


def test_the_archive_elsewhere_has_the_same_file(
    file: Path, archive: Path, tmp_path: Path, expected: Rows
) -> None:
    copy = shutil.copy(archive, tmp_path / archive.name)
    assert open_and_check(Path(copy), file.parent, expected) == file


def test_another_archive_has_another_file(file: Path, resnet: Path) -> None:
    pipeline(model=resnet, device="cpu")
    assert len(list(file.parent.iterdir())) == 2


def test_info_lists_the_files(
    file: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(archive)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["prepared"] == str(file)


def test_only_the_user_can_read_it(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_file_outlives_its_removal(file: Path, archive: Path, expected: Rows) -> None:
    opened = pipeline(model=archive, device="cpu")
    file.unlink()
    for row, wanted in zip(rows(opened), expected, strict=True):
        np.testing.assert_array_equal(row, wanted)


# --- When there is one ----------------------------------------------------------------------------


def test_small_archives_have_none(
    archive: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CNCLIP_PREPARED")
    pipeline(model=archive, device="cpu")
    assert not folder.exists()
    monkeypatch.setattr(prepared, "_MIN_ARCHIVE", archive.stat().st_size)
    pipeline(model=archive, device="cpu")
    assert len(list(folder.iterdir())) == 1


def test_another_setting_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_PREPARED", "sometimes")
    with pytest.raises(InvalidInputError) as refused:
        pipeline(model=archive, device="cpu")
    assert refused.value.where.item == "CNCLIP_PREPARED"
    assert refused.value.reason == "expected auto, always or never, got 'sometimes'"


@pytest.mark.parametrize("part", ["cnclip", "torch", "core", "engine", "instruction set"])
def test_another_version_has_another_file(
    file: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    torch = find_torch()
    changed = tmp_path / "changed"
    changed.write_bytes(b"another library")
    digest = prepared.remembered_sha256
    library = Path(open_engine().path if part == "engine" else _core.__file__)
    if part == "cnclip":
        monkeypatch.setattr(prepared, "__version__", "0.0.1")
    elif part == "torch":
        version = f"{torch.version}.post1"
        monkeypatch.setattr(
            prepared, "find_torch", lambda: type(torch)(torch.directory, version, "")
        )
    elif part == "instruction set":
        monkeypatch.setenv("CNCLIP_FORCE_ISA", "serial")
    else:
        monkeypatch.setattr(
            prepared,
            "remembered_sha256",
            lambda path: digest(changed if path == library else path),
        )
    pipeline(model=archive, device="cpu")
    assert not is_mapped(file)
    assert len(list(file.parent.iterdir())) == 2


def test_old_versions_are_removed(
    file: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour_ago = time.time() - 4000
    os.utime(file, (hour_ago, hour_ago))
    monkeypatch.setattr(prepared, "__version__", "0.0.1")
    pipeline(model=archive, device="cpu")
    assert not file.exists()
    assert len(list(file.parent.iterdir())) == 1


def test_the_least_recently_used_are_removed(
    file: Path, resnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute_ago = time.time() - 60
    os.utime(file, (minute_ago, minute_ago))
    monkeypatch.setattr(prepared, "_MAX_TOTAL", file.stat().st_size)
    pipeline(model=resnet, device="cpu")
    (other,) = file.parent.iterdir()
    assert other != file


def test_a_file_is_for_the_cpu(file: Path, vit: MultiModalEmbeddingPipeline) -> None:
    tokenizer = vit.preprocessor.tokenizer
    with pytest.raises(InvalidInputError, match="is_prepared: expected the device cpu, got cuda:0"):
        _core.Encoder(open_engine(), file, tokenizer, 64, 52, "cuda:0", is_prepared=True)


# --- A cache that cannot be used ------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_can_write_to(
    file: Path, archive: Path, expected: Rows, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.chmod(mode)
    with caplog.at_level(logging.INFO, logger="cnclip"):
        opened = pipeline(model=archive, device="cpu")
    assert not is_mapped(file)
    assert caplog.text.count("other users can write to it") == 1
    np.testing.assert_array_equal(rows(opened)[0], expected[0])


def test_a_place_where_there_can_be_no_folder(
    archive: Path, folder: Path, expected: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(mode=0o700)
    folder.touch()
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        opened = pipeline(model=archive, device="cpu")
    np.testing.assert_array_equal(rows(opened)[0], expected[0])
    assert caplog.text == ""


def test_a_disk_that_is_nearly_full(
    archive: Path, folder: Path, expected: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(archive)
    little = usage._replace(free=2 * archive.stat().st_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    np.testing.assert_array_equal(rows(pipeline(model=archive, device="cpu"))[0], expected[0])
    assert list(folder.iterdir()) == []


def test_while_another_process_writes(archive: Path, folder: Path, expected: Rows) -> None:
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        np.testing.assert_array_equal(rows(pipeline(model=archive, device="cpu"))[0], expected[0])
        assert list(folder.iterdir()) == []
    finally:
        os.close(descriptor)


def test_a_place_that_cannot_be_written(file: Path, archive: Path) -> None:
    encoder = pipeline(model=archive, device="cpu").model.encoder
    with pytest.raises(ModelRunError, match="writing the prepared model: Not a directory"):
        encoder.save_prepared(file / "below")
    with pytest.raises(TypeError):
        encoder.save_prepared(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [1, 60_000, None], ids=["the end", "the graph", "all"])
def test_a_disk_that_is_full(
    file: Path, archive: Path, tmp_path: Path, missing: int | None
) -> None:
    """The limit of a file's size is such a disk: for a write, and for what is left at the end."""
    encoder = pipeline(model=archive, device="cpu").model.encoder
    encoder.save_prepared(tmp_path / "whole")
    size = (tmp_path / "whole").stat().st_size
    assert size % 4096 != 0  # or nothing is left for the end
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if missing is None else size - missing, before[1]))
    try:
        with pytest.raises(ModelRunError, match="writing the prepared model: File too large$"):
            encoder.save_prepared(tmp_path / "part")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- Other processes ------------------------------------------------------------------------------

OPEN = """
import os, resource, signal, sys
from cnclip import pipeline, prepared
limit, when = sys.argv[2:]
if limit != "none":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
if when == "before the checksum":
    prepared.zlib.crc32 = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if when == "before the weights":
    prepared.replaced_atomically = lambda path, **_: killing(path)
if when == "before the file has its name":
    def fsync(descriptor):
        if "/prepared/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = fsync

def killing(path):
    path.with_name(f".{path.name}.01234567.tmp").write_bytes(b"cnclip-1")
    os.kill(os.getpid(), signal.SIGKILL)

p = pipeline(model=sys.argv[1], device="cpu", num_threads=1)
print(p.forward({"text": "a"})["text_embedding"].shape)
"""


def test_a_full_disk(archive: Path, folder: Path, fork_server: ForkServer) -> None:
    done = fork_server.run(OPEN, archive, 300_000, "never")
    assert done.stdout == "(1, 64)\n"
    assert done.stderr == ""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "when", ["before the weights", "before the checksum", "before the file has its name"]
)
def test_a_killed_writer(
    archive: Path, folder: Path, expected: Rows, fork_server: ForkServer, when: str
) -> None:
    assert fork_server.run(OPEN, archive, "none", when).returncode == -9
    (left_over,) = folder.iterdir()
    assert left_over.name.startswith(".")
    assert open_and_check(archive, folder, expected) != left_over


OPEN_TWICE = """
for _ in range(2):
    p = cnclip.pipeline(model=sys.argv[1], device="cpu", num_threads=1)
    print(p.forward({"text": "a"})["text_embedding"].tobytes().hex(), flush=True)
"""


def test_many_processes_at_once(archive: Path, folder: Path, fork_server: ForkServer) -> None:
    done = fork_server.run(code_at_once(20, OPEN_TWICE), archive)
    *embeddings, statuses = done.stdout.splitlines()
    assert statuses.split() == ["0"] * 20
    assert len(embeddings) == 40
    assert len(set(embeddings)) == 1
    (file,) = folder.iterdir()
    assert file.suffix == prepared.SUFFIX
